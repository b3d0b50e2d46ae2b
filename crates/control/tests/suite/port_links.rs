//! Who may use a port: keys, links, everybody.

use api_types::{CreateSandbox, PortLink, PortLinkRequest};
use control::ports::PortTarget;
use control::ports::signed_url::{SECRET, UrlSigner};
use reqwest::{Client, Method, Response, redirect};
use serde_json::Value;

use crate::guest_server::{PORT, name, with_server};
use crate::support::{Plane, refused};

async fn link(plane: &Plane, id: &str, port: u16) -> PortLink {
    plane
        .client()
        .port_link(
            id,
            &PortLinkRequest {
                port,
                expires_in_sec: Some(60),
            },
        )
        .await
        .unwrap()
}

/// As a browser that goes nowhere by itself.
async fn get(plane: &Plane, host: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    let http = Client::builder()
        .redirect(redirect::Policy::none())
        .build()
        .unwrap();
    let request = http
        .get(format!("{}{path}", plane.url))
        .header("host", host);
    headers
        .iter()
        .fold(request, |all, (name, value)| all.header(*name, *value))
        .send()
        .await
        .unwrap()
}

/// Path and query of a URL.
fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").unwrap().1;
    &rest[rest.find('/').unwrap()..]
}

#[tokio::test]
async fn ports_are_private_unless_the_sandbox_says_so() {
    let (_host, _ground, plane, id) = with_server().await;
    let host = name(&id, PORT);
    let path = format!("/v1/sandboxes/{id}/ports/{PORT}/");
    assert_eq!(get(&plane, &host, "/", &[]).await.status(), 403);
    assert_eq!(get(&plane, "localhost", &path, &[]).await.status(), 401);
    let wrong = model::ApiKey::random().expose();
    assert_eq!(
        get(&plane, &host, "/", &[("x-api-key", &wrong)])
            .await
            .status(),
        403
    );
    let page = get(&plane, &host, "/", &[("accept", "text/html")])
        .await
        .text()
        .await
        .unwrap();
    assert!(
        page.contains("This port is private") && page.contains(&format!("wrenn url {id} {PORT}")),
        "{page}"
    );
    // A key of the guest's own is none of ours.
    assert_eq!(
        get(&plane, &host, "/", &[("authorization", "Bearer theirs")])
            .await
            .status(),
        403
    );

    let spec = CreateSandbox {
        public_ports: Some(true),
        ..Default::default()
    };
    let open = plane.client().create(&spec).await.unwrap();
    assert!(open.public_ports);
    assert_eq!(
        get(&plane, &name(&open.id, PORT), "/", &[]).await.status(),
        200
    );
    let url = link(&plane, &open.id, PORT).await;
    assert_eq!((url.token, url.expires_at), (None, None));
    assert!(
        url.url.ends_with(":") || url.url.ends_with('/'),
        "{}",
        url.url
    );
}

#[tokio::test]
async fn a_link_becomes_a_cookie_of_the_ports_own_name() {
    let (_host, _ground, plane, id) = with_server().await;
    let made = link(&plane, &id, PORT).await;
    let port = plane.url.rsplit_once(':').unwrap().1;
    let begin = format!("http://{PORT}-{id}.localhost:{port}/?wrenn-link=");
    assert!(made.url.starts_with(&begin), "{}", made.url);
    let host = name(&id, PORT);
    let token = made.token.unwrap();

    let answer = get(
        &plane,
        &host,
        &format!("//evil.com/x?a=1&wrenn-link={token}"),
        &[],
    )
    .await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["location"]),
        (303, &"/.//evil.com/x?a=1".parse().unwrap())
    );
    let answer = get(&plane, &host, path_of(&made.url), &[]).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["location"]),
        (303, &"/".parse().unwrap())
    );
    let cookie = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(
        cookie.ends_with("; HttpOnly; SameSite=Lax") && !cookie.to_lowercase().contains("domain"),
        "{cookie}"
    );
    let cookie = cookie.split(';').next().unwrap();
    let answer = get(&plane, &host, "/", &[("cookie", cookie)]).await;
    assert_eq!(answer.status(), 200);
    let seen = answer.text().await.unwrap();
    assert!(!seen.contains(&token) && !seen.contains("cookie"), "{seen}");

    let origin = format!("http://3001-{id}.localhost:8000");
    assert_eq!(
        get(
            &plane,
            &host,
            "/",
            &[("cookie", cookie), ("origin", &origin)]
        )
        .await
        .status(),
        403
    );
    for header in ["x-wrenn-link", "e2b-traffic-access-token"] {
        assert_eq!(
            get(&plane, &host, "/", &[(header, &token)]).await.status(),
            200
        );
        assert_eq!(
            get(&plane, &name(&id, 3001), "/", &[(header, &token)])
                .await
                .status(),
            403
        );
    }
    // A cookie on our own origin opens nothing.
    let path = format!("/v1/sandboxes/{id}/ports/{PORT}/");
    assert_eq!(
        get(&plane, "localhost", &path, &[("cookie", cookie)])
            .await
            .status(),
        401
    );
}

#[tokio::test]
async fn a_link_in_the_path_stays_there() {
    let (_host, _ground, plane, id) = with_server().await;
    let made = link(&plane, &id, PORT).await;
    let path = path_of(&made.path_url);
    let answer = get(&plane, "localhost", path.trim_end_matches('/'), &[]).await;
    assert_eq!(
        (
            answer.status().as_u16(),
            answer.headers()["location"].to_str().unwrap()
        ),
        (303, path)
    );
    let answer = get(
        &plane,
        "localhost",
        &format!("{path}x"),
        &[("origin", "null")],
    )
    .await;
    assert_eq!(
        (
            answer.status().as_u16(),
            &answer.headers()["access-control-allow-origin"]
        ),
        (200, &"*".parse().unwrap())
    );
    assert!(
        answer.headers()["content-security-policy"]
            .to_str()
            .unwrap()
            .starts_with("sandbox ")
    );
    let seen: Value = answer.json().await.unwrap();
    assert_eq!(seen["uri"], "/x");
    assert!(
        !seen
            .to_string()
            .contains(made.token.as_ref().unwrap().as_str()),
        "{seen}"
    );
    let answer = get(&plane, "localhost", &format!("{path}away"), &[]).await;
    assert_eq!(
        answer.headers()["location"].to_str().unwrap(),
        format!("{path}login")
    );
    let preflight = plane
        .bare(Method::OPTIONS, path)
        .header("access-control-request-method", "PUT");
    let preflight = preflight.header("origin", "null");
    assert_eq!(preflight.send().await.unwrap().status(), 204);
    let worker = get(
        &plane,
        "localhost",
        &format!("{path}sw.js"),
        &[("service-worker", "script")],
    )
    .await;
    assert_eq!(worker.status(), 403);
}

#[tokio::test]
async fn links_end_and_all_control_planes_know_them() {
    let (host, ground, plane, id) = with_server().await;
    let made = link(&plane, &id, PORT).await;
    let other = ground.start(&[&host]).await;
    let with = |token: &str| [("x-wrenn-link", token.to_owned())];
    let ask = async |plane: &Plane, token: &str| {
        let headers = with(token);
        get(
            plane,
            &name(&id, PORT),
            "/",
            &[(headers[0].0, headers[0].1.as_str())],
        )
        .await
    };
    assert_eq!(
        ask(&other, made.token.as_deref().unwrap()).await.status(),
        200
    );

    let secret = plane.store.secret(SECRET, &[0; 32], 0).await.unwrap();
    let target = PortTarget {
        id: id.parse().unwrap(),
        port: PORT,
    };
    let expired = ask(&plane, &UrlSigner::new(secret).sign(&target, 1_700_000_000)).await;
    assert_eq!(expired.status(), 403);
    assert!(
        expired
            .text()
            .await
            .unwrap()
            .contains("this link has expired")
    );
    assert_eq!(
        ask(&plane, &UrlSigner::new([9; 32]).sign(&target, u64::MAX))
            .await
            .status(),
        403
    );

    let path = format!("/v1/sandboxes/{id}/port-links");
    refused(plane.post(&path, r#"{"port": 0}"#), 400, "invalid_request").await;
    refused(
        plane.post(&path, r#"{"port": 1, "expires_in_sec": 0}"#),
        400,
        "invalid_request",
    )
    .await;
    refused(
        plane.post(
            "/v1/sandboxes/sb-00000000000000000000/port-links",
            r#"{"port": 1}"#,
        ),
        404,
        "not_found",
    )
    .await;

    plane.client().delete(&id).await.unwrap();
    assert_eq!(
        ask(&other, made.token.as_deref().unwrap()).await.status(),
        502
    );
}

#[tokio::test]
async fn addresses_of_links_are_those_that_users_know() {
    let (host, ground, _plane, id) = with_server().await;
    let plane = ground
        .start_with(&[&host], |settings| {
            settings.ports.domain = "boxes.example.com".to_owned();
            settings.ports.is_domain_set = true;
            settings.ports.public_url = Some("https://wrenn.example.com".to_owned());
        })
        .await;
    let made = link(&plane, &id, PORT).await;
    assert!(
        made.url.starts_with(&format!(
            "https://{PORT}-{id}.boxes.example.com/?wrenn-link="
        )),
        "{}",
        made.url
    );
    assert!(
        made.path_url
            .starts_with("https://wrenn.example.com/v1/sandboxes/"),
        "{}",
        made.path_url
    );
    let host = format!("{PORT}-{id}.boxes.example.com");
    let answer = get(&plane, &host, path_of(&made.url), &[]).await;
    assert!(
        answer.headers()["set-cookie"]
            .to_str()
            .unwrap()
            .ends_with("; Secure")
    );
    let seen = get(
        &plane,
        &host,
        "/",
        &[("x-api-key", &plane.key), ("x-forwarded-for", "8.8.8.8")],
    )
    .await;
    let seen = seen.text().await.unwrap();
    assert!(
        seen.contains(r#"["x-forwarded-for","8.8.8.8, 127.0.0.1"]"#) && seen.contains(r#""https""#),
        "{seen}"
    );
}

#[tokio::test]
async fn cookies_need_a_secure_origin() {
    let (host, ground, _plane, id) = with_server().await;
    let plane = ground
        .start_with(&[&host], |settings| {
            settings.ports.domain = "boxes.lan".to_owned();
            settings.ports.is_domain_set = true;
        })
        .await;
    let made = link(&plane, &id, PORT).await;
    assert_eq!(made.url, made.path_url);
    let token = made.token.unwrap();
    let host = format!("{PORT}-{id}.boxes.lan");
    let answer = get(&plane, &host, &format!("/?wrenn-link={token}"), &[]).await;
    assert!(
        answer.status() == 200
            && !answer.headers()["set-cookie"]
                .to_str()
                .unwrap()
                .contains("wrenn-link")
    );
    assert_eq!(
        get(
            &plane,
            &host,
            "/",
            &[("cookie", &format!("wrenn-link={token}"))]
        )
        .await
        .status(),
        403
    );
}
