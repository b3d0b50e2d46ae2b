//! One agent with a directory of its own, and the shortest ways to use it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use connectrpc::client::{CallOptions, ClientConfig, HttpClient};
use connectrpc::{ConnectError, ErrorCode};
use host_rpc as rpc;
use host_rpc::__buffa::oneof::exec_response::Event;
use host_rpc::client::HostClient;
use hostd::network::Slot;
use model::{SandboxId, SandboxSpec};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use testkit::eventually;
use tokio::process::{Child, Command};

/// For a boot beside others without hardware virtualisation.
pub const PATIENCE: Duration = Duration::from_secs(150);

/// A running agent. Killed with the test; [`Agent::finish`] checks that nothing is left.
pub struct Agent {
    pub dir: TempDir,
    env: Vec<(&'static str, String)>,
    port: u16,
    child: Option<Child>,
}

/// What a program did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn test_data(name: &str) -> String {
    let base = std::env::var_os("WRENN_TEST_DATA")
        .map_or_else(|| workspace().join("target/testdata"), PathBuf::from);
    let path = base.join(name);
    assert!(
        path.exists(),
        "{} is missing; type: make test-data",
        path.display()
    );
    path.to_string_lossy().into_owned()
}

impl Agent {
    pub async fn start(env: &[(&'static str, &str)]) -> Self {
        Self::start_as(env, Command::new(env!("CARGO_BIN_EXE_wrenn-agent"))).await
    }

    /// Starts a program that is an agent, too.
    pub async fn start_as(env: &[(&'static str, &str)], program: Command) -> Self {
        let parent = workspace().join("target/testdata/run");
        std::fs::create_dir_all(&parent).unwrap();
        let dir = TempDir::with_prefix_in("agent-", parent).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let env = env
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect();
        let mut agent = Self {
            dir,
            env,
            port,
            child: None,
        };
        agent.launch_as(program).await;
        agent
    }

    /// Starts it, again, in its directory.
    pub async fn launch(&mut self) {
        self.launch_as(Command::new(env!("CARGO_BIN_EXE_wrenn-agent")))
            .await;
    }

    /// Starts a program that is an agent, too.
    pub async fn launch_as(&mut self, mut program: Command) {
        let envd = workspace().join("builds/envd");
        assert!(
            envd.exists(),
            "builds/envd is missing; type: make build-envd"
        );
        let mut child = program
            .current_dir(self.dir.path())
            .env("WRENN_DIR", self.dir.path())
            .env("AGENT_LISTEN_ADDR", format!("127.0.0.1:{}", self.port))
            .env("AGENT_KERNEL_PATH", test_data("kernels/vmlinux"))
            .env("AGENT_IMAGES_PATH", test_data("images"))
            .env("AGENT_ENVD_PATH", envd)
            .env("NO_COLOR", "1")
            // Tests count what there is; those of the pool turn it on.
            .env("AGENT_NETWORK_POOL", "0")
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        // Made anew for each attempt: the token is there only once the agent has started.
        let list = async || {
            self.client()
                .sandboxes()
                .list_sandboxes(rpc::ListSandboxesRequest::default())
                .await
                .ok()
        };
        tokio::select! {
            status = child.wait() => panic!("the agent ended with {:?}", status.unwrap()),
            _ = eventually("the agent answering", PATIENCE, list) => {}
        }
        self.child = Some(child);
    }

    /// Waits until it has ended by itself.
    pub async fn died(&mut self) -> std::process::ExitStatus {
        tokio::time::timeout(PATIENCE, self.child.take().unwrap().wait())
            .await
            .expect("it lives on")
            .unwrap()
    }

    /// From its next start on.
    pub fn set(&mut self, name: &'static str, value: &str) {
        self.env.retain(|(other, _)| *other != name);
        self.env.push((name, value.to_owned()));
    }

    /// From its next start on.
    pub fn without_pool(&mut self) {
        self.env.retain(|(name, _)| *name != "AGENT_NETWORK_POOL");
    }

    /// Ends it in order.
    pub async fn stop(&mut self) {
        let pid = Pid::from_raw(self.pid().try_into().unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        assert!(self.died().await.success());
    }

    pub async fn kill_nine(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().await.unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id().unwrap()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn client(&self) -> HostClient {
        let token =
            std::fs::read_to_string(self.dir.path().join("agent-token")).unwrap_or_default();
        self.client_with(token.trim())
    }

    pub fn client_with(&self, token: &str) -> HostClient {
        let url = format!("http://127.0.0.1:{}", self.port).parse().unwrap();
        let config =
            ClientConfig::new(url).with_default_header("authorization", format!("Bearer {token}"));
        HostClient::new(HttpClient::plaintext(), config)
    }

    pub async fn ensure(
        &self,
        id: &SandboxId,
        spec: rpc::SandboxSpec,
    ) -> Result<rpc::SandboxReport, ConnectError> {
        let request = rpc::EnsureSandboxRequest {
            sandbox_id: id.to_string(),
            spec: spec.into(),
            ..Default::default()
        };
        let options = CallOptions::default().with_timeout(PATIENCE);
        let answer = self
            .client()
            .sandboxes()
            .ensure_sandbox_with_options(request, options)
            .await?;
        Ok(answer.into_owned().sandbox.into_option().unwrap())
    }

    /// A new sandbox, running.
    pub async fn create(&self) -> SandboxId {
        let id = SandboxId::random();
        let report = self.ensure(&id, spec()).await.unwrap();
        assert_eq!(
            report.state.as_known(),
            Some(rpc::SandboxState::SANDBOX_STATE_RUNNING),
            "{report:?}"
        );
        id
    }

    pub async fn remove(&self, id: &SandboxId) {
        let request = rpc::RemoveSandboxRequest {
            sandbox_id: id.to_string(),
            ..Default::default()
        };
        self.client()
            .sandboxes()
            .remove_sandbox(request)
            .await
            .unwrap();
    }

    pub async fn pause(&self, id: &SandboxId) -> Result<rpc::SandboxReport, ConnectError> {
        let request = rpc::PauseSandboxRequest {
            sandbox_id: id.to_string(),
            ..Default::default()
        };
        Ok(self
            .client()
            .sandboxes()
            .pause_sandbox(request)
            .await?
            .into_owned()
            .sandbox
            .into_option()
            .unwrap())
    }

    pub async fn resume(&self, id: &SandboxId) -> Result<rpc::SandboxReport, ConnectError> {
        let request = rpc::ResumeSandboxRequest {
            sandbox_id: id.to_string(),
            ..Default::default()
        };
        Ok(self
            .client()
            .sandboxes()
            .resume_sandbox(request)
            .await?
            .into_owned()
            .sandbox
            .into_option()
            .unwrap())
    }

    pub async fn fork(
        &self,
        id: &SandboxId,
        children: &[SandboxId],
    ) -> Result<Vec<rpc::SandboxReport>, ConnectError> {
        let child_ids = children.iter().map(ToString::to_string).collect();
        let request = rpc::ForkSandboxRequest {
            sandbox_id: id.to_string(),
            child_ids,
            ..Default::default()
        };
        let sandboxes = self.client().sandboxes();
        let mut answer = sandboxes.fork_sandbox(request).await?.into_owned();
        for child in &mut answer.children {
            child.spec = answer.spec.clone();
        }
        Ok(answer.children)
    }

    pub async fn snapshot(
        &self,
        id: &SandboxId,
        name: &str,
        memory: bool,
    ) -> Result<rpc::Template, ConnectError> {
        let (sandbox_id, name) = (id.to_string(), name.to_owned());
        let request = rpc::CreateSnapshotRequest {
            sandbox_id,
            name,
            memory,
            ..Default::default()
        };
        Ok(self
            .client()
            .snapshots()
            .create_snapshot(request)
            .await?
            .into_owned()
            .template
            .into_option()
            .unwrap())
    }

    pub async fn remove_snapshot(&self, name: &str) -> Result<(), ConnectError> {
        let request = rpc::RemoveSnapshotRequest {
            name: name.to_owned(),
            ..Default::default()
        };
        self.client()
            .snapshots()
            .remove_snapshot(request)
            .await
            .map(drop)
    }

    pub async fn checkpoint(
        &self,
        id: &SandboxId,
        name: &str,
    ) -> Result<rpc::Checkpoint, ConnectError> {
        let (sandbox_id, name) = (id.to_string(), name.to_owned());
        let request = rpc::CreateCheckpointRequest {
            sandbox_id,
            name,
            ..Default::default()
        };
        Ok(self
            .client()
            .snapshots()
            .create_checkpoint(request)
            .await?
            .into_owned()
            .checkpoint
            .into_option()
            .unwrap())
    }

    pub async fn set_network(
        &self,
        id: &SandboxId,
        rules: rpc::NetworkRules,
    ) -> Result<rpc::SandboxReport, ConnectError> {
        let request = rpc::UpdateNetworkRequest {
            sandbox_id: id.to_string(),
            network: rules.into(),
            ..Default::default()
        };
        Ok(self
            .client()
            .network()
            .update_network(request)
            .await?
            .into_owned()
            .sandbox
            .into_option()
            .unwrap())
    }

    pub async fn roll_back(
        &self,
        id: &SandboxId,
        name: &str,
    ) -> Result<rpc::SandboxReport, ConnectError> {
        let (sandbox_id, name) = (id.to_string(), name.to_owned());
        let request = rpc::RollbackSandboxRequest {
            sandbox_id,
            name,
            ..Default::default()
        };
        Ok(self
            .client()
            .snapshots()
            .rollback_sandbox(request)
            .await?
            .into_owned()
            .sandbox
            .into_option()
            .unwrap())
    }

    /// What a script says, which must succeed.
    pub async fn out(&self, id: &SandboxId, script: &str) -> String {
        let done = self.sh(id, script).await.unwrap();
        assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{script}");
        done.stdout.trim().to_owned()
    }

    pub async fn list(&self) -> Vec<rpc::SandboxReport> {
        let sandboxes = self.client().sandboxes();
        let request = rpc::ListSandboxesRequest::default();
        let mut stream = sandboxes.list_sandboxes(request).await.unwrap();
        let mut listed = Vec::new();
        while let Some(part) = stream.message().await.unwrap() {
            let part: rpc::ListSandboxesResponse = part.to_owned_message();
            listed.extend(part.sandboxes);
        }
        listed
    }

    pub async fn report(&self, id: &SandboxId) -> Option<rpc::SandboxReport> {
        self.list()
            .await
            .into_iter()
            .find(|report| report.sandbox_id == id.as_str())
    }

    /// Waits until the sandbox has ended; its reason.
    pub async fn ended(&self, id: &SandboxId) -> (rpc::SandboxState, String) {
        eventually("the sandbox ending", PATIENCE, async || {
            let report = self.report(id).await?;
            let state = report.state.as_known()?;
            (state != rpc::SandboxState::SANDBOX_STATE_RUNNING).then_some((state, report.reason))
        })
        .await
    }

    pub async fn sh(&self, id: &SandboxId, script: &str) -> Result<Done, ConnectError> {
        self.exec(shell(id, script)).await
    }

    /// Runs a program to its end.
    pub async fn exec(&self, request: rpc::ExecRequest) -> Result<Done, ConnectError> {
        let mut stream = self.client().commands().exec(request).await?;
        let mut done = Done::default();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        while let Some(message) = stream.message::<rpc::ExecResponse>().await? {
            match message.to_owned_message().event {
                Some(Event::Stdout(bytes)) => done.stdout += &text(bytes),
                Some(Event::Stderr(bytes)) => done.stderr += &text(bytes),
                Some(Event::End(end)) => {
                    done.code = end.exit_code;
                    return Ok(done);
                }
                _ => {}
            }
        }
        Err(ConnectError::new(
            ErrorCode::DataLoss,
            "the stream ended without an end",
        ))
    }

    /// Removes everything and checks that nothing is left in the agent's directory, and no claim or
    /// process of it.
    pub async fn finish(mut self) {
        for report in self.list().await {
            self.remove(&report.sandbox_id.parse().unwrap()).await;
        }
        let left: Vec<_> = std::fs::read_dir(self.dir.path().join("sandboxes"))
            .unwrap()
            .flatten()
            .collect();
        assert!(left.is_empty(), "files of removed sandboxes: {left:?}");
        let left: Vec<_> = std::fs::read_dir(self.dir.path().join("snapshots"))
            .unwrap()
            .flatten()
            .collect();
        assert!(left.is_empty(), "files of removed snapshots: {left:?}");
        let claims = slots_of(self.dir.path());
        assert!(claims.is_empty(), "claims of removed sandboxes: {claims:?}");
        let needle = self.dir.path().to_string_lossy().into_owned().into_bytes();
        let names_us =
            |cmdline: &[u8]| cmdline.windows(needle.len()).any(|window| window == needle);
        assert_eq!(
            linux::process::find(names_us).unwrap().len(),
            0,
            "processes of removed sandboxes"
        );
        self.kill_nine().await;
    }
}

/// Network slots that an agent in `dir` holds.
pub fn slots_of(dir: &Path) -> Vec<Slot> {
    let entries = std::fs::read_dir(hostd::network::CLAIMS_DIR)
        .into_iter()
        .flatten()
        .flatten();
    let named = |path: PathBuf| {
        std::fs::read_to_string(path).is_ok_and(|text| text.contains(dir.to_str().unwrap()))
    };
    let held = entries.filter(|entry| named(entry.path()));
    held.map(|entry| Slot::new(entry.file_name().to_str().unwrap().parse().unwrap()).unwrap())
        .collect()
}

pub fn spec() -> rpc::SandboxSpec {
    let greeting = ("GREETING".to_owned(), "hello".to_owned());
    let spec = SandboxSpec::builder()
        .memory_mb(192)
        .auto_resume(false)
        .envs(std::collections::BTreeMap::from([greeting]))
        .build();
    rpc::spec::to_message(&spec)
}

pub fn shell(id: &SandboxId, script: &str) -> rpc::ExecRequest {
    rpc::ExecRequest {
        sandbox_id: id.to_string(),
        cmd: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        ..Default::default()
    }
}
