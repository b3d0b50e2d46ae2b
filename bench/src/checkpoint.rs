//! Automatic checkpoints of a sandbox that has written 16 MiB of its memory since the last one,
//! against those of one that has written nothing ("bare").
//!
//! Measured is how long the machine stands still: its virtual CPU has work all the time
//! ([`crate::fork`]). The policy is on only for the command that the checkpoint is made before.

use client::types::{AutoCheckpoint, Sandbox};

use crate::fork::{WORK, measure_stop};
use crate::pairs::{Pairs, Side, print_progress, side_order};
use crate::report::{Row, Target};
use crate::server::Server;
use crate::stats::Better;
use crate::warm::MEMORY_MB;

const REPEATS: usize = 6;
/// MiB that are written before a checkpoint.
const DIRTY: u32 = 16;
/// Milliseconds for which it may stand still longer.
const MAX_LONGER_MS: f64 = 100.0;

const BEFORE_EACH_COMMAND: AutoCheckpoint = AutoCheckpoint {
    before_each_command: true,
    every_sec: None,
    keep: 2,
    max_bytes: None,
};

/// Measures checkpoints; see the module.
///
/// # Errors
/// When one cannot be made.
pub async fn measure(server: &Server) -> anyhow::Result<Row> {
    let sandbox = server.create(Some(MEMORY_MB)).await?;
    let work = format!("({WORK}) > /dev/null 2>&1 &");
    server.shell(&sandbox, &work).await?;
    // The first checkpoint has all pages written since the boot, so it is not measured.
    write_memory(server, &sandbox).await?;
    stop_for_checkpoint(server, &sandbox).await?;
    let mut stops = Pairs::default();
    for repeat in 0..REPEATS {
        for side in side_order(repeat) {
            if side == Side::Ours {
                write_memory(server, &sandbox).await?;
            }
            stops.push(side, stop_for_checkpoint(server, &sandbox).await?);
        }
        print_progress("checkpoint", repeat + 1, REPEATS);
    }
    server.client.delete(&sandbox.id).await?;
    Ok(stops.row(
        "automatic checkpoint with 16 MiB dirty, stands still (bare: nothing dirty)",
        "ms",
        Better::Lower,
        Target::AtMostOfBare {
            times: 1.0,
            plus: MAX_LONGER_MS,
        },
    ))
}

async fn write_memory(server: &Server, sandbox: &Sandbox) -> anyhow::Result<()> {
    let script =
        format!("dd if=/dev/urandom of=/dev/shm/dirty bs=1M count={DIRTY} conv=notrunc 2>&1");
    server.shell(sandbox, &script).await
}

/// Runs a command with a checkpoint before it, and returns how long the machine stood still, in
/// milliseconds.
async fn stop_for_checkpoint(server: &Server, sandbox: &Sandbox) -> anyhow::Result<f64> {
    let id = &sandbox.id;
    server
        .client
        .set_auto_checkpoint(id, Some(&BEFORE_EACH_COMMAND))
        .await?;
    let stood = measure_stop(server, sandbox, server.shell(sandbox, "true")).await;
    server.client.set_auto_checkpoint(id, None).await?;
    stood
}
