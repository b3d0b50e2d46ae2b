//! Requests are traced in the agent's log.

use crate::support::Agent;

#[tokio::test]
async fn refused_request_is_logged_with_its_id() {
    let log = tempfile::NamedTempFile::new().expect("a file");
    let agent = Agent::logging_to(log.reopen().expect("the file")).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let answer = reqwest::Client::new()
        .get(format!("{}/files?path=/no/such/file", agent.url))
        .header("x-request-id", "traced-1")
        .header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 404);
    let text = std::fs::read_to_string(log.path()).expect("the log");
    let line = text.lines().find(|line| line.contains("request refused"));
    let line = line.expect("a line for the request");
    assert!(line.contains("traced-1") && line.contains(trace), "{line}");
}
