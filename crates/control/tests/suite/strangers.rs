//! Clients without a key: other clients notice nothing of them.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use api_types::SandboxStatus;
use reqwest::Method;
use testkit::host::access_token;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::guest_server::{PORT, name, with_server};
use crate::raw::{address, read_all};
use crate::support::{Plane, eventually, one};

const AGENT: u16 = 49983;
/// Connections that the control plane takes in these tests.
const PLACES: usize = 64;
const MIB: u64 = 1024 * 1024;

async fn status(plane: &Plane, host: &str, path: &str, header: Option<(&str, &str)>) -> u16 {
    let request = plane.bare(Method::GET, path).header("host", host);
    let request = header.into_iter().fold(request, |request, (name, value)| {
        request.header(name, value)
    });
    request.send().await.unwrap().status().as_u16()
}

/// `wrenn-cp` as a process of its own, which ends with this.
struct Program {
    child: Child,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Program {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Free a moment ago; nothing else takes ports of this range at that moment.
        let address = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let command = |name: &str| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_wrenn-cp"));
            let own = [
                ("CP_LISTEN_ADDR", address.to_string()),
                ("AGENT_TOKEN", "nobody-listens-there".to_owned()),
                ("CP_HOST_AGENT_ADDR", "http://127.0.0.1:1".to_owned()),
            ];
            command
                .arg(name)
                .env("WRENN_DIR", dir.path())
                .envs(own)
                .envs(settings.iter().copied());
            command
                .current_dir(dir.path())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command
        };
        assert!(command("migrate").status().unwrap().success());
        let child = command("serve").spawn().unwrap();
        let program = Self {
            child,
            address,
            _dir: dir,
        };
        eventually("the control plane", || async { program.ask().await }).await;
        program
    }

    /// The status of `/health`.
    async fn ask(&self) -> Option<u16> {
        let answer = reqwest::Client::new()
            .get(format!("http://{}/health", self.address))
            .send()
            .await;
        answer.ok().map(|answer| answer.status().as_u16())
    }

    fn resident_bytes(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn silent_connections_are_evicted_first() {
    let program = Program::start(&[("CP_MAX_CONNECTIONS", &PLACES.to_string())]).await;
    let before = program.resident_bytes();
    let mut strangers = Vec::new();
    for round in 0..20 {
        for number in 0..PLACES {
            let mut stream = TcpStream::connect(program.address).await.unwrap();
            // Some say nothing at all, some half of a request of either version.
            let begins: [&[u8]; 4] = [
                b"",
                b"P",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"GET / HTTP/1.1\r\na: ",
            ];
            stream
                .write_all(begins[number % begins.len()])
                .await
                .unwrap();
            strangers.push(stream);
        }
        // Well below the deadline of silent connections.
        let answer = tokio::time::timeout(Duration::from_secs(5), program.ask()).await;
        assert_eq!(answer, Ok(Some(200)), "round {round}");
    }
    drop(strangers);
    let is_back = || async { (program.resident_bytes() < before + 20 * MIB).then_some(()) };
    eventually("the memory back", is_back).await;
}

#[tokio::test]
async fn request_without_right_wakes_no_sandbox() {
    let (host, _ground, plane, id) = with_server().await;
    plane.client().pause(&id).await.unwrap();
    let before = host.calls("Tunnel");
    for port in [AGENT, PORT] {
        for (host, path) in [
            (name(&id, port), "/health".to_owned()),
            (name(&id, port), "/?wrenn-link=x".to_owned()),
            (
                "localhost".to_owned(),
                format!("/v1/sandboxes/{id}/ports/{port}/health"),
            ),
        ] {
            for header in [
                None,
                Some(("x-access-token", "guessed")),
                Some(("cookie", "wrenn-link=x")),
            ] {
                let got = status(&plane, &host, &path, header).await;
                // Whether a guest agent is there takes no right: 204 while it runs, else 502.
                let is_check = port == AGENT && path.ends_with("/health");
                assert!(
                    matches!(got, 401 | 403) || is_check && got == 502,
                    "{got} for {host}{path} {header:?}"
                );
            }
        }
        let preflight = plane
            .bare(Method::OPTIONS, "/")
            .header("host", name(&id, port))
            .header("origin", "https://a.com");
        let asked = [
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-wrenn-link"),
        ];
        let preflight = asked
            .iter()
            .fold(preflight, |all, (name, value)| all.header(*name, *value));
        let answer = preflight.send().await.unwrap();
        assert_eq!(
            (
                answer.status().as_u16(),
                &answer.headers()["access-control-allow-methods"]
            ),
            (204, &"PUT".parse().unwrap())
        );
        assert_eq!(
            answer.headers()["access-control-allow-headers"],
            "x-wrenn-link"
        );
        assert!(
            !answer
                .headers()
                .contains_key("access-control-allow-credentials")
        );
    }
    assert_eq!(host.calls("Tunnel"), before);
    assert_eq!(
        plane.client().get(&id).await.unwrap().status,
        SandboxStatus::Paused
    );
}

#[tokio::test]
async fn guest_agent_takes_key_link_or_token() {
    let (host, ground, plane, id) = with_server().await;
    let by_name = name(&id, AGENT);
    let token = access_token(&id);
    let token = Some(("x-access-token", token.as_str()));
    assert_eq!(status(&plane, &by_name, "/", token).await, 200);
    assert_eq!(status(&plane, &name(&id, PORT), "/", token).await, 403);
    let other = plane.create().await.id;
    assert_eq!(status(&plane, &name(&other, AGENT), "/", token).await, 401);
    assert_eq!(
        status(
            &plane,
            &by_name,
            "/",
            Some(("x-api-key", plane.key.as_str()))
        )
        .await,
        200
    );
    let link = api_types::PortLinkRequest {
        port: AGENT,
        expires_in_sec: Some(60),
    };
    let link = plane
        .client()
        .port_link(&id, &link)
        .await
        .unwrap()
        .token
        .unwrap();
    assert_eq!(
        status(&plane, &by_name, "/", Some(("x-wrenn-link", link.as_str()))).await,
        200
    );
    // A control plane that begins learns tokens from the host.
    let later = ground.start(&[&host]).await;
    assert_eq!(status(&later, &by_name, "/", token).await, 200);
    plane.client().delete(&id).await.unwrap();
    eventually("the token forgotten", || async {
        (status(&later, &by_name, "/", token).await == 502).then_some(())
    })
    .await;
}

#[tokio::test]
async fn public_ports_keep_guest_agent_private() {
    let (_host, _ground, plane, _) = with_server().await;
    let spec = api_types::CreateSandbox {
        public_ports: Some(true),
        ..Default::default()
    };
    let id = plane.client().create(&spec).await.unwrap().id;
    assert_eq!(status(&plane, &name(&id, PORT), "/", None).await, 200);
    assert_eq!(status(&plane, &name(&id, AGENT), "/", None).await, 401);
}

#[tokio::test]
async fn unfinished_request_is_closed() {
    let (host, ground, _plane) = one().await;
    let plane = ground
        .start_with(&[&host], |settings| {
            settings.listener.request_head = Duration::from_millis(200)
        })
        .await;
    let mut stream = TcpStream::connect(address(&plane)).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    assert!(read_all(&mut stream).await.is_empty());
}
