//! The guest's clocks after everything that stops a guest or sets the host's clock.
//!
//! A server in the guest tells both clocks. Of several questions the one that was answered fastest
//! counts, and half of its round trip is the error of the measurement, which is granted to the
//! guest. So a slow machine makes the test less sharp, never wrong: what is asserted is the value
//! of a clock, not how long anything took.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use model::SandboxId;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::eventually;

use crate::agent::{Agent, slots_of};

const PORT: u16 = 9999;
/// Answers each byte with wall clock and monotonic clock, nanoseconds, as two 64-bit numbers.
const SERVER: &str = "cat > /tmp/clock.py <<'END'
import socketserver, struct, time
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        while self.request.recv(1):
            self.request.sendall(struct.pack('<QQ', time.time_ns(), time.monotonic_ns()))
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(('', 9999), Handler).serve_forever()
END
nohup python3 /tmp/clock.py >/dev/null 2>/tmp/clock.err &
until python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 9999))' 2>/dev/null; do sleep 0.1; done";

/// What a guest's clock may be wrong by.
const BOUND: Duration = Duration::from_millis(100);
const QUESTIONS: usize = 15;
const PATIENCE: Duration = Duration::from_secs(30);
/// For which the guest stands still: far beyond the bound.
const STOP: Duration = Duration::from_millis(700);

/// Clocks of a guest.
#[derive(Debug, Clone, Copy)]
struct Reading {
    /// Error of the wall clock at least.
    error: Duration,
    monotonic: Duration,
}

/// The host's time as the agent has it: `ahead` of what it is.
fn host_time(ahead: i64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Duration::from_secs(now.as_secs().checked_add_signed(ahead).unwrap())
        + Duration::from_nanos(now.subsec_nanos().into())
}

fn ask(stream: &mut TcpStream, ahead: i64) -> (Duration, Reading) {
    let sent = host_time(ahead);
    let begin = Instant::now();
    stream.write_all(b"?").unwrap();
    let mut answer = [0; 16];
    stream.read_exact(&mut answer).unwrap();
    let round_trip = begin.elapsed();
    let number = |at: usize| u64::from_le_bytes(answer[at..at + 8].try_into().unwrap());
    let apart = Duration::from_nanos(number(0)).abs_diff(sent + round_trip / 2);
    let reading = Reading {
        error: apart.saturating_sub(round_trip / 2),
        monotonic: Duration::from_nanos(number(8)),
    };
    (round_trip, reading)
}

/// Reads the clocks of the guest at `address`.
fn read_clocks(address: SocketAddr, ahead: i64) -> Reading {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    let readings = (0..QUESTIONS).map(|_| ask(&mut stream, ahead));
    readings
        .min_by_key(|(round_trip, _)| *round_trip)
        .unwrap()
        .1
}

/// A guest that is asked again and again.
struct Guest<'a> {
    agent: &'a Agent,
    id: SandboxId,
    monotonic: Duration,
}

impl Guest<'_> {
    fn address(&self) -> SocketAddr {
        let record = self
            .agent
            .dir
            .path()
            .join("sandboxes")
            .join(self.id.as_str());
        let record = std::fs::read(record.join("sandbox.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        let number = record["slot"].as_u64().unwrap();
        let slots = slots_of(self.agent.dir.path());
        let slot = slots
            .into_iter()
            .find(|slot| u64::from(slot.number()) == number);
        (slot.unwrap().host_ip(), PORT).into()
    }

    /// Expects the wall clock to be right now, and the monotonic one not to have gone back.
    fn expect_right_clocks(&mut self, after: &str, ahead: i64) {
        let reading = read_clocks(self.address(), ahead);
        assert!(reading.error <= BOUND, "after {after}: {reading:?}");
        assert!(
            reading.monotonic >= self.monotonic,
            "after {after}: {reading:?}"
        );
        self.monotonic = reading.monotonic;
    }
}

/// Processes whose command line names the directory of a sandbox.
fn vmm_of(agent: &Agent, id: &SandboxId) -> Pid {
    let needle = agent.dir.path().join("sandboxes").join(id.as_str());
    let needle = needle.to_str().unwrap().as_bytes().to_vec();
    let names = |cmdline: &[u8]| cmdline.windows(needle.len()).any(|part| part == needle);
    let found = linux::process::find(names).unwrap();
    Pid::from_raw(found[0].pid().try_into().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn guest_clock_survives_all_stops() {
    let agent = Agent::start(&[]).await;
    let id = agent.create().await;
    agent.out(&id, SERVER).await;
    let monotonic = Duration::ZERO;
    let mut guest = Guest {
        agent: &agent,
        id: id.clone(),
        monotonic,
    };
    guest.expect_right_clocks("create", 0);
    for number in 0..5 {
        agent.checkpoint(&id, &format!("cp{number}")).await.unwrap();
    }
    guest.expect_right_clocks("five checkpoints", 0);
    agent.snapshot(&id, "clocks", true).await.unwrap();
    guest.expect_right_clocks("a snapshot", 0);
    let child = SandboxId::random();
    agent.fork(&id, std::slice::from_ref(&child)).await.unwrap();
    guest.expect_right_clocks("a fork, the parent", 0);
    let monotonic = guest.monotonic;
    let mut forked = Guest {
        agent: &agent,
        id: child.clone(),
        monotonic: Duration::ZERO,
    };
    forked.expect_right_clocks("a fork, the child", 0);
    agent.remove(&child).await;
    agent.pause(&id).await.unwrap();
    tokio::time::sleep(STOP).await;
    agent.resume(&id).await.unwrap();
    guest.expect_right_clocks("pause and resume", 0);
    assert!(guest.monotonic >= monotonic);
    // As a host that stalls, or freezes the VMM.
    kill(vmm_of(&agent, &id), Signal::SIGSTOP).unwrap();
    tokio::time::sleep(STOP).await;
    kill(vmm_of(&agent, &id), Signal::SIGCONT).unwrap();
    guest.expect_right_clocks("a stopped VMM", 0);
    agent.roll_back(&id, "cp4").await.unwrap();
    // Programs go back with everything else: to the clock of the checkpoint, not before it.
    guest.monotonic = Duration::ZERO;
    guest.expect_right_clocks("a rollback", 0);
    agent.remove(&id).await;
    agent.remove_snapshot("clocks").await.unwrap();
    agent.finish().await;
}

/// libfaketime gives the agent another wall clock, which is set through a file; VMMs are started
/// without our environment and have the host's.
#[tokio::test(flavor = "multi_thread")]
async fn guest_clock_follows_the_hosts() {
    const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
    assert!(
        Path::new(LIBRARY).exists(),
        "faketime is missing; type: scripts/deps.sh test"
    );
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("offset");
    let set_ahead = |seconds: i64| {
        let new = dir.path().join("new");
        std::fs::write(&new, format!("{seconds:+}s\n")).unwrap();
        std::fs::rename(&new, &file).unwrap();
    };
    set_ahead(0);
    let agent = Agent::start(&[
        ("LD_PRELOAD", LIBRARY),
        ("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ])
    .await;
    let id = agent.create().await;
    agent.out(&id, SERVER).await;
    let mut guest = Guest {
        agent: &agent,
        id: id.clone(),
        monotonic: Duration::ZERO,
    };
    guest.expect_right_clocks("create", 0);
    for ahead in [7200, -3600, 0] {
        set_ahead(ahead);
        let address = guest.address();
        let is_right = async || (read_clocks(address, ahead).error <= BOUND).then_some(());
        eventually("the guest having the host's time", PATIENCE, is_right).await;
        guest.expect_right_clocks("a set clock", ahead);
    }
    agent.finish().await;
}
