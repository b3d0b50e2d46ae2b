//! Control plane and host agent as two programs, in a directory of their own.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::platform::{binary, test_data};
use crate::{Wrenn, eventually};

const TOKEN: &str = "the-token-of-control-plane-and-agent";
/// For a boot beside others without hardware virtualisation.
const PATIENCE: Duration = Duration::from_secs(150);

/// One of the two programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    ControlPlane,
    HostAgent,
}

impl Program {
    const ALL: [Self; 2] = [Self::HostAgent, Self::ControlPlane];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ControlPlane => "wrenn-cp",
            Self::HostAgent => "wrenn-agent",
        }
    }
}

/// `wrenn-cp` and `wrenn-agent`, running. Dropping it kills both.
#[derive(Debug)]
pub struct Programs {
    dir: TempDir,
    database_url: Option<String>,
    env: Vec<(String, String)>,
    plane_address: String,
    agent_address: String,
    plane: Option<Child>,
    agent: Option<Child>,
}

impl Programs {
    /// Starts both over a migrated database, by default SQLite, and waits until they answer.
    #[must_use]
    pub fn start(name: &str, database_url: Option<&str>, env: &[(&str, &str)]) -> Self {
        let parent = test_data().join("run");
        fs::create_dir_all(&parent).expect("a directory for the programs");
        let dir = TempDir::with_prefix_in(format!("{name}-"), parent)
            .expect("a directory for the programs");
        let env = env.iter();
        let mut programs = Self {
            dir,
            database_url: database_url.map(str::to_owned),
            env: env
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            plane_address: free_address(),
            agent_address: free_address(),
            plane: None,
            agent: None,
        };
        let migrated = programs.plane_command().arg("migrate").status();
        assert!(migrated.expect("wrenn-cp starts").success());
        for program in Program::ALL {
            programs.launch(program);
        }
        eventually("both programs answering", PATIENCE, || {
            let credentials = programs.dir().join("credentials");
            let is_up = credentials.exists() && programs.cli().run(["templates"]).code == 0;
            is_up.then_some(())
        });
        programs
    }

    /// Starts a program that does not run, in the same directory and with the same settings.
    ///
    /// # Panics
    /// It runs already.
    pub fn launch(&mut self, program: Program) {
        let mut command = match program {
            Program::ControlPlane => self.plane_command(),
            Program::HostAgent => self.agent_command(),
        };
        let child = command.spawn().expect("the program starts");
        let before = self.child(program).replace(child);
        assert!(before.is_none(), "{} runs already", program.name());
    }

    /// `kill -9` of a program.
    pub fn kill_nine(&mut self, program: Program) {
        let mut child = self.child(program).take().expect("it runs");
        child.kill().expect("the program can be killed");
        child.wait().expect("the program ends");
    }

    /// Process id of a program that runs.
    #[must_use]
    pub fn pid(&self, program: Program) -> u32 {
        let child = match program {
            Program::ControlPlane => &self.plane,
            Program::HostAgent => &self.agent,
        };
        child.as_ref().expect("it runs").id()
    }

    /// Panics if a program has ended by itself.
    pub fn assert_running(&mut self) {
        for program in Program::ALL {
            let child = self.child(program).as_mut().expect("it runs");
            let status = child.try_wait().expect("the program can be waited for");
            assert!(status.is_none(), "{} ended: {status:?}", program.name());
        }
    }

    /// Ends both programs as a supervisor does; both must end cleanly.
    pub fn stop(mut self) {
        for program in Program::ALL {
            let mut child = self.child(program).take().expect("it runs");
            let pid = Pid::from_raw(child.id().try_into().expect("a process id"));
            kill(pid, Signal::SIGTERM).expect("the program can be signalled");
            let status = child.wait().expect("the program ends");
            assert!(status.success(), "{} ended with {status}", program.name());
        }
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.plane_address)
    }

    /// The key that the control plane wrote for its first user.
    #[must_use]
    pub fn key(&self) -> String {
        let credentials = fs::read_to_string(self.dir().join("credentials")).expect("credentials");
        let key = credentials
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

    /// What a program has logged so far.
    #[must_use]
    pub fn log(&self, program: Program) -> String {
        fs::read_to_string(self.log_path(program)).unwrap_or_default()
    }

    fn log_path(&self, program: Program) -> PathBuf {
        self.dir().join(format!("{}.log", program.name()))
    }

    fn child(&mut self, program: Program) -> &mut Option<Child> {
        match program {
            Program::ControlPlane => &mut self.plane,
            Program::HostAgent => &mut self.agent,
        }
    }

    fn plane_command(&self) -> Command {
        let mut command = self.command(Program::ControlPlane);
        command.env("CP_LISTEN_ADDR", &self.plane_address).env(
            "CP_HOST_AGENT_ADDR",
            format!("http://{}", self.agent_address),
        );
        if let Some(url) = &self.database_url {
            command.env("DATABASE_URL", url);
        }
        command
    }

    fn agent_command(&self) -> Command {
        let mut command = self.command(Program::HostAgent);
        command
            .env("AGENT_LISTEN_ADDR", &self.agent_address)
            .env("AGENT_KERNEL_PATH", test_data().join("kernels/vmlinux"))
            .env("AGENT_IMAGES_PATH", test_data().join("images"))
            .env("AGENT_ENVD_PATH", binary("envd"));
        command
    }

    /// Returns a program that logs into a file of its name.
    fn command(&self, program: Program) -> Command {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path(program))
            .expect("a log file");
        let mut command = Command::new(binary(program.name()));
        command
            .current_dir(self.dir())
            .env("WRENN_DIR", self.dir())
            .env("AGENT_TOKEN", TOKEN)
            .env("NO_COLOR", "1")
            .env_remove("RUST_LOG")
            .env_remove("DATABASE_URL")
            // Several of these run at once.
            .env("CP_METRICS_ADDR", "off")
            .env("AGENT_METRICS_ADDR", "off")
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        command
    }
}

impl Drop for Programs {
    /// After a failed story: says what the programs said, and cleans up so that the next story has
    /// a fair start.
    fn drop(&mut self) {
        if self.agent.is_some() {
            for program in Program::ALL {
                eprintln!("--- {} printed:\n{}", program.name(), self.log(program));
            }
            if self.plane.is_some() {
                let _ = self.cli().run(["rm", "--all"]);
            }
        }
        for child in [&mut self.plane, &mut self.agent].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Returns an address on the loopback that nobody listens on at this moment.
pub(crate) fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").to_string()
}
