//! Background commands: resources of a sandbox, whose output is read again from any offset.

use std::time::Duration;

use api_types::{Command, CommandState};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use connectrpc::ConnectError;
use futures::{SinkExt, StreamExt};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use testkit::host::{Cut, KEPT};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::support::{PATIENCE, Plane, eventually, one, refused, wait_until_host_is_away};

async fn start(plane: &Plane, id: &str, body: Value) -> Command {
    let path = format!("/v1/sandboxes/{id}/commands");
    let started = plane.post(&path, body.to_string()).send().await.unwrap();
    assert_eq!(started.status(), 201);
    started.json().await.unwrap()
}

/// Starts `cat` under the name `c`.
async fn start_cat(plane: &Plane, id: &str) -> Command {
    let body = json!({"cmd": "cat", "name": "c", "stdin": true});
    start(plane, id, body).await
}

async fn get(plane: &Plane, id: &str, command: &str) -> Command {
    let path = format!("/v1/sandboxes/{id}/commands/{command}");
    let found = plane.request(Method::GET, &path).send().await.unwrap();
    assert_eq!(found.status(), 200);
    found.json().await.unwrap()
}

async fn wait_until_exited(plane: &Plane, id: &str, command: &str) -> Command {
    eventually("the command exits", async || {
        let command = get(plane, id, command).await;
        (command.state == CommandState::Exited).then_some(command)
    })
    .await
}

async fn output(plane: &Plane, id: &str, command_and_query: &str) -> Response {
    let (command, query) = command_and_query.split_once('?').unwrap();
    let path = format!("/v1/sandboxes/{id}/commands/{command}/output?{query}");
    let answer = plane.request(Method::GET, &path).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer
}

fn number(answer: &Response, header: &str) -> u64 {
    let value = answer.headers()[header].to_str().unwrap();
    value.parse().unwrap()
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn attach(plane: &Plane, id: &str, path_and_query: &str) -> Socket {
    let url = plane.url.replace("http://", "ws://");
    let url = format!("{url}/v1/sandboxes/{id}/{path_and_query}");
    let mut request = url.into_client_request().unwrap();
    let headers = request.headers_mut();
    headers.insert("x-api-key", plane.key.parse().unwrap());
    let (socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    socket
}

async fn frame(socket: &mut Socket) -> Value {
    loop {
        let frame = tokio::time::timeout(PATIENCE, socket.next()).await;
        let frame = frame.expect("a frame in time").expect("a frame").unwrap();
        if let Message::Text(text) = frame {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

async fn say(socket: &mut Socket, frame: Value) {
    let text = frame.to_string();
    socket.send(Message::text(text)).await.unwrap();
}

#[tokio::test]
async fn command_is_kept_after_end() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let body = json!({"cmd": "print", "args": ["out", "err", "7"], "name": "p"});
    let started = start(&plane, &id, body).await;
    let ended = wait_until_exited(&plane, &id, "p").await;
    assert_eq!((ended.exit_code, ended.output.end), (Some(7), 6));
    assert_eq!((ended.id, ended.pid), (started.id.clone(), started.pid));
    let answer = output(&plane, &id, "p?offset=1").await;
    assert_eq!(number(&answer, "wrenn-next-offset"), 6);
    assert_eq!(number(&answer, "wrenn-dropped"), 0);
    assert_eq!(answer.headers()["wrenn-command-state"], "exited");
    assert_eq!(answer.text().await.unwrap(), "uterr");
    let errors = output(&plane, &id, "p?stream=stderr").await;
    assert_eq!(number(&errors, "wrenn-next-offset"), 6);
    assert_eq!(errors.text().await.unwrap(), "err");
    let path = format!("/v1/sandboxes/{id}/commands/p/output?offset=7");
    refused(plane.request(Method::GET, &path), 400, "invalid_request").await;
    let path = format!("/v1/sandboxes/{id}/commands");
    let list: Value = plane
        .request(Method::GET, &path)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(list["commands"][0]["id"], started.id);
}

#[tokio::test]
async fn name_of_running_command_conflicts() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    start(&plane, &id, json!({"cmd": "sleep", "name": "web"})).await;
    let path = format!("/v1/sandboxes/{id}/commands");
    let again = plane.post(&path, r#"{"cmd": "sleep", "name": "web"}"#);
    refused(again, 409, "conflict").await;
    let missing = plane.post(&path, r#"{"cmd": "no-such"}"#);
    let answer = missing.send().await.unwrap();
    assert_eq!(answer.status(), 400);
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["error"]["exit_code"], 127, "{body}");
    let signal = plane.post(&format!("{path}/web/signal"), r#"{"signal": "SIGTERM"}"#);
    assert_eq!(signal.send().await.unwrap().status(), 204);
    let ended = wait_until_exited(&plane, &id, "web").await;
    assert_eq!((ended.exit_code, ended.signal), (Some(143), Some(15)));
    start(&plane, &id, json!({"cmd": "sleep", "name": "web"})).await;
    refused(
        plane.request(Method::GET, &format!("{path}/nothing")),
        404,
        "not_found",
    )
    .await;
}

#[tokio::test]
async fn stdin_reaches_command_and_closes() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    start_cat(&plane, &id).await;
    let path = format!("/v1/sandboxes/{id}/commands/c/stdin");
    let write = |bytes: &'static [u8], query: &str| {
        plane
            .request(Method::POST, &format!("{path}{query}"))
            .header("content-type", "application/octet-stream")
            .body(bytes)
    };
    assert_eq!(write(b"a\xffb", "").send().await.unwrap().status(), 204);
    assert_eq!(
        write(b"c", "?close=true").send().await.unwrap().status(),
        204
    );
    wait_until_exited(&plane, &id, "c").await;
    let read = output(&plane, &id, "c?offset=0").await;
    assert_eq!(read.bytes().await.unwrap(), b"a\xffbc"[..]);
    let json = plane.post(&path, "{}");
    refused(json, 415, "unsupported_media_type").await;
    let lost = format!("/v1/sandboxes/{id}/commands/lost/stdin");
    let nothing = plane
        .request(Method::POST, &lost)
        .header("content-type", "application/octet-stream");
    refused(nothing, 404, "not_found").await;
    let path = format!("/v1/sandboxes/{id}/commands/c/output?wait=61");
    let patient = plane.request(Method::GET, &path);
    refused(patient, 400, "invalid_request").await;
}

/// The first of two calls to the host has been carried out: sent again, the input would come twice.
#[tokio::test]
async fn refused_rest_of_input_is_ambiguous() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    start_cat(&plane, &id).await;
    let path = format!("/v1/sandboxes/{id}/commands/c/stdin?close=true");
    let write = || {
        plane
            .request(Method::POST, &path)
            .header("content-type", "application/octet-stream")
            .body("a")
    };
    let busy = || ConnectError::unavailable("the guest is busy");
    host.fail_next("SendCommandInput", busy());
    refused(write(), 503, "host_unavailable").await;
    host.slow_next("SendCommandInput", Duration::ZERO);
    host.fail_next("SendCommandInput", busy());
    let message = refused(write(), 502, "agent_error").await;
    assert!(message.contains("part of the input"), "{message}");
}

#[tokio::test]
async fn lost_answer_of_command_is_ambiguous() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let path = format!("/v1/sandboxes/{id}/commands");
    let start = || plane.post(&path, json!({"cmd": "sleep"}).to_string());
    for cut in [Cut::Before, Cut::After] {
        host.cut_next("StartCommand", cut);
        let message = refused(start(), 502, "agent_error").await;
        assert!(message.contains("may have"), "{message}");
    }
    // To read again is safe.
    host.cut_next("ListCommands", Cut::After);
    refused(plane.request(Method::GET, &path), 503, "host_unavailable").await;
    host.stop();
    wait_until_host_is_away(&plane).await;
    refused(start(), 503, "host_unavailable").await;
}

#[tokio::test]
async fn overwritten_output_is_told_as_dropped() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    start(
        &plane,
        &id,
        json!({"cmd": "much", "args": ["3"], "name": "m"}),
    )
    .await;
    let ended = wait_until_exited(&plane, &id, "m").await;
    assert_eq!(ended.output.dropped, ended.output.end - KEPT);
    let read = output(&plane, &id, "m?offset=10").await;
    assert_eq!(number(&read, "wrenn-dropped"), ended.output.start - 10);
    assert_eq!(read.bytes().await.unwrap().len() as u64, KEPT);
    let mut socket = attach(&plane, &id, "commands/m/attach?offset=10").await;
    assert_eq!(frame(&mut socket).await["type"], "attached");
    let dropped = frame(&mut socket).await;
    assert_eq!(dropped["bytes"], ended.output.start - 10, "{dropped}");
    assert_eq!(dropped["next_offset"], ended.output.start);
}

#[tokio::test]
async fn waiting_read_returns_with_output() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    start(&plane, &id, json!({"cmd": "careful", "name": "w"})).await;
    let reading = output(&plane, &id, "w?offset=0&wait=60");
    let signalling = async {
        let path = format!("/v1/sandboxes/{id}/commands/w/signal");
        let signal = plane.post(&path, r#"{"signal": "SIGHUP"}"#);
        signal.send().await.unwrap()
    };
    let (read, _) = tokio::join!(reading, signalling);
    assert_eq!(read.headers()["wrenn-command-state"], "running");
    assert_eq!(read.text().await.unwrap(), "signal 1\n");
}

#[tokio::test]
async fn character_in_pieces_is_read_whole() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    start_cat(&plane, &id).await;
    let mut bytes = attach(&plane, &id, "commands/c/attach?encoding=base64").await;
    let mut text = attach(&plane, &id, "commands/c/attach").await;
    frame(&mut bytes).await;
    frame(&mut text).await;
    let euro = "a€".as_bytes();
    for (part, next_offset) in [(&euro[..2], 2), (&euro[2..3], 3), (&euro[3..], 4)] {
        let data = STANDARD.encode(part);
        say(
            &mut bytes,
            json!({"type": "stdin", "encoding": "base64", "data": data}),
        )
        .await;
        assert_eq!(frame(&mut bytes).await["next_offset"], next_offset);
    }
    for (data, next_offset) in [("a", 1), ("€", 4)] {
        let expected = json!({"type": "stdout", "data": data, "next_offset": next_offset});
        assert_eq!(frame(&mut text).await, expected);
    }
}

#[tokio::test]
async fn readers_come_back_where_they_were() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    start_cat(&plane, &id).await;
    let path = "commands/c/attach?encoding=base64&offset=";
    let mut one = attach(&plane, &id, &format!("{path}0")).await;
    let mut two = attach(&plane, &id, &format!("{path}0")).await;
    let attached = frame(&mut one).await;
    assert_eq!(attached["command"]["name"], "c", "{attached}");
    frame(&mut two).await;
    say(&mut one, json!({"type": "stdin", "data": "abc"})).await;
    let first = json!({"type": "stdout", "data": STANDARD.encode("abc"), "next_offset": 3});
    assert_eq!(frame(&mut one).await, first);
    assert_eq!(frame(&mut two).await, first);
    // Without a word; the command runs on.
    drop(one);
    say(&mut two, json!({"type": "stdin", "data": "def"})).await;
    frame(&mut two).await;
    let mut back = attach(&plane, &id, &format!("{path}3")).await;
    frame(&mut back).await;
    let second = frame(&mut back).await;
    assert_eq!(second["data"], STANDARD.encode("def"), "{second}");
    say(&mut back, json!({"type": "stdin_close"})).await;
    for socket in [&mut back, &mut two] {
        let exit = frame(socket).await;
        assert_eq!(exit, json!({"type": "exit", "exit_code": 0}));
    }
}

#[tokio::test]
async fn attach_begins_before_end() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let body = json!({"cmd": "print", "args": ["output", "", "7"], "name": "p"});
    start(&plane, &id, body).await;
    wait_until_exited(&plane, &id, "p").await;
    for (tail, text, next) in [(3, "put", 6), (6, "output", 6), (99, "output", 6)] {
        let path = format!("commands/p/attach?tail_bytes={tail}");
        let mut socket = attach(&plane, &id, &path).await;
        frame(&mut socket).await;
        let output = frame(&mut socket).await;
        assert_eq!(
            (&output["data"], &output["next_offset"]),
            (&json!(text), &json!(next))
        );
    }
    let path = format!("/v1/sandboxes/{id}/commands/p/attach?tail_bytes=1&offset=1");
    let upgrade = plane
        .request(Method::GET, &path)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA==");
    refused(upgrade, 400, "invalid_request").await;
}

#[tokio::test]
async fn attach_refuses_start_and_lost_commands() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    start(&plane, &id, json!({"cmd": "sleep", "name": "s"})).await;
    let mut socket = attach(&plane, &id, "commands/s/attach?offset=5").await;
    let error = frame(&mut socket).await;
    assert_eq!(error["code"], "invalid_request", "{error}");
    let mut socket = attach(&plane, &id, "commands/s/attach").await;
    frame(&mut socket).await;
    say(&mut socket, json!({"type": "start", "cmd": "cat"})).await;
    assert_eq!(frame(&mut socket).await["type"], "error");
    assert_eq!(get(&plane, &id, "s").await.state, CommandState::Running);
}

#[tokio::test]
async fn restarted_host_ends_attach_as_unavailable() {
    let (host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    start_cat(&plane, &id).await;
    let mut socket = attach(&plane, &id, "commands/c/attach").await;
    assert_eq!(frame(&mut socket).await["type"], "attached");
    host.restart();
    let error = frame(&mut socket).await;
    assert_eq!(error["code"], "host_unavailable", "{error}");
}

#[tokio::test]
async fn commands_outlive_control_plane() {
    let (host, ground, plane) = one().await;
    let id = plane.create().await.id;
    start_cat(&plane, &id).await;
    let mut socket = attach(&plane, &id, "commands/c/attach").await;
    frame(&mut socket).await;
    say(&mut socket, json!({"type": "stdin", "data": "before"})).await;
    assert_eq!(frame(&mut socket).await["next_offset"], 6);
    plane.kill();
    let plane = ground.start(&[&host]).await;
    let mut socket = attach(&plane, &id, "commands/c/attach?offset=2").await;
    frame(&mut socket).await;
    assert_eq!(frame(&mut socket).await["data"], "fore");
}

#[tokio::test]
async fn processes_are_commands_in_other_words() {
    let (_host, _ground, plane) = one().await;
    let id = plane.create().await.id;
    let exec = |body: Value| plane.post(&format!("/v1/sandboxes/{id}/exec"), body.to_string());
    let body = json!({"cmd": "careful", "background": true, "tag": "job"});
    let started = exec(body).send().await.unwrap();
    assert_eq!(started.status(), 202);
    let started: Value = started.json().await.unwrap();
    assert_eq!(
        (&started["tag"], &started["sandbox_id"]),
        (&json!("job"), &json!(id))
    );
    refused(
        exec(json!({"cmd": "sleep", "tag": "x"})),
        400,
        "invalid_request",
    )
    .await;
    let path = format!("/v1/sandboxes/{id}/processes");
    let list = async || -> Value {
        let list = plane.request(Method::GET, &path).send().await.unwrap();
        list.json().await.unwrap()
    };
    let expected = json!({"pid": started["pid"], "tag": "job", "cmd": "careful", "args": []});
    assert_eq!(list().await["processes"], json!([expected]));
    let mut socket = attach(&plane, &id, "processes/job/stream").await;
    frame(&mut socket).await;
    let kill = |selector: &Value, query: &str| {
        let selector = selector.to_string().replace('"', "");
        plane.request(Method::DELETE, &format!("{path}/{selector}{query}"))
    };
    let signalled = kill(&started["pid"], "?signal=SIGTERM")
        .send()
        .await
        .unwrap();
    assert_eq!(signalled.status(), 204);
    assert_eq!(frame(&mut socket).await["data"], "signal 15\n");
    assert_eq!(
        frame(&mut socket).await,
        json!({"type": "exit", "exit_code": 0})
    );
    assert_eq!(list().await["processes"], json!([]));
    refused(kill(&json!("job"), ""), 404, "not_found").await;
}
