//! The OpenSSH client of this machine against the server, over loopback; the sandbox is played.

#[path = "../../../client/tests/server/mod.rs"]
mod server;

use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use server::Server as Api;
use ssh::{DEFAULT_USER, HostKey, Server};
use tempfile::TempDir;
use tokio::net::TcpListener;

const A: &str = "sb-aaaaaaaaaaaaaaaaaaaa";

/// Longest that anything in these tests may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Server of SSH with the API that it calls.
struct Running {
    api: Api,
    dir: TempDir,
    port: u16,
}

impl Running {
    async fn start() -> Self {
        let api = Api::start().await;
        api.add(A);
        let dir = tempfile::tempdir().unwrap();
        let key = HostKey::generate().unwrap();
        let line = HostKey::from_pkcs8(&key).unwrap().public_line();
        std::fs::write(dir.path().join("known_hosts"), format!("box {line}\n")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = api.client();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = Server {
                    client: client.clone(),
                    sandbox: A.to_owned(),
                    key: HostKey::from_pkcs8(&key).unwrap(),
                    report: |note| eprintln!("{note}"),
                };
                let (input, output) = stream.into_split();
                tokio::spawn(server.serve_client(input, output));
            }
        });
        Self { api, dir, port }
    }

    fn ssh(&self, args: &[&str]) -> Command {
        let mut ssh = Command::new("ssh");
        let known_hosts = self.dir.path().join("known_hosts");
        for option in [
            format!("UserKnownHostsFile={}", known_hosts.display()),
            format!("Port={}", self.port),
            format!("User={DEFAULT_USER}"),
            "HostName=127.0.0.1".to_owned(),
            "HostKeyAlias=box".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
            "BatchMode=yes".to_owned(),
        ] {
            ssh.args(["-o", &option]);
        }
        ssh.args(["-F", "none"]).args(args).stdin(Stdio::null());
        ssh.stdout(Stdio::piped()).stderr(Stdio::piped());
        ssh
    }
}

/// Runs a program to its end with `input`.
async fn finish(mut command: Command, input: Vec<u8>) -> Output {
    let run = move || {
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // It may end before it has read everything.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn numbers(count: u32) -> Vec<u8> {
    (0..count).flat_map(u32::to_le_bytes).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_keep_streams_and_codes() {
    let running = Running::start().await;
    let run = async |line: &str| {
        let output = finish(running.ssh(&["box", line]), Vec::new()).await;
        let code = output.status.code().unwrap();
        (code, output.stdout, text(&output.stderr))
    };
    let printed = run("print out err 7").await;
    assert_eq!(printed, (7, b"out".to_vec(), "err".to_owned()));
    let bytes = run("bytes").await;
    assert_eq!((bytes.0, bytes.1), (0, (0..=255).collect()));
    for (line, code, said) in [
        ("no-such-program", 127, "cannot start"),
        ("late", 255, "longer than 1 s"),
        ("vanish", 255, "Is the server still running?"),
    ] {
        let ended = run(line).await;
        assert_eq!(ended.0, code, "{ended:?}");
        assert!(ended.2.contains(said), "{ended:?}");
    }
    running.api.world().sandboxes.clear();
    let gone = run("print out").await;
    assert!(gone.2.contains("`wrenn ls --all`"), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cipher_survives_new_keys() {
    let running = Running::start().await;
    let data = numbers(500_000);
    for cipher in ["chacha20-poly1305", "aes128-gcm", "aes256-gcm"] {
        let cipher = format!("{cipher}@openssh.com");
        let args = ["-c", &cipher, "-o", "RekeyLimit=300K", "box", "cat"];
        let echoed = finish(running.ssh(&args), data.clone()).await;
        let said = text(&echoed.stderr);
        assert!(echoed.status.success(), "{cipher}: {said}");
        assert!(echoed.stdout == data, "{cipher}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn echo_waits_for_its_reader() {
    let running = Running::start().await;
    let data = numbers(8_000_000);
    let mut command = running.ssh(&["box", "cat"]);
    let echoed = tokio::task::spawn_blocking(move || {
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let written = Arc::new(AtomicUsize::new(0));
        let (counter, input) = (written.clone(), data.clone());
        let writer = std::thread::spawn(move || {
            for part in input.chunks(64 * 1024) {
                stdin.write_all(part).unwrap();
                counter.fetch_add(part.len(), Ordering::Relaxed);
            }
        });
        // With nobody reading, the whole chain stands still with a bounded part of it.
        let deadline = Instant::now() + PATIENCE;
        let mut last = (0, Instant::now());
        while last.0 == 0 || last.1.elapsed() < Duration::from_secs(2) {
            assert!(Instant::now() < deadline, "it does not stand still");
            let count = written.load(Ordering::Relaxed);
            if count != last.0 {
                last = (count, Instant::now());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(last.0 < data.len() / 2, "{} are on the way", last.0);
        let mut echoed = Vec::new();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_to_end(&mut echoed).unwrap();
        writer.join().unwrap();
        assert!(child.wait().unwrap().success());
        echoed == data
    });
    assert!(echoed.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_channel_delays_no_other() {
    let running = Running::start().await;
    let control = format!(
        "ControlPath={}",
        running.dir.path().join("control").display()
    );
    let mut master = running.ssh(&["-M", "-o", &control, "box", "deaf"]);
    let mut other = running.ssh(&["-o", &control, "box", "print out err 0"]);
    let ended = tokio::task::spawn_blocking(move || {
        let mut master = master.stdin(Stdio::piped()).spawn().unwrap();
        let mut asleep = [0; 7];
        let stdout = master.stdout.as_mut().unwrap();
        stdout.read_exact(&mut asleep).unwrap();
        let mut stdin = master.stdin.take().unwrap();
        // More than all that could be on the way: it blocks until ssh is gone.
        let writer = std::thread::spawn(move || {
            let _ = stdin.write_all(&vec![0; 64 * 1024 * 1024]);
        });
        let outputs: Vec<Output> = (0..3).map(|_| other.output().unwrap()).collect();
        master.kill().unwrap();
        master.wait().unwrap();
        writer.join().unwrap();
        outputs
    });
    for output in ended.await.unwrap() {
        assert_eq!(output.stdout, b"out", "{output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_clients_are_refused() {
    let running = Running::start().await;
    let greeting = tokio::task::spawn_blocking(move || {
        let address = ("127.0.0.1", running.port);
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        // The end of the connection may come as a reset.
        let _ = stream.read_to_string(&mut answer);
        answer
    });
    let greeting = greeting.await.unwrap();
    assert!(greeting.starts_with("SSH-2.0-wrenn"), "{greeting}");
    assert!(greeting.ends_with("\r\n"), "and nothing else");
}
