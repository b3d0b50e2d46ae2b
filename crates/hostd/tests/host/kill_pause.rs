//! `kill -9` of the agent at each step of a pause, a resume, a fork and a roll back: the sandbox is
//! either as it was or as it was to be, nothing that it acknowledged is lost, and nothing else is
//! left.

use host_rpc::SandboxState as State;
use model::SandboxId;
use testkit::eventually;

use crate::agent::PATIENCE;
use crate::kill::{World, order};

const PAUSE: [&str; 10] = [
    "capture::vm-stopped",
    "capture::taken",
    "snapshot::synced",
    "pause::captured",
    "release::begun",
    "release::vm-ended",
    "release::group-removed",
    "network::claim-released",
    "release::all-tried",
    "suspend::given-back",
];
const RESUME: [&str; 10] = [
    "resume::claimed",
    "network::namespace-made",
    "network::connected",
    "network::furnished",
    "resume::disk-and-network-made",
    "vmm::jail-made",
    "vmm::process-started",
    "restore::vm-loaded",
    "resume::vm-runs",
    "create::guest-ready",
];
const FORK: [&str; 8] = [
    "capture::vm-stopped",
    "snapshot::synced",
    "fork::captured",
    "fork::noted",
    "create::recorded",
    "restore::vm-loaded",
    "fork::child-runs",
    "fork::decided",
];
const ROLL_BACK: [&str; 4] = [
    "snapshot::synced",
    "release::vm-ended",
    "suspend::given-back",
    "rollback::disk-moved",
];

impl World {
    /// What the sandbox knows, in memory and on disk.
    async fn remembers(&self, what: &str) {
        self.agent.resume(&self.stays).await.unwrap();
        assert_eq!(
            self.agent
                .out(&self.stays, "cat /dev/shm/memory kept")
                .await,
            format!("{what}\n{what}")
        );
    }

    async fn learns(&self, what: &str) {
        self.agent
            .out(
                &self.stays,
                &format!("echo {what} > /dev/shm/memory; echo {what} > kept; sync"),
            )
            .await;
    }

    /// It is settled in the state in which it may be, and there are no others.
    async fn settles(&self, point: &str, states: &[State]) {
        eventually(point, PATIENCE, async || {
            let all = self.agent.list().await;
            let known = all.len() == 1 && states.contains(&all[0].state.as_known()?);
            known.then_some(())
        })
        .await;
    }

    /// Whether all children of a fork run. Else there are none, as soon as they are removed.
    async fn are_there_or_not(&self, point: &str, children: &[SandboxId]) -> bool {
        eventually(point, PATIENCE, async || {
            let all = self.agent.list().await;
            let state = |child: &SandboxId| {
                let report = all
                    .iter()
                    .find(|report| report.sandbox_id == child.as_str())?;
                report.state.as_known()
            };
            let states: Vec<Option<State>> = children.iter().map(state).collect();
            let are_there = states
                .iter()
                .all(|state| *state == Some(State::SANDBOX_STATE_RUNNING));
            (are_there || states.iter().all(Option::is_none)).then_some(are_there)
        })
        .await
    }

    async fn ends(self) {
        self.agent.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_was_cut_off_anywhere_loses_nothing() {
    let mut world = World::new().await;
    for point in PAUSE {
        world.learns(point).await;
        order(&world.agent, point).await;
        // Cut off, or just done when the agent died.
        let _ = world.agent.pause(&world.stays).await;
        world.restarts(point).await;
        world
            .settles(
                point,
                &[State::SANDBOX_STATE_RUNNING, State::SANDBOX_STATE_PAUSED],
            )
            .await;
        world.remembers(point).await;
    }
    world.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_that_was_cut_off_anywhere_can_be_done_again() {
    let mut world = World::new().await;
    for point in RESUME {
        world.learns(point).await;
        world.agent.pause(&world.stays).await.unwrap();
        order(&world.agent, point).await;
        assert!(world.agent.resume(&world.stays).await.is_err(), "{point}");
        world.restarts(point).await;
        world.settles(point, &[State::SANDBOX_STATE_PAUSED]).await;
        world.remembers(point).await;
    }
    world.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_that_was_cut_off_anywhere_leaves_its_parent_alone() {
    let mut world = World::new().await;
    for point in FORK {
        world.learns(point).await;
        order(&world.agent, point).await;
        // On two processors one of three waits until another one has booted.
        let children = [
            SandboxId::random(),
            SandboxId::random(),
            SandboxId::random(),
        ];
        world.used.ids.extend(children.clone());
        assert!(
            world.agent.fork(&world.stays, &children).await.is_err(),
            "{point}"
        );
        world.restarts(point).await;
        let are_there = world.are_there_or_not(point, &children).await;
        match point {
            // Others may run by then, or may not.
            "fork::child-runs" => {}
            "fork::decided" => assert!(are_there, "{point}: all ran"),
            _ => assert!(!are_there, "{point}: none ran"),
        }
        assert_eq!(
            std::fs::read_dir(world.agent.dir.path().join("forks"))
                .unwrap()
                .count(),
            0,
            "{point}"
        );
        for child in &children {
            world.agent.remove(child).await;
        }
        world.settles(point, &[State::SANDBOX_STATE_RUNNING]).await;
        world.remembers(point).await;
    }
    world.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roll_back_that_was_cut_off_anywhere_is_done_or_not() {
    let mut world = World::new().await;
    world.learns("then").await;
    world.agent.checkpoint(&world.stays, "then").await.unwrap();
    for point in ROLL_BACK {
        world.learns("now").await;
        order(&world.agent, point).await;
        assert!(
            world.agent.roll_back(&world.stays, "then").await.is_err(),
            "{point}"
        );
        world.restarts(point).await;
        world
            .settles(
                point,
                &[State::SANDBOX_STATE_RUNNING, State::SANDBOX_STATE_PAUSED],
            )
            .await;
        let staged = point == "snapshot::synced";
        world.remembers(if staged { "now" } else { "then" }).await;
    }
    world.ends().await;
}
