//! Forks: a running sandbox, and eight children of its snapshot.
//!
//! How long the source stands still is seen from outside: its virtual CPU has work all the time, so
//! its thread sleeps only while the machine is stopped. That is against a whole pause of it. What a
//! child costs: `POST …/fork` of a sandbox that idles, divided by the children, against one bare
//! machine that is restored from a snapshot ([`crate::restore`]).

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use client::types::Sandbox;
use tokio_util::sync::CancellationToken;

use crate::bare::{Bare, Until};
use crate::command::monitor_of;
use crate::pairs::{Pairs, Side, print_progress, side_order};
use crate::place::Place;
use crate::report::{Row, Target};
use crate::restore;
use crate::server::Server;
use crate::stats::Better;
use crate::warm::MEMORY_MB;

const CHILDREN: u32 = 8;
const REPEATS: usize = 4;
const MAX_RATIO: f64 = 1.15;
/// Interval between two looks at the thread.
const LOOK: Duration = Duration::from_micros(500);
/// Busy loop, which ends in children as soon as they have a name of their own.
pub const WORK: &str = "read a < /proc/sys/kernel/hostname; b=$a; \
                    while [ \"$a\" = \"$b\" ]; do read b < /proc/sys/kernel/hostname; done";

/// Measures forks; see the module.
///
/// # Errors
/// When the sandbox cannot be forked or paused.
pub async fn measure(
    place: &Place,
    server: &Server,
    cancelled: &CancellationToken,
) -> anyhow::Result<[Row; 2]> {
    let (command, saved) = restore::prepare_shape(place, server, MEMORY_MB).await?;
    let bare = Bare::prepare(place, command, 0, cancelled)?.over(&saved);
    let source = server.create(Some(MEMORY_MB)).await?;
    let mut child = Pairs::default();
    for repeat in 0..REPEATS {
        for side in side_order(repeat) {
            let took = match side {
                Side::Ours => fork(server, &source).await? / f64::from(CHILDREN),
                Side::Bare => bare.turn(Until::Ready).await?,
            };
            child.push(side, took);
        }
        print_progress("fork: children", repeat + 1, REPEATS);
    }
    server
        .shell(&source, &format!("({WORK}) > /dev/null 2>&1 &"))
        .await?;
    let mut still = Pairs::default();
    for repeat in 0..REPEATS {
        for side in side_order(repeat) {
            let took = match side {
                Side::Ours => measure_stop(server, &source, fork(server, &source)).await?,
                Side::Bare => pause(server, &source).await?,
            };
            still.push(side, took);
        }
        print_progress("fork: source", repeat + 1, REPEATS);
    }
    server.client.delete(&source.id).await?;
    Ok([
        still.row(
            "fork of 8, source stands still (bare: a pause)",
            "ms",
            Better::Lower,
            Target::RatioAtMost(1.0),
        ),
        child.row(
            "fork of 8, per child",
            "ms",
            Better::Lower,
            Target::RatioAtMost(MAX_RATIO),
        ),
    ])
}

async fn fork(server: &Server, source: &Sandbox) -> anyhow::Result<f64> {
    let began = Instant::now();
    let children = server.client.fork(&source.id, CHILDREN).await?;
    let took = began.elapsed().as_secs_f64() * 1000.0;
    for child in &children {
        server.client.delete(&child.id).await?;
    }
    Ok(took)
}

async fn pause(server: &Server, source: &Sandbox) -> anyhow::Result<f64> {
    let began = Instant::now();
    server.client.pause(&source.id).await?;
    let took = began.elapsed().as_secs_f64() * 1000.0;
    server.client.resume(&source.id).await?;
    Ok(took)
}

/// Measures how long a sandbox that runs [`WORK`] did not run during `work`, in milliseconds.
///
/// # Errors
/// The error of `work`; when the sandbox does not work.
pub async fn measure_stop<T>(
    server: &Server,
    sandbox: &Sandbox,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<f64> {
    let pid = monitor_of(&server.dir_of(sandbox))?;
    let over = Arc::new(AtomicBool::new(false));
    let watch = tokio::task::spawn_blocking({
        let over = Arc::clone(&over);
        move || longest_sleep(pid, &over)
    });
    // Not by the first error: the other thread wants to know that it is over.
    let done = work.await;
    over.store(true, Ordering::Relaxed);
    let stopped = watch.await?;
    done?;
    Ok(stopped?.as_secs_f64() * 1000.0)
}

/// Returns the longest time that the busiest thread sleeps, which is that of the virtual CPU.
fn longest_sleep(pid: u32, over: &AtomicBool) -> anyhow::Result<Duration> {
    let mut most = 0;
    let mut path = None;
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = entry?.path().join("stat");
        let (_, ticks) = state(&fs::read_to_string(&stat)?).context("a thread without a state")?;
        if ticks >= most {
            (most, path) = (ticks, Some(stat));
        }
    }
    let path = path.context("the machine has no thread")?;
    let mut longest = Duration::ZERO;
    let mut since = None;
    let mut worked = false;
    while !over.load(Ordering::Relaxed) {
        let (runs, _) = state(&fs::read_to_string(&path)?).context("a thread without a state")?;
        worked |= runs;
        let began = *since.get_or_insert_with(Instant::now);
        if runs {
            longest = longest.max(began.elapsed());
            since = None;
        }
        std::thread::sleep(LOOK);
    }
    ensure!(
        worked,
        "the guest does not work, so nobody can see when it stands still"
    );
    Ok(longest)
}

/// Parses `/proc/PID/task/TID/stat`: true if the thread wants a CPU or has one, and its CPU time in
/// clock ticks.
fn state(stat: &str) -> Option<(bool, u64)> {
    let mut fields = stat.rsplit(')').next()?.split_ascii_whitespace();
    let runs = fields.next()? == "R";
    // Fields 14 and 15 of proc(5), of which the third was just taken.
    let user: u64 = fields.nth(10)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((runs, user + system))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_says_what_it_does() {
        let stat = "7 (a) b) R 1 7 7 0 -1 64 0 0 0 0 30 12 0 0 20 0 4 0 99 0 0";
        assert_eq!(state(stat), Some((true, 42)));
        assert_eq!(state("7 (x) S 1"), None);
    }
}
