//! Token, health, init, metrics, environment of the sandbox.

use std::time::{SystemTime, UNIX_EPOCH};

use connectrpc::ErrorCode;
use connectrpc::client::{CallOptions, HttpClient};
use guest_rpc::http::{ClockAnswer, ErrorBody, FreezeAnswer, InitRequest, Metrics};
use guest_rpc::process::{ListRequest, ProcessClient};
use reqwest::{Client, Response};

use crate::support::{Agent, Running, run, shell};

async fn init(agent: &Agent, request: &InitRequest, token: Option<&str>) -> Response {
    let mut call = Client::new()
        .post(format!("{}/init", agent.url))
        .json(request);
    if let Some(token) = token {
        call = call.header("x-access-token", token);
    }
    call.send().await.expect("an answer")
}

fn token(token: &str) -> InitRequest {
    InitRequest {
        access_token: Some(token.into()),
        ..Default::default()
    }
}

async fn get(agent: &Agent, path: &str, token: Option<&str>) -> Response {
    let mut call = Client::new().get(format!("{}{path}", agent.url));
    if let Some(token) = token {
        call = call.header("x-access-token", token);
    }
    call.send().await.expect("an answer")
}

#[tokio::test]
async fn before_init_only_health_answers() {
    let agent = Agent::start(&[]).await;
    assert_eq!(get(&agent, "/health", None).await.status(), 204);
    for path in ["/metrics", "/envs", "/files?path=/etc/passwd", "/nothing"] {
        let answer = get(&agent, path, Some("guess")).await;
        assert_eq!(answer.status(), 401, "{path}");
        let body: ErrorBody = answer.json().await.expect("a JSON body");
        assert_eq!((body.code, body.message.is_empty()), (401, false));
    }
    let unary = agent
        .client()
        .list(ListRequest::default())
        .await
        .expect_err("is refused");
    assert_eq!(unary.code, ErrorCode::Unauthenticated);
    let stream = Running::start(&agent.client(), shell("true"), CallOptions::default())
        .await
        .expect_err("is refused");
    assert_eq!(stream.code, ErrorCode::Unauthenticated);
}

#[tokio::test]
async fn only_token_holder_replaces_it() {
    let agent = Agent::start(&[]).await;
    let answer = init(&agent, &token("one"), None).await;
    assert_eq!(
        (
            answer.status().as_u16(),
            answer.headers()["x-envd-version"].as_bytes()
        ),
        (204, guest_rpc::ENVD_VERSION.as_bytes())
    );
    assert_eq!(get(&agent, "/envs", Some("one")).await.status(), 200);
    assert_eq!(get(&agent, "/envs", Some("two")).await.status(), 401);
    assert_eq!(get(&agent, "/envs", None).await.status(), 401);
    assert_eq!(init(&agent, &token("two"), None).await.status(), 401);
    assert_eq!(init(&agent, &token("one"), None).await.status(), 204);
    assert_eq!(init(&agent, &token("two"), Some("one")).await.status(), 204);
    assert_eq!(get(&agent, "/envs", Some("one")).await.status(), 401);
    let config = agent.config().with_default_header("x-access-token", "two");
    let client = ProcessClient::new(HttpClient::plaintext(), config);
    assert_eq!(run(&client, "echo in").await.text(), "in\n");
}

#[tokio::test]
async fn init_sets_defaults_of_processes() {
    let agent = Agent::open().await;
    let request = InitRequest {
        env_vars: Some([("FROM_INIT".to_owned(), "yes".to_owned())].into()),
        default_user: Some("nobody".into()),
        default_workdir: Some("/usr".into()),
        sandbox_id: Some("sb-1".into()),
        template_id: Some("base".into()),
        ..Default::default()
    };
    assert_eq!(init(&agent, &request, None).await.status(), 204);
    let text = run(
        &agent.client(),
        "id -un; pwd; echo $FROM_INIT $E2B_SANDBOX_ID $WRENN_TEMPLATE_ID",
    )
    .await
    .text();
    assert_eq!(text, "nobody\n/usr\nyes sb-1 base\n");
    let envs: serde_json::Value = get(&agent, "/envs", None).await.json().await.expect("JSON");
    assert_eq!(
        (&envs["FROM_INIT"], &envs["E2B_SANDBOX_ID"]),
        (&"yes".into(), &"sb-1".into())
    );
}

#[tokio::test]
async fn bad_init_changes_nothing_names_field() {
    let agent = Agent::start(&[]).await;
    for (body, named) in [
        (r#"{"accessToken":"a","hostname":"no spaces"}"#, "hostname"),
        (r#"{"accessToken":"a","entropy":"AAAA"}"#, "entropy"),
        (r#"{"accessToken":"a","envVars":{"A=":"x"}}"#, "envVars"),
        (r#"{"accessToken":"a","machineId":"short"}"#, "machineId"),
        (r#"{"accessToken":"a","bootId":"short"}"#, "bootId"),
        ("{}", "accessToken"),
        ("{", "init request"),
    ] {
        let call = Client::new().post(format!("{}/init", agent.url)).body(body);
        let answer = call.send().await.expect("an answer");
        assert_eq!(answer.status(), 400, "{body}");
        let message = answer
            .json::<ErrorBody>()
            .await
            .expect("a JSON body")
            .message;
        assert!(message.contains(named), "{body}: {message}");
    }
    assert_eq!(get(&agent, "/envs", Some("a")).await.status(), 401);
}

#[tokio::test]
async fn init_ignores_unknown_fields() {
    let agent = Agent::start(&[]).await;
    let body = r#"{"accessToken":"a","fieldOfTomorrow":{"a":[1]},"defaultUser":"nobody"}"#;
    let answer = Client::new()
        .post(format!("{}/init", agent.url))
        .body(body)
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 204);
    assert_eq!(get(&agent, "/envs", Some("a")).await.status(), 200);
}

/// Here the root disk is that of the machine which runs the tests.
#[tokio::test]
async fn freeze_needs_token_and_guest() {
    let agent = Agent::start(&[]).await;
    assert_eq!(init(&agent, &token("one"), None).await.status(), 204);
    let call = async |path: &str, token: &str, body: &'static str| {
        let call = Client::new()
            .post(format!("{}{path}", agent.url))
            .header("x-access-token", token)
            .body(body);
        call.send().await.expect("an answer")
    };
    for path in ["/freeze", "/thaw"] {
        assert_eq!(call(path, "two", "").await.status(), 401, "{path}");
    }
    for body in [
        "",
        "{}",
        r#"{"trim":true,"drop_caches":true,"limit_ms":5,"of_tomorrow":1}"#,
    ] {
        let answer: FreezeAnswer = call("/freeze", "one", body)
            .await
            .json()
            .await
            .expect("JSON");
        assert!(!answer.frozen && answer.why.is_some(), "{body}");
    }
    assert_eq!(call("/freeze", "one", "{").await.status(), 400);
    assert_eq!(call("/thaw", "one", "").await.status(), 204);
}

#[tokio::test]
async fn unknown_routes_answer_json() {
    let agent = Agent::open().await;
    assert_eq!(
        get(&agent, "/nothing", None)
            .await
            .json::<ErrorBody>()
            .await
            .expect("a JSON body")
            .code,
        404
    );
    let answer = Client::new()
        .delete(format!("{}/files?path=/tmp/x", agent.url))
        .send()
        .await
        .expect("an answer");
    assert_eq!(
        (
            answer.status().as_u16(),
            answer.headers().contains_key("allow")
        ),
        (405, true)
    );
    assert_eq!(
        answer.json::<ErrorBody>().await.expect("a JSON body").code,
        405
    );
}

#[tokio::test]
async fn metrics_make_sense() {
    let agent = Agent::open().await;
    let metrics: Metrics = get(&agent, "/metrics", None)
        .await
        .json()
        .await
        .expect("JSON");
    assert!(metrics.cpu_count > 0 && (0.0..=100.0).contains(&metrics.cpu_used_pct));
    assert!(metrics.mem_used > 0 && metrics.mem_used < metrics.mem_total);
    assert_eq!(metrics.mem_total_mib, metrics.mem_total >> 20);
    assert!(metrics.disk_used > 0 && metrics.disk_used <= metrics.disk_total);
    assert!(metrics.ts > 1_700_000_000);
}

#[tokio::test]
async fn clock_needs_token_and_answers_time() {
    let agent = Agent::start(&[]).await;
    assert_eq!(init(&agent, &token("one"), None).await.status(), 204);
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_nanos()
    };
    let set = async |token: &str, body: &'static str| {
        let call = Client::new()
            .post(format!("{}/clock", agent.url))
            .header("x-access-token", token);
        call.body(body).send().await.expect("an answer")
    };
    assert_eq!(set("two", "{\"timeNs\":1}").await.status(), 401);
    assert_eq!(set("one", "").await.status(), 400);
    let before = now();
    let answer: ClockAnswer = set("one", "{\"timeNs\":1}")
        .await
        .json()
        .await
        .expect("a clock answer");
    // This agent runs beside the tests, on a machine whose clock it must not touch.
    assert_eq!(answer.stepped_ns, 0);
    assert!(
        (before..=now()).contains(&u128::from(answer.time_ns)),
        "{answer:?}"
    );
}
