//! `kill -9` of the agent at each step of a create and of a removal, and what the next one makes of
//! it: what the kernel has and what lies in the directory is what the ledger says, and the sandbox
//! beside it goes on.
//!
//! The agent is a child, this very program: told by its environment to be one, and by a file where
//! to die. What only a host with device-mapper has is in `tests/devices`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use hostd::network::{CLAIMS_DIR, Slot};
use linux::{cgroup, dm, loopdev, process};
use model::SandboxId;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::eventually;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::agent::{Agent, PATIENCE, slots_of, spec};

const CREATE: [&str; 10] = [
    "create::slot-claimed",
    "create::recorded",
    "network::namespace-made",
    "network::connected",
    "network::furnished",
    "create::disk-and-network-made",
    "vmm::jail-made",
    "vmm::process-started",
    "create::vm-booted",
    "create::guest-ready",
];
const REMOVE: [&str; 9] = [
    "release::begun",
    "release::vm-ended",
    "release::group-removed",
    "network::link-removed",
    "network::namespace-removed",
    "network::claim-released",
    "disk::file-removed",
    "release::all-tried",
    "ledger::files-removed",
];
/// Set for the child.
const ROLE: &str = "WRENN_TEST_AGENT_THAT_DIES";
/// The parent writes where to die, and the child removes it when it knows.
const ORDER: &str = "die-at";

/// The child: an agent.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let config = hostd::Config::from_env().unwrap();
    let order = config.dir.join(ORDER);
    let token = hostd::token::load_or_make(&config.dir).unwrap();
    let agent = hostd::Agent::prepare(&config, &token).await.unwrap();
    tokio::spawn(async move {
        let point = eventually("an order", Duration::from_secs(3600), async || {
            fs::read_to_string(&order).ok()
        })
        .await;
        fail::cfg_callback(point, || kill(Pid::this(), Signal::SIGKILL).unwrap()).unwrap();
        fs::remove_file(order).unwrap();
    });
    let listener = TcpListener::bind(config.api.listen).await.unwrap();
    agent
        .serve(listener, CancellationToken::new())
        .await
        .unwrap();
}

pub async fn launch(agent: &mut Agent) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "kill::child", "--nocapture"])
        .env(ROLE, "1");
    agent.launch_as(child).await;
}

/// From now on the agent dies where it comes to `point`.
pub async fn order(agent: &Agent, point: &str) {
    let (new, order) = (
        agent.dir.path().join("die-at.new"),
        agent.dir.path().join(ORDER),
    );
    fs::write(&new, point).unwrap();
    fs::rename(new, &order).unwrap();
    eventually("the order being taken", PATIENCE, async || {
        (!order.exists()).then_some(())
    })
    .await;
}

/// All that sandboxes of one test may have left something of.
#[derive(Default)]
pub struct Used {
    pub ids: Vec<SandboxId>,
    pub slots: BTreeSet<Slot>,
}

impl Used {
    /// What there is of them: lines to compare.
    pub fn traces(&self, dir: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut see = |what: &str, name: &str| found.push(format!("{what} {name}"));
        let networks = hostd::network::list_leftovers().unwrap();
        // Slots that are another agent's by now say nothing of this one.
        let ours = slots_of(dir);
        let is_ours = |slot: &&Slot| {
            ours.contains(slot)
                || !Path::new(CLAIMS_DIR)
                    .join(slot.number().to_string())
                    .exists()
        };
        let slots: Vec<Slot> = self.slots.iter().filter(is_ours).copied().collect();
        ours.iter()
            .for_each(|slot| see("claim", &slot.number().to_string()));
        for name in networks {
            if slots
                .iter()
                .any(|slot| name == slot.netns() || name == slot.veth())
            {
                see("network", &name);
            }
        }
        if let Some((groups, _)) = cgroup::find_hierarchy().unwrap() {
            let there = |slot: &&Slot| groups.join("wrenn").join(slot.cgroup()).exists();
            slots
                .iter()
                .filter(there)
                .for_each(|slot| see("group", &slot.cgroup()));
        }
        for entry in fs::read_dir(dir.join("sandboxes")).into_iter().flatten() {
            see("directory", entry.unwrap().file_name().to_str().unwrap());
        }
        let text = dir.to_str().unwrap();
        let names_us = |cmdline: &[u8]| {
            cmdline
                .windows(text.len())
                .any(|window| window == text.as_bytes())
        };
        process::find(names_us)
            .unwrap()
            .iter()
            .for_each(|_| see("process", ""));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let devices = if dm::is_there() {
            dm::list("wrenn-").unwrap()
        } else {
            Vec::new()
        };
        let loops = loopdev::list().unwrap();
        for id in self.ids.iter().map(SandboxId::as_str) {
            let names_it = |text: &str| text.contains(id);
            mounts
                .lines()
                .filter(|line| names_it(line))
                .for_each(|line| see("mount", line));
            devices
                .iter()
                .filter(|name| names_it(name))
                .for_each(|name| see("device", name));
            let backed = |device: &&loopdev::Status| {
                device
                    .path
                    .as_ref()
                    .is_some_and(|path| names_it(&path.to_string_lossy()))
            };
            loops.iter().filter(backed).for_each(|_| see("loop", id));
        }
        found.sort();
        found
    }
}

/// What there is of one running sandbox.
pub fn expected(dir: &Path, id: &SandboxId) -> Vec<String> {
    let record = fs::read(dir.join("sandboxes").join(id.as_str()).join("sandbox.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    let slot = Slot::new(record["slot"].as_u64().unwrap().try_into().unwrap()).unwrap();
    let mut expected = vec![
        format!("claim {}", slot.number()),
        format!("network {}", slot.netns()),
        format!("network {}", slot.veth()),
        format!("directory {id}"),
        "process ".to_owned(),
    ];
    if cgroup::find_hierarchy().unwrap().is_some() {
        expected.push(format!("group {}", slot.cgroup()));
    }
    if record["disk"]["backend"] == "dm" {
        // Of the base and of the store.
        expected.extend([format!("loop {id}"), format!("loop {id}")]);
        expected.push(format!("device {}", hostd::disk::device_name(id)));
    }
    expected.sort();
    expected
}

/// An agent that takes orders, and a sandbox that stays.
pub struct World {
    pub agent: Agent,
    pub stays: SandboxId,
    pub used: Used,
}

impl World {
    pub async fn new() -> Self {
        let mut agent = Agent::start(&[]).await;
        let stays = agent.create().await;
        let used = Used {
            ids: vec![stays.clone()],
            slots: slots_of(agent.dir.path()).into_iter().collect(),
        };
        agent.kill_nine().await;
        launch(&mut agent).await;
        agent.sh(&stays, "echo kept > kept").await.unwrap();
        Self { agent, stays, used }
    }

    /// The agent has died of the order; the next one is there, and nothing but the sandbox that
    /// stays.
    async fn recovers(&mut self, point: &str) {
        self.restarts(point).await;
        let Self { agent, stays, used } = self;
        eventually(point, PATIENCE, async || {
            (agent.list().await.len() == 1).then_some(())
        })
        .await;
        let (dir, wanted) = (agent.dir.path(), expected(agent.dir.path(), stays));
        // Another test's agent may be giving a slot of ours back, just now.
        for _ in 0..20 {
            if used.traces(dir) == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(used.traces(dir), wanted, "after death at {point}");
    }

    /// The agent has died of the order; the next one is there.
    pub async fn restarts(&mut self, point: &str) {
        let ended = self.agent.died().await;
        assert_eq!(
            ended.signal(),
            Some(Signal::SIGKILL as i32),
            "{point} is no step"
        );
        self.used.slots.extend(slots_of(self.agent.dir.path()));
        launch(&mut self.agent).await;
    }

    async fn goes_on(self) {
        assert_eq!(
            self.agent.sh(&self.stays, "cat kept").await.unwrap().stdout,
            "kept\n"
        );
        self.agent.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_was_cut_off_anywhere_leaves_nothing() {
    let mut world = World::new().await;
    for point in CREATE {
        order(&world.agent, point).await;
        let id = SandboxId::random();
        world.used.ids.push(id.clone());
        let answer = world.agent.ensure(&id, spec()).await;
        assert!(answer.is_err(), "{point}: {answer:?}");
        world.recovers(point).await;
    }
    world.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_was_cut_off_anywhere_is_finished() {
    let mut world = World::new().await;
    for point in REMOVE {
        let id = world.agent.create().await;
        world.used.ids.push(id.clone());
        world.used.slots.extend(slots_of(world.agent.dir.path()));
        order(&world.agent, point).await;
        let request = host_rpc::RemoveSandboxRequest {
            sandbox_id: id.to_string(),
            ..Default::default()
        };
        let answer = world
            .agent
            .client()
            .sandboxes()
            .remove_sandbox(request)
            .await;
        assert!(answer.is_err(), "{point}");
        world.recovers(point).await;
    }
    world.goes_on().await;
}

/// The agent died after it had given the slot back and before its ledger said so.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_somebody_elses_by_now_is_left_alone() {
    let mut world = World::new().await;
    let before = slots_of(world.agent.dir.path());
    let id = world.agent.create().await;
    let slot = slots_of(world.agent.dir.path())
        .into_iter()
        .find(|slot| !before.contains(slot))
        .unwrap();
    order(&world.agent, "network::claim-released").await;
    let request = host_rpc::RemoveSandboxRequest {
        sandbox_id: id.to_string(),
        ..Default::default()
    };
    world
        .agent
        .client()
        .sandboxes()
        .remove_sandbox(request)
        .await
        .unwrap_err();
    let other = Stranger::takes(slot);
    world.restarts("network::claim-released").await;
    eventually("removed", PATIENCE, async || {
        (world.agent.list().await.len() == 1).then_some(())
    })
    .await;
    assert!(other.is_well());
    other.goes();
    world.goes_on().await;
}

/// Another agent's sandbox in a slot: its claim, and a process in its control group.
struct Stranger {
    claim: std::path::PathBuf,
    group: Option<std::path::PathBuf>,
    process: std::process::Child,
    dir: tempfile::TempDir,
}

impl Stranger {
    fn takes(slot: Slot) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let claim = Path::new(CLAIMS_DIR).join(slot.number().to_string());
        let text = serde_json::json!({ "dir": dir.path(), "sandbox": "sb-of-somebody-else" });
        fs::write(&claim, text.to_string()).unwrap();
        let process = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let group = cgroup::find_hierarchy()
            .unwrap()
            .map(|(groups, _)| groups.join("wrenn").join(slot.cgroup()));
        if let Some(group) = &group {
            fs::create_dir_all(group).unwrap();
            fs::write(group.join("cgroup.procs"), process.id().to_string()).unwrap();
        }
        Self {
            claim,
            group,
            process,
            dir,
        }
    }

    fn is_well(&self) -> bool {
        let lives = process::Identity::from_pid(self.process.id())
            .unwrap()
            .is_some();
        let claimed = fs::read_to_string(&self.claim)
            .unwrap()
            .contains(self.dir.path().to_str().unwrap());
        lives && claimed
    }

    fn goes(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        if let Some(group) = &self.group {
            fs::remove_dir(group).unwrap();
        }
        fs::remove_file(&self.claim).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_whose_directory_was_deleted_are_cleared_away_by_any_agent() {
    let mut lost = Agent::start(&[]).await;
    let id = lost.create().await;
    let used = Used {
        ids: vec![id],
        slots: slots_of(lost.dir.path()).into_iter().collect(),
    };
    lost.kill_nine().await;
    let dir = lost.dir.path().to_owned();
    assert!(used.traces(&dir).len() >= 5, "{:?}", used.traces(&dir));
    drop(lost);
    let other = Agent::start(&[]).await;
    // Another test's agent may be at it, too.
    eventually("nothing left", PATIENCE, async || {
        used.traces(&dir).is_empty().then_some(())
    })
    .await;
    other.finish().await;
}
