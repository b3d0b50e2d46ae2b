//! `kill -9` of the agent at each step of a create and of a removal, and what the next one makes of it: what the kernel
//! has and what lies in the directory is what the ledger says, and the sandbox beside it goes on.
//!
//! The agent is a child, this very program: told by its environment to be one, and by a file where to die. What only
//! a host with device-mapper has is in `tests/devices`.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use hostd::network::Slot;
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
        let point = eventually("an order", Duration::from_secs(3600), async || fs::read_to_string(&order).ok()).await;
        fail::cfg_callback(point, || kill(Pid::this(), Signal::SIGKILL).unwrap()).unwrap();
        fs::remove_file(order).unwrap();
    });
    let listener = TcpListener::bind(config.listen).await.unwrap();
    agent.serve(listener, CancellationToken::new()).await.unwrap();
}

async fn launch(agent: &mut Agent) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "kill::child", "--nocapture"]).env(ROLE, "1");
    agent.launch_as(child).await;
}

/// From now on the agent dies where it comes to `point`.
async fn order(agent: &Agent, point: &str) {
    let (new, order) = (agent.dir.path().join("die-at.new"), agent.dir.path().join(ORDER));
    fs::write(&new, point).unwrap();
    fs::rename(new, &order).unwrap();
    eventually("the order being taken", PATIENCE, async || (!order.exists()).then_some(())).await;
}

/// The agent has died of the order; the next one is there, and nothing but the sandbox that `stays`.
async fn recovers(agent: &mut Agent, point: &str, used: &mut Vec<Slot>, stays: &SandboxId) {
    let ended = agent.died().await;
    assert_eq!(ended.signal(), Some(Signal::SIGKILL as i32), "{point} is no step");
    used.extend(slots_of(agent.dir.path()));
    launch(agent).await;
    eventually(point, PATIENCE, async || (agent.list().await.len() == 1).then_some(())).await;
    assert_eq!(traces(agent.dir.path(), used), expected(agent.dir.path(), stays), "after death at {point}");
}

/// What there is of an agent that has used those slots: lines to compare.
fn traces(dir: &Path, used: &[Slot]) -> Vec<String> {
    let (sandboxes, text) = (dir.join("sandboxes"), dir.to_str().unwrap());
    let mut found = Vec::new();
    let mut see = |what: &str, name: &str| found.push(format!("{what} {name}"));
    slots_of(dir).iter().for_each(|slot| see("claim", &slot.number().to_string()));
    for name in hostd::network::leftovers().unwrap() {
        if used.iter().any(|slot| name == slot.netns() || name == slot.veth()) {
            see("network", &name);
        }
    }
    if let Some((groups, _)) = cgroup::find().unwrap() {
        let there = |slot: &&Slot| groups.join("wrenn").join(slot.cgroup()).exists();
        used.iter().filter(there).for_each(|slot| see("group", &slot.cgroup()));
    }
    for entry in fs::read_dir(&sandboxes).unwrap() {
        see("directory", entry.unwrap().file_name().to_str().unwrap());
    }
    let names_us = |cmdline: &[u8]| cmdline.windows(text.len()).any(|window| window == text.as_bytes());
    process::find(names_us).unwrap().iter().for_each(|_| see("process", ""));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().filter(|line| line.contains(text)).for_each(|line| see("mount", line));
    for device in loopdev::list().unwrap() {
        if let Some(path) = device.path.filter(|path| path.starts_with(&sandboxes)) {
            see("loop", path.parent().unwrap().file_name().unwrap().to_str().unwrap());
        }
    }
    if Path::new(dm::CONTROL).exists() {
        // Ids are random, so all that are not another running test's are ours.
        dm::list("wrenn-").unwrap().iter().filter(|name| is_of(name, &sandboxes)).for_each(|name| see("device", name));
    }
    found.sort();
    found.dedup();
    found
}

/// Whether a device is over a file in that directory.
fn is_of(name: &str, sandboxes: &Path) -> bool {
    let over = dm::info(name).unwrap().into_iter().flat_map(|info| info.over);
    let loops: Vec<u32> = over.filter(|number| number.major == dm::LOOP_MAJOR).map(|number| number.minor).collect();
    let in_dir = |device: &loopdev::Status| device.path.as_ref().is_some_and(|path| path.starts_with(sandboxes));
    loopdev::list().unwrap().iter().any(|device| loops.contains(&device.number) && in_dir(device))
}

/// What there is of one running sandbox.
fn expected(dir: &Path, id: &SandboxId) -> Vec<String> {
    let sandbox = dir.join("sandboxes").join(id.as_str());
    let record = fs::read(sandbox.join("sandbox.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    let slot = Slot::new(record["slot"].as_u64().unwrap().try_into().unwrap()).unwrap();
    let mut expected = vec![
        format!("claim {}", slot.number()),
        format!("network {}", slot.netns()),
        format!("network {}", slot.veth()),
        format!("directory {id}"),
        "process ".to_owned(),
    ];
    if cgroup::find().unwrap().is_some() {
        expected.push(format!("group {}", slot.cgroup()));
    }
    if record["disk"]["backend"] == "dm" {
        expected.extend([format!("loop {id}"), format!("device {}", hostd::disk::device_name(id))]);
    }
    expected.sort();
    expected
}

async fn world() -> (Agent, SandboxId, Vec<Slot>) {
    let mut agent = Agent::start(&[]).await;
    let stays = agent.create().await;
    let used = slots_of(agent.dir.path());
    agent.kill_nine().await;
    launch(&mut agent).await;
    agent.sh(&stays, "echo kept > kept").await.unwrap();
    (agent, stays, used)
}

async fn goes_on(agent: Agent, stays: &SandboxId) {
    assert_eq!(agent.sh(stays, "cat kept").await.unwrap().stdout, "kept\n");
    agent.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_was_cut_off_anywhere_leaves_nothing() {
    let (mut agent, stays, mut used) = world().await;
    for point in CREATE {
        order(&agent, point).await;
        let answer = agent.ensure(&SandboxId::random(), spec()).await;
        assert!(answer.is_err(), "{point}: {answer:?}");
        recovers(&mut agent, point, &mut used, &stays).await;
    }
    goes_on(agent, &stays).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_was_cut_off_anywhere_is_finished() {
    let (mut agent, stays, mut used) = world().await;
    for point in REMOVE {
        let id = agent.create().await;
        used.extend(slots_of(agent.dir.path()));
        order(&agent, point).await;
        let request = host_rpc::RemoveSandboxRequest { sandbox_id: id.to_string(), ..Default::default() };
        let answer = agent.client().remove_sandbox(request).await;
        assert!(answer.is_err(), "{point}");
        recovers(&mut agent, point, &mut used, &stays).await;
    }
    goes_on(agent, &stays).await;
}
