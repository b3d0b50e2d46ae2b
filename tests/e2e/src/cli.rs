//! The `wrenn` command, run as a user runs it.

use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::platform::binary;

/// A command line that talks to one platform.
#[derive(Debug, Clone)]
pub struct Wrenn {
    pub url: String,
    pub key: String,
    /// `WRENN_DIR`, so that nothing of the machine's own installation is read.
    pub dir: PathBuf,
}

/// How a command ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit code, or 128 + signal.
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Finished {
    /// Standard output as text, without the white space at its end.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// Panics with everything that is known unless the command succeeded.
    #[must_use]
    pub fn succeeded(self) -> Self {
        assert_eq!(
            self.code,
            0,
            "stdout: {}\nstderr: {}",
            self.text(),
            self.stderr
        );
        self
    }

    /// The one JSON document on standard output.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}\nstderr: {}", self.text(), self.stderr))
    }
}

impl Wrenn {
    /// The command with its arguments, not yet started.
    pub fn command<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(binary("wrenn"));
        command
            .args(args)
            .env("WRENN_API_URL", &self.url)
            .env("WRENN_API_KEY", &self.key)
            .env("WRENN_DIR", &self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the command to its end.
    pub fn run<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Finished {
        let child = self
            .command(args)
            .spawn()
            .expect("the wrenn command starts");
        finish(child)
    }

    /// Runs the command with `input` on its standard input.
    pub fn run_with_input<I: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = I>,
        input: &[u8],
    ) -> Finished {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .spawn()
            .expect("the wrenn command starts");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let input = input.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let finished = finish(child);
        // The command may have ended before it read everything.
        let _ = writer.join();
        finished
    }

    /// A new sandbox, running; its id.
    #[must_use]
    pub fn create(&self, args: &[&str]) -> String {
        let created = self
            .run([&["create", "--json"], args].concat())
            .succeeded()
            .json();
        assert_eq!(created["status"], "running", "{created}");
        created["id"].as_str().expect("an id").to_owned()
    }

    /// Runs a shell command in a sandbox.
    pub fn sh(&self, id: &str, script: &str) -> Finished {
        self.run(["exec", id, "--", "sh", "-c", script])
    }

    /// The sandbox as `info` shows it, or `None` when there is none.
    #[must_use]
    pub fn info(&self, id: &str) -> Option<Value> {
        let info = self.run(["info", "--json", id]);
        (info.code == 0).then(|| info.json())
    }

    /// Every sandbox, in whatever state.
    #[must_use]
    pub fn all(&self) -> Vec<Value> {
        self.run(["ls", "--all", "--json"])
            .succeeded()
            .json()
            .as_array()
            .expect("an array")
            .clone()
    }

    pub fn rm(&self, id: &str) {
        let _ = self.run(["rm", id]).succeeded();
    }
}

fn finish(child: Child) -> Finished {
    use std::os::unix::process::ExitStatusExt;
    let output = child.wait_with_output().expect("the wrenn command ends");
    let code = output
        .status
        .code()
        .or_else(|| output.status.signal().map(|signal| 128 + signal));
    Finished {
        code: code.unwrap_or(-1),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
