//! `wrenn up` in a directory of its own, on a free loopback port.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::cli::Wrenn;
use crate::eventually;
use crate::leftovers::Leftovers;
use crate::programs::free_address;

/// A running platform. Dropping it stops it, removes its sandboxes and checks that nothing is left.
#[derive(Debug)]
pub struct Platform {
    dir: Option<TempDir>,
    listen: String,
    server: Option<Child>,
    before: Leftovers,
    extra_env: Vec<(String, String)>,
}

impl Platform {
    /// Starts `wrenn up` and waits until it answers.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more environment.
    #[must_use]
    pub fn start_with(env: &[(&str, &str)]) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "the stories need root: run them with sudo, or `make test` as root"
        );
        let before = Leftovers::list();
        // Not below /tmp: that can be a tmpfs, where disks of sandboxes do not belong.
        let parent = test_data().join("run");
        fs::create_dir_all(&parent).expect("a directory for the platform");
        let dir = TempDir::with_prefix_in("up-", &parent).expect("a directory for the platform");
        let extra_env = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let mut platform = Self {
            dir: Some(dir),
            listen: free_address(),
            server: None,
            before,
            extra_env,
        };
        platform.launch();
        platform
    }

    /// Starts the server in the same directory again.
    pub fn launch(&mut self) {
        assert!(self.server.is_none(), "it runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("a log file");
        let child = Command::new(binary("wrenn"))
            .args(["up", "--listen", &self.listen, "--dir"])
            .arg(self.dir())
            .env("WRENN_DIR", self.dir())
            .env("AGENT_KERNEL_PATH", test_data().join("kernels/vmlinux"))
            .env("AGENT_IMAGES_PATH", test_data().join("images"))
            .env("AGENT_ENVD_PATH", binary("envd"))
            .env("NO_COLOR", "1")
            .envs(self.extra_env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("wrenn up starts");
        self.server = Some(child);
        eventually("wrenn up answering", Duration::from_secs(60), || {
            if let Some(status) = self
                .server
                .as_mut()?
                .try_wait()
                .expect("the server can be waited for")
            {
                panic!("wrenn up ended with {status}:\n{}", self.log());
            }
            self.is_up().then_some(())
        });
    }

    fn is_up(&self) -> bool {
        self.dir().join("credentials").exists() && self.cli().run(["ls", "--json"]).code == 0
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir
            .as_ref()
            .expect("the directory lives as long as the platform")
            .path()
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    fn log_path(&self) -> PathBuf {
        self.dir().join("up.log")
    }

    /// What the server has printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The key that the server wrote for its first user.
    #[must_use]
    pub fn key(&self) -> String {
        let path = self.dir().join("credentials");
        let mode = fs::metadata(&path).expect("credentials").mode() & 0o777;
        assert_eq!(mode, 0o600, "only the owner reads the credentials");
        let text = fs::read_to_string(path).expect("credentials");
        let key = text
            .lines()
            .find_map(|line| line.strip_prefix("WRENN_API_KEY="));
        key.expect("a line WRENN_API_KEY=").trim().to_owned()
    }

    #[must_use]
    pub fn cli(&self) -> Wrenn {
        Wrenn {
            url: self.url(),
            key: self.key(),
            dir: self.dir().to_owned(),
        }
    }

    /// Process id of the server.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.server.as_ref().expect("it runs").id()).expect("a process id")
    }

    /// `kill -9` of the server.
    pub fn kill_nine(&mut self) {
        self.end(Signal::SIGKILL);
    }

    /// Ctrl-C; it must end by itself, and cleanly.
    pub fn interrupt(&mut self) {
        let status = self.end(Signal::SIGINT);
        assert!(
            status.success(),
            "Ctrl-C ended wrenn up with {status}:\n{}",
            self.log()
        );
    }

    fn end(&mut self, signal: Signal) -> std::process::ExitStatus {
        let pid = Pid::from_raw(self.pid());
        kill(pid, signal).expect("the server can be signalled");
        let mut child = self.server.take().expect("it runs");
        child.wait().expect("the server ends")
    }

    /// Removes every sandbox, stops the server and compares the host with what it was before.
    pub fn finish(mut self) {
        if self.server.is_none() {
            self.launch();
        }
        let _ = self.cli().run(["rm", "--all"]).succeeded();
        assert!(self.cli().all().is_empty(), "rm --all leaves no sandbox");
        let sandboxes = self.dir().join("sandboxes");
        let left: Vec<_> = fs::read_dir(sandboxes)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        assert!(left.is_empty(), "files of removed sandboxes: {left:?}");
        self.interrupt();
        self.dir = None;
        self.before.assert_nothing_new();
    }
}

impl Drop for Platform {
    /// Only after a failed story: says what the server said, and cleans up so that the next story
    /// has a fair start.
    fn drop(&mut self) {
        if self.dir.is_none() {
            return;
        }
        eprintln!("--- wrenn up printed:\n{}", self.log());
        if self.server.is_some() {
            let _ = self.cli().run(["rm", "--all"]);
        }
        if let Some(mut child) = self.server.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Root of the checkout.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the workspace")
}

/// Kernel and images made by `make test-data`.
#[must_use]
pub fn test_data() -> PathBuf {
    std::env::var_os("WRENN_TEST_DATA")
        .map_or_else(|| workspace().join("target/testdata"), PathBuf::from)
}

/// A built program: `WRENN_TEST_BIN` or `target/debug`; `envd` is the static one.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let default = if name == "envd" {
        "builds"
    } else {
        "target/debug"
    };
    let dir =
        std::env::var_os("WRENN_TEST_BIN").map_or_else(|| workspace().join(default), PathBuf::from);
    let path = dir.join(name);
    assert!(
        path.exists(),
        "{} is not built; `make test` builds it",
        path.display()
    );
    path
}
