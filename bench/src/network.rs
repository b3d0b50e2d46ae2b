//! Networks of sandboxes: made, removed and taken from the pool, in milliseconds, by [`Networks`]
//! as the host agent calls it.
//!
//! | row | ours | bare |
//! |---|---|---|
//! | made, removed | beside 500 others | beside 10, before and after those 500 |
//! | from the pool | a claim of one that is ready | one that is claimed and made |

use std::time::{Duration, Instant};

use anyhow::ensure;
use hostd::network::{NetworkSettings, Networks, SandboxNetworks, Slot};
use tokio_util::sync::CancellationToken;

use crate::in_memory;
use crate::pairs::{Pairs, Side, print_progress};
use crate::place::Place;
use crate::report::{Row, Target};
use crate::stats::Better;

const FEW: usize = 10;
const MANY: usize = 500;
/// Measured beside few and beside many.
const TIMES: usize = 40;
const MAX_RATIO: f64 = 1.2;
/// Limit on a claim of a network that is ready, in milliseconds.
const MAX_CLAIM: f64 = 1.0;
/// Time for the kernel to end what a removal began: it is still at the namespace, on a processor of
/// its own.
const SETTLE: Duration = Duration::from_millis(100);
/// Owner that claims name.
const SANDBOX: &str = "sb-bench";

/// Measures networks; see the module.
///
/// # Errors
/// When a network cannot be made or removed. Networks that remain are cleared with the run's place.
pub async fn measure(place: &Place, cancelled: &CancellationToken) -> anyhow::Result<[Row; 3]> {
    let owner = place.installation();
    let cancelled = cancelled.clone();
    let measured = move || {
        in_memory::with_networks(|| {
            measure_with(
                &Networks::prepare(&owner, &NetworkSettings::default())?,
                &cancelled,
            )
        })
    };
    tokio::task::spawn_blocking(measured).await?
}

fn measure_with(networks: &Networks, cancelled: &CancellationToken) -> anyhow::Result<[Row; 3]> {
    let mut made = Pairs::default();
    let mut removed = Pairs::default();
    let mut claimed = Pairs::default();
    let mut others = Vec::new();
    for (count, side, times) in [
        (FEW, Side::Bare, TIMES / 2),
        (MANY, Side::Ours, TIMES),
        (FEW, Side::Bare, TIMES / 2),
    ] {
        while others.len() < count {
            others.push(make(networks)?);
            ensure!(!cancelled.is_cancelled(), "interrupted");
        }
        while others.len() > count {
            others
                .pop()
                .map(|slot| networks.remove(slot, SANDBOX))
                .transpose()?;
        }
        for _ in 0..times {
            let (slot, took) = timed(|| make(networks))?;
            made.push(side, took);
            removed.push(side, timed(|| Ok(networks.remove(slot, SANDBOX)?))?.1);
            std::thread::sleep(SETTLE);
        }
        print_progress("network", count, MANY);
    }
    for _ in 0..TIMES {
        networks.preallocate(|_| 0)?;
        let (slot, took) = timed(|| make(networks))?;
        claimed.push(Side::Ours, took);
        networks.remove(slot, SANDBOX)?;
        let (slot, took) = timed(|| make(networks))?;
        claimed.push(Side::Bare, took);
        networks.remove(slot, SANDBOX)?;
    }
    others
        .into_iter()
        .try_for_each(|slot| networks.remove(slot, SANDBOX))?;
    let grows = Target::RatioAtMost(MAX_RATIO);
    Ok([
        made.row("network made beside 500", "ms", Better::Lower, grows),
        removed.row("network removed beside 500", "ms", Better::Lower, grows),
        claimed.row(
            "network from the pool",
            "ms",
            Better::Lower,
            Target::AtMostOfBare {
                times: 0.0,
                plus: MAX_CLAIM,
            },
        ),
    ])
}

/// Gets a network as a sandbox does: claims a slot, and creates its network unless it is ready.
fn make(networks: &Networks) -> anyhow::Result<Slot> {
    let slot = networks.claim(SANDBOX)?;
    networks.create(slot, 0)?;
    Ok(slot)
}

fn timed<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, f64)> {
    let began = Instant::now();
    let done = work()?;
    Ok((done, began.elapsed().as_secs_f64() * 1000.0))
}
