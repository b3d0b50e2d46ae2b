//! What listens in a sandbox, reached from outside: by browsers, programs, and anything that speaks
//! TCP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use e2e::{Platform, Wrenn, eventually};
use futures::{SinkExt, StreamExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::blocking::{Client, RequestBuilder, Response};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const SERVER: &str = include_str!("../../guest/server.py");
const OPEN: u16 = 3000;
const ON_LOOPBACK: u16 = 3001;
const CLOSED: u16 = 3002;
/// Emulated guests beside others are slow.
const SOON: Duration = Duration::from_secs(60);

/// A platform with one sandbox, in which servers listen.
struct Story {
    platform: Platform,
    wrenn: Wrenn,
    id: String,
    http: Client,
}

impl Story {
    fn begin(args: &[&str]) -> Self {
        let platform = Platform::start();
        let wrenn = platform.cli();
        let id = wrenn.create(args);
        let write = wrenn.run_with_input(
            ["cp", "-", &format!("{id}:/tmp/server.py")],
            SERVER.as_bytes(),
        );
        let _ = write.succeeded();
        let http = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(SOON)
            .build()
            .unwrap();
        let story = Self {
            platform,
            wrenn,
            id,
            http,
        };
        story.listen("0.0.0.0", OPEN);
        story.listen("127.0.0.1", ON_LOOPBACK);
        story
    }

    fn listen(&self, address: &str, port: u16) {
        let start =
            format!("setsid python3 /tmp/server.py {address} {port} >/dev/null 2>&1 </dev/null &");
        let _ = self.wrenn.sh(&self.id, &start).succeeded();
        eventually("the server in the sandbox", SOON, || {
            (self.with_key(port, "/up").send().unwrap().status() == 200).then_some(())
        });
    }

    fn name(&self, port: u16) -> String {
        format!("{port}-{}.localhost", self.id)
    }

    fn bare(&self, port: u16, path: &str) -> RequestBuilder {
        self.http
            .get(format!("{}{path}", self.platform.url()))
            .header("host", self.name(port))
    }

    fn with_key(&self, port: u16, path: &str) -> RequestBuilder {
        self.bare(port, path).header("x-api-key", &self.wrenn.key)
    }

    fn address(&self) -> String {
        self.platform
            .url()
            .strip_prefix("http://")
            .unwrap()
            .to_owned()
    }
}

fn json(answer: Response) -> Value {
    assert_eq!(answer.status(), 200);
    serde_json::from_str(&answer.text().unwrap()).unwrap()
}

#[test]
fn servers_in_a_sandbox_are_reached_by_who_may() {
    let story = Story::begin(&[]);
    for port in [OPEN, ON_LOOPBACK] {
        let seen = json(story.with_key(port, "/where?a=1").send().unwrap());
        assert_eq!(
            (seen["path"].as_str(), seen["headers"]["x-api-key"].as_str()),
            (Some("/where?a=1"), None)
        );
        let path = format!(
            "{}/v1/sandboxes/{}/ports/{port}/by/path",
            story.platform.url(),
            story.id
        );
        let seen = json(
            story
                .http
                .get(path)
                .header("x-api-key", &story.wrenn.key)
                .send()
                .unwrap(),
        );
        assert_eq!(seen["path"], "/by/path");
        assert_eq!(story.bare(port, "/").send().unwrap().status(), 403);
    }
    let closed = story.with_key(CLOSED, "/").send().unwrap();
    assert_eq!(closed.status(), 502);
    let closed: Value = serde_json::from_str(&closed.text().unwrap()).unwrap();
    assert_eq!(
        closed["message"],
        "The sandbox is running but port is not open"
    );

    // The guest agent lets nobody in without the sandbox's own token, key or no key.
    for path in ["/files?path=/etc/hosts", "/envs", "/metrics", "/tunnel/22"] {
        assert_eq!(
            story.with_key(49983, path).send().unwrap().status(),
            401,
            "{path}"
        );
    }
    let freeze = story
        .http
        .post(format!("{}/freeze", story.platform.url()))
        .header("host", story.name(49983));
    assert_eq!(freeze.send().unwrap().status(), 401);
    // Whether it is there takes no right, as with E2B.
    assert_eq!(story.bare(49983, "/health").send().unwrap().status(), 204);
    assert_eq!(
        story.with_key(49983, "/health").send().unwrap().status(),
        204
    );

    let link = story
        .wrenn
        .run(["url", &story.id, &OPEN.to_string(), "--expires", "10m"])
        .succeeded()
        .text();
    let path = &link[link.find("/?").unwrap()..];
    let answer = story.bare(OPEN, path).send().unwrap();
    let cookie = answer.headers()["set-cookie"]
        .to_str()
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    assert_eq!(
        story
            .bare(OPEN, "/")
            .header("cookie", cookie)
            .send()
            .unwrap()
            .status(),
        200
    );
    story.platform.finish();
}

#[test]
fn streams_sockets_and_uploads_pass_and_wake_a_paused_sandbox() {
    let story = Story::begin(&["--public-ports"]);
    let answer = story
        .http
        .post(format!("{}/count", story.platform.url()))
        .header("host", story.name(ON_LOOPBACK));
    let body = reqwest::blocking::Body::new(std::io::repeat(7).take(20_000_000));
    assert_eq!(json(answer.body(body).send().unwrap())["size"], 20_000_000);
    let big = story
        .bare(OPEN, "/big/5000000")
        .send()
        .unwrap()
        .bytes()
        .unwrap();
    assert_eq!(big.len(), 5_000_000);

    let began = Instant::now();
    let mut events = BufReader::new(story.bare(OPEN, "/events").send().unwrap());
    let mut line = String::new();
    events.read_line(&mut line).unwrap();
    let first = began.elapsed();
    assert_eq!(line, "data: 0\n");
    events.read_to_string(&mut line).unwrap();
    assert!(
        line.ends_with("data: 2\n\n") && began.elapsed() > first + Duration::from_secs(1),
        "{line}"
    );

    let _ = story.wrenn.run(["pause", &story.id]).succeeded();
    assert_eq!(
        json(story.bare(ON_LOOPBACK, "/awake").send().unwrap())["path"],
        "/awake"
    );
    assert_eq!(story.wrenn.info(&story.id).unwrap()["status"], "running");

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        for port in [OPEN, ON_LOOPBACK] {
            let mut request = format!("ws://{}/ws", story.address())
                .into_client_request()
                .unwrap();
            request
                .headers_mut()
                .insert("host", story.name(port).parse().unwrap());
            let stream = tokio::net::TcpStream::connect(story.address())
                .await
                .unwrap();
            let (mut socket, _) = tokio_tungstenite::client_async(request, stream)
                .await
                .unwrap();
            for text in ["short".to_owned(), "long".repeat(500)] {
                socket.send(Message::text(&text)).await.unwrap();
                assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(&text));
            }
            // What is open is activity, until the sandbox is paused by force: then it ends.
            if port == ON_LOOPBACK {
                let _ = story.wrenn.run(["pause", &story.id]).succeeded();
                assert!(!matches!(socket.next().await, Some(Ok(Message::Text(_)))));
            }
        }
    });
    story.platform.finish();
}

/// `wrenn port-forward`, and the addresses here that it tells.
fn forward(wrenn: &Wrenn, args: &[&str]) -> (Child, Vec<String>) {
    let mut command: Command = wrenn.command([&["port-forward", "--json"], args].concat());
    let mut child = command.spawn().expect("wrenn starts");
    let mut told =
        serde_json::Deserializer::from_reader(child.stdout.take().unwrap()).into_iter::<Value>();
    let told = told.next().unwrap().unwrap();
    let forwards = told["forwards"].as_array().unwrap();
    (
        child,
        forwards
            .iter()
            .map(|one| one["local"].as_str().unwrap().to_owned())
            .collect(),
    )
}

#[test]
fn any_protocol_passes_a_forwarded_port() {
    let story = Story::begin(&[]);
    let (open, on_loopback) = (format!("0:{OPEN}"), format!("0:{ON_LOOPBACK}"));
    let (mut child, addresses) = forward(
        &story.wrenn,
        &[&story.id, &open, &on_loopback, &format!("0:{CLOSED}")],
    );
    for address in &addresses[..2] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .write_all(b"GET /raw HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        assert!(
            heard.starts_with("HTTP/1.1 200 OK") && heard.contains("/raw"),
            "{heard}"
        );
    }
    let mut heard = Vec::new();
    let refused = TcpStream::connect(&addresses[2])
        .unwrap()
        .read_to_end(&mut heard);
    assert!(refused.is_err() || heard.is_empty());
    kill(
        Pid::from_raw(child.id().try_into().unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    assert!(child.wait().unwrap().success());
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(
        said.contains(&format!("nothing listens on port {CLOSED}")),
        "{said}"
    );
    story.platform.finish();
}
