//! Comparison of the files of real guests, over each kind of disk that this host has.

use host_rpc as rpc;
use host_rpc::__buffa::oneof::diff_sandbox_response::Event;
use model::SandboxId;
use rpc::SandboxState as State;

use tokio::process::Command;

use super::agent::Agent;
use super::imports::{archive, import, remove};

/// Result of a comparison.
#[derive(Debug, Default)]
struct Diff {
    changes: Vec<rpc::DiffChange>,
    unflushed: bool,
    compared: u64,
    unreadable: u64,
}

impl Diff {
    /// Returns the changes as lines, with what differs apart from contents.
    fn lines(&self) -> Vec<String> {
        let line = |change: &rpc::DiffChange| {
            let before = change.before.as_option();
            let after = change.after.as_option();
            let letter = match (before, after) {
                (None, _) => 'A',
                (_, None) => 'D',
                _ => 'C',
            };
            let mut line = format!("{letter} {}", change.path);
            if let (Some(before), Some(after)) = (before, after) {
                if before.mode != after.mode {
                    line += &format!(" {:o}->{:o}", before.mode, after.mode);
                }
                if before.target != after.target {
                    line += &format!(" ->{}", after.target.as_deref().unwrap_or_default());
                }
            }
            line
        };
        self.changes.iter().map(line).collect()
    }

    fn patch(&self, path: &str) -> &str {
        let change = self
            .changes
            .iter()
            .find(|change| change.path.ends_with(path));
        let patch = change.and_then(|change| change.patch.as_option());
        patch.map_or("", |patch| &patch.text)
    }
}

async fn diff(agent: &Agent, id: &SandboxId, from: &str, to: &str, path: &str) -> Diff {
    let request = rpc::DiffSandboxRequest {
        sandbox_id: id.to_string(),
        from: from.to_owned(),
        to: to.to_owned(),
        path: path.to_owned(),
        patches: true,
        max_changes: 1000,
        timeout_ms: 60_000,
        ..Default::default()
    };
    let client = agent.client();
    let mut stream = client.snapshots().diff_sandbox(request).await.unwrap();
    let mut diff = Diff::default();
    let mut is_done = false;
    while let Some(message) = stream.message::<rpc::DiffSandboxResponse>().await.unwrap() {
        match message.to_owned_message().event.unwrap() {
            Event::Started(started) => {
                diff.unflushed = started.from_unflushed || started.to_unflushed;
            }
            Event::Changes(changes) => diff.changes.extend(changes.changes),
            Event::Done(done) => {
                assert_eq!((done.incomplete, done.unreadable), (None, 0));
                diff.compared = done.compared;
                diff.unreadable = done.unreadable;
                is_done = true;
            }
        }
    }
    assert!(is_done, "{diff:?}");
    diff
}

/// Returns the reason for which a comparison is refused.
async fn refusal(agent: &Agent, id: &SandboxId, from: &str, path: &str) -> String {
    let request = rpc::DiffSandboxRequest {
        sandbox_id: id.to_string(),
        from: from.to_owned(),
        path: path.to_owned(),
        max_changes: 10,
        timeout_ms: 60_000,
        ..Default::default()
    };
    let client = agent.client();
    let error = match client.snapshots().diff_sandbox(request).await {
        Ok(mut stream) => {
            let message = stream.message::<rpc::DiffSandboxResponse>().await;
            message.map(drop).expect_err("it is refused")
        }
        Err(error) => error,
    };
    error.message.unwrap_or_default()
}

async fn compare_guest(backend: &[(&'static str, &str)]) {
    let agent = Agent::start(backend).await;
    let id = agent.create().await;
    let home = agent
        .out(
            &id,
            "mkdir d; echo one > d/edited; echo x > d/gone; echo x > d/mode; ln -s one d/link; \
             head -c 3000000 /dev/urandom > d/big; pwd",
        )
        .await;
    let refused = refusal(&agent, &id, "", "/").await;
    assert!(
        refused.contains("no checkpoint to compare with"),
        "{refused}"
    );
    agent.checkpoint(&id, "one").await.unwrap();
    agent
        .out(
            &id,
            "echo two >> d/edited; rm d/gone; chmod 600 d/mode; ln -sfn two d/link; \
             echo new > d/new; printf x | dd of=d/big bs=1 seek=2000000 conv=notrunc 2>/dev/null; \
             mkdir d/deep; touch d/deep/er; touch d/same",
        )
        .await;
    let expected: Vec<String> = [
        "C big",
        "A deep",
        "A deep/er",
        "C edited",
        "D gone",
        "C link ->two",
        "C mode 644->600",
        "A new",
        "A same",
    ]
    .iter()
    .map(|line| line.replacen(' ', &format!(" {home}/d/"), 1))
    .collect();
    for (from, path, part) in [
        ("two", "/", "there are: one"),
        ("one", "/no", "there is no /no"),
    ] {
        let refused = refusal(&agent, &id, from, path).await;
        assert!(refused.contains(part), "{refused}");
    }
    let path = format!("{home}/d");
    let running = diff(&agent, &id, "", "", &path).await;
    assert_eq!(running.lines(), expected);
    assert_eq!(running.patch("/edited"), "@@ -1 +1,2 @@\n one\n+two\n");
    assert!(!running.unflushed, "{running:?}");
    agent.checkpoint(&id, "two").await.unwrap();
    assert_eq!(
        diff(&agent, &id, "one", "two", &path).await.lines(),
        expected
    );
    // All of the disk: what the guest itself writes is little, and all of it can be read.
    let all = diff(&agent, &id, "one", "two", "/").await;
    assert!(all.compared > 1000 && all.unreadable == 0, "{all:?}");
    assert!(all.lines().len() < expected.len() + 50, "{:?}", all.lines());
    agent.pause(&id).await.unwrap();
    assert_eq!(diff(&agent, &id, "one", "", &path).await.lines(), expected);
    assert!(diff(&agent, &id, "two", "", &path).await.lines().is_empty());
    let state = agent.report(&id).await.unwrap().state.as_known();
    assert_eq!(state, Some(State::SANDBOX_STATE_PAUSED));
    let checkpoints = agent
        .dir
        .path()
        .join("sandboxes")
        .join(id.to_string())
        .join("checkpoints");
    if let Ok(entries) = std::fs::read_dir(checkpoints) {
        let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "no snapshot stays: {names:?}");
    }
    agent.finish().await;
}

/// Over the kind of disk that this host chooses: in the lab the device mapper's.
#[tokio::test(flavor = "multi_thread")]
async fn diff_reads_disks_without_guest() {
    compare_guest(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn diff_reads_copied_disks() {
    compare_guest(&[("AGENT_DISK", "copy")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn diff_reads_overlays() {
    compare_guest(&[("AGENT_DISK", "qcow2")]).await;
}

/// An upgrade replaces the program of an agent that runs: what that starts stays of its version.
#[tokio::test(flavor = "multi_thread")]
async fn replaced_agent_starts_own_version() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("wrenn-agent");
    std::fs::copy(env!("CARGO_BIN_EXE_wrenn-agent"), &program).unwrap();
    let agent = Agent::start_as(&[], Command::new(&program)).await;
    let upgrade = dir.path().join("upgrade");
    std::fs::write(&upgrade, "no program").unwrap();
    std::fs::rename(&upgrade, &program).unwrap();
    let id = agent.create().await;
    agent.checkpoint(&id, "one").await.unwrap();
    let home = agent.out(&id, "touch new; pwd").await;
    let found = diff(&agent, &id, "one", "", &home).await;
    assert_eq!(found.lines(), [format!("A {home}/new")]);
    let image = import(&agent, "imported", &archive()).await.unwrap();
    assert_eq!(image.template.name, "imported");
    remove(&agent, "imported").await.unwrap();
    agent.finish().await;
}
