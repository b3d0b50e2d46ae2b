//! The agent under attack, and the shortest ways to use it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use connectrpc::client::{ClientConfig, HttpClient};
use connectrpc::{ConnectError, ErrorCode};
use host_rpc as rpc;
use host_rpc::__buffa::oneof::exec_response::Event;
use host_rpc::client::HostClient;
use hostd::sandbox::Manager;
use model::{SandboxId, SandboxSpec, SupervisedCommand, TemplateName};
use testkit::envd::{self, Call, Fault};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::host::Place;
use crate::world::{World, locked};

pub const TOKEN: &str = "the-token-of-the-agent";

/// For calls that nobody hinders; long, since machines that run tests are busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time in which the agent must answer a question that needs no guest.
const PROMPT: Duration = Duration::from_secs(1);
/// Questions of which one has to be answered so fast: the machine may have stood still under some.
const QUESTIONS: usize = 20;

/// Characters of a text of a guest that are passed on.
const MAX_TEXT: usize = 1000;

type Faults = Arc<Mutex<HashMap<String, (Call, Fault)>>>;

pub struct Agent {
    pub address: SocketAddr,
    faults: Faults,
    world: Arc<World>,
    place: Place,
    /// The agent has one of its own, and so have the guests.
    pub runtime: Runtime,
    guests: Runtime,
}

impl Agent {
    pub fn start() -> Self {
        let (world, place, faults) = (World::new(1), Place::new(), Faults::default());
        world.begins(0);
        let guests = Runtime::new().unwrap();
        let listener = place.guests.try_clone().unwrap();
        let fault_for = fault_for(Arc::clone(&world), Arc::clone(&faults));
        guests.spawn(async move {
            envd::serve(
                tokio::net::TcpListener::from_std(listener).unwrap(),
                fault_for,
            )
            .await;
        });
        let runtime = Runtime::new().unwrap();
        let address = runtime.block_on(async {
            let manager = Manager::start(place.host(&world, false)).await.unwrap();
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let router = hostd::service::router(manager, TOKEN);
            tokio::spawn(async move { axum::serve(listener, router).await });
            address
        });
        Self {
            address,
            faults,
            world,
            place,
            runtime,
            guests,
        }
    }

    /// Returns a client of its own connection, which ends with it.
    pub fn client(&self) -> HostClient {
        let config = ClientConfig::new(format!("http://{}", self.address).parse().unwrap())
            .with_default_header("authorization", format!("Bearer {TOKEN}"));
        HostClient::new(HttpClient::plaintext(), config)
    }

    pub fn set_fault(&self, id: &SandboxId, call: Call, fault: Fault) {
        locked(&self.faults).insert(id.to_string(), (call, fault));
    }

    pub fn clear_fault(&self, id: &SandboxId) {
        locked(&self.faults).remove(id.as_str());
    }

    pub async fn ensure(&self, id: &SandboxId) -> Result<(), ConnectError> {
        let spec = SandboxSpec::builder()
            .template("base".parse::<TemplateName>().unwrap())
            .memory_mb(128)
            .timeout_sec(3600)
            .start_command(SupervisedCommand {
                cmd: "server".to_owned(),
                ..SupervisedCommand::default()
            })
            .build();
        let request = rpc::EnsureSandboxRequest {
            sandbox_id: id.to_string(),
            spec: rpc::spec::to_message(&spec).into(),
            ..Default::default()
        };
        let answer = self.client().sandboxes().ensure_sandbox(request).await?;
        let answer = answer.into_owned();
        let report = answer.sandbox.into_option().unwrap();
        match report.state.as_known() {
            _ if answer.refused => Err(ConnectError::failed_precondition(report.reason)),
            Some(rpc::SandboxState::SANDBOX_STATE_RUNNING) => Ok(()),
            _ => Err(ConnectError::internal(report.reason)),
        }
    }

    pub async fn create(&self) -> Result<SandboxId, ConnectError> {
        let id = SandboxId::random();
        self.ensure(&id).await.map(|()| id)
    }

    /// Waits for a line in the log of a sandbox.
    pub async fn wait_for_log(&self, id: &SandboxId, part: &str) {
        let request = rpc::ReadLogsRequest {
            sandbox_id: id.to_string(),
            follow: true,
            ..Default::default()
        };
        let mut stream = self.client().logs().read_logs(request).await.unwrap();
        while let Some(entry) = stream.message::<rpc::ReadLogsResponse>().await.unwrap() {
            if entry.to_owned_message().line.contains(part) {
                return;
            }
        }
        panic!("the log ended without {part:?}");
    }

    pub async fn pause(&self, id: &SandboxId) -> Result<(), ConnectError> {
        let request = rpc::PauseSandboxRequest {
            sandbox_id: id.to_string(),
            ..Default::default()
        };
        self.client()
            .sandboxes()
            .pause_sandbox(request)
            .await
            .map(drop)
    }

    pub async fn resume(&self, id: &SandboxId) -> Result<(), ConnectError> {
        let request = rpc::ResumeSandboxRequest {
            sandbox_id: id.to_string(),
            ..Default::default()
        };
        self.client()
            .sandboxes()
            .resume_sandbox(request)
            .await
            .map(drop)
    }

    pub async fn checkpoint(&self, id: &SandboxId) -> Result<(), ConnectError> {
        let request = rpc::CreateCheckpointRequest {
            sandbox_id: id.to_string(),
            name: "one".into(),
            ..Default::default()
        };
        self.client()
            .snapshots()
            .create_checkpoint(request)
            .await
            .map(drop)
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
        self.clear_fault(id);
    }

    /// Runs a program to its end; returns what it wrote.
    pub async fn exec(&self, id: &SandboxId) -> Result<Vec<u8>, ConnectError> {
        let request = rpc::ExecRequest {
            sandbox_id: id.to_string(),
            cmd: "/bin/true".into(),
            ..Default::default()
        };
        let client = self.client();
        let mut stream = client.commands().exec(request).await?;
        let mut written = Vec::new();
        while let Some(message) = stream.message::<rpc::ExecResponse>().await? {
            match message.to_owned_message().event {
                Some(Event::Stdout(bytes)) => written.extend(bytes),
                Some(Event::End(end)) => {
                    let text = end.error.as_deref().unwrap_or_default();
                    assert!(
                        text.chars().count() <= MAX_TEXT,
                        "{} bytes of a guest's text are passed on",
                        text.len()
                    );
                    return Ok(written);
                }
                _ => {}
            }
        }
        Err(ConnectError::new(
            ErrorCode::DataLoss,
            "the stream ended without an end",
        ))
    }

    /// Checks that the agent answers at once, and that programs run in a sandbox.
    pub async fn check_answers(&self, neighbour: &SandboxId) {
        let mut prompt = false;
        for _ in 0..QUESTIONS {
            let asked = timeout(
                PATIENCE,
                timeout(
                    PROMPT,
                    self.client()
                        .host()
                        .get_host(rpc::GetHostRequest::default()),
                ),
            )
            .await;
            prompt |= matches!(asked, Ok(Ok(Ok(_))));
            if prompt {
                break;
            }
        }
        assert!(
            prompt,
            "none of {QUESTIONS} questions was answered within {PROMPT:?}"
        );
        let ran = timeout(PATIENCE, self.exec(neighbour))
            .await
            .expect("a program in another sandbox hangs");
        assert_eq!(ran.unwrap(), envd::HELLO);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    /// Checks that a sandbox runs programs, pauses and resumes, and that others come and go.
    pub async fn check_works(&self, id: &SandboxId) {
        let works = async {
            self.check_answers(id).await;
            self.pause(id).await.unwrap();
            self.resume(id).await.unwrap();
            self.check_answers(id).await;
            let other = self.create().await.unwrap();
            self.check_answers(&other).await;
            self.remove(&other).await;
        };
        timeout(PATIENCE, works).await.expect("the agent hangs");
    }

    /// Ends the agent and checks that nothing is left.
    pub fn finish(self) {
        self.world.ends();
        drop(self.runtime);
        drop(self.guests);
        // What the world noticed of memory and disk does not count: guests that lie about a freeze
        // are part of the play.
        assert!(
            self.place.leftovers().is_empty(),
            "{:?}",
            self.place.leftovers()
        );
    }
}

/// Finds the sandbox whose guest agent was called by the address of its network slot.
fn fault_for(
    world: Arc<World>,
    faults: Faults,
) -> impl Fn(IpAddr, Call) -> Option<Fault> + Send + Sync + 'static {
    move |address, call| {
        let IpAddr::V4(address) = address else {
            return None;
        };
        let [.., high, low] = address.octets();
        let vm = world.vm_at(u16::from_be_bytes([high, low]))?;
        let (faulty, fault) = *locked(&faults).get(&vm.sandbox)?;
        // Guest agents that have pages are asked for no whole list.
        if (faulty, call) == (Call::ListDir, Call::ListPage) {
            return Some(Fault::Unimplemented);
        }
        (faulty == call).then_some(fault)
    }
}
