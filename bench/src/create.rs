//! Cold create: from nothing to the result of a first program.
//!
//! Ours: `POST /v1/sandboxes` and one exec, with the default shape. The disk, network and boot are
//! all in it. Bare: see [`crate::bare`]. The server does not keep guests that have booted
//! (`AGENT_WARM=off`); taking the machine away again is outside both clocks. Creates from such
//! guests are in [`crate::warm`].

use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::bare::Bare;
use crate::command::Command;
use crate::pairs::{Pairs, Side, print_progress, side_order};
use crate::place::Place;
use crate::report::{Row, Target};
use crate::server::Server;
use crate::stats::Better;

const PAIRS: usize = 12;
const MAX_RATIO: f64 = 1.15;

/// Measures cold creates; see the module.
///
/// # Errors
/// When a machine does not boot.
pub async fn measure(
    place: &Place,
    server: &Server,
    cancelled: &CancellationToken,
) -> anyhow::Result<Row> {
    let bare = Bare::prepare(place, warm_up(place, server).await?, 0, cancelled)?;
    bare.cold_start(|_| Ok(())).await?;
    let mut pairs = Pairs::default();
    for pair in 0..PAIRS {
        for side in side_order(pair) {
            let took = match side {
                Side::Ours => ours(server).await?,
                Side::Bare => bare.cold_start(|_| Ok(())).await?.0.as_secs_f64(),
            };
            pairs.push(side, took * 1000.0);
        }
        print_progress("create", pair + 1, PAIRS);
    }
    Ok(pairs.row(
        "cold create to first exec result",
        "ms",
        Better::Lower,
        Target::RatioAtMost(MAX_RATIO),
    ))
}

/// Runs the first sandbox, whose command line the bare machines take.
async fn warm_up(place: &Place, server: &Server) -> anyhow::Result<Command> {
    let sandbox = server.create(None).await?;
    server.exec(&sandbox).await?;
    let command = Command::of_sandbox(&server.dir_of(&sandbox), &place.boot()).await;
    server.client.delete(&sandbox.id).await?;
    command
}

async fn ours(server: &Server) -> anyhow::Result<f64> {
    let began = Instant::now();
    let sandbox = server.create(None).await?;
    server.exec(&sandbox).await?;
    let took = began.elapsed().as_secs_f64();
    server.client.delete(&sandbox.id).await?;
    Ok(took)
}
