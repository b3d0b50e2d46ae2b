//! Script of each fault: the bytes that are sent, and how fast.

use std::time::Duration;

use buffa::Message;
use bytes::Bytes;
use guest_rpc::command;
use guest_rpc::command::__buffa::oneof::attach_response::Event as AttachEvent;
use guest_rpc::file::{ListPageResponse, search_response, watch_response};
use guest_rpc::filesystem::{EntryInfo, ListDirResponse, StatResponse};
use guest_rpc::process::__buffa::oneof::process_event::Event;
use guest_rpc::process::process_event::EndEvent;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::answer::{self, Answer, HELLO, envelope};
use super::{Call, Fault};

/// Interval between two bytes of a slow answer.
const DRIP: Duration = Duration::from_millis(100);
/// Interval between two pieces of an answer without end: some 12 MB/s, so that many at a time leave
/// the processors to others.
const PACE: Duration = Duration::from_millis(5);
/// Elements of a body that has too many; with two bytes each that is what one message may have (4
/// MiB).
const ELEMENTS: usize = 2_000_000;
const PIECE: usize = 64 * 1024;

pub(super) struct Script {
    first: Vec<u8>,
    then: Then,
}

enum Then {
    Close,
    /// Step that reads on and sends no more; ends the sending side first if `half`.
    Wait {
        half: bool,
    },
    Repeat(Bytes),
    Drip(Vec<u8>),
}

/// Returns the script in place of the good answer.
pub(super) fn for_fault(call: Call, fault: Fault) -> Script {
    let good = answer::for_call(call);
    let chunked = || good.head("transfer-encoding: chunked");
    let script = |first: Vec<u8>, then| Script { first, then };
    let plain = |text: &str, then| Script {
        first: text.as_bytes().to_vec(),
        then,
    };
    let blanks = || Then::Repeat(vec![b' '; PIECE].into());
    match fault {
        Fault::Silent => script(Vec::new(), Then::Wait { half: false }),
        Fault::Unanswered => script(Vec::new(), Then::Close),
        Fault::HalfClosed => {
            let mut half = good.to_bytes();
            half.truncate(half.len() / 2);
            script(half, Then::Wait { half: true })
        }
        Fault::CutBody => script(
            [good.head("content-length: 100000"), HELLO.to_vec()].concat(),
            Then::Close,
        ),
        Fault::SlowHead => script(Vec::new(), Then::Drip(good.to_bytes())),
        Fault::SlowBody => script(
            good.head("content-length: 100000"),
            Then::Drip(vec![b' '; 100_000]),
        ),
        Fault::EndlessHeaders => plain(
            "HTTP/1.1 200 OK\r\n",
            Then::Repeat("x-padding: padding\r\n".repeat(1000).into()),
        ),
        Fault::EndlessInformational => script(
            Vec::new(),
            Then::Repeat("HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1000).into()),
        ),
        Fault::EndlessBody => script(chunked(), Then::Repeat(chunk(&[b' '; PIECE]))),
        Fault::EndlessMessages => script(chunked(), Then::Repeat(chunk(&messages(call, &good)))),
        Fault::EndlessError => plain(
            "HTTP/1.1 500 Oh\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
            Then::Repeat(chunk(&[b' '; PIECE])),
        ),
        Fault::HugeLength => script(good.head("content-length: 9223372036854775807"), blanks()),
        Fault::HugeMessage => {
            let first = [chunked(), chunk(&[0, 0xff, 0xff, 0xff, 0xf0]).to_vec()].concat();
            script(first, Then::Repeat(chunk(&[0; PIECE])))
        }
        Fault::ManyElements => script(with_body(&good, many(call)), Then::Close),
        Fault::NotHttp => plain(
            "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n\0\0\x05\x24\x0a\x14",
            Then::Close,
        ),
        Fault::MalformedBody => script(with_body(&good, malformed(call)), Then::Close),
        Fault::Lies => script(with_body(&good, lies(call)), Then::Close),
        // Plain HTTP has no such code.
        Fault::Unimplemented if matches!(call, Call::BeginUpload) => plain(
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            Then::Close,
        ),
        Fault::Unimplemented => plain(
            "HTTP/1.1 501 Not Implemented\r\ncontent-type: application/json\r\ncontent-length: 24\r\n\r\n\
             {\"code\":\"unimplemented\"}",
            Then::Close,
        ),
        Fault::EmptyError => plain("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", Then::Close),
        Fault::Redirect => plain(
            "HTTP/1.1 307 Elsewhere\r\nlocation: http://127.0.0.1:1/health\r\ncontent-length: 0\r\n\r\n",
            Then::Close,
        ),
        Fault::SwitchingProtocols => plain(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: other\r\n\r\n",
            blanks(),
        ),
        Fault::NoContent => plain("HTTP/1.1 204 No Content\r\n\r\n", Then::Close),
        Fault::WrongContentType => script(
            with_body(
                &Answer {
                    content_type: "text/html",
                    ..good
                },
                b"<html>".to_vec(),
            ),
            Then::Close,
        ),
        Fault::Compressed => script(compressed(&good), Then::Close),
        Fault::Twice => script(
            [good.to_bytes(), good.to_bytes()].concat(),
            Then::Wait { half: false },
        ),
    }
}

fn with_body(good: &Answer, body: Vec<u8>) -> Vec<u8> {
    Answer {
        status: "200 OK",
        content_type: good.content_type,
        body,
    }
    .to_bytes()
}

/// Returns one chunk of a chunked body.
fn chunk(bytes: &[u8]) -> Bytes {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"]
        .concat()
        .into()
}

/// Returns good messages of which any number may follow.
fn messages(call: Call, good: &Answer) -> Vec<u8> {
    if call == Call::Search {
        let started = answer::search_event(search_response::SearchStarted::default());
        return [started, answer::search_event(answer::matches(100))].concat();
    }
    if call == Call::Watch {
        let started = answer::watch_event(watch_response::Started::default());
        return [started, answer::watch_event(answer::changes(100))].concat();
    }
    if call == Call::Start {
        return (0..100)
            .flat_map(|pid| {
                [
                    answer::event(answer::start(pid)),
                    answer::event(answer::output(HELLO)),
                ]
                .concat()
            })
            .collect();
    }
    if call == Call::AttachCommand {
        return (0..100)
            .flat_map(|offset| answer::attach_event(answer::command_output(offset, HELLO)))
            .collect();
    }
    // Two encoded messages are one, whose repeated fields have the elements of both.
    if good.body.is_empty() {
        vec![b' '; PIECE]
    } else {
        good.body.repeat(100)
    }
}

fn many(call: Call) -> Vec<u8> {
    match call {
        // The field `entries`, which is empty.
        Call::ListDir | Call::ListPage | Call::ListCommands => [0x0a, 0].repeat(ELEMENTS),
        // A field that is not in the message.
        Call::Start | Call::Watch | Call::Search | Call::AttachCommand => {
            envelope(0, &[0x78, 0].repeat(ELEMENTS))
        }
        Call::Stat | Call::MakeDir | Call::Remove | Call::Move | Call::SetMode | Call::SetOwner => {
            [0x78, 0].repeat(ELEMENTS)
        }
        _ => b"[".repeat(60_000),
    }
}

fn malformed(call: Call) -> Vec<u8> {
    let bytes = vec![0xff; 1000];
    if matches!(
        call,
        Call::Start | Call::Watch | Call::Search | Call::AttachCommand
    ) {
        envelope(0, &bytes)
    } else {
        bytes
    }
}

fn lies(call: Call) -> Vec<u8> {
    let entry = EntryInfo {
        path: "\u{1b}[2J/../\u{202e}".repeat(1000),
        size: i64::MIN,
        mode: u32::MAX,
        permissions: "!".repeat(1000),
        ..answer::entry()
    };
    match call {
        Call::Freeze => br#"{"frozen":"yes","why":["because"]}"#.to_vec(),
        Call::BeginUpload | Call::GetUpload | Call::WriteUpload => {
            br#"{"id":"../../x","offset":11,"length":10,"is_complete":true}"#.to_vec()
        }
        Call::Start => {
            let end = EndEvent {
                exit_code: i32::MIN,
                error: Some("x".repeat(1_000_000)),
                ..EndEvent::default()
            };
            let events = [
                Event::from(end),
                answer::output(HELLO),
                answer::start(0),
                answer::start(u32::MAX),
            ];
            events.into_iter().flat_map(answer::event).collect()
        }
        Call::AttachCommand => [
            answer::attach_event(answer::command_output(u64::MAX, HELLO)),
            answer::attach_event(AttachEvent::Ended(Box::new(lying_command()))),
            answer::attach_event(answer::command_output(0, &[0; 1 << 20])),
        ]
        .concat(),
        Call::StartCommand | Call::GetCommand => command::GetResponse {
            command: lying_command().into(),
            ..Default::default()
        }
        .encode_to_vec(),
        Call::ListCommands => command::ListResponse {
            commands: vec![lying_command(); 300],
            ..Default::default()
        }
        .encode_to_vec(),
        Call::ListDir => ListDirResponse {
            entries: vec![entry; 100],
            ..Default::default()
        }
        .encode_to_vec(),
        Call::Search => [
            answer::search_event(search_response::SearchStarted::default()),
            answer::search_event(answer::matches(50_000)),
        ]
        .concat(),
        Call::Watch => {
            let lost = watch_response::Lost {
                reason: "x".repeat(1_000_000),
                ..Default::default()
            };
            [
                answer::watch_event(watch_response::Started::default()),
                answer::watch_event(lost),
                answer::watch_event(answer::changes(100_000)),
            ]
            .concat()
        }
        Call::ListPage => ListPageResponse {
            entries: vec![entry; 2000],
            next: vec![b'/'; 100_000],
            ..Default::default()
        }
        .encode_to_vec(),
        _ => StatResponse {
            entry: entry.into(),
            ..Default::default()
        }
        .encode_to_vec(),
    }
}

fn lying_command() -> command::Command {
    command::Command {
        id: "\u{1b}[2J".repeat(1000),
        args: vec![String::new(); 1000],
        started_ms: i64::MIN,
        ended_ms: Some(i64::MAX),
        exit_code: Some(i32::MIN),
        signal: Some(u32::MAX),
        output_start: u64::MAX,
        supervision: lying_supervision().into(),
        ..Default::default()
    }
}

fn lying_supervision() -> command::Supervision {
    command::Supervision {
        restarts: u64::MAX,
        last_exit_code: Some(i32::MIN),
        next_start_ms: Some(i64::MAX),
        ..Default::default()
    }
}

fn compressed(good: &Answer) -> Vec<u8> {
    let body = match good.content_type {
        "application/connect+proto" => envelope(1, &[0x1f; 1000]),
        _ => vec![0x1f; 1000],
    };
    let length = body.len();
    let framing = format!(
        "content-encoding: gzip\r\nconnect-content-encoding: gzip\r\ncontent-length: {length}"
    );
    [
        Answer {
            status: "200 OK",
            content_type: good.content_type,
            body: Vec::new(),
        }
        .head(&framing),
        body,
    ]
    .concat()
}

/// Sends the answer, and discards incoming bytes.
pub(super) async fn play_script(script: Script, stream: TcpStream) -> std::io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    let read = forget(&mut reader);
    let write = async {
        writer.write_all(&script.first).await?;
        match script.then {
            Then::Close => writer.shutdown().await,
            Then::Wait { half } => {
                if half {
                    writer.shutdown().await?;
                }
                std::future::pending().await
            }
            Then::Repeat(bytes) => repeat(&mut writer, &bytes).await,
            Then::Drip(bytes) => drip(&mut writer, &bytes).await,
        }
    };
    tokio::select! {
        read = read => read,
        written = write => written,
    }
}

async fn forget(reader: &mut (impl AsyncRead + Unpin)) -> std::io::Result<()> {
    let mut buffer = vec![0; 4096];
    while reader.read(&mut buffer).await? > 0 {}
    Ok(())
}

async fn repeat(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    loop {
        writer.write_all(bytes).await?;
        tokio::time::sleep(PACE).await;
    }
}

async fn drip(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    for byte in bytes {
        writer.write_all(&[*byte]).await?;
        tokio::time::sleep(DRIP).await;
    }
    std::future::pending().await
}
