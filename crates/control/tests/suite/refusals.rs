//! Wrong requests get a clear answer in one form and change nothing.

use reqwest::Method;

use crate::support::{one, refused};

#[tokio::test]
async fn wrong_creates_name_the_field() {
    let (_host, _ground, plane) = one().await;
    for (body, field) in [
        (r#"{"vcpus": 0}"#, "vcpus"),
        (r#"{"vcpus": 4000}"#, "32"),
        (r#"{"memory_mb": 127}"#, "128"),
        (r#"{"memory_mb": 4000000000}"#, "memory_mb"),
        (r#"{"memory_mb": 99999999999}"#, "memory_mb"),
        (r#"{"timeout_sec": 4000000000}"#, "timeout_sec"),
        (r#"{"template": "../../etc/passwd"}"#, "template"),
        (r#"{"template": ""}"#, "template"),
        (r#"{"envs": {"A=B": "c"}}"#, "envs"),
        (r#"{"envs": null}"#, "envs"),
        (r#"{"memroy_mb": 512}"#, "memroy_mb"),
        (r#"{"vcpus": "two"}"#, "vcpus"),
        (r#"{"vcpus": 1, "vcpus": 2}"#, "vcpus"),
        ("{broken", "body"),
        ("[]", "body"),
        ("", "body"),
        ("{} {}", "JSON"),
    ] {
        let message = refused(plane.post("/v1/sandboxes", body), 400, "invalid_request").await;
        assert!(message.contains(field), "{body}: {message}");
    }
    assert_eq!(plane.store.sandbox_list_all().await.unwrap().len(), 0);
}

#[tokio::test]
async fn sizes_and_types_of_bodies_are_checked() {
    let (_host, _ground, plane) = one().await;
    let big = format!(r#"{{"template": "{}"}}"#, "a".repeat(3 << 20));
    assert!(
        refused(plane.post("/v1/sandboxes", big.clone()), 413, "too_large")
            .await
            .contains("2097152")
    );
    // Without a length that could be looked at first.
    let chunks: Vec<_> = big
        .as_bytes()
        .chunks(100_000)
        .map(|part| Ok::<_, std::io::Error>(part.to_vec()))
        .collect();
    let body = reqwest::Body::wrap_stream(futures::stream::iter(chunks));
    let request = plane
        .request(Method::POST, "/v1/sandboxes")
        .header("content-type", "application/json")
        .body(body);
    refused(request, 413, "too_large").await;
    let bare = plane.request(Method::POST, "/v1/sandboxes").body("{}");
    assert!(
        refused(bare, 415, "unsupported_media_type")
            .await
            .contains("application/json")
    );
    let text = plane
        .request(Method::POST, "/v1/sandboxes")
        .header("content-type", "text/plain")
        .body("{}");
    refused(text, 415, "unsupported_media_type").await;
}

#[tokio::test]
async fn unknown_places_and_methods_have_the_same_form() {
    let (_host, _ground, plane) = one().await;
    for path in [
        "/v1/nothing",
        "/v1/sandboxes/",
        "/v1/sandboxes/a/b/c/d",
        "/nothing",
    ] {
        refused(plane.request(Method::GET, path), 404, "not_found").await;
    }
    for id in [
        "sb-",
        "x",
        "sb-..%2F..%2Fetc",
        "sb-00000000000000000000%00",
        "%ff",
    ] {
        let answer = plane
            .request(Method::GET, &format!("/v1/sandboxes/{id}"))
            .send()
            .await
            .unwrap();
        assert!(
            matches!(answer.status().as_u16(), 400 | 404),
            "{id}: {}",
            answer.status()
        );
        assert!(
            answer
                .json::<api_types::ErrorBody>()
                .await
                .unwrap()
                .error
                .message
                .len()
                > 5
        );
    }
    let message = refused(
        plane.request(Method::PUT, "/v1/sandboxes"),
        405,
        "method_not_allowed",
    )
    .await;
    assert!(
        message.contains("POST") && message.contains("GET"),
        "{message}"
    );
    for method in [Method::OPTIONS, Method::TRACE, Method::PATCH] {
        let answer = plane
            .request(method.clone(), "/v1/templates")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 405, "{method}");
        assert!(answer.headers()["allow"].to_str().unwrap().contains("GET"));
    }
    let head = plane
        .request(Method::HEAD, "/v1/sandboxes")
        .send()
        .await
        .unwrap();
    assert_eq!(head.status(), 200);
    refused(
        plane.request(Method::GET, "/v1/templates?verbose=1"),
        400,
        "invalid_request",
    )
    .await;
}

#[tokio::test]
async fn answers_carry_a_request_id() {
    let (_host, _ground, plane) = one().await;
    let id_of = async |request: reqwest::RequestBuilder| {
        request.send().await.unwrap().headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        id_of(
            plane
                .request(Method::GET, "/v1/templates")
                .header("x-request-id", "mine-1")
        )
        .await,
        "mine-1"
    );
    assert_eq!(
        id_of(
            plane
                .bare(Method::GET, "/v1/nothing")
                .header("x-request-id", "not mine")
        )
        .await
        .len(),
        16
    );
}

#[tokio::test]
async fn request_and_trace_reach_the_host() {
    let (host, _ground, plane) = one().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let answer = plane
        .request(Method::GET, "/v1/templates")
        .header("x-request-id", "traced-1")
        .header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"))
        .send()
        .await
        .unwrap();
    assert!(answer.status().is_success());
    let seen = host.world().traces["traced-1"].clone();
    assert!(seen.starts_with(&format!("00-{trace}-")), "{seen}");
}
