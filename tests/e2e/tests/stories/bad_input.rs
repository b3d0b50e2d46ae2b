//! Wrong requests get a clear answer and change nothing.

use e2e::Platform;
use reqwest::blocking::{Client, RequestBuilder};
use serde_json::Value;

/// Sends it and checks status, code and that the message says something.
fn refused(request: RequestBuilder, status: u16, code: &str) -> String {
    let answer = request.send().expect("an answer");
    let got = answer.status().as_u16();
    let body: Value = answer.json().expect("a JSON error body");
    assert_eq!(
        (got, body["error"]["code"].as_str()),
        (status, Some(code)),
        "{body}"
    );
    let message = body["error"]["message"]
        .as_str()
        .expect("a message")
        .to_owned();
    assert!(message.len() > 5, "{body}");
    message
}

#[test]
fn wrong_requests_are_refused_and_change_nothing() {
    let platform = Platform::start();
    let wrenn = platform.cli();
    let (url, key) = (platform.url(), platform.key());
    let http = Client::new();
    let post = |path: &str, body: &'static str| {
        let request = http.post(format!("{url}{path}")).header("x-api-key", &key);
        request
            .header("content-type", "application/json")
            .body(body)
    };

    for (body, field) in [
        (r#"{"vcpus": 0}"#, "vcpus"),
        (r#"{"vcpus": 4000}"#, "vcpus"),
        (r#"{"memory_mb": 0}"#, "memory_mb"),
        (r#"{"memory_mb": 4000000000}"#, "memory_mb"),
        (r#"{"timeout_sec": 4000000000}"#, "timeout_sec"),
        (r#"{"template": "../../etc/passwd"}"#, "template"),
        (r#"{"template": ""}"#, "template"),
        (r#"{"envs": {"A=B": "c"}}"#, "envs"),
        (r#"{"memroy_mb": 512}"#, "memroy_mb"),
        (r#"{"vcpus": "two"}"#, "vcpus"),
    ] {
        let message = refused(post("/v1/sandboxes", body), 400, "invalid_request");
        assert!(message.contains(field), "{body}: {message}");
    }
    refused(post("/v1/sandboxes", "{broken"), 400, "invalid_request");
    let unknown = refused(
        post("/v1/sandboxes", r#"{"template": "no-such-template"}"#),
        404,
        "not_found",
    );
    assert!(unknown.contains("no-such-template"), "{unknown}");

    for id in ["sb-", "x", "sb-..%2F..%2Fetc", "sb-00000000000000000000%00"] {
        let answer = http
            .get(format!("{url}/v1/sandboxes/{id}"))
            .header("x-api-key", &key)
            .send()
            .unwrap();
        assert!(
            matches!(answer.status().as_u16(), 400 | 404),
            "{id}: {}",
            answer.status()
        );
    }
    let nobody = format!("{url}/v1/sandboxes/sb-00000000000000000000");
    refused(
        http.get(&nobody).header("x-api-key", &key),
        404,
        "not_found",
    );
    refused(
        http.delete(&nobody).header("x-api-key", &key),
        404,
        "not_found",
    );
    refused(http.get(format!("{url}/v1/sandboxes")), 401, "unauthorized");
    let wrong = format!("wrn_{}", "0".repeat(40));
    refused(
        http.get(format!("{url}/v1/sandboxes"))
            .header("x-api-key", wrong),
        401,
        "unauthorized",
    );
    refused(
        http.get(format!("{url}/v1/nothing"))
            .header("x-api-key", &key),
        404,
        "not_found",
    );

    assert!(wrenn.all().is_empty(), "refused requests make nothing");
    platform.finish();
}

#[test]
fn wrong_requests_to_a_sandbox_are_refused() {
    let platform = Platform::start();
    let wrenn = platform.cli();
    let (url, key) = (platform.url(), platform.key());
    let id = wrenn.create(&[]);
    let http = Client::new();
    let post = |path: &str, body: String| {
        let request = http
            .post(format!("{url}/v1/sandboxes/{id}/{path}"))
            .header("x-api-key", &key);
        request
            .header("content-type", "application/json")
            .body(body)
    };
    refused(
        post("exec", r#"{"cmd": ""}"#.into()),
        400,
        "invalid_request",
    );
    refused(
        post("exec", r#"{"cmd": "true", "timeout_sec": 0}"#.into()),
        400,
        "invalid_request",
    );
    refused(
        post(
            "exec",
            r#"{"cmd": "sleep", "args": ["60"], "timeout_sec": 1}"#.into(),
        ),
        504,
        "timeout",
    );
    refused(
        post("exec", format!(r#"{{"cmd": "{}"}}"#, "a".repeat(3 << 20))),
        413,
        "too_large",
    );
    refused(
        post("files/read", r#"{"path": "/no/such/file"}"#.into()),
        404,
        "not_found",
    );
    refused(
        post("files/read", r#"{"path": ""}"#.into()),
        400,
        "invalid_request",
    );
    // What ran too long is gone.
    assert_eq!(
        wrenn
            .sh(&id, "pgrep -fx 'sleep 60' | wc -l")
            .succeeded()
            .text(),
        "0"
    );
    platform.finish();
}

#[test]
fn the_command_line_says_what_is_wrong() {
    let platform = Platform::start();
    let wrenn = platform.cli();
    for (args, said) in [
        (vec!["info", "sb-nothing"], "sb-nothing"),
        (
            vec!["create", "--template", "no-such-template"],
            "no-such-template",
        ),
        (vec!["create", "--memory", "0"], "memory"),
        (vec!["cp", "a", "b"], "SANDBOX"),
        (vec!["run"], "CMD"),
    ] {
        let finished = wrenn.run(&args);
        assert_ne!(finished.code, 0, "{args:?}");
        assert!(
            finished.stderr.contains(said),
            "{args:?}: {}",
            finished.stderr
        );
    }
    let mut wrong = wrenn.clone();
    wrong.key = format!("wrn_{}", "0".repeat(40));
    let refused = wrong.run(["ls"]);
    assert!(
        refused.code != 0 && refused.stderr.to_lowercase().contains("key"),
        "{}",
        refused.stderr
    );
    let mut nowhere = wrenn.clone();
    nowhere.url = "http://127.0.0.1:1".to_owned();
    let unreachable = nowhere.run(["ls"]);
    assert!(
        unreachable.code != 0 && unreachable.stderr.contains("wrenn up"),
        "{}",
        unreachable.stderr
    );
    platform.finish();
}
