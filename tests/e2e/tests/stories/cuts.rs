//! Output over connections that break again and again: pipes, terminals, slow readers, replays and
//! whole streams get the same bytes, and no process keeps them in its memory.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use e2e::{Program, Programs, Wrenn, eventually};
use reqwest::blocking::Client;
use serde_json::{Value, json};

/// Millions of bytes of each command's output.
const SIZE_VARIABLE: &str = "CUTS_MB";
const SIZE_MB: u64 = 20;
/// Cuts of all connections while one command writes; there are two commands.
const CUTS: u64 = 25;
/// Bytes that a command writes for each line that it gets.
const PIECE: u64 = 500_000;
/// Bytes of output before the slowest reader; 32 MiB are kept.
const AHEAD: u64 = 4_000_000;
/// Bytes that are read again at the end.
const REPLAYED: u64 = 8_000_000;
/// What a command writes once its terminal is set up.
const READY: &str = "ready\n";
/// Growth of a process that keeps nothing: buffers, and what its allocator does not return. Less
/// than one stream of [`SIZE_MB`].
const MOST_GROWTH_KIB: u64 = 16 << 10;
/// Memory of a client, all of it.
const MOST_OF_CLIENT_KIB: u64 = 48 << 10;
const BYTES: &str = "application/octet-stream";
const PATIENCE: Duration = Duration::from_secs(300);

/// Carries connections to the server, until they are cut.
struct Relay {
    url: String,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    fn start(server: &str) -> Self {
        let server = server.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let carried = Arc::clone(&open);
        // It ends with the program.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&server) else {
                    continue;
                };
                let pair = [&client, &server].map(|it| it.try_clone().expect("a handle"));
                carried.lock().expect("no panic").extend(pair);
                let back = [&server, &client].map(|it| it.try_clone().expect("a handle"));
                thread::spawn(move || carry(back));
                thread::spawn(move || carry([client, server]));
            }
        });
        Self { url, open }
    }

    /// Cuts all connections, and returns their number.
    fn cut(&self) -> usize {
        let open = std::mem::take(&mut *self.open.lock().expect("no panic"));
        let cut = open.iter().filter(|it| it.shutdown(Shutdown::Both).is_ok());
        cut.count() / 2
    }
}

fn carry([mut from, mut to]: [TcpStream; 2]) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

/// `wrenn attach`, whose output goes into a file.
struct Reader {
    child: Child,
    copied: JoinHandle<()>,
    count: Arc<AtomicU64>,
    path: PathBuf,
}

impl Reader {
    fn start(wrenn: &Wrenn, id: &str, name: &str, path: PathBuf, pause: Duration) -> Self {
        let offset = READY.len().to_string();
        let mut command = wrenn.command(["attach", "--offset", &offset, id, name]);
        let mut child = command.stderr(Stdio::null()).spawn().expect("wrenn starts");
        let mut output = child.stdout.take().expect("stdout is piped");
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        let mut file = File::create(&path).expect("a file");
        let copied = thread::spawn(move || {
            let mut part = vec![0; 64 << 10];
            loop {
                let length = output.read(&mut part).expect("output");
                if length == 0 {
                    return;
                }
                file.write_all(&part[..length]).expect("room");
                counted.fetch_add(length as u64, Ordering::Relaxed);
                thread::sleep(pause);
            }
        });
        Self {
            child,
            copied,
            count,
            path,
        }
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits for its end, and returns the file.
    fn finish(mut self) -> PathBuf {
        self.copied.join().expect("it is copied");
        let status = self.child.wait().expect("it ends");
        assert_eq!(status.code(), Some(7), "the exit code of the command");
        self.path
    }
}

/// Most memory that a process has had, KiB; `None` once it has ended.
fn peak_of(status: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn peak(pid: u32) -> Option<u64> {
    peak_of(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

struct Scene {
    programs: Programs,
    relay: Relay,
    id: String,
    bytes: u64,
}

impl Scene {
    fn start() -> Self {
        let size = std::env::var(SIZE_VARIABLE).map_or(SIZE_MB, |text| {
            text.parse().expect("CUTS_MB is a number of megabytes")
        });
        let programs = Programs::start("cuts", None, &[]);
        let relay = Relay::start(&programs.url());
        let id = programs.cli().create(&["--disk", "4g", "--timeout", "1h"]);
        let bytes = size * 1_000_000;
        let make = format!("head -c {bytes} /dev/urandom >noise");
        let _ = programs.cli().sh(&id, &make).succeeded();
        Self {
            programs,
            relay,
            id,
            bytes,
        }
    }

    /// Command line whose connections are cut.
    fn cut_cli(&self) -> Wrenn {
        Wrenn {
            url: self.relay.url.clone(),
            ..self.programs.cli()
        }
    }

    fn post(&self, path: &str) -> reqwest::blocking::RequestBuilder {
        let url = format!(
            "{}/v1/sandboxes/{}/commands{path}",
            self.programs.url(),
            self.id
        );
        Client::new()
            .post(url)
            .header("X-API-Key", self.programs.key())
    }

    /// Starts a command that writes a piece of the noise for each line that it reads.
    fn start_command(&self, name: &str, terminal: &Value) {
        let raw = if terminal.is_null() {
            ":"
        } else {
            "stty raw -echo"
        };
        let pieces = self.bytes / PIECE;
        let script = format!(
            "{raw}; echo ready; i=0; while [ $i -lt {pieces} ]; do read -r _ || exit 9; \
             dd if=noise bs={PIECE} skip=$i count=1 status=none; i=$((i+1)); done; exit 7"
        );
        let mut body = json!({ "cmd": "sh", "args": ["-c", script], "name": name, "stdin": true });
        if !terminal.is_null() {
            body["terminal"] = terminal.clone();
            body["stdin"] = json!(false);
        }
        let started = self.post("").json(&body).send().expect("it answers");
        assert!(
            started.status().is_success(),
            "{}",
            started.text().unwrap_or_default()
        );
        eventually("the command is ready", PATIENCE, || {
            let listed = self
                .programs
                .cli()
                .run(["ps", "--json", &self.id])
                .succeeded()
                .json();
            let listed = listed
                .as_array()?
                .iter()
                .find(|it| it["name"] == name)?
                .clone();
            (listed["output"]["end"] == READY.len()).then_some(())
        });
    }

    /// Has the command write while two readers follow it, and cuts their connections. Returns the
    /// most memory that a reader had, KiB.
    fn write_and_cut(&self, name: &str, readers: &[Reader; 2]) -> u64 {
        let deadline = Instant::now() + PATIENCE + Duration::from_secs(self.bytes / 100_000);
        let (mut asked, mut cuts) = (0, 0);
        let mut most = 0;
        loop {
            for reader in readers {
                most = most.max(peak(reader.child.id()).unwrap_or(0));
            }
            let [first, slow] = [readers[0].count(), readers[1].count()];
            let slowest = first.min(slow);
            if slowest >= self.bytes {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "{name}: {first} and {slow} of {} bytes",
                self.bytes
            );
            // A cut that is due waits until a reader is connected again, and the command with it.
            if cuts < CUTS && first >= self.bytes / (CUTS + 1) * (cuts + 1) {
                cuts += u64::from(self.relay.cut() > 0);
            } else {
                let pieces = (self.bytes.min(slowest + AHEAD) - asked) / PIECE;
                self.ask_for(name, pieces);
                asked += pieces * PIECE;
            }
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(cuts, CUTS, "{name}");
        assert_ne!(most, 0, "{name}: no reader was looked at");
        most
    }

    /// Has a command write so many pieces.
    fn ask_for(&self, name: &str, pieces: u64) {
        if pieces == 0 {
            return;
        }
        let lines = "\n".repeat(usize::try_from(pieces).expect("few"));
        let input = self
            .post(&format!("/{name}/stdin"))
            .header("content-type", BYTES);
        let taken = input.body(lines).send().expect("it answers");
        let status = taken.status();
        assert!(status.is_success(), "{}", taken.text().unwrap_or_default());
    }

    /// Compares what a command line prints with the end of a file.
    fn compare(&self, args: &[&str], code: i32, file: &Path, length: u64) {
        let finished = self.programs.cli().run(args);
        assert_eq!(finished.code, code, "{args:?}: {}", finished.stderr);
        let all = fs::read(file).expect("the file");
        let from = all.len() - usize::try_from(length).expect("a size");
        assert!(
            finished.stdout == all[from..],
            "{args:?} printed other bytes"
        );
    }

    fn check_memory(&self, before: &[u64; 3], clients: u64) {
        let now = self.memory();
        eprintln!(
            "peak of control plane, agent and envd in KiB: {before:?}, then {now:?}; of clients {clients}"
        );
        for (before, now) in before.iter().zip(now) {
            assert!(
                now - before < MOST_GROWTH_KIB,
                "a process grew from {before} to {now} KiB"
            );
        }
        assert!(clients < MOST_OF_CLIENT_KIB, "a client had {clients} KiB");
    }

    /// Peaks of control plane, agent and envd.
    fn memory(&self) -> [u64; 3] {
        let of = |program| peak(self.programs.pid(program)).expect("it runs");
        let status = [
            "exec",
            "-u",
            "root",
            &self.id,
            "--",
            "cat",
            "/proc/1/status",
        ];
        let status = self.programs.cli().run(status).succeeded().text();
        let envd = peak_of(&status).expect("the memory of envd");
        [of(Program::ControlPlane), of(Program::HostAgent), envd]
    }
}

/// Both readers of one command get the noise. Returns the file, and the peak of the readers.
fn follow(scene: &Scene, name: &str, terminal: &Value) -> (PathBuf, u64) {
    scene.start_command(name, terminal);
    let wrenn = scene.cut_cli();
    let readers = [("first", 0), ("slow", 5)].map(|(reader, pause)| {
        let path = scene.programs.dir().join(format!("{name}-{reader}"));
        Reader::start(&wrenn, &scene.id, name, path, Duration::from_millis(pause))
    });
    let most = scene.write_and_cut(name, &readers);
    let [first, slow] = readers.map(Reader::finish);
    let [one, other] = [&first, &slow].map(|path| fs::read(path).expect("the file"));
    assert_eq!(one.len() as u64, scene.bytes, "{name}");
    assert!(one == other, "{name}: two readers got different bytes");
    let tail = REPLAYED.to_string();
    let replay = ["attach", "--tail", &tail, &scene.id, name];
    scene.compare(&replay, 7, &first, REPLAYED);
    (first, most)
}

#[test]
fn fifty_cuts_change_no_byte() {
    let scene = Scene::start();
    let before = scene.memory();
    let (pipe, one) = follow(&scene, "pipe", &Value::Null);
    let size = json!({ "cols": 80, "rows": 24 });
    let (terminal, other) = follow(&scene, "terminal", &size);
    // Whole streams, in and out, without a cut.
    scene.compare(
        &["exec", &scene.id, "--", "cat", "noise"],
        0,
        &pipe,
        scene.bytes,
    );
    for file in [&pipe, &terminal] {
        let args = ["exec", "-i", &scene.id, "--", "cmp", "-", "noise"];
        let input = File::open(file).expect("the file");
        let compared = scene.programs.cli().command(args).stdin(input).output();
        let compared = compared.expect("wrenn starts");
        let text = String::from_utf8_lossy(&compared.stderr);
        assert!(compared.status.success(), "{}: {text}", file.display());
    }
    scene.check_memory(&before, one.max(other));
    scene.programs.cli().rm(&scene.id);
    scene.programs.stop();
}
