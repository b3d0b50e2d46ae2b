//! Memory of twenty machines that are restored from one snapshot and idle, in MB (millions of
//! bytes): the proportional shares (`Pss` of `/proc/PID/smaps_rollup`) of their VMMs, all taken
//! while all of them run. Each has run one program. Bare: as many bare machines that map the same
//! file privately ([`crate::restore`]), at the same point of their lives.

use std::time::Duration;

use futures::future::try_join_all;
use tokio_util::sync::CancellationToken;

use crate::bare::{Bare, Running, Until};
use crate::command::monitor_of;
use crate::memory;
use crate::pairs::{Pairs, Side, print_progress};
use crate::place::Place;
use crate::report::{Row, Target};
use crate::restore;
use crate::server::Server;
use crate::stats::Better;
use crate::warm::MEMORY_MB;

const SIBLINGS: usize = 20;
/// Time for the work that the guest does after its first program.
const SETTLE: Duration = Duration::from_secs(3);
const MAX_RATIO: f64 = 1.1;

/// Measures the memory of siblings; see the module.
///
/// # Errors
/// When a machine does not start.
pub async fn measure(
    place: &Place,
    server: &Server,
    cancelled: &CancellationToken,
) -> anyhow::Result<Row> {
    let (command, saved) = restore::prepare_shape(place, server, MEMORY_MB).await?;
    let mut sandboxes = Vec::with_capacity(SIBLINGS);
    for number in 1..=SIBLINGS {
        let sandbox = server.create(Some(MEMORY_MB)).await?;
        server.exec(&sandbox).await?;
        sandboxes.push(sandbox);
        print_progress("siblings", number, SIBLINGS);
    }
    let ours: Vec<u32> = sandboxes
        .iter()
        .map(|sandbox| monitor_of(&server.dir_of(sandbox)))
        .collect::<anyhow::Result<_>>()?;
    let mut pairs = Pairs::default();
    pairs.push(Side::Ours, shares(&ours).await?);
    for sandbox in &sandboxes {
        server.client.delete(&sandbox.id).await?;
    }
    let mut machines = Vec::with_capacity(SIBLINGS);
    for number in 0..SIBLINGS {
        let bare = Bare::prepare(place, command.clone(), number, cancelled)?.over(&saved);
        machines.push(bare.start(Until::Program).await?);
        print_progress("siblings: bare machines", number + 1, SIBLINGS);
    }
    let bare: Vec<u32> = machines.iter().map(Running::pid).collect();
    pairs.push(Side::Bare, shares(&bare).await?);
    try_join_all(machines.into_iter().map(Running::end)).await?;
    Ok(pairs.row(
        "VMMs of 20 siblings of 512 MiB",
        "MB",
        Better::Lower,
        Target::RatioAtMost(MAX_RATIO),
    ))
}

async fn shares(pids: &[u32]) -> anyhow::Result<f64> {
    tokio::time::sleep(SETTLE).await;
    pids.iter()
        .map(|pid| memory::process_memory(*pid, memory::Kind::Share))
        .sum()
}
