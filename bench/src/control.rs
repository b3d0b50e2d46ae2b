//! The control plane alone: `wrenn-cp` as users start it, over a host agent that boots nothing (the
//! one of the tests, which speaks the real protocol).
//!
//! | row | ours | bare |
//! |---|---|---|
//! | part of a create | `POST /v1/sandboxes` | the host's `EnsureSandbox`, called from this process |
//! | mixed reads, [`READS_PER_SEC`] a second | the last third of the time | the first third |
//! | scrape of its metrics | with [`SCRAPED_SANDBOXES`] sandboxes or more | – |
//! | pages of lists, see [`pages`] | `GET /v1/sandboxes` | the query of its store |
//! | idle streams | its memory with [`STREAMS`] followed logs, less that without | – |
//!
//! Creates and pages are measured on SQLite and on PostgreSQL.

use std::time::{Duration, Instant};

use anyhow::ensure;
use client::ListQuery;
use client::types::CreateSandbox;
use futures::{StreamExt, TryStreamExt, stream};
use host_rpc::EnsureSandboxRequest;
use host_rpc::client::HostClient;
use model::{SandboxId, SandboxSpec};
use testkit::postgres::Database;

use crate::memory::{Kind, process_memory};
use crate::pages;
use crate::pairs::{Pairs, Side, print_progress, side_order};
use crate::place::Place;
use crate::plane::Plane;
use crate::report::{Row, Target};
use crate::stats::{Better, summarize};

const CREATES: usize = 200;
const WARM_UP: usize = 20;
/// Milliseconds that the control plane may add to the host's part of a create.
const MAX_OWN_CREATE_MS: f64 = 3.0;
const READS_PER_SEC: u32 = 500;
const READING: Duration = Duration::from_secs(12);
/// Growth of the median of reads from the first third to the last, beyond which it is no noise.
const MAX_GROWTH: f64 = 1.3;
/// Sandboxes of the plane that is scraped.
const SCRAPED_SANDBOXES: usize = 1000;
const SCRAPES: usize = 200;
/// Milliseconds of a scrape: it reads no sandbox.
const MAX_SCRAPE_MS: f64 = 5.0;
const STREAMS: usize = 1000;
/// MB that [`STREAMS`] may take.
const MAX_STREAMS_MB: f64 = 100.0;
/// Number of streams that are opened at a time.
const AT_ONCE: usize = 32;
const POLL: Duration = Duration::from_millis(50);

/// Measures the control plane; see the module.
///
/// # Errors
/// When it does not start, or refuses a request.
pub async fn measure(place: &Place) -> anyhow::Result<Vec<Row>> {
    let sqlite = Plane::start(place, "sqlite", None).await?;
    let mut rows = vec![
        sqlite
            .creates("control plane's part of a create, SQLite")
            .await?,
    ];
    rows.push(sqlite.reads().await?);
    rows.push(sqlite.streams().await?);
    rows.push(sqlite.scrapes().await?);
    rows.extend(pages::measure(&sqlite, &pages::SQLITE).await?);
    drop(sqlite);
    let database = Database::create().await?;
    let postgres = Plane::start(place, "postgres", Some(database.url())).await?;
    let name = "control plane's part of a create, PostgreSQL";
    rows.insert(1, postgres.creates(name).await?);
    rows.extend(pages::measure(&postgres, &pages::POSTGRES).await?);
    Ok(rows)
}

impl Plane {
    async fn scrapes(&self) -> anyhow::Result<Row> {
        let request = CreateSandbox::default();
        let missing = SCRAPED_SANDBOXES.saturating_sub(self.client.list_all().await?.len());
        stream::iter(0..missing)
            .map(|_| self.client.create(&request))
            .buffer_unordered(AT_ONCE)
            .try_for_each(async |_| Ok(()))
            .await?;
        let http = reqwest::Client::new();
        let url = format!("http://{}/metrics", self.metrics);
        let mut times = Vec::with_capacity(SCRAPES);
        for _ in 0..SCRAPES {
            let began = Instant::now();
            let text = http.get(&url).send().await?.text().await?;
            times.push(began.elapsed().as_secs_f64() * 1000.0);
            ensure!(text.contains("wrenn_cp_hosts"), "no metrics: {text}");
        }
        Ok(Row {
            name: "scrape of the control plane with 1000 sandboxes",
            unit: "ms",
            n: SCRAPES,
            ours: summarize(&times, Better::Lower),
            bare: None,
            ratio: None,
            target: Target::AtMost(MAX_SCRAPE_MS),
        })
    }

    async fn creates(&self, name: &'static str) -> anyhow::Result<Row> {
        let direct = self.host_client()?;
        let mut pairs = Pairs::default();
        for pair in 0..WARM_UP + CREATES {
            for side in side_order(pair) {
                let began = Instant::now();
                match side {
                    Side::Ours => drop(self.client.create(&CreateSandbox::default()).await?),
                    Side::Bare => create_directly(&direct).await?,
                }
                if pair >= WARM_UP {
                    pairs.push(side, began.elapsed().as_secs_f64() * 1000.0);
                }
            }
            print_progress(name, pair + 1, WARM_UP + CREATES);
        }
        let target = Target::AtMostOfBare {
            times: 1.0,
            plus: MAX_OWN_CREATE_MS,
        };
        Ok(pairs.row(name, "ms", Better::Lower, target))
    }

    /// Sends reads at a fixed rate, whenever the answers come, and counts from the moment when each
    /// was due.
    async fn reads(&self) -> anyhow::Result<Row> {
        let sandbox = self.client.create(&CreateSandbox::default()).await?;
        let count = READING.as_secs() as usize * READS_PER_SEC as usize;
        let began = Instant::now();
        let read = async |number: usize| {
            let due = began + number as u32 * Duration::from_secs(1) / READS_PER_SEC;
            tokio::time::sleep_until(due.into()).await;
            match number % 4 {
                0 => drop(self.client.list(&ListQuery::default()).await?),
                1 => drop(self.client.checkpoints(&sandbox.id).await?),
                _ => drop(self.client.get(&sandbox.id).await?),
            }
            anyhow::Ok(due.elapsed().as_secs_f64() * 1000.0)
        };
        let times: Vec<f64> = stream::iter(0..count)
            .map(read)
            .buffered(READS_PER_SEC as usize)
            .try_collect()
            .await?;
        let third = times.len() / 3;
        let pairs = Pairs {
            ours: times[times.len() - third..].to_vec(),
            bare: times[..third].to_vec(),
        };
        Ok(pairs.row(
            "500 mixed reads a second, last third to first",
            "ms",
            Better::Lower,
            Target::RatioAtMost(MAX_GROWTH),
        ))
    }

    async fn streams(&self) -> anyhow::Result<Row> {
        let sandbox = self.client.create(&CreateSandbox::default()).await?;
        let before = process_memory(self.process.pid(), Kind::Resident)?;
        let open = async |_| {
            let mut log = self.client.logs(&sandbox.id, true).await?;
            // Reads the entries that are there; no more come.
            let _ = tokio::time::timeout(POLL, async {
                while log.next().await.is_ok_and(|entry| entry.is_some()) {}
            })
            .await;
            anyhow::Ok(log)
        };
        let streams: Vec<_> = stream::iter(0..STREAMS)
            .map(open)
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        let after = process_memory(self.process.pid(), Kind::Resident)?;
        drop(streams);
        Ok(Row {
            name: "control plane, 1000 idle streams",
            unit: "MB",
            n: 1,
            ours: summarize(&[after - before], Better::Lower),
            bare: None,
            ratio: None,
            target: Target::AtMost(MAX_STREAMS_MB),
        })
    }
}

async fn create_directly(host: &HostClient) -> anyhow::Result<()> {
    let spec = SandboxSpec::builder().build();
    let request = EnsureSandboxRequest {
        sandbox_id: SandboxId::random().to_string(),
        spec: host_rpc::spec::to_message(&spec).into(),
        ..Default::default()
    };
    host.sandboxes().ensure_sandbox(request).await?;
    Ok(())
}
