//! The file system of the sandboxes is full.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use host_rpc as rpc;
use host_rpc::SandboxState as State;
use model::SandboxId;
use testkit::eventually;

use crate::agent::{Agent, PATIENCE};
use crate::isolation::as_root;

/// Of the file system. It has to take a copy of the image, which is on another one, and memory.
const HOST_BYTES: u64 = 2 << 30;
/// What is left of it, less than any memory that a guest has written.
const LEFT: u64 = 2 << 20;
/// What the guest writes to its memory in the meantime, MiB.
const WRITTEN_MB: u64 = 24;
/// Space that stays free for sandboxes that have not taken most: an eighth of the file system.
const RESERVE: u64 = HOST_BYTES / 8;
/// Bytes that the largest writer may write until then: more than counts as much (256 MiB), and less
/// than all that it wants to.
const UNTIL_STALLED: u64 = 300 << 20;
const BLOCKS: usize = 120;
/// Writes numbered blocks of 4 MiB, and notes each that the disk has taken.
const WRITER: &str = "
import os
data = os.open('/home/user/data', os.O_WRONLY | os.O_CREAT)
for number in range(120):
    os.write(data, bytes([number]) * (4 << 20))
    os.fsync(data)
    with open('/dev/shm/taken', 'a') as note:
        note.write('x')
";
/// Prints how many of the blocks the disk has, past what the guest still has in memory.
const READER: &str = "
open('/proc/sys/vm/drop_caches', 'w').write('3')
with open('/home/user/data', 'rb') as data:
    print(sum(data.read(4 << 20) == bytes([number]) * (4 << 20) for number in range(120)))
";

/// A file system of the test's own, which goes with it.
struct Host {
    at: PathBuf,
}

impl Host {
    fn new(dir: &Path) -> Self {
        let (file, at) = (dir.join("host.img"), dir.join("sandboxes"));
        File::create(&file).unwrap().set_len(HOST_BYTES).unwrap();
        fs::create_dir(&at).unwrap();
        run("mkfs.ext4", &["-q", "-m", "0", file.to_str().unwrap()]);
        run(
            "mount",
            &["-o", "loop", file.to_str().unwrap(), at.to_str().unwrap()],
        );
        fs::remove_dir(at.join("lost+found")).unwrap();
        Self { at }
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }

    /// Something else takes the rest.
    fn fill(&self) {
        self.fill_to(LEFT);
    }

    /// Something else takes all but `left` bytes.
    fn fill_to(&self, left: u64) {
        let free = linux::file::file_system_space(&self.at).unwrap().free;
        linux::file::allocate_blocks(
            &File::create(self.filler()).unwrap(),
            free.saturating_sub(left),
        )
        .unwrap();
    }

    fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // After a failure something may still live in there.
        let how: &[&str] = if std::thread::panicking() {
            &["--lazy"]
        } else {
            &[]
        };
        let gone = Command::new("umount").args(how).arg(&self.at).status();
        assert!(
            std::thread::panicking() || gone.is_ok_and(|status| status.success()),
            "it is still mounted"
        );
    }
}

fn run(program: &str, args: &[&str]) {
    let path =
        linux::programs::find(program).unwrap_or_else(|| panic!("{program} is not installed"));
    let output = Command::new(path).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

async fn remembers(agent: &Agent, id: &SandboxId, word: &str) {
    let said = agent
        .out(
            id,
            "cat /dev/shm/word; cksum < /dev/shm/big | cut -d' ' -f2",
        )
        .await;
    assert_eq!(said, format!("{word}\n{}", WRITTEN_MB << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_without_room_leaves_it_running_and_a_resume_without_room_leaves_it_paused() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let host = Host::new(dir.path());
    let agent = Agent::start(&[
        ("AGENT_SANDBOXES_PATH", host.at.to_str().unwrap()),
        ("AGENT_WARM", "off"),
    ])
    .await;
    let id = agent.create().await;
    // From here on its memory is its own, over a file that has all its blocks.
    agent.pause(&id).await.unwrap();
    agent.resume(&id).await.unwrap();
    agent
        .out(
            &id,
            &format!(
                "echo one > /dev/shm/word; head -c {WRITTEN_MB}M /dev/urandom > /dev/shm/big; sync"
            ),
        )
        .await;
    host.fill();
    let refused = agent.pause(&id).await.unwrap_err().message.unwrap();
    assert!(refused.contains("No space left on device"), "{refused}");
    let report = agent.report(&id).await.unwrap();
    assert_eq!(
        report.state.as_known(),
        Some(State::SANDBOX_STATE_RUNNING),
        "{report:?}"
    );
    remembers(&agent, &id, "one").await;
    agent.out(&id, "echo two > /dev/shm/word").await;
    host.free();
    agent.pause(&id).await.unwrap();
    // Its memory may have been made one file already; else that needs room, and is refused.
    host.fill();
    if let Err(refused) = agent.resume(&id).await {
        let text = refused.message.unwrap();
        assert!(text.contains("No space left on device"), "{text}");
        let report = agent.report(&id).await.unwrap();
        assert_eq!(
            report.state.as_known(),
            Some(State::SANDBOX_STATE_PAUSED),
            "{report:?}"
        );
    }
    host.free();
    agent.resume(&id).await.unwrap();
    remembers(&agent, &id, "two").await;
    agent.remove(&id).await;
    let left: Vec<_> = fs::read_dir(&host.at)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    fs::create_dir(agent.dir.path().join("sandboxes")).unwrap();
    agent.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_whose_memory_has_no_room_ends_with_the_reason_and_others_go_on() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let host = Host::new(dir.path());
    let agent = Agent::start(&[
        ("AGENT_SANDBOXES_PATH", host.at.to_str().unwrap()),
        ("AGENT_WARM", "off"),
    ])
    .await;
    let (greedy, calm) = (agent.create().await, agent.create().await);
    agent.pause(&calm).await.unwrap();
    agent.resume(&calm).await.unwrap();
    agent
        .out(
            &calm,
            &format!("echo one > /dev/shm/word; head -c {WRITTEN_MB}M /dev/urandom > /dev/shm/big"),
        )
        .await;
    host.fill();
    // Memory of a guest that was booted is a file, of which nothing is there that was never
    // written.
    let _ = agent
        .sh(&greedy, "head -c 64M /dev/zero | tr '\\0' x > /dev/shm/big")
        .await;
    let (state, reason) = agent.ended(&greedy).await;
    assert_eq!(state, State::SANDBOX_STATE_ERROR);
    assert!(
        reason.contains("no room for the guest's memory"),
        "{reason}"
    );
    remembers(&agent, &calm, "one").await;
    agent.remove(&greedy).await;
    agent.remove(&calm).await;
    host.free();
    fs::create_dir(agent.dir.path().join("sandboxes")).unwrap();
    agent.finish().await;
}

async fn reason(agent: &Agent, id: &SandboxId) -> String {
    agent.report(id).await.unwrap().reason
}

/// Lines of the sandbox's log until now.
async fn log(agent: &Agent, id: &SandboxId) -> Vec<String> {
    let request = rpc::ReadLogsRequest {
        sandbox_id: id.to_string(),
        ..Default::default()
    };
    let mut stream = agent.client().logs().read_logs(request).await.unwrap();
    let mut lines = Vec::new();
    while let Some(message) = stream.message::<rpc::ReadLogsResponse>().await.unwrap() {
        lines.push(message.to_owned_message().line);
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn largest_writer_is_stalled_before_others() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let host = Host::new(dir.path());
    let agent = Agent::start(&[("AGENT_SANDBOXES_PATH", host.at.to_str().unwrap())]).await;
    let modest = agent.create().await;
    let greedy = agent.create().await;
    host.fill_to(RESERVE + UNTIL_STALLED);
    let write = format!("setsid python3 -c \"{WRITER}\" >/dev/null 2>&1 &");
    agent.out(&greedy, &write).await;
    eventually("the writer to be stalled", PATIENCE, async || {
        let is_stalled = reason(&agent, &greedy).await.contains("stands still");
        is_stalled.then_some(())
    })
    .await;
    let used = agent.report(&greedy).await.unwrap().disk.used_bytes;
    let refused = agent.sh(&greedy, "true").await.unwrap_err().to_string();
    assert!(refused.contains("the host's disk is full"), "{refused}");
    // The other one goes on writing.
    let small =
        "head -c 8M /dev/zero | tr '\\0' x > data; sync; echo three > word; sync; wc -c < data";
    assert_eq!(agent.out(&modest, small).await, (8 << 20).to_string());
    assert_eq!(reason(&agent, &modest).await, "");
    let report = agent.report(&greedy).await.unwrap();
    assert_eq!(report.state.as_known(), Some(State::SANDBOX_STATE_RUNNING));
    assert_eq!(
        report.disk.used_bytes, used,
        "it writes while it is stalled"
    );
    assert!(used < BLOCKS as u64 * (4 << 20), "it had written all");
    host.free();
    eventually("the writer to go on to its end", PATIENCE, async || {
        let taken = agent.sh(&greedy, "cat /dev/shm/taken").await.ok()?;
        (taken.stdout.len() == BLOCKS).then_some(())
    })
    .await;
    let read = as_root(&agent, &greedy, "python3", &["-c", READER]).await;
    assert_eq!(read.stdout.trim(), BLOCKS.to_string(), "{read:?}");
    let lines = log(&agent, &greedy).await;
    let has = |text: &str| lines.iter().any(|line| line.contains(text));
    assert!(has("it stands still") && has("it goes on"), "{lines:?}");
    let lines = log(&agent, &modest).await;
    assert!(!lines.iter().any(|line| line.contains("stands still")));
    agent.remove(&greedy).await;
    agent.remove(&modest).await;
    fs::create_dir(agent.dir.path().join("sandboxes")).unwrap();
    agent.finish().await;
}
