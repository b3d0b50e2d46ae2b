//! Pause of a sandbox that has written so many bytes of its memory since it was last restored.
//! Ours: `POST …/pause`. Bare: as many bytes, written to a file in the same file system and made
//! durable.
//!
//! And the memory file that the pause leaves on disk, against the pages that the kernel says the
//! guest had for its own just before: its VMM's mapping of the memory is private, so pages that
//! were written are anonymous.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use client::types::Sandbox;

use crate::command::{Command, monitor_of};
use crate::pairs::{Pairs, Side, print_progress, side_order};
use crate::place::Place;
use crate::report::{Row, Target};
use crate::restore;
use crate::server::Server;
use crate::stats::Better;

/// MiB of memory; a guest lets files in memory have half.
const MEMORY_MB: u32 = 640;
const REPEATS: usize = 4;
/// MiB, and the rows for them.
const DIRTY: [(usize, &str, &str); 3] = [
    (
        0,
        "pause with nothing dirty",
        "its memory on disk, per dirty bytes",
    ),
    (
        64,
        "pause with 64 MiB dirty",
        "its memory on disk, per dirty bytes",
    ),
    (
        256,
        "pause with 256 MiB dirty",
        "its memory on disk, per dirty bytes",
    ),
];
const MAX_TIMES: f64 = 1.3;
const MAX_PLUS_MS: f64 = 100.0;
const MAX_SIZE: f64 = 1.05;

/// Measures pauses; see the module.
///
/// # Errors
/// When the sandbox cannot be paused, or does not come back.
pub async fn measure(place: &Place, server: &Server) -> anyhow::Result<Vec<Row>> {
    restore::prepare_shape(place, server, MEMORY_MB).await?;
    let sandbox = server.create(Some(MEMORY_MB)).await?;
    let mut content = vec![0; 256 << 20];
    rand::fill(&mut content[..]);
    let mut rows = Vec::new();
    for (mib, name, name_of_size) in DIRTY {
        let mut time = Pairs::default();
        let mut size = Pairs::default();
        for repeat in 0..REPEATS {
            for side in side_order(repeat) {
                let took = match side {
                    Side::Ours => ours(server, &sandbox, mib, &mut size).await?,
                    Side::Bare => bare(&place.run().join("written"), &content[..mib << 20])?,
                };
                time.push(side, took);
            }
            print_progress(name, repeat + 1, REPEATS);
        }
        let target = Target::AtMostOfBare {
            times: MAX_TIMES,
            plus: MAX_PLUS_MS,
        };
        rows.push(time.row(name, "ms", Better::Lower, target));
        if mib > 0 {
            rows.push(size.row(
                name_of_size,
                "MB",
                Better::Lower,
                Target::RatioAtMost(MAX_SIZE),
            ));
        }
    }
    server.client.delete(&sandbox.id).await?;
    Ok(rows)
}

/// Measures a pause, in milliseconds; the sandbox runs before and after it.
async fn ours(
    server: &Server,
    sandbox: &Sandbox,
    mib: usize,
    size: &mut Pairs,
) -> anyhow::Result<f64> {
    // Also where there is nothing to write: what it does only after a resume is over then.
    let script = if mib > 0 {
        format!("head -c {} /dev/urandom > /dev/shm/dirty", mib << 20)
    } else {
        "true".into()
    };
    server
        .shell(sandbox, &script)
        .await
        .context("cannot fill the guest's memory")?;
    let dir = server.dir_of(sandbox);
    let dirty = own_bytes(&dir).await?;
    let began = Instant::now();
    server.client.pause(&sandbox.id).await?;
    let took = began.elapsed().as_secs_f64() * 1000.0;
    let written = linux::file::allocated_bytes(&dir.join("paused/memory/memory.diff"))?;
    size.push(Side::Ours, megabytes(written));
    size.push(Side::Bare, megabytes(dirty));
    server.client.resume(&sandbox.id).await?;
    Ok(took)
}

fn bare(path: &Path, content: &[u8]) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()?;
    let took = began.elapsed().as_secs_f64() * 1000.0;
    fs::remove_file(path)?;
    Ok(took)
}

/// Returns the bytes of the guest's memory that are not those of the file below.
async fn own_bytes(dir: &Path) -> anyhow::Result<u64> {
    let pid = monitor_of(dir)?;
    let mapped = Command::of_sandbox(dir, dir)
        .await?
        .mapped()
        .context("the sandbox does not go on from an instant")?;
    let name = Path::new(&mapped)
        .file_name()
        .context("its memory has no name")?
        .to_string_lossy()
        .into_owned();
    let text = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    parse(&text, &name).with_context(|| format!("process {pid} maps no {name}"))
}

/// Sums a field over all mappings of the file `name`.
fn parse(smaps: &str, name: &str) -> Option<u64> {
    let mut wanted = false;
    let mut found = None;
    for line in smaps.lines() {
        let first = line.split_ascii_whitespace().next().unwrap_or_default();
        if !first.ends_with(':') {
            wanted = line.rsplit('/').next() == Some(name);
        } else if wanted && first == "Anonymous:" {
            let kib: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
            found = Some(found.unwrap_or(0) + kib * 1024);
        }
    }
    found
}

#[allow(clippy::cast_precision_loss)]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_memory_mappings_count() {
        let smaps = "7f00-7f10 rw-p 0 07:03 5   /dev/loop3\nSize: 64 kB\nAnonymous:  8 kB\nVmFlags: rd\n\
                     7f20-7f30 rw-p 0 00:00 0 \nAnonymous: 4 kB\n\
                     7f40-7f50 rw-p 0 07:03 5 /dev/loop3\nAnonymous: 4 kB\n";
        assert_eq!(parse(smaps, "loop3"), Some(12 * 1024));
        assert_eq!(parse(smaps, "loop"), None);
    }
}
