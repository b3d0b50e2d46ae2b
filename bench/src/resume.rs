//! Resume: from paused to running. Ours: `POST …/resume`, which answers once the guest has been
//! told who and when it is. Bare: see [`crate::restore`], from the same snapshot, to the answer to
//! `/init`. The pauses in between are outside both clocks, with the work that they leave for after
//! their answer: either side begins after the same rest.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::bare::{Bare, Until};
use crate::pairs::{Pairs, Side, print_progress, side_order};
use crate::place::Place;
use crate::report::{Row, Target};
use crate::restore::{self, Saved};
use crate::server::Server;
use crate::stats::Better;
use crate::warm::MEMORY_MB;

const PAIRS: usize = 12;
/// A pause that has answered gives VM and network back, which takes some 100 ms.
const REST: Duration = Duration::from_millis(500);
const MAX_RATIO: f64 = 1.15;

/// Measures resumes; see the module.
///
/// # Errors
/// When the sandbox cannot be paused, or does not come back.
pub async fn measure(
    place: &Place,
    server: &Server,
    cancelled: &CancellationToken,
) -> anyhow::Result<Row> {
    let (command, _) = restore::prepare_shape(place, server, MEMORY_MB).await?;
    let sandbox = server.create(Some(MEMORY_MB)).await?;
    server.exec(&sandbox).await?;
    server.client.pause(&sandbox.id).await?;
    let dir = server.dir_of(&sandbox);
    let saved = Saved::copy_snapshot(place, "paused", &dir.join("paused"), &dir)?;
    let bare = Bare::prepare(place, command, 0, cancelled)?.over(&saved);
    bare.turn(Until::Ready).await?;
    let mut pairs = Pairs::default();
    for pair in 0..PAIRS {
        for side in side_order(pair) {
            tokio::time::sleep(REST).await;
            let took = match side {
                Side::Ours => {
                    let began = Instant::now();
                    server.client.resume(&sandbox.id).await?;
                    let took = began.elapsed().as_secs_f64() * 1000.0;
                    server.client.pause(&sandbox.id).await?;
                    took
                }
                Side::Bare => bare.turn(Until::Ready).await?,
            };
            pairs.push(side, took);
        }
        print_progress("resume", pair + 1, PAIRS);
    }
    server.client.delete(&sandbox.id).await?;
    Ok(pairs.row(
        "resume",
        "ms",
        Better::Lower,
        Target::RatioAtMost(MAX_RATIO),
    ))
}
