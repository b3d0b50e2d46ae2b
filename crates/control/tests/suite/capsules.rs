//! The face of the original's later API, over a fake host: shapes, codes and frames. The published SDK
//! drives real sandboxes in `tests/original`.

use futures::{SinkExt, StreamExt};
use host_rpc as rpc;
use reqwest::Method;
use serde_json::{Value, json};
use stdx::time::now_ms;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::support::{PATIENCE, Plane, eventually, one, refused};

async fn send(plane: &Plane, method: Method, path: &str, body: Value) -> (u16, Value) {
    let request = plane.request(method, path);
    let request = match body {
        Value::Null => request,
        body => request.json(&body),
    };
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    let body = match text.as_str() {
        "" => Value::Null,
        text => serde_json::from_str(text).expect("JSON"),
    };
    (status, body)
}

async fn get(plane: &Plane, path: &str) -> Value {
    let (status, body) = send(plane, Method::GET, path, Value::Null).await;
    assert_eq!(status, 200, "{path}: {body}");
    body
}

async fn create(plane: &Plane, body: Value) -> (String, Value) {
    let (status, made) = send(plane, Method::POST, "/v1/capsules", body).await;
    assert_eq!(status, 201, "{made}");
    (made["id"].as_str().unwrap().to_owned(), made)
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn open(plane: &Plane, path: &str) -> Socket {
    let url = format!("{}{path}", plane.url.replace("http://", "ws://"));
    let mut request = url.into_client_request().unwrap();
    let headers = request.headers_mut();
    headers.insert("x-api-key", plane.key.parse().unwrap());
    let (socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    socket
}

async fn say(socket: &mut Socket, frame: Value) {
    let text = frame.to_string();
    socket.send(Message::text(text)).await.unwrap();
}

/// The next frame that is no ping.
async fn frame(socket: &mut Socket) -> Message {
    loop {
        let frame = tokio::time::timeout(PATIENCE, socket.next()).await;
        let frame = frame.expect("a frame in time").expect("a frame").unwrap();
        if !matches!(frame, Message::Ping(_) | Message::Pong(_)) {
            return frame;
        }
    }
}

async fn text(socket: &mut Socket) -> Value {
    let frame = frame(socket).await;
    serde_json::from_str(frame.to_text().unwrap()).expect("JSON")
}

#[tokio::test]
async fn capsule_has_shape_of_original() {
    let (_host, _ground, plane) = one().await;
    let body = json!({"metadata": {"A key": "v"}, "timeout_sec": 30});
    let (id, made) = create(&plane, body).await;
    assert_eq!(
        (&made["status"], &made["template"], &made["timeout_sec"]),
        (&json!("running"), &json!("minimal"), &json!(60))
    );
    assert_eq!(made["metadata"], json!({"A key": "v"}));
    let ours = plane.client().get(&id).await.unwrap();
    assert!(ours.public_ports && !ours.auto_resume);
    // Without a timeout it is never idle.
    let (second, made) = create(&plane, json!({"template": "minimal-ubuntu"})).await;
    assert_eq!(made["timeout_sec"], 0);
    plane.client().pause(&second).await.unwrap();
    let stopped = plane.create().await.id;
    plane.client().delete(&stopped).await.unwrap();
    for path in ["/v1/capsules", "/api/v1/capsules"] {
        let listed = get(&plane, path).await;
        let listed: Vec<_> = listed.as_array().unwrap().iter().collect();
        let states: Vec<_> = listed.iter().map(|it| it["status"].as_str()).collect();
        assert_eq!(states, [Some("paused"), Some("running")]);
        let one = get(&plane, &format!("{path}/{id}")).await;
        assert_eq!(one["metadata"], json!({"A key": "v"}));
    }
    // A query is one of our own list.
    let page = get(&plane, "/v1/capsules?limit=1").await;
    assert_eq!(page.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn lifecycle_has_codes_of_original() {
    let (_host, _ground, plane) = one().await;
    let (id, _) = create(&plane, json!({})).await;
    let at = |call: &str| format!("/v1/capsules/{id}/{call}");
    let post = |call: &str| plane.request(Method::POST, &at(call));
    refused(post("resume"), 409, "invalid_state").await;
    let (status, paused) = send(&plane, Method::POST, &at("pause"), Value::Null).await;
    assert_eq!((status, &paused["status"]), (200, &json!("paused")));
    refused(post("pause"), 409, "invalid_state").await;
    refused(post("ping"), 409, "invalid_state").await;
    // Nothing but `resume` resumes it.
    let exec = post("exec").json(&json!({"cmd": "print"}));
    refused(exec, 409, "invalid_state").await;
    let (status, resumed) = send(&plane, Method::POST, &at("resume"), Value::Null).await;
    assert_eq!((status, &resumed["status"]), (200, &json!("running")));
    let body = json!({"cmd": "print", "args": ["out", "", "3"], "tag": "t", "timeout_sec": 0});
    let (status, ran) = send(&plane, Method::POST, &at("exec"), body).await;
    assert_eq!((status, &ran["exit_code"]), (200, &json!(3)));
    assert_eq!(
        (&ran["stdout"], &ran["encoding"]),
        (&json!("out"), &json!("utf-8"))
    );
    let path = format!("/v1/capsules/{id}");
    let (status, _) = send(&plane, Method::DELETE, &path, Value::Null).await;
    assert_eq!(status, 204);
    refused(plane.request(Method::GET, &path), 404, "not_found").await;
    refused(plane.request(Method::DELETE, &path), 404, "not_found").await;
}

#[tokio::test]
async fn features_that_lack_are_named() {
    let (_host, _ground, plane) = one().await;
    for (method, path, body, said) in [
        (Method::GET, "/api/v1/volumes", Value::Null, "volumes"),
        (
            Method::POST,
            "/api/v1/channels/x/test",
            json!({}),
            "webhooks",
        ),
        (Method::GET, "/api/v1/me", Value::Null, "wrenn-cp key"),
        (
            Method::POST,
            "/v1/capsules",
            json!({"template": "code-runner-beta"}),
            "code-runner-beta",
        ),
    ] {
        let (status, body) = send(&plane, method, path, body).await;
        assert_eq!(
            (status, &body["error"]["code"]),
            (501, &json!("not_implemented"))
        );
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains(said), "{message}");
    }
    // They are told to those with a key alone.
    refused(
        plane.bare(Method::GET, "/api/v1/volumes"),
        401,
        "unauthorized",
    )
    .await;
    let missing = plane.post("/v1/capsules", r#"{"template": "none"}"#);
    refused(missing, 404, "not_found").await;
}

#[tokio::test]
async fn code_runner_is_template_of_team() {
    let (_host, _ground, plane) = one().await;
    let (id, _) = create(&plane, json!({})).await;
    let body = json!({"sandbox_id": id, "name": "code-runner-beta"});
    let (status, made) = send(&plane, Method::POST, "/api/v1/snapshots", body).await;
    assert_eq!((status, &made["type"]), (201, &json!("snapshot")));
    let (_, made) = create(&plane, json!({"template": "code-runner-beta"})).await;
    assert_eq!(made["template"], "code-runner-beta");
}

#[tokio::test]
async fn files_have_shape_of_original() {
    let (host, _ground, plane) = one().await;
    let (id, _) = create(&plane, json!({})).await;
    let write = |path: &str| {
        let (path, data) = (path.to_owned(), b"abc".to_vec());
        let mut world = host.world();
        let sandbox = world.sandboxes.get_mut(&id).unwrap();
        sandbox.content.files.insert(path, data);
    };
    write("/home/user/a.txt");
    let list = format!("/v1/capsules/{id}/files/list");
    let body = json!({"path": "/home/user", "depth": 0});
    let (status, listed) = send(&plane, Method::POST, &list, body).await;
    assert_eq!(status, 200, "{listed}");
    let entry = &listed["entries"][0];
    assert_eq!(
        (
            &entry["name"],
            &entry["path"],
            &entry["type"],
            &entry["size"]
        ),
        (
            &json!("a.txt"),
            &json!("/home/user/a.txt"),
            &json!("file"),
            &json!(3)
        )
    );
    assert_eq!(
        (&entry["permissions"], &entry["modified_at"]),
        (&json!("-rw-r--r--"), &json!(1_767_225_600))
    );
    // Pages are those of our own API.
    let body = json!({"path": "/home/user", "limit": 1});
    let (_, page) = send(&plane, Method::POST, &list, body).await;
    assert_eq!(page[0]["kind"], "file");
    let make = format!("/v1/capsules/{id}/files/mkdir");
    for _ in 0..2 {
        let (status, made) = send(&plane, Method::POST, &make, json!({"path": "/srv/d"})).await;
        assert_eq!((status, &made["entry"]["type"]), (200, &json!("directory")));
        assert_eq!(made["entry"]["name"], "d");
    }
    let missing = plane.post(&list, r#"{"path": "/none", "depth": 1}"#);
    refused(missing, 404, "not_found").await;
    let remove = format!("/v1/capsules/{id}/files/remove");
    let body = json!({"path": "/home/user/a.txt"});
    let (status, _) = send(&plane, Method::POST, &remove, body.clone()).await;
    assert_eq!(status, 204);
    refused(plane.post(&remove, body.to_string()), 404, "not_found").await;
}

#[tokio::test]
async fn terminal_speaks_frames_of_original() {
    let (_host, _ground, plane) = one().await;
    let (id, _) = create(&plane, json!({})).await;
    let path = format!("/v1/capsules/{id}/pty");
    let mut first = open(&plane, &path).await;
    say(
        &mut first,
        json!({"type": "start", "cmd": "cat", "cols": 80, "rows": 24}),
    )
    .await;
    let started = text(&mut first).await;
    assert_eq!(started["type"], "started");
    assert!(started["pid"].as_u64().is_some_and(|pid| pid > 0));
    let tag = started["tag"].as_str().unwrap().to_owned();
    first.send(Message::binary(vec![0xff, b'a'])).await.unwrap();
    assert_eq!(frame(&mut first).await, Message::binary(vec![0xff, b'a']));
    // The command outlives the connection, and a second one gets what comes from then on.
    drop(first);
    let mut second = open(&plane, &path).await;
    say(&mut second, json!({"type": "connect", "tag": tag})).await;
    let again = text(&mut second).await;
    assert_eq!(
        (&again["tag"], &again["pid"]),
        (&started["tag"], &started["pid"])
    );
    say(&mut second, json!({"type": "pong"})).await;
    say(
        &mut second,
        json!({"type": "resize", "cols": 132, "rows": 24}),
    )
    .await;
    say(&mut second, json!({"type": "input", "data": "Yg=="})).await;
    assert_eq!(frame(&mut second).await, Message::binary(b"b".to_vec()));
    say(&mut second, json!({"type": "kill"})).await;
    let exit = text(&mut second).await;
    assert_eq!(exit, json!({"type": "exit", "exit_code": 137}));
    for (wrong, said) in [
        (
            json!({"type": "connect", "tag": "pty-00000000"}),
            "pty-00000000",
        ),
        (
            json!({"type": "resize", "cols": 1, "rows": 1}),
            "start or connect",
        ),
        (json!({"type": "start", "cmd": "no-such"}), "no-such"),
        (json!({"type": "start", "cmd": "cat", "cols": 0}), "cols"),
    ] {
        let mut socket = open(&plane, &path).await;
        say(&mut socket, wrong).await;
        let error = text(&mut socket).await;
        assert_eq!(
            (&error["type"], &error["fatal"]),
            (&json!("error"), &json!(true))
        );
        assert!(error["data"].as_str().unwrap().contains(said), "{error}");
    }
}

#[tokio::test]
async fn process_streams_as_original_does() {
    let (_host, _ground, plane) = one().await;
    let (id, _) = create(&plane, json!({})).await;
    let body = json!({"cmd": "print", "args": ["out", "err", "7"], "background": true});
    let exec = format!("/v1/capsules/{id}/exec");
    let (status, started) = send(&plane, Method::POST, &exec, body).await;
    assert_eq!(status, 202);
    let pid = started["pid"].as_u64().unwrap();
    let path = format!("/v1/capsules/{id}/processes/{pid}/stream");
    let mut socket = open(&plane, &path).await;
    let mut frames = Vec::new();
    for _ in 0..4 {
        frames.push(text(&mut socket).await);
    }
    let expected = [
        json!({"type": "start", "pid": pid}),
        json!({"type": "stdout", "data": "out"}),
        json!({"type": "stderr", "data": "err"}),
        json!({"type": "exit", "exit_code": 7}),
    ];
    assert_eq!(frames, expected);
    // A query is one of our own stream.
    let mut socket = open(&plane, &format!("{path}?offset=6")).await;
    assert_eq!(text(&mut socket).await["type"], "attached");
}

#[tokio::test]
async fn metrics_and_usage_have_shape_of_original() {
    let (host, _ground, plane) = one().await;
    let (id, _) = create(&plane, json!({"vcpus": 2})).await;
    let point = rpc::UsagePoint {
        time_ms: now_ms() - 60_000,
        cpu_hundredths: 10_000,
        memory_bytes: 300 << 20,
        disk_bytes: 5 << 20,
        ..Default::default()
    };
    host.world().usage.insert(id.clone(), vec![point]);
    let metrics = format!("/v1/capsules/{id}/metrics");
    let found = get(&plane, &format!("{metrics}?range=5m")).await;
    assert_eq!(
        (&found["sandbox_id"], &found["range"]),
        (&json!(id), &json!("5m"))
    );
    assert_eq!(found["points"][0]["mem_bytes"], 300 << 20);
    assert!(found["points"][0]["cpu_pct"].as_f64().unwrap() > 0.0);
    assert!(get(&plane, &format!("{metrics}?step=60")).await["step_sec"].is_u64());
    let wrong = plane.request(Method::GET, &format!("{metrics}?range=1y"));
    assert!(refused(wrong, 400, "invalid_request").await.contains("24h"));
    let (second, _) = create(&plane, json!({})).await;
    plane.client().delete(&second).await.unwrap();
    let stats = get(&plane, "/v1/capsules/stats?range=1h").await;
    let current = json!({"running_count": 1, "vcpus_reserved": 2, "memory_mb_reserved": 512});
    assert_eq!(stats["current"], current);
    assert_eq!(
        stats["peaks"],
        json!({"running_count": 2, "vcpus": 3, "memory_mb": 1024})
    );
    assert_eq!(stats["series"]["running"].as_array().unwrap().len(), 60);
    let usage = get(&plane, "/v1/capsules/usage").await;
    let points = usage["points"].as_array().unwrap();
    assert_eq!(points.len(), 31);
    assert!(points[30]["cpu_minutes"].as_f64().unwrap() > 0.0, "{usage}");
    assert_eq!(points[0]["ram_mb_minutes"], 0.0);
    assert_eq!(
        (&usage["to"], &points[30]["date"]),
        (&points[30]["date"], &usage["to"])
    );
}

#[tokio::test]
async fn templates_are_listed_by_type() {
    let (_host, _ground, plane) = one().await;
    let (id, _) = create(&plane, json!({})).await;
    for (name, memory) in [("warm", true), ("disk", false)] {
        let body = json!({"sandbox_id": id, "name": name, "memory": memory});
        let (status, _) = send(&plane, Method::POST, "/api/v1/snapshots", body).await;
        assert_eq!(status, 201);
    }
    let body = json!({"sandbox_id": id, "name": "warm"});
    let taken = plane.post("/api/v1/snapshots", body.to_string());
    refused(taken, 409, "conflict").await;
    let again = "/api/v1/snapshots?overwrite=true";
    assert_eq!(send(&plane, Method::POST, again, body).await.0, 201);
    let names = async |query: &str| {
        let listed = get(&plane, &format!("/api/v1/snapshots{query}")).await;
        let names = listed.as_array().unwrap().iter();
        let names = names.map(|it| it["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names("?type=snapshot").await, ["warm"]);
    assert_eq!(names("?type=base").await, ["disk", "minimal"]);
    assert_eq!(names("").await, ["disk", "minimal", "warm"]);
    let wrong = plane.request(Method::GET, "/api/v1/snapshots?type=image");
    refused(wrong, 400, "invalid_request").await;
    let delete = |name: &str| plane.request(Method::DELETE, &format!("/api/v1/snapshots/{name}"));
    assert_eq!(delete("disk").send().await.unwrap().status(), 204);
    refused(delete("disk"), 404, "not_found").await;
}

#[tokio::test]
async fn events_are_told_as_original_does() {
    let (_host, _ground, plane) = one().await;
    let answer = plane.request(Method::GET, "/api/v1/events/stream");
    let mut answer = answer.send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    let mut read = async |until: &str| {
        let reading = async {
            while !text.contains(until) {
                let piece = answer.chunk().await.unwrap().expect("more");
                text.push_str(std::str::from_utf8(&piece).unwrap());
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect(until);
    };
    read("\"event\":\"connected\"").await;
    let (id, _) = create(&plane, json!({})).await;
    read("capsule.create").await;
    plane.client().pause(&id).await.unwrap();
    read("capsule.pause").await;
    plane.client().delete(&id).await.unwrap();
    read("capsule.destroy").await;
    let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
    let events = data.map(|line| serde_json::from_str::<Value>(line).unwrap());
    // That its host is connected may be told before the stream begins, or in it.
    let events: Vec<Value> = events.filter(|it| it["event"] != "host.up").collect();
    let told: Vec<_> = events.iter().map(|event| event["event"].as_str()).collect();
    let expected = [
        "connected",
        "capsule.state.changed",
        "capsule.create",
        "capsule.pause",
        "capsule.destroy",
    ];
    assert_eq!(told, expected.map(Some));
    assert_eq!(events[2]["resource"]["id"], id);
    assert_eq!(
        (&events[2]["outcome"], &events[2]["actor"]["type"]),
        (&json!("success"), &json!("api_key"))
    );
    assert_eq!(events[2]["sandbox"]["id"], id);
    assert_eq!(events[4]["sandbox"], Value::Null);
}

/// A request that is to be answered at once, whatever goes on then.
async fn send_briefly(plane: &Plane, path: &str) -> (u16, Value) {
    let request = plane.post(path, "{}").header("prefer", "respond-async");
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn slow_calls_are_answered_before_end() {
    let (host, _ground, plane) = one().await;
    let until = async |id: &str, state: &str| {
        eventually("it is in the state", async || {
            let row = get(&plane, &format!("/v1/capsules/{id}")).await;
            (row["status"] == state).then_some(())
        })
        .await;
    };
    let gate = host.hold_next("Boot");
    let (status, made) = send_briefly(&plane, "/v1/capsules").await;
    assert_eq!((status, &made["status"]), (201, &json!("starting")));
    let id = made["id"].as_str().unwrap();
    gate.open();
    until(id, "running").await;
    let gate = host.hold_next("Save");
    let (status, pausing) = send_briefly(&plane, &format!("/v1/capsules/{id}/pause")).await;
    assert_eq!((status, &pausing["status"]), (202, &json!("pausing")));
    gate.open();
    until(id, "paused").await;
    let (status, resuming) = send_briefly(&plane, &format!("/v1/capsules/{id}/resume")).await;
    assert_eq!((status, &resuming["status"]), (202, &json!("resuming")));
    until(id, "running").await;
}
