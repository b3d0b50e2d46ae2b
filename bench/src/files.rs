//! A file of 64 MiB into a running sandbox and out of it again. Ours: `POST …/files/write` and
//! `…/files/read`. Bare: `POST` and `GET /files` of the same sandbox's guest agent, called from
//! this process. Same bytes, same user, a path that is new for every run, and everything streamed
//! from and to memory.

use std::time::Instant;

use anyhow::ensure;
use bytes::Bytes;
use client::FileTarget;
use client::types::{PathRequest, Sandbox};
use futures::{Stream, StreamExt, stream};

use crate::envd::Envd;
use crate::pairs::{Pairs, Side, print_progress, side_order};
use crate::report::{Row, Target};
use crate::server::Server;
use crate::stats::Better;

const PAIRS: usize = 10;
const MIB: usize = 64;
const PIECE: usize = 256 * 1024;
const MIN_RATIO: f64 = 0.8;

/// A sandbox, both ways to it, and the content that is sent.
struct Transfer<'a> {
    server: &'a Server,
    sandbox: Sandbox,
    envd: Envd,
    content: Bytes,
}

/// Measures transfers in both directions; see the module.
///
/// # Errors
/// When a transfer fails, or returns other bytes than were sent.
pub async fn measure(server: &Server) -> anyhow::Result<[Row; 2]> {
    let sandbox = server.create(None).await?;
    let envd = server.envd_of(&sandbox)?;
    let mut content = vec![0; MIB << 20];
    rand::fill(&mut content[..]);
    let transfer = Transfer {
        server,
        sandbox,
        envd,
        content: content.into(),
    };
    for side in side_order(0) {
        transfer.put(side).await?;
        ensure!(
            transfer.get(side, true).await?.is_finite(),
            "nothing was measured"
        );
        transfer.remove(side).await?;
    }
    let mut into = Pairs::default();
    let mut out = Pairs::default();
    for pair in 0..PAIRS {
        for side in side_order(pair) {
            into.push(side, transfer.put(side).await?);
            out.push(side, transfer.get(side, false).await?);
            transfer.remove(side).await?;
        }
        print_progress("files", pair + 1, PAIRS);
    }
    server.client.delete(&transfer.sandbox.id).await?;
    let row = |pairs: Pairs, name| {
        pairs.row(
            name,
            "MiB/s",
            Better::Higher,
            Target::RatioAtLeast(MIN_RATIO),
        )
    };
    Ok([
        row(into, "file of 64 MiB in"),
        row(out, "file of 64 MiB out"),
    ])
}

fn path(side: Side) -> PathRequest {
    let name = match side {
        Side::Ours => "ours",
        Side::Bare => "bare",
    };
    PathRequest {
        path: format!("/home/user/{name}.bin"),
        user: None,
    }
}

impl Transfer<'_> {
    /// Writes the file; MiB/s.
    async fn put(&self, side: Side) -> anyhow::Result<f64> {
        let data = pieces(self.content.clone());
        let path = path(side).path;
        let began = Instant::now();
        match side {
            Side::Ours => {
                let target = FileTarget {
                    path,
                    ..FileTarget::default()
                };
                let length = Some(self.content.len() as u64);
                self.server
                    .client
                    .write_file(&self.sandbox.id, &target, data, length)
                    .await?;
            }
            Side::Bare => {
                self.envd
                    .write_file(&path, data, self.content.len())
                    .await?
            }
        }
        Ok(rate(began))
    }

    /// Reads the file; MiB/s. Its length is always looked at; every byte only where that may take
    /// time.
    async fn get(&self, side: Side, compare: bool) -> anyhow::Result<f64> {
        let path = path(side);
        let began = Instant::now();
        let length = match side {
            Side::Ours => {
                self.drain(
                    self.server
                        .client
                        .read_file(&self.sandbox.id, &path)
                        .await?,
                    compare,
                )
                .await?
            }
            Side::Bare => {
                self.drain(Box::pin(self.envd.read_file(&path.path).await?), compare)
                    .await?
            }
        };
        let rate = rate(began);
        ensure!(
            length == self.content.len(),
            "{} of {} bytes came back",
            length,
            self.content.len()
        );
        Ok(rate)
    }

    async fn drain<E>(
        &self,
        mut data: impl Stream<Item = Result<Bytes, E>> + Unpin,
        compare: bool,
    ) -> anyhow::Result<usize>
    where
        anyhow::Error: From<E>,
    {
        let mut length = 0;
        while let Some(piece) = data.next().await {
            let piece = piece?;
            let end = length + piece.len();
            ensure!(
                !compare || self.content.get(length..end) == Some(&piece[..]),
                "other bytes came back"
            );
            length = end;
        }
        Ok(length)
    }

    async fn remove(&self, side: Side) -> anyhow::Result<()> {
        Ok(self
            .server
            .client
            .remove_file(&self.sandbox.id, &path(side))
            .await?)
    }
}

fn pieces(mut content: Bytes) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    stream::iter(std::iter::from_fn(move || {
        (!content.is_empty()).then(|| Ok(content.split_to(PIECE.min(content.len()))))
    }))
}

fn rate(began: Instant) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "64 is exact")]
    let mib = MIB as f64;
    mib / began.elapsed().as_secs_f64()
}
