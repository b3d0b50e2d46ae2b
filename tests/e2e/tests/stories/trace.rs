//! One request, found in the logs of all programs that worked on it: `wrenn-cp` and `wrenn-agent`
//! as programs of their own, and the guest agent.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use e2e::{Leftovers, binary, eventually, test_data};
use reqwest::Method;
use reqwest::blocking::{Client, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const TOKEN: &str = "the-token-of-the-trace-story";
/// For a boot beside others without hardware virtualisation.
const PATIENCE: Duration = Duration::from_secs(150);

/// Control plane and host agent as two processes, in a directory of their own.
struct Programs {
    dir: TempDir,
    processes: Vec<Child>,
    url: String,
    http: Client,
}

impl Programs {
    fn start() -> Self {
        let parent = test_data().join("run");
        fs::create_dir_all(&parent).unwrap();
        let dir = TempDir::with_prefix_in("trace-", parent).unwrap();
        let url = format!("http://{}", free_address());
        let mut programs = Self {
            dir,
            processes: Vec::new(),
            url,
            http: Client::builder().timeout(PATIENCE).build().unwrap(),
        };
        let agent_address = free_address();
        let images = test_data().join("images");
        let kernel = test_data().join("kernels/vmlinux");
        let agent = programs
            .command("wrenn-agent")
            .env("AGENT_LISTEN_ADDR", &agent_address)
            .env("AGENT_KERNEL_PATH", kernel)
            .env("AGENT_IMAGES_PATH", images)
            .env("AGENT_ENVD_PATH", binary("envd"))
            // Every boot is of the create that is traced.
            .env("AGENT_WARM", "off")
            .spawn();
        programs.processes.push(agent.unwrap());
        let migrated = programs.command("wrenn-cp").arg("migrate").status();
        assert!(migrated.unwrap().success());
        let listen = programs.url.trim_start_matches("http://").to_owned();
        let plane = programs
            .command("wrenn-cp")
            .env("CP_LISTEN_ADDR", listen)
            .env("CP_HOST_AGENT_ADDR", format!("http://{agent_address}"))
            .spawn();
        programs.processes.push(plane.unwrap());
        eventually("both programs answering", PATIENCE, || {
            let asked = programs.request(Method::GET, "templates", "warm-up").send();
            asked
                .is_ok_and(|answer| answer.status().is_success())
                .then_some(())
        });
        programs
    }

    /// Returns a program that logs into a file of its name.
    fn command(&self, program: &str) -> Command {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path(program))
            .unwrap();
        let mut command = Command::new(binary(program));
        command
            .current_dir(self.dir.path())
            .env("WRENN_DIR", self.dir.path())
            .env("AGENT_TOKEN", TOKEN)
            .env("NO_COLOR", "1")
            .env_remove("RUST_LOG")
            .env_remove("DATABASE_URL")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        command
    }

    fn log_path(&self, program: &str) -> PathBuf {
        self.dir.path().join(format!("{program}.log"))
    }

    fn request(&self, method: Method, path: &str, id: &str) -> RequestBuilder {
        let credentials = fs::read_to_string(self.dir.path().join("credentials"));
        let credentials = credentials.unwrap_or_default();
        let key = credentials
            .lines()
            .find_map(|line| line.strip_prefix("WRENN_API_KEY="));
        self.http
            .request(method, format!("{}/v1/{path}", self.url))
            .header("x-api-key", key.unwrap_or_default().trim())
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
        for program in ["wrenn-cp", "wrenn-agent"] {
            let log = fs::read_to_string(self.log_path(program)).unwrap();
            assert!(has_line_of(&log, request), "{request} in {program}:\n{log}");
        }
    }

    fn guest_log(&self, sandbox: &str) -> String {
        let path = format!("sandboxes/{sandbox}/logs");
        let answer = self.request(Method::GET, &path, "logs").send().unwrap();
        answer.text().unwrap()
    }

    fn stop(mut self) {
        for mut process in self.processes.drain(..).rev() {
            let pid = nix::unistd::Pid::from_raw(process.id().try_into().unwrap());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
            assert!(process.wait().unwrap().success());
        }
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
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
    let programs = Programs::start();
    let post = |path: &str, id, body| programs.call(Method::POST, path, id, body);
    let sandbox = post("sandboxes", "r-create", json!({ "memory_mb": 256 }));
    let id = sandbox["id"].as_str().unwrap().to_owned();
    let of = |call: &str| format!("sandboxes/{id}/{call}");
    post(&of("exec"), "r-exec", json!({ "cmd": "true" }));
    post(&of("files/mkdir"), "r-mkdir", json!({ "path": "made" }));
    programs.call(Method::PUT, &of("network"), "r-network", json!({}));
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
    let guest = programs.guest_log(&id);
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
        programs.assert_logged(request);
    }
    programs.assert_logged("r-network");
    let child = forked[0]["id"]
        .as_str()
        .unwrap_or_else(|| panic!("{forked}"));
    let delete = |path: String, id| programs.call(Method::DELETE, &path, id, json!({}));
    delete("snapshots/s".to_owned(), "r-forget");
    delete(format!("sandboxes/{child}"), "r-child");
    delete(format!("sandboxes/{id}"), "r-delete");
    for request in ["r-forget", "r-child", "r-delete"] {
        programs.assert_logged(request);
    }
    programs.stop();
    before.assert_nothing_new();
}
