//! Background commands: their output is replayed from any offset, and no reader delays them.

use connectrpc::ErrorCode;
use connectrpc::client::HttpClient;
use guest_rpc::command as rpc;
use guest_rpc::command::__buffa::oneof::attach_response::Event;
use guest_rpc::command::CommandServiceClient;
use guest_rpc::process::{PTY, ProcessConfig, Signal, pty};

use crate::support::{Agent, PATIENCE, eventually, listed};

pub type Commands = CommandServiceClient<HttpClient>;

/// Bytes of output that are kept of one command.
const KEPT: u64 = 32 << 20;

pub fn commands(agent: &Agent) -> Commands {
    CommandServiceClient::new(HttpClient::plaintext(), agent.config())
}

fn script(text: &str) -> rpc::StartRequest {
    let config = ProcessConfig {
        cmd: "/bin/sh".into(),
        args: vec!["-c".into(), text.into()],
        ..Default::default()
    };
    rpc::StartRequest {
        process: config.into(),
        ..Default::default()
    }
}

fn named(name: &str, text: &str) -> rpc::StartRequest {
    rpc::StartRequest {
        name: Some(name.into()),
        ..script(text)
    }
}

async fn start(commands: &Commands, request: rpc::StartRequest) -> rpc::Command {
    let started = commands.start(request).await.expect("it starts");
    let command = started.into_owned().command.into_option();
    command.expect("the command")
}

pub async fn get(commands: &Commands, command: &str) -> rpc::Command {
    let request = rpc::GetRequest {
        command: command.into(),
        ..Default::default()
    };
    let found = commands.get(request).await.expect("it is known");
    found.into_owned().command.into_option().expect("it")
}

async fn refused(commands: &Commands, request: rpc::StartRequest) -> ErrorCode {
    commands.start(request).await.expect_err("refused").code
}

async fn refused_reader(commands: &Commands, request: rpc::AttachRequest) -> ErrorCode {
    let attached = match commands.attach(request).await {
        Ok(mut stream) => stream.message().await.map(drop),
        Err(error) => Err(error),
    };
    attached.expect_err("refused").code
}

pub async fn signal(commands: &Commands, command: &str, signal: Signal) {
    let request = rpc::SendSignalRequest {
        command: command.into(),
        signal: signal.into(),
        ..Default::default()
    };
    commands.send_signal(request).await.expect("signalled");
}

/// Lets a command go on that waits for a line.
async fn send_line(commands: &Commands, command: &str) {
    let request = rpc::SendInputRequest {
        command: command.into(),
        data: b"\n".to_vec(),
        ..Default::default()
    };
    commands.send_input(request).await.expect("sent");
}

pub async fn wait_until_ended(commands: &Commands, command: &str) -> rpc::Command {
    eventually("the command ends", async || {
        get(commands, command).await.exit_code.is_some()
    })
    .await;
    get(commands, command).await
}

/// Output that one reader got.
#[derive(Debug, Default)]
pub struct Read {
    pub out: Vec<u8>,
    pub err: Vec<u8>,
    pub dropped: u64,
    pub next: u64,
    pub ended: Option<rpc::Command>,
}

/// Attaches at an offset and reads until at least `enough` bytes have come, or to the end.
pub async fn read(commands: &Commands, request: rpc::AttachRequest, enough: usize) -> Read {
    let mut read = Read {
        next: request.offset,
        ..Read::default()
    };
    let mut stream = commands.attach(request).await.expect("attaches");
    while read.out.len() + read.err.len() < enough {
        let message = tokio::time::timeout(PATIENCE, stream.message())
            .await
            .expect("the stream goes on in time")
            .expect("the stream is whole");
        let Some(message) = message else { break };
        match message.to_owned_message().event.expect("an event") {
            Event::Output(output) => {
                assert_eq!(output.offset, read.next, "bytes are missing or doubled");
                read.next += output.data.len() as u64;
                match output.stream.to_i32() {
                    2 => read.err.extend(output.data),
                    _ => read.out.extend(output.data),
                }
            }
            Event::Dropped(dropped) => {
                assert_eq!(dropped.offset, read.next + dropped.bytes);
                read.next = dropped.offset;
                read.dropped += dropped.bytes;
            }
            Event::Ended(command) => read.ended = Some(*command),
            Event::Attached(_) | Event::Keepalive(_) => {}
        }
    }
    read
}

pub fn at(command: &str, offset: u64) -> rpc::AttachRequest {
    rpc::AttachRequest {
        command: command.into(),
        offset,
        follow: true,
        ..Default::default()
    }
}

#[tokio::test]
async fn output_is_replayed_from_offset() {
    let agent = Agent::open().await;
    let commands = commands(&agent);
    let request = rpc::StartRequest {
        stdin: true,
        ..named("three", "printf abc; read x; printf DEF >&2; exit 7")
    };
    let command = start(&commands, request).await;
    eventually("its first output", async || {
        get(&commands, "three").await.output_end == 3
    })
    .await;
    send_line(&commands, "three").await;
    let all = read(&commands, at("three", 0), usize::MAX).await;
    assert_eq!((&all.out[..], &all.err[..]), (&b"abc"[..], &b"DEF"[..]));
    let ended = all.ended.expect("the end");
    assert_eq!((ended.exit_code, ended.signal), (Some(7), None));
    assert_eq!((ended.output_start, ended.output_end), (0, 6));
    let later = read(&commands, at(&command.id, 2), usize::MAX).await;
    assert_eq!((&later.out[..], &later.err[..]), (&b"c"[..], &b"DEF"[..]));
    let at_end = read(&commands, at(&command.pid.to_string(), 6), usize::MAX).await;
    assert!(at_end.out.is_empty() && at_end.ended.is_some());
    let behind = commands.attach(at("three", 7)).await;
    let message = match behind {
        Err(error) => Err(error),
        Ok(mut stream) => stream.message().await.map(drop),
    };
    assert_eq!(
        message.expect_err("refused").code,
        ErrorCode::InvalidArgument
    );
}

#[tokio::test]
async fn reader_cut_often_gets_identical_bytes() {
    let agent = Agent::open().await;
    let commands = commands(&agent);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("noise");
    let noise: Vec<u8> = (0_u32..6 << 20)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    std::fs::write(&file, &noise).expect("written");
    let command = start(&commands, script(&format!("cat {}", file.display()))).await;
    let mut got = Vec::new();
    let mut ended = None;
    while ended.is_none() {
        let part = read(&commands, at(&command.id, got.len() as u64), 300_000).await;
        assert_eq!(part.dropped, 0);
        got.extend(part.out);
        ended = part.ended;
    }
    assert!(got == noise, "{} bytes of {}", got.len(), noise.len());
}

#[tokio::test]
async fn absent_reader_delays_nothing_and_is_told() {
    let agent = Agent::open().await;
    let commands = commands(&agent);
    let command = start(&commands, script("head -c 40000000 /dev/zero; exit 3")).await;
    // This reader attaches and reads nothing.
    let _idle = commands.attach(at(&command.id, 0)).await.expect("attaches");
    let ended = wait_until_ended(&commands, &command.id).await;
    assert_eq!((ended.exit_code, ended.output_end), (Some(3), 40_000_000));
    assert_eq!(ended.output_start, 40_000_000 - KEPT);
    let late = read(&commands, at(&command.id, 1), usize::MAX).await;
    assert_eq!(late.dropped, ended.output_start - 1);
    assert_eq!(late.out.len() as u64, KEPT);
}

#[tokio::test]
async fn read_without_follow_ends_at_once() {
    let agent = Agent::open().await;
    let commands = commands(&agent);
    let request = rpc::StartRequest {
        stdin: true,
        ..named("slow", "printf one; read x; printf two")
    };
    start(&commands, request).await;
    eventually("its first output", async || {
        get(&commands, "slow").await.output_end == 3
    })
    .await;
    let now = |offset, wait_ms| rpc::AttachRequest {
        follow: false,
        wait_ms,
        ..at("slow", offset)
    };
    let first = read(&commands, now(0, 0), usize::MAX).await;
    assert_eq!((&first.out[..], first.ended), (&b"one"[..], None));
    let nothing = read(&commands, now(3, 50), usize::MAX).await;
    assert_eq!((nothing.out.len(), nothing.ended), (0, None));
}

#[tokio::test]
async fn name_is_free_after_end() {
    let agent = Agent::open().await;
    let commands = commands(&agent);
    let first = start(&commands, named("web", "sleep 100")).await;
    assert_eq!(listed(&agent.client()).await, [first.pid]);
    assert_eq!(
        refused(&commands, named("web", "true")).await,
        ErrorCode::AlreadyExists
    );
    assert_eq!(
        refused(&commands, named("17", "true")).await,
        ErrorCode::InvalidArgument
    );
    signal(&commands, "web", Signal::SIGNAL_SIGTERM).await;
    let ended = wait_until_ended(&commands, "web").await;
    assert_eq!((ended.exit_code, ended.signal), (Some(143), Some(15)));
    let second = start(&commands, named("web", "sleep 100")).await;
    assert_eq!(get(&commands, "web").await.id, second.id);
    assert_eq!(get(&commands, &first.id).await.exit_code, Some(143));
    let missing = rpc::StartRequest {
        process: ProcessConfig {
            cmd: "/no/such".into(),
            ..Default::default()
        }
        .into(),
        ..named("gone", "")
    };
    assert_eq!(
        refused(&commands, missing.clone()).await,
        ErrorCode::InvalidArgument
    );
    // Its name was given back.
    assert_eq!(
        refused(&commands, missing).await,
        ErrorCode::InvalidArgument
    );
}

#[tokio::test]
async fn input_reaches_pipes_and_terminals() {
    let agent = Agent::open().await;
    let commands = commands(&agent);
    let send = async |command: &str, data: &[u8], close: bool, resize: Option<PTY>| {
        let request = rpc::SendInputRequest {
            command: command.into(),
            data: data.to_vec(),
            close,
            resize: resize.into(),
            ..Default::default()
        };
        commands.send_input(request).await.expect("sent");
    };
    let piped = rpc::StartRequest {
        stdin: true,
        ..named("piped", "cat; echo done")
    };
    start(&commands, piped).await;
    send("piped", b"hello\n", true, None).await;
    let all = read(&commands, at("piped", 0), usize::MAX).await;
    assert_eq!(all.out, b"hello\ndone\n");
    let size = |cols, rows| PTY {
        size: pty::Size {
            cols,
            rows,
            ..Default::default()
        }
        .into(),
        ..Default::default()
    };
    let on_terminal = rpc::StartRequest {
        pty: size(80, 24).into(),
        ..named("tty", "stty -echo; read x; stty size; read y; echo $x$y")
    };
    start(&commands, on_terminal).await;
    send("tty", b"a\n", false, Some(size(101, 33))).await;
    send("tty", b"b\n", false, None).await;
    let all = read(&commands, at("tty", 0), usize::MAX).await;
    let text = String::from_utf8_lossy(&all.out).into_owned();
    assert!(text.contains("33 101") && text.contains("ab"), "{text}");
    // A viewer of the same size has a full-screen program drawn again.
    let redrawn = rpc::StartRequest {
        pty: size(80, 24).into(),
        ..named(
            "screen",
            "trap 'echo drawn; exit' WINCH; echo ready; while :; do sleep 0.05; done",
        )
    };
    start(&commands, redrawn).await;
    read(&commands, at("screen", 0), "ready\r\n".len()).await;
    send("screen", b"", false, Some(size(80, 24))).await;
    let all = read(&commands, at("screen", 0), usize::MAX).await;
    assert!(String::from_utf8_lossy(&all.out).contains("drawn"));
}

#[tokio::test]
async fn waiting_writers_are_bounded() {
    let agent = Agent::open().await;
    let commands = commands(&agent);
    let request = rpc::StartRequest {
        stdin: true,
        ..named("deaf", "sleep 100")
    };
    start(&commands, request).await;
    let input = rpc::SendInputRequest {
        command: "deaf".into(),
        data: vec![0; 100_000],
        ..Default::default()
    };
    let mut writes: futures::stream::FuturesUnordered<_> = (0..17)
        .map(|_| commands.send_input(input.clone()))
        .collect();
    // Sixteen wait for a process that reads nothing; the one beyond is refused.
    let first = futures::StreamExt::next(&mut writes).await.expect("one");
    let error = first.expect_err("refused");
    assert_eq!(error.code, ErrorCode::FailedPrecondition, "{error}");
    assert!(futures::FutureExt::now_or_never(futures::StreamExt::next(&mut writes)).is_none());
}

#[tokio::test]
async fn commands_and_readers_are_bounded() {
    let agent = Agent::open().await;
    let commands = commands(&agent);
    for _ in 0..32 {
        start(&commands, script("sleep 100")).await;
    }
    assert_eq!(
        refused(&commands, script("true")).await,
        ErrorCode::FailedPrecondition
    );
    let list = commands.list(rpc::ListRequest::default()).await;
    let list = list.expect("the list").into_owned().commands;
    assert_eq!(list.len(), 32);
    let mut readers = Vec::new();
    for _ in 0..16 {
        readers.push(commands.attach(at(&list[0].id, 0)).await.expect("attaches"));
    }
    let surplus = refused_reader(&commands, at(&list[0].id, 0)).await;
    assert_eq!(surplus, ErrorCode::FailedPrecondition);
    signal(&commands, &list[0].id, Signal::SIGNAL_SIGKILL).await;
    wait_until_ended(&commands, &list[0].id).await;
    start(&commands, script("true")).await;
}

#[tokio::test]
async fn keep_alive_lasts_as_command() {
    let agent = Agent::open().await;
    let commands = commands(&agent);
    let kept = async || {
        let asked = commands.get_keep_alive(rpc::GetKeepAliveRequest::default());
        asked.await.expect("an answer").into_owned()
    };
    start(&commands, script("sleep 100")).await;
    let none = kept().await;
    assert_eq!((none.running, none.idle_ms), (0, None));
    let request = rpc::StartRequest {
        keep_alive: true,
        stdin: true,
        ..named("build", "read x")
    };
    start(&commands, request).await;
    assert_eq!(kept().await.running, 1);
    send_line(&commands, "build").await;
    wait_until_ended(&commands, "build").await;
    let after = kept().await;
    assert_eq!(after.running, 0);
    assert!(after.idle_ms.is_some_and(|idle| idle < 10_000), "{after:?}");
}

#[tokio::test]
async fn command_ends_at_its_deadline() {
    let agent = Agent::open().await;
    let commands = commands(&agent);
    let request = rpc::StartRequest {
        timeout_ms: 300,
        ..named("late", "sleep 100")
    };
    start(&commands, request).await;
    let ended = wait_until_ended(&commands, "late").await;
    assert!(ended.timed_out, "{ended:?}");
    let late = rpc::SendSignalRequest {
        command: "late".into(),
        signal: Signal::SIGNAL_SIGKILL.into(),
        ..Default::default()
    };
    let refused = commands.send_signal(late).await.expect_err("refused");
    assert_eq!(refused.code, ErrorCode::NotFound);
}
