//! An agent for each test, and the shortest way to run a command in it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use connectrpc::ConnectError;
use connectrpc::client::{CallOptions, ClientConfig, HttpClient, ServerStream};
use guest_rpc::file::FileServiceClient;
use guest_rpc::filesystem::FilesystemClient;
use guest_rpc::process::__buffa::oneof::process_event::Event;
use guest_rpc::process::__buffa::oneof::process_event::data_event::Output;
use guest_rpc::process::__buffa::oneof::process_selector::Selector;
use guest_rpc::process::__buffa::view::StartResponseView;
use guest_rpc::process::process_event::EndEvent;
use guest_rpc::process::{
    ListRequest, ProcessClient, ProcessConfig, ProcessSelector, StartRequest,
};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

pub type Client = ProcessClient<HttpClient>;
pub type Files = FilesystemClient<HttpClient>;
pub type FileService = FileServiceClient<HttpClient>;

/// Header of calls that come through the port proxy.
pub const FILE_OVERRIDE_HEADER: &str = "x-wrenn-file-override";

/// Longest that anything in these tests may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A running agent; killed with the test.
pub struct Agent {
    pub url: String,
    _child: Child,
}

impl Agent {
    pub const PROGRAM: &str = env!("CARGO_BIN_EXE_envd");

    pub async fn open() -> Self {
        Self::start(&["--no-auth"]).await
    }

    /// With its log in a file.
    pub async fn logging_to(log: std::fs::File) -> Self {
        let mut command = Command::new(Self::PROGRAM);
        command.stderr(log);
        Self::run(command, &["--no-auth"]).await
    }

    pub async fn start(flags: &[&str]) -> Self {
        Self::run(Command::new(Self::PROGRAM), flags).await
    }

    /// As the first process of a PID namespace of its own.
    pub async fn first_process() -> Self {
        let mut unshare = Command::new("unshare");
        unshare.args([
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            Self::PROGRAM,
        ]);
        Self::run(unshare, &["--no-auth"]).await
    }

    /// By a command that executes [`Agent::PROGRAM`].
    pub async fn open_by(command: Command) -> Self {
        Self::run(command, &["--no-auth"]).await
    }

    async fn run(mut command: Command, flags: &[&str]) -> Self {
        let mut child = command
            .args(["--not-guest", "--port", "0"])
            .args(flags)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the agent starts");
        let mut lines =
            BufReader::new(child.stdout.take().expect("standard output is piped")).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line())
            .await
            .expect("the agent announces itself");
        let line = line
            .expect("output can be read")
            .expect("the agent did not end");
        let address = line
            .strip_prefix("envd: serving on ")
            .expect("the announcement has its form");
        Self {
            url: format!("http://{address}"),
            _child: child,
        }
    }

    pub fn config(&self) -> ClientConfig {
        ClientConfig::new(self.url.parse().expect("a URL"))
    }

    pub fn client(&self) -> Client {
        ProcessClient::new(HttpClient::plaintext(), self.config())
    }

    pub fn files(&self) -> Files {
        FilesystemClient::new(HttpClient::plaintext(), self.config())
    }

    pub fn file_service(&self) -> FileService {
        FileServiceClient::new(HttpClient::plaintext(), self.config())
    }

    pub fn files_as(&self, user: &str) -> Files {
        FilesystemClient::new(
            HttpClient::plaintext(),
            self.config()
                .with_default_header("authorization", basic(user)),
        )
    }

    /// Does the same as [`Agent::files_as`], with calls that come through the port proxy.
    pub fn proxied_files_as(&self, user: &str) -> Files {
        let config = self
            .config()
            .with_default_header("authorization", basic(user))
            .with_default_header(FILE_OVERRIDE_HEADER, "1");
        FilesystemClient::new(HttpClient::plaintext(), config)
    }

    /// Where `/files` has `path`, which needs no escapes. `more` starts with `&`.
    pub fn at(&self, path: &Path, more: &str) -> String {
        format!("{}/files?path={}{more}", self.url, path.display())
    }

    /// A raw upload that must work.
    pub async fn put(&self, path: &Path, content: impl Into<reqwest::Body>) {
        let call = reqwest::Client::new()
            .post(self.at(path, ""))
            .header("content-type", "application/octet-stream");
        assert_eq!(
            call.body(content).send().await.expect("an answer").status(),
            200
        );
    }
}

pub fn shell(script: &str) -> StartRequest {
    let config = ProcessConfig {
        cmd: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        ..Default::default()
    };
    StartRequest {
        process: config.into(),
        stdin: Some(false),
        ..Default::default()
    }
}

fn basic(user: &str) -> String {
    use base64::Engine as _;
    format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(format!("{user}:"))
    )
}

pub fn as_user(name: &str) -> CallOptions {
    CallOptions::default().with_header("authorization", basic(name))
}

/// A directory where everybody may make files.
pub fn open_folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).expect("chmod");
    folder
}

/// A file system of its own in memory, as small as asked for.
pub struct Disk(TempDir);

impl Disk {
    pub fn of(kibibytes: u32) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let size = format!("size={kibibytes}k");
        let none = nix::mount::MsFlags::empty();
        nix::mount::mount(
            Some("tmpfs"),
            folder.path(),
            Some("tmpfs"),
            none,
            Some(size.as_str()),
        )
        .expect("mounts");
        Self(folder)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Detached at once, also where a killed agent still has it open.
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

pub fn by_pid(pid: u32) -> ProcessSelector {
    ProcessSelector {
        selector: Some(Selector::Pid(pid)),
        ..Default::default()
    }
}

/// Everything a stream brought.
#[derive(Debug, Default)]
pub struct Outcome {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub pty: Vec<u8>,
    pub end: Option<EndEvent>,
    pub error: Option<ConnectError>,
    pub keepalives: usize,
}

impl Outcome {
    pub fn code(&self) -> i32 {
        self.end
            .as_ref()
            .unwrap_or_else(|| panic!("no end event: {self:?}"))
            .exit_code
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Data(data) => match data.output.expect("data has output") {
                Output::Stdout(bytes) => self.stdout.extend(bytes),
                Output::Stderr(bytes) => self.stderr.extend(bytes),
                Output::Pty(bytes) => self.pty.extend(bytes),
            },
            Event::End(end) => assert!(self.end.replace(*end).is_none(), "a second end"),
            Event::Keepalive(_) => self.keepalives += 1,
            Event::Start(_) => panic!("a second start"),
        }
    }
}

/// A started process and its stream.
#[derive(Debug)]
pub struct Running {
    pub pid: u32,
    pub outcome: Outcome,
    stream: ServerStream<hyper::body::Incoming, StartResponseView<'static>>,
}

impl Running {
    pub async fn start(
        client: &Client,
        request: StartRequest,
        options: CallOptions,
    ) -> Result<Self, ConnectError> {
        let stream = client.start_with_options(request, options).await?;
        let mut running = Self {
            pid: 0,
            outcome: Outcome::default(),
            stream,
        };
        match running.next().await? {
            Some(Event::Start(start)) => running.pid = start.pid,
            other => panic!("the first event must be start: {other:?}"),
        }
        Ok(running)
    }

    async fn next(&mut self) -> Result<Option<Event>, ConnectError> {
        let message = tokio::time::timeout(PATIENCE, self.stream.message())
            .await
            .expect("the stream goes on in time")?;
        let event = message.and_then(|m| m.to_owned_message().event.into_option());
        Ok(event.map(|e| e.event.expect("an event has content")))
    }

    /// Reads until `enough`.
    pub async fn until(&mut self, enough: impl Fn(&Outcome) -> bool) {
        while !enough(&self.outcome) {
            match self.next().await {
                Ok(Some(event)) => self.outcome.take(event),
                other => panic!("the stream ended early: {other:?} after {:?}", self.outcome),
            }
        }
    }

    /// Reads to the end.
    pub async fn finish(mut self) -> Outcome {
        loop {
            match self.next().await {
                Ok(Some(event)) => {
                    assert!(self.outcome.end.is_none(), "an event after the end");
                    self.outcome.take(event);
                }
                Ok(None) => return self.outcome,
                Err(error) => {
                    self.outcome.error = Some(error);
                    return self.outcome;
                }
            }
        }
    }
}

pub async fn start(client: &Client, request: StartRequest) -> Running {
    Running::start(client, request, CallOptions::default())
        .await
        .expect("the process starts")
}

pub async fn run(client: &Client, script: &str) -> Outcome {
    start(client, shell(script)).await.finish().await
}

pub async fn listed(client: &Client) -> Vec<u32> {
    let response = client
        .list(ListRequest::default())
        .await
        .expect("the list")
        .into_owned();
    response.processes.iter().map(|p| p.pid).collect()
}

/// Polls until `done`.
pub async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !done().await {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Returns true if a process lives: neither gone nor a zombie.
pub fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().next())
        .is_some_and(|state| state != "Z")
}
