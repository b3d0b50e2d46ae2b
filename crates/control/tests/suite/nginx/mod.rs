//! What the port proxy passes on, compared with what nginx passes on: some 200 odd but legal
//! requests and answers. Where the two differ on purpose, the case stands in
//! [`corpus::DIFFERENCES`] with the reason.

mod corpus;
mod exchange;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use api_types::CreateSandbox;
use tokio::net::{TcpListener, TcpStream};

use crate::guest_server::{PORT, name};
use crate::raw::{address, text};
use crate::support::{eventually, one};
use corpus::Case;
use exchange::{Guest, Passed};

/// nginx, until this is dropped.
struct Nginx {
    child: Child,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Nginx {
    async fn start(guest: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let configuration = dir.path().join("nginx.conf");
        std::fs::write(&configuration, configuration_text(address, guest)).unwrap();
        let child = Command::new("nginx")
            .args(["-p".as_ref(), dir.path(), Path::new("-c"), &configuration])
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx: scripts/deps.sh test installs it");
        let nginx = Self {
            child,
            address,
            _dir: dir,
        };
        eventually("nginx", || async {
            TcpStream::connect(address).await.ok().map(drop)
        })
        .await;
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As those configure it who want everything passed on.
fn configuration_text(address: SocketAddr, guest: SocketAddr) -> String {
    format!(
        "daemon off; master_process off; pid nginx.pid; error_log /dev/null;
         events {{ worker_connections 256; }}
         http {{
             access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
             uwsgi_temp_path uwsgi; scgi_temp_path scgi;
             map $http_upgrade $asked {{ default upgrade; '' ''; }}
             server {{
                 listen {address}; merge_slashes off; underscores_in_headers on; ignore_invalid_headers off;
                 client_max_body_size 0; large_client_header_buffers 8 64k;
                 location / {{
                     proxy_pass http://{guest}; proxy_http_version 1.1; proxy_set_header Host $http_host;
                     proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $asked;
                     proxy_request_buffering off; proxy_buffering off; proxy_buffer_size 128k; proxy_buffers 8 128k;
                     proxy_pass_header Server; proxy_pass_header Date; proxy_pass_header X-Pad;
                 }}
             }}
         }}"
    )
}

#[tokio::test]
async fn corpus_passes_as_through_nginx() {
    let (host, _ground, plane) = one().await;
    let guest = Guest::start().await;
    host.world().ports.insert(PORT, guest.address);
    let spec = CreateSandbox {
        public_ports: Some(true),
        ..Default::default()
    };
    let id = plane.client().create(&spec).await.unwrap().id;
    let nginx = Nginx::start(guest.address).await;
    let authority = name(&id, PORT);
    let ours = address(&plane);
    let deliberate: BTreeMap<&str, &str> = corpus::DIFFERENCES.iter().copied().collect();
    let cases = corpus::cases(&authority);
    assert!(cases.len() >= 200, "{}", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let here = guest.pass(case, ours).await;
        let there = guest.pass(case, nginx.address).await;
        match (here == there, deliberate.contains_key(case.name.as_str())) {
            (true, false) | (false, true) => {}
            (true, true) => wrong.push(format!("{}: no difference any more", case.name)),
            (false, false) => wrong.push(describe(case, &here, &there)),
        }
    }
    let unknown = deliberate
        .keys()
        .filter(|name| !cases.iter().any(|case| case.name == **name));
    wrong.extend(unknown.map(|name| format!("{name}: no such case")));
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

fn describe(case: &Case, here: &Passed, there: &Passed) -> String {
    let mut all = format!("{}\n", case.name);
    for (what, ours, theirs) in [
        ("guest", &here.request, &there.request),
        ("client", &here.answer, &there.answer),
    ] {
        if ours != theirs {
            let (ours, theirs): (Vec<_>, Vec<_>) = (
                ours.iter().map(|l| text(l)).collect(),
                theirs.iter().map(|l| text(l)).collect(),
            );
            let only = |one: &[String], other: &[String]| -> Vec<String> {
                one.iter()
                    .filter(|line| !other.contains(line))
                    .map(|line| line.chars().take(120).collect())
                    .collect()
            };
            all += &format!(
                "  {what}: here {:?}\n         nginx {:?}\n",
                only(&ours, &theirs),
                only(&theirs, &ours)
            );
        }
    }
    all
}
