//! The built `wrenn` command, run as a user runs it, against a server on loopback.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::server::{KEY, Server};

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ended {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Panics with everything that is known unless the command ended with `code`.
    pub fn with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }
}

/// A command that reads nothing of the machine's own installation.
pub fn bare(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wrenn"));
    command
        .args(args)
        .env_clear()
        .env("WRENN_DIR", "/nonexistent")
        .env("NO_COLOR", "1");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A command that knows the server.
pub fn command(server: &Server, args: &[&str]) -> Command {
    let mut command = bare(args);
    command
        .env("WRENN_API_URL", &server.url)
        .env("WRENN_API_KEY", KEY);
    command
}

/// Runs it to its end with `input`.
pub async fn finish(mut command: Command, input: Vec<u8>) -> Ended {
    let run = move || {
        let mut child = command.stdin(Stdio::piped()).spawn().expect("wrenn starts");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        // It may end before it has read everything.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().expect("wrenn ends");
        writer.join().expect("the writer ends");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Ended {
            code: output.status.code(),
            stdout: output.stdout,
            stderr,
        }
    };
    tokio::task::spawn_blocking(run).await.expect("wrenn ends")
}

/// Runs it to its end.
pub async fn wrenn(server: &Server, args: &[&str]) -> Ended {
    finish(command(server, args), Vec::new()).await
}

/// Longest that anything in these tests may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// Waits until it is so.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(
            std::time::Instant::now() < deadline,
            "not within {PATIENCE:?}: {what}"
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
