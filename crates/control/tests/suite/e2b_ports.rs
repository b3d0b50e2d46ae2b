//! Ports of sandboxes with the credentials that clients of E2B have.

use reqwest::Method;
use serde_json::json;
use testkit::file_signature;

use crate::e2b::create;
use crate::guest_server::{AGENT, PORT, name, serve};
use crate::support::{eventually, one};

#[tokio::test]
async fn forged_file_url_reaches_no_guest() {
    let (host, _ground, plane) = one().await;
    serve(&host).await;
    let (id, made) = create(&plane, json!({})).await;
    let token = made["envdAccessToken"].as_str().unwrap();
    let url = |path: &str, token: &str| {
        let signature = file_signature(path, "read", "user", token, None);
        let signature = signature.replace('+', "%2B");
        format!("/files?path={path}&username=user&signature={signature}")
    };
    let own_name = name(&id, AGENT);
    for host_name in [None, Some(&own_name)] {
        let get = async |url: String| {
            let request = plane.bare(Method::GET, &url);
            let named = host_name.map(|name| ("host", name));
            let request = named.into_iter().fold(request, |request, (field, name)| {
                request.header(field, name)
            });
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        };
        let (status, text) = get(url("a.txt", token)).await;
        assert_eq!(status, 200, "{text}");
        assert!(text.contains("/files?path=a.txt"), "{text}");
        let forged = url("b.txt", "another token");
        let wrong = url("a.txt", token).replace("a.txt", "b.txt");
        let broken = url("a.txt", token).replace("v1_", "v1_AAAA");
        for url in [forged, wrong, broken] {
            let (status, text) = get(url).await;
            assert_eq!(status, 401, "{text}");
            assert!(text.contains("\"code\":401"), "{text}");
        }
    }
}

#[tokio::test]
async fn traffic_token_opens_user_ports_alone() {
    let (host, _ground, plane) = one().await;
    serve(&host).await;
    let body = json!({"network": {"allowPublicTraffic": false}});
    let (id, made) = create(&plane, body).await;
    let (other, _) = create(&plane, json!({})).await;
    let token = made["trafficAccessToken"].as_str().unwrap();
    let get = async |id: &str, port: u16, token: &str| {
        let request = plane.bare(Method::GET, "/").header("host", name(id, port));
        let request = request.header("e2b-traffic-access-token", token);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(get(&id, PORT, token).await, 200);
    assert_eq!(get(&id, PORT, "none").await, 403);
    assert_eq!(get(&id, AGENT, token).await, 401);
    // Those of the other are public, as with E2B.
    assert_eq!(get(&other, PORT, "none").await, 200);
    let private = json!({"network": {"allowPublicTraffic": false}});
    let (other, _) = create(&plane, private).await;
    assert_eq!(get(&other, PORT, token).await, 403);
}

#[tokio::test]
async fn token_alone_finds_its_sandbox() {
    let (host, _ground, plane) = one().await;
    serve(&host).await;
    let (id, made) = create(&plane, json!({})).await;
    let (_, other) = create(&plane, json!({})).await;
    let token = made["envdAccessToken"].as_str().unwrap();
    let get = async |path: &str, token: &str| {
        let request = plane
            .bare(Method::GET, path)
            .header("x-access-token", token);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    for path in [
        "/files?path=a.txt",
        "/health",
        "/process.Process/List",
        "/filesystem.Filesystem/Stat",
    ] {
        let (status, text) = get(path, token).await;
        assert_eq!(status, 200, "{path}: {text}");
        assert!(text.contains(path) && text.contains(token), "{text}");
        assert!(text.contains("x-wrenn-file-override"), "{text}");
        let (status, text) = get(path, "none").await;
        assert_eq!(status, 502, "{path}: {text}");
        assert!(text.contains("The sandbox was not found"), "{text}");
    }
    // Elsewhere a token means nothing.
    assert_eq!(get("/sandboxes", token).await.0, 401);
    assert_eq!(get("/init", token).await.0, 404);

    let kill = plane.request(Method::DELETE, &format!("/sandboxes/{id}"));
    assert_eq!(kill.send().await.unwrap().status().as_u16(), 204);
    eventually("the end of the token", async || {
        (get("/health", token).await.0 == 502).then_some(())
    })
    .await;
    assert_eq!(
        get("/health", other["envdAccessToken"].as_str().unwrap())
            .await
            .0,
        200
    );
}
