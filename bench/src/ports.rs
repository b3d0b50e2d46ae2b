//! A server in a running sandbox. Ours: through control plane and host agent, by the port's own
//! name, with an API key. Bare: straight to the guest's address from this process. Same server,
//! same requests, connections kept open.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use client::FileTarget;
use client::types::Sandbox;
use futures::future::try_join_all;
use futures::{SinkExt, StreamExt, stream};
use reqwest::header::{HOST, HeaderValue};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::pairs::{Pairs, Side, print_progress, side_order};
use crate::report::{Row, Target};
use crate::server::Server;
use crate::stats::Better;

/// The one that the stories use, too.
const PROGRAM: &str = include_str!("../../tests/e2e/guest/server.py");
const PORT: u16 = 3000;
const REQUESTS: usize = 200;
const DOWNLOADS: usize = 5;
const MIB: usize = 256;
const SOCKETS: usize = 500;
/// Number of sockets that are opened at the same time: emulated guests take their time for each.
const AT_ONCE: usize = 50;
/// Time of silence: longer than idle connections are kept by default.
const HELD: Duration = Duration::from_secs(10);
const MAX_LATENCY: f64 = 1.5;
const MIN_RATE: f64 = 0.8;

type Socket = WebSocketStream<TcpStream>;

/// A server, and both ways to it.
struct Both {
    http: reqwest::Client,
    /// Host and port to connect to.
    ours: String,
    bare: String,
    name: String,
    key: String,
}

/// Measures requests to ports; see the module.
///
/// # Errors
/// When the server in the sandbox does not answer on either way.
pub async fn measure(server: &Server) -> anyhow::Result<[Row; 3]> {
    let sandbox = server.create(None).await?;
    let both = begin(server, &sandbox).await?;
    let mut latency = Pairs::default();
    let mut rate = Pairs::default();
    let mut held = Pairs::default();
    for pair in 0..REQUESTS {
        for side in side_order(pair) {
            latency.push(side, both.request(side).await?);
        }
        print_progress("requests to a port", pair + 1, REQUESTS);
    }
    for pair in 0..DOWNLOADS {
        for side in side_order(pair) {
            rate.push(side, both.download(side).await?);
        }
        print_progress("downloads from a port", pair + 1, DOWNLOADS);
    }
    for side in side_order(0) {
        held.push(side, both.hold(side).await?);
    }
    server.client.delete(&sandbox.id).await?;
    Ok([
        latency.row(
            "request to a port",
            "ms",
            Better::Lower,
            Target::RatioAtMost(MAX_LATENCY),
        ),
        rate.row(
            "256 MiB from a port",
            "MiB/s",
            Better::Higher,
            Target::RatioAtLeast(MIN_RATE),
        ),
        held.row(
            "500 WebSockets held for 10 s",
            "alive",
            Better::Higher,
            Target::RatioAtLeast(1.0),
        ),
    ])
}

async fn begin(server: &Server, sandbox: &Sandbox) -> anyhow::Result<Both> {
    let target = FileTarget {
        path: "/tmp/server.py".to_owned(),
        ..FileTarget::default()
    };
    let content = stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::from_static(
        PROGRAM.as_bytes(),
    ))]);
    server
        .client
        .write_file(&sandbox.id, &target, content, Some(PROGRAM.len() as u64))
        .await?;
    let start =
        format!("setsid python3 /tmp/server.py 0.0.0.0 {PORT} >/dev/null 2>&1 </dev/null &");
    server.shell(sandbox, &start).await?;
    let host_ip = sandbox
        .host_ip
        .as_deref()
        .context("the sandbox has no address")?;
    let both = Both {
        http: reqwest::Client::builder().tcp_nodelay(true).build()?,
        ours: server.client.url().trim_start_matches("http://").to_owned(),
        bare: format!("{host_ip}:{PORT}"),
        name: format!("{PORT}-{}.localhost", sandbox.id),
        key: server.key()?,
    };
    let began = Instant::now();
    while both.request(Side::Bare).await.is_err() {
        ensure!(
            began.elapsed() < Duration::from_secs(60),
            "the server in the sandbox does not answer"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for side in side_order(0) {
        both.request(side).await?;
    }
    Ok(both)
}

impl Both {
    fn get(&self, side: Side, path: &str) -> reqwest::RequestBuilder {
        match side {
            Side::Ours => {
                let request = self.http.get(format!("http://{}{path}", self.ours));
                request
                    .header(HOST, &self.name)
                    .header("x-api-key", &self.key)
            }
            Side::Bare => self.http.get(format!("http://{}{path}", self.bare)),
        }
    }

    /// Measures a small request, in milliseconds.
    async fn request(&self, side: Side) -> anyhow::Result<f64> {
        let began = Instant::now();
        let answer = self
            .get(side, "/style.css")
            .send()
            .await?
            .error_for_status()?;
        ensure!(!answer.bytes().await?.is_empty(), "an empty answer came");
        Ok(began.elapsed().as_secs_f64() * 1000.0)
    }

    /// Measures a download, in MiB/s.
    async fn download(&self, side: Side) -> anyhow::Result<f64> {
        let began = Instant::now();
        let mut answer = self
            .get(side, &format!("/big/{}", MIB << 20))
            .send()
            .await?
            .error_for_status()?;
        let mut length = 0;
        while let Some(piece) = answer.chunk().await? {
            length += piece.len();
        }
        ensure!(length == MIB << 20, "{length} bytes came");
        #[allow(clippy::cast_precision_loss, reason = "256 is exact")]
        let mib = MIB as f64;
        Ok(mib / began.elapsed().as_secs_f64())
    }

    async fn socket(&self, side: Side) -> anyhow::Result<Socket> {
        let address = if side == Side::Ours {
            &self.ours
        } else {
            &self.bare
        };
        let mut request = format!("ws://{address}/ws").into_client_request()?;
        if side == Side::Ours {
            request
                .headers_mut()
                .insert(HOST, HeaderValue::from_str(&self.name)?);
            request
                .headers_mut()
                .insert("x-api-key", HeaderValue::from_str(&self.key)?);
        }
        let stream = TcpStream::connect(address).await?;
        Ok(tokio_tungstenite::client_async(request, stream).await?.0)
    }

    /// Counts how many of [`SOCKETS`] WebSockets answer, all open at once, after they were silent
    /// for [`HELD`].
    async fn hold(&self, side: Side) -> anyhow::Result<f64> {
        let mut sockets = Vec::new();
        while sockets.len() < SOCKETS {
            sockets.extend(try_join_all((0..AT_ONCE).map(|_| self.socket(side))).await?);
        }
        tokio::time::sleep(HELD).await;
        let answers = stream::iter(sockets.iter_mut().map(echo)).buffer_unordered(AT_ONCE);
        let alive = answers
            .filter(|answer| std::future::ready(*answer))
            .count()
            .await;
        #[allow(clippy::cast_precision_loss, reason = "500 is exact")]
        let alive = alive as f64;
        Ok(alive)
    }
}

async fn echo(socket: &mut Socket) -> bool {
    let sent = Message::text("still there?");
    socket.send(sent.clone()).await.is_ok()
        && matches!(socket.next().await, Some(Ok(heard)) if heard == sent)
}
