//! One request, found in the logs of all programs that worked on it: `wrenn-cp` and `wrenn-agent`
//! as programs of their own, and the guest agent.

use std::time::Duration;

use e2e::{Leftovers, Program, Programs};
use reqwest::Method;
use reqwest::blocking::{Client, RequestBuilder};
use serde_json::{Value, json};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
/// For a boot beside others without hardware virtualisation.
const PATIENCE: Duration = Duration::from_secs(150);

/// Control plane and host agent, and a client whose requests belong to one trace.
struct Traced {
    programs: Programs,
    key: String,
    http: Client,
}

impl Traced {
    fn start() -> Self {
        // Every boot is of the create that is traced.
        let programs = Programs::start("trace", None, &[("AGENT_WARM", "off")]);
        Self {
            key: programs.key(),
            programs,
            http: Client::builder().timeout(PATIENCE).build().unwrap(),
        }
    }

    fn request(&self, method: Method, path: &str, id: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}/v1/{path}", self.programs.url()))
            .header("x-api-key", &self.key)
            .header("x-request-id", id)
            .header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"))
    }

    fn call(&self, method: Method, path: &str, id: &str, body: Value) -> Value {
        let answer = self.request(method, path, id).json(&body).send().unwrap();
        let status = answer.status();
        let text = answer.text().unwrap();
        assert!(status.is_success(), "{id}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Checks that both programs of the host have logged the request.
    fn assert_logged(&self, request: &str) {
        for program in [Program::ControlPlane, Program::HostAgent] {
            let log = self.programs.log(program);
            let name = program.name();
            assert!(has_line_of(&log, request), "{request} in {name}:\n{log}");
        }
    }

    fn guest_log(&self, sandbox: &str) -> String {
        let path = format!("sandboxes/{sandbox}/logs");
        let answer = self.request(Method::GET, &path, "logs").send().unwrap();
        answer.text().unwrap()
    }
}

/// Returns true if a line of the log is of the request and of the trace.
fn has_line_of(log: &str, request: &str) -> bool {
    // In the API's answer, quotes are escaped.
    let log = log.replace("\\\"", "\"");
    let request = format!("id=\"{request}\"");
    let trace = format!("trace=\"{TRACE}\"");
    log.lines()
        .any(|line| line.contains(&request) && line.contains(&trace))
}

#[test]
fn trace_is_in_logs_of_all_programs() {
    let before = Leftovers::list();
    let traced = Traced::start();
    let post = |path: &str, id, body| traced.call(Method::POST, path, id, body);
    let sandbox = post("sandboxes", "r-create", json!({ "memory_mb": 256 }));
    let id = sandbox["id"].as_str().unwrap().to_owned();
    let of = |call: &str| format!("sandboxes/{id}/{call}");
    post(&of("exec"), "r-exec", json!({ "cmd": "true" }));
    post(&of("files/mkdir"), "r-mkdir", json!({ "path": "made" }));
    traced.call(Method::PUT, &of("network"), "r-network", json!({}));
    post(&of("pause"), "r-pause", json!({}));
    post(&of("resume"), "r-resume", json!({}));
    post(&of("checkpoints"), "r-checkpoint", json!({ "name": "c" }));
    post(&of("checkpoints/c/rollback"), "r-rollback", json!({}));
    post(
        "snapshots",
        "r-snapshot",
        json!({ "sandbox_id": id, "name": "s" }),
    );
    let forked = post(&of("fork"), "r-fork", json!({ "count": 1 }));
    let guest = traced.guest_log(&id);
    let in_guest = [
        "r-create",
        "r-exec",
        "r-mkdir",
        "r-pause",
        "r-resume",
        "r-checkpoint",
        "r-rollback",
        "r-snapshot",
        "r-fork",
    ];
    for request in in_guest {
        assert!(
            has_line_of(&guest, request),
            "{request} in the guest:\n{guest}"
        );
        traced.assert_logged(request);
    }
    traced.assert_logged("r-network");
    let child = forked[0]["id"]
        .as_str()
        .unwrap_or_else(|| panic!("{forked}"));
    let delete = |path: String, id| traced.call(Method::DELETE, &path, id, json!({}));
    delete("snapshots/s".to_owned(), "r-forget");
    delete(format!("sandboxes/{child}"), "r-child");
    delete(format!("sandboxes/{id}"), "r-delete");
    for request in ["r-forget", "r-child", "r-delete"] {
        traced.assert_logged(request);
    }
    traced.programs.stop();
    before.assert_nothing_new();
}
