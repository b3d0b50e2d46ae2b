//! Rules for where sandboxes may connect to, on their way to the host and back.

use api_types::{CreateSandbox, NetworkRules};
use reqwest::Method;

use crate::support::{eventually, one, refused};

fn rules(allow_out: &[&str], deny_out: &[&str], allow_internet: bool) -> NetworkRules {
    let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    NetworkRules {
        allow_out: list(allow_out),
        deny_out: list(deny_out),
        allow_internet,
        ..NetworkRules::default()
    }
}

#[tokio::test]
async fn rules_reach_the_host_and_stay() {
    let (host, ground, plane) = one().await;
    let client = plane.client();
    assert_eq!(plane.create().await.network, NetworkRules::default());
    let first = rules(&["*.PyPI.org"], &["0.0.0.0/0"], true);
    let spec = CreateSandbox {
        network: Some(first),
        ..Default::default()
    };
    let sandbox = client.create(&spec).await.unwrap();
    let kept = rules(&["*.pypi.org"], &["0.0.0.0/0"], true);
    assert_eq!(sandbox.network, kept);
    let told = host.world().sandboxes[&sandbox.id]
        .spec
        .network
        .as_option()
        .unwrap()
        .clone();
    assert_eq!(
        (told.allow_out.as_slice(), told.deny_internet),
        (["*.pypi.org".to_owned()].as_slice(), false)
    );

    let second = NetworkRules {
        egress_mbps: Some(5),
        ..rules(&[], &["9.9.9.9"], false)
    };
    assert_eq!(
        client
            .set_network(&sandbox.id, &second)
            .await
            .unwrap()
            .network,
        second
    );
    client.pause(&sandbox.id).await.unwrap();
    let third = rules(&["1.1.1.1"], &[], false);
    assert_eq!(
        client
            .set_network(&sandbox.id, &third)
            .await
            .unwrap()
            .network,
        third
    );
    client.resume(&sandbox.id).await.unwrap();
    assert_eq!(client.fork(&sandbox.id, 1).await.unwrap()[0].network, third);
    drop(plane);
    let plane = ground.start(&[&host]).await;
    assert_eq!(
        plane.client().get(&sandbox.id).await.unwrap().network,
        third
    );
}

/// A control plane that died before it heard the answer learns it from the host.
#[tokio::test]
async fn what_the_host_reports_is_what_is_shown() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let rules = rules(&["a.com"], &[], false);
    host.set_network(&id, &["a.com"]);
    let shown = async || (plane.client().get(&id).await.unwrap().network == rules).then_some(());
    eventually("the rules in the row", shown).await;
}

#[tokio::test]
async fn what_is_wrong_is_told_at_the_edge() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let path = format!("/v1/sandboxes/{id}/network");
    for (body, said) in [
        (
            r#"{"allow_out": ["10.0.0.1"]}"#,
            "no sandbox can reach, whatever its rules",
        ),
        (r#"{"allow_out": ["not a name"]}"#, "network.allow_out has"),
        (r#"{"deny_out": ["::/129"]}"#, "no IPv6 address or network"),
        (
            r#"{"allow_out": ["fd00::1"]}"#,
            "no sandbox can reach, whatever its rules",
        ),
        (r#"{"allow": []}"#, "allow"),
        (
            r#"{"ingress_mbps": 0}"#,
            "network.ingress_mbps must be from 1 to 100000 Mbit/s, not 0",
        ),
    ] {
        let request = plane
            .request(Method::PUT, &path)
            .header("content-type", "application/json")
            .body(body);
        let message = refused(request, 400, "invalid_request").await;
        assert!(message.contains(said), "{message}");
    }
    let body = r#"{"network": {"allow_out": ["169.254.169.254"]}}"#;
    let message = refused(plane.post("/v1/sandboxes", body), 400, "invalid_request").await;
    assert!(message.contains("169.254.169.254"), "{message}");
    assert_eq!(host.world().sandboxes.len(), 1);
}
