//! Create from a guest that has booted, to the result of a first program: one at a time, and many
//! at once.
//!
//! Ours: `POST /v1/sandboxes` and one exec, with the default shape, of which a first sandbox has
//! booted before. Disk, network, jail, restore and the guest's own identity are all in it. Bare:
//! see [`crate::restore`], from the same snapshot, and one program, asked directly. Directories and
//! disks of the bare machines are ready before the clock starts, and taking machines away is
//! outside both clocks.

use std::time::Instant;

use client::types::Sandbox;
use futures::future::{join_all, try_join_all};
use tokio_util::sync::CancellationToken;

use crate::bare::{self, Bare, Until};
use crate::pairs::{Pairs, Side, print_progress, side_order};
use crate::place::Place;
use crate::report::{Row, Target};
use crate::restore;
use crate::server::Server;
use crate::stats::Better;

/// Memory of sandboxes by default.
pub const MEMORY_MB: u32 = 512;
const PAIRS: usize = 30;
/// Numbers of creates at once and of rounds: so many that starts would show it if one made the
/// others slower.
const AT_ONCE: [(usize, usize, &str); 2] = [
    (16, 3, "the same, 16 at a time"),
    (CROWD, 2, "the same, 50 at a time"),
];
const CROWD: usize = 50;
const MAX_RATIO: f64 = 1.15;
const MAX_RATIO_OF_WORST: f64 = 1.5;
const MIN_THROUGHPUT: f64 = 0.9;

/// Measures warm creates; see the module.
///
/// # Errors
/// When a machine does not start.
pub async fn measure(
    place: &Place,
    server: &Server,
    cancelled: &CancellationToken,
) -> anyhow::Result<Vec<Row>> {
    let (command, saved) = restore::prepare_shape(place, server, MEMORY_MB).await?;
    let prepare =
        |number| anyhow::Ok(Bare::prepare(place, command.clone(), number, cancelled)?.over(&saved));
    let bare: Vec<Bare> = (0..CROWD).map(prepare).collect::<anyhow::Result<_>>()?;
    bare[0].turn(Until::Program).await?;
    let mut one = Pairs::default();
    for pair in 0..PAIRS {
        for side in side_order(pair) {
            let took = match side {
                Side::Ours => ours(server).await?,
                Side::Bare => bare[0].turn(Until::Program).await?,
            };
            one.push(side, took);
        }
        print_progress("warm", pair + 1, PAIRS);
    }
    let mut rows = vec![
        one.row(
            "warm create to first exec result",
            "ms",
            Better::Lower,
            Target::RatioAtMost(MAX_RATIO),
        ),
        one.row_of_worst(
            "the same, p99",
            "ms",
            Target::RatioAtMost(MAX_RATIO_OF_WORST),
        ),
    ];
    for (count, rounds, name) in AT_ONCE {
        let many = at_once(server, &bare[..count], rounds).await?;
        rows.push(many.row(
            name,
            "per s",
            Better::Higher,
            Target::RatioAtLeast(MIN_THROUGHPUT),
        ));
    }
    Ok(rows)
}

/// Measures starts of as many sandboxes of ours as there are bare machines, and of these, all at
/// once.
async fn at_once(server: &Server, bare: &[Bare], rounds: usize) -> anyhow::Result<Pairs> {
    let mut many = Pairs::default();
    for round in 0..rounds {
        for side in side_order(round) {
            let took = match side {
                Side::Ours => ours_at_once(server, bare.len()).await?,
                Side::Bare => bare_at_once(bare).await?,
            };
            many.push(side, per_second(bare.len(), took));
        }
        print_progress(
            &format!("warm: {} at a time", bare.len()),
            round + 1,
            rounds,
        );
    }
    Ok(many)
}

async fn start(server: &Server) -> anyhow::Result<Sandbox> {
    let sandbox = server.create(Some(MEMORY_MB)).await?;
    server.exec(&sandbox).await?;
    Ok(sandbox)
}

async fn ours(server: &Server) -> anyhow::Result<f64> {
    let began = Instant::now();
    let sandbox = start(server).await?;
    let took = began.elapsed().as_secs_f64() * 1000.0;
    server.client.delete(&sandbox.id).await?;
    Ok(took)
}

async fn ours_at_once(server: &Server, count: usize) -> anyhow::Result<f64> {
    let began = Instant::now();
    let sandboxes = try_join_all((0..count).map(|_| start(server))).await?;
    let took = began.elapsed().as_secs_f64();
    for sandbox in &sandboxes {
        server.client.delete(&sandbox.id).await?;
    }
    Ok(took)
}

/// Starts all bare machines at once. If one of them does not start, the round is run again: its
/// time says nothing.
async fn bare_at_once(machines: &[Bare]) -> anyhow::Result<f64> {
    let mut attempt = 1;
    loop {
        match one_round(machines).await {
            Err(error) if attempt < bare::ATTEMPTS && !machines.iter().any(Bare::is_cancelled) => {
                bare::note_started_again(&error);
            }
            took => return took,
        }
        attempt += 1;
    }
}

async fn one_round(bare: &[Bare]) -> anyhow::Result<f64> {
    let ready = try_join_all(bare.iter().map(Bare::ready)).await?;
    let began = Instant::now();
    let started = join_all(ready.into_iter().map(|ready| ready.start(Until::Program))).await;
    let took = began.elapsed().as_secs_f64();
    // All of them, before the first error is told.
    let mut ended = Ok(());
    for running in started {
        ended = ended.and(match running {
            Ok(running) => running.end().await,
            Err(error) => Err(error),
        });
    }
    ended.map(|()| took)
}

#[allow(clippy::cast_precision_loss)]
fn per_second(count: usize, took: f64) -> f64 {
    count as f64 / took
}
