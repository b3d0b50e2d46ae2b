//! Programs as streams.

use std::time::Duration;

use api_types::{Encoding, ProcessSignal, TerminalSize};
use client::{ExecEvent, ExecOutput, ExecStart};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::support::{Plane, eventually, one, refused};

fn program(cmd: &str) -> ExecStart {
    ExecStart {
        cmd: cmd.to_owned(),
        ..ExecStart::default()
    }
}

async fn rest(output: &mut ExecOutput) -> (Vec<u8>, Vec<u8>, i32) {
    let mut stdout = Vec::new();
    let mut stderr = Vec::new();
    while let Some(event) = output.next().await.unwrap() {
        match event {
            ExecEvent::Stdout(data) => stdout.extend_from_slice(&data),
            ExecEvent::Stderr(data) => stderr.extend_from_slice(&data),
            ExecEvent::Exited { exit_code } => return (stdout, stderr, exit_code),
            ExecEvent::Started { pid } => assert!(pid > 0),
        }
    }
    panic!("no exit");
}

#[tokio::test]
async fn output_input_and_exit_are_whole() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let client = plane.client();
    let args = ["out", "err", "7"].map(str::to_owned).to_vec();
    let (_input, mut output) = client
        .exec_stream(
            &id,
            ExecStart {
                args,
                ..program("print")
            },
        )
        .await
        .unwrap();
    assert_eq!(
        rest(&mut output).await,
        (b"out".to_vec(), b"err".to_vec(), 7)
    );

    let (_input, mut output) = client.exec_stream(&id, program("bytes")).await.unwrap();
    assert_eq!(rest(&mut output).await.0, (0..=255).collect::<Vec<u8>>());

    let sent: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    let (mut input, mut output) = client
        .exec_stream(
            &id,
            ExecStart {
                stdin: true,
                ..program("cat")
            },
        )
        .await
        .unwrap();
    let writing = async {
        input.write(&sent).await.unwrap();
        input.close().await.unwrap();
    };
    let ((), (got, _, exit_code)) = tokio::join!(writing, rest(&mut output));
    assert!(
        got == sent && exit_code == 0,
        "{} of {} bytes",
        got.len(),
        sent.len()
    );
}

#[tokio::test]
async fn terminals_change_their_size() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let size = |cols| TerminalSize { cols, rows: 24 };
    let start = ExecStart {
        terminal: Some(size(80)),
        stdin: true,
        ..program("size")
    };
    let (mut input, mut output) = plane.client().exec_stream(&id, start).await.unwrap();
    input.resize(size(132)).await.unwrap();
    input.close().await.unwrap();
    assert_eq!(rest(&mut output).await.0, b"80x24\n132x24\n");
}

#[tokio::test]
async fn stop_kills_and_exit_follows() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    // Also one that has left its input lying.
    for (cmd, frames) in [("sleep", 0), ("deaf", 10)] {
        let (mut input, mut output) = plane
            .client()
            .exec_stream(
                &id,
                ExecStart {
                    stdin: true,
                    ..program(cmd)
                },
            )
            .await
            .unwrap();
        for _ in 0..frames {
            input.write(&[b'x'; 1000]).await.unwrap();
        }
        input.stop().await.unwrap();
        assert_eq!(rest(&mut output).await.2, 137, "{cmd}");
    }
    assert!(host.world().hung_up.is_empty());
}

#[tokio::test]
async fn signals_reach_program_by_frame_and_by_call() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let client = plane.client();
    let (mut input, mut output) = client.exec_stream(&id, program("careful")).await.unwrap();
    assert!(matches!(
        output.next().await.unwrap(),
        Some(ExecEvent::Started { .. })
    ));
    input.signal(ProcessSignal::User1).await.unwrap();
    assert_eq!(
        output.next().await.unwrap(),
        Some(ExecEvent::Stdout("signal 10\n".into()))
    );
    input.signal(ProcessSignal::Interrupt).await.unwrap();
    assert_eq!(
        rest(&mut output).await,
        (b"signal 2\n".to_vec(), Vec::new(), 0)
    );

    // A program that reads nothing keeps frames waiting, and a call not.
    let (mut input, mut output) = client
        .exec_stream(
            &id,
            ExecStart {
                stdin: true,
                ..program("deaf")
            },
        )
        .await
        .unwrap();
    let Some(ExecEvent::Started { pid }) = output.next().await.unwrap() else {
        panic!("no start")
    };
    let writing =
        tokio::spawn(async move { while input.write(&[b'x'; 32 * 1024]).await.is_ok() {} });
    client
        .signal(&id, pid, ProcessSignal::Terminate)
        .await
        .unwrap();
    assert_eq!(rest(&mut output).await.2, 143);
    writing.abort();
    assert_eq!(host.world().signals, [10, 2, 15]);
    assert!(
        client
            .signal(&id, pid, ProcessSignal::Kill)
            .await
            .unwrap_err()
            .is_not_found()
    );
}

#[tokio::test]
async fn command_line_of_two_mebibytes_starts() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    // Short ones, which cost most for what they are, and those that grow sixfold in JSON.
    for args in [
        vec!["a".to_owned(); 190_000],
        vec!["\u{1}".repeat(130_000); 16],
    ] {
        let count = args.len().to_string();
        let (_input, mut output) = plane
            .client()
            .exec_stream(
                &id,
                ExecStart {
                    args,
                    ..program("count")
                },
            )
            .await
            .unwrap();
        assert_eq!(rest(&mut output).await.0, count.as_bytes());
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_kills_the_program() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let (input, mut output) = plane
        .client()
        .exec_stream(&id, program("sleep"))
        .await
        .unwrap();
    assert!(output.next().await.unwrap().is_some());
    drop((input, output));
    eventually("the program killed", || async {
        (host.world().hung_up.len() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_is_slow_slows_the_program() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let (_input, mut output) = plane
        .client()
        .exec_stream(&id, program("flood"))
        .await
        .unwrap();
    assert!(output.next().await.unwrap().is_some());
    // What fits into the buffers in between is given out, and then no more.
    let mut before = u64::MAX;
    let stalled = eventually("the program standing still", || {
        let given = host.world().given_out;
        let stands = given == before && given > 0;
        before = given;
        async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            stands.then_some(given)
        }
    })
    .await;
    assert!(
        stalled < 64 * 1024 * 1024,
        "{stalled} bytes are on their way"
    );
    let mut read = 0;
    while read < stalled + 1024 * 1024 {
        if let Some(ExecEvent::Stdout(data)) = output.next().await.unwrap() {
            read += data.len() as u64;
        }
    }
}

#[tokio::test]
async fn deadlines_and_failures_are_errors_with_a_code() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    for (start, code) in [
        (
            ExecStart {
                timeout_sec: Some(1),
                ..program("sleep")
            },
            "timeout",
        ),
        (program("vanish"), "agent_error"),
        (program("no-such-program"), "invalid_request"),
        (
            ExecStart {
                timeout_sec: Some(0),
                ..program("print")
            },
            "invalid_request",
        ),
        (
            ExecStart {
                terminal: Some(TerminalSize { cols: 0, rows: 1 }),
                ..program("size")
            },
            "invalid_request",
        ),
    ] {
        let (_input, mut output) = plane.client().exec_stream(&id, start).await.unwrap();
        let error = loop {
            match output.next().await {
                Ok(event) => assert!(
                    matches!(event, Some(ExecEvent::Started { .. })),
                    "{event:?}"
                ),
                Err(error) => break error,
            }
        };
        assert_eq!(error.code(), Some(code), "{error}");
    }
}

type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

async fn open(plane: &Plane, id: &str) -> Socket {
    let url = format!(
        "{}/v1/sandboxes/{id}/exec/stream",
        plane.url.replace("http", "ws")
    );
    let mut request = url.into_client_request().unwrap();
    request
        .headers_mut()
        .insert("x-api-key", plane.key.parse().unwrap());
    tokio_tungstenite::connect_async(request).await.unwrap().0
}

async fn say(socket: &mut Socket, message: Value) {
    socket
        .send(Message::text(message.to_string()))
        .await
        .unwrap();
}

/// The next frame of the program or about it; `None` at the close.
async fn hear(socket: &mut Socket) -> Option<Value> {
    loop {
        match socket.next().await?.ok()? {
            Message::Text(text) => return Some(serde_json::from_str(&text).unwrap()),
            Message::Close(_) => return None,
            _ => {}
        }
    }
}

#[tokio::test]
async fn text_is_text_unless_asked_otherwise() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let mut socket = open(&plane, &id).await;
    say(
        &mut socket,
        json!({"type": "start", "cmd": "cat", "stdin": true}),
    )
    .await;
    assert_eq!(hear(&mut socket).await.unwrap()["type"], "start");
    // Half a character, then the other half.
    for half in ["4g==", "gqw="] {
        say(
            &mut socket,
            json!({"type": "stdin", "data": half, "encoding": "base64"}),
        )
        .await;
    }
    let mut text = String::new();
    while text != "€" {
        let frame = hear(&mut socket).await.unwrap();
        assert_eq!(frame["type"], "stdout");
        text += frame["data"].as_str().unwrap();
    }
    say(&mut socket, json!({"type": "stdin_close"})).await;
    assert_eq!(
        hear(&mut socket).await.unwrap(),
        json!({"type": "exit", "exit_code": 0})
    );
    assert_eq!(hear(&mut socket).await, None);
}

#[tokio::test]
async fn wrong_frames_end_the_stream_and_the_program() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let start = json!({"type": "start", "cmd": "sleep", "stdin": true});
    for (frame, code, said) in [
        (Message::text("{broken"), "invalid_request", "frame"),
        (
            Message::text(r#"{"type": "dance"}"#),
            "invalid_request",
            "dance",
        ),
        (Message::binary(vec![1, 2]), "invalid_request", "text"),
        (Message::text(start.to_string()), "invalid_request", "twice"),
        (
            Message::text(r#"{"type": "stdin", "data": "!", "encoding": "base64"}"#),
            "invalid_request",
            "base64",
        ),
        (
            Message::text(r#"{"type": "resize", "size": {"cols": 0, "rows": 1}}"#),
            "invalid_request",
            "65535",
        ),
        (Message::text("x".repeat(300_000)), "too_large", "262144"),
    ] {
        let mut socket = open(&plane, &id).await;
        say(&mut socket, start.clone()).await;
        assert_eq!(hear(&mut socket).await.unwrap()["type"], "start");
        socket.send(frame).await.unwrap();
        let error = hear(&mut socket).await.unwrap();
        assert_eq!(
            (error["type"].as_str(), error["code"].as_str()),
            (Some("error"), Some(code)),
            "{error}"
        );
        assert!(error["data"].as_str().unwrap().contains(said), "{error}");
    }
    eventually("all killed", || async {
        (host.world().running_programs() == 0).then_some(())
    })
    .await;
    let mut socket = open(&plane, &id).await;
    say(&mut socket, json!({"type": "stop"})).await;
    assert!(
        hear(&mut socket).await.unwrap()["data"]
            .as_str()
            .unwrap()
            .contains("start")
    );
}

#[tokio::test]
async fn pings_are_answered() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let mut socket = open(&plane, &id).await;
    say(&mut socket, json!({"type": "start", "cmd": "sleep"})).await;
    socket
        .send(Message::Ping("still there?".into()))
        .await
        .unwrap();
    loop {
        if let Message::Pong(data) = socket.next().await.unwrap().unwrap() {
            assert_eq!(data, "still there?");
            break;
        }
    }
}

#[tokio::test]
async fn refusals_come_before_the_upgrade() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let error = plane
        .client()
        .exec_stream("sb-00000000000000000000", program("print"))
        .await
        .unwrap_err();
    assert!(error.is_not_found(), "{error}");
    let plain = plane.request(
        reqwest::Method::GET,
        &format!("/v1/sandboxes/{id}/exec/stream"),
    );
    assert!(
        refused(plain, 400, "invalid_request")
            .await
            .contains("WebSocket")
    );
    assert_eq!(Encoding::default(), Encoding::Utf8);
}
