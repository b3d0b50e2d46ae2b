//! Disks by the kernel's device mapper: made and taken away, in milliseconds.
//!
//! Ours: [`Disks`], as the host agent calls it, with the name that keeps the base alive and the
//! space that is set aside for the first writes. Bare: the same store, loop device and snapshot
//! over the same base, made with the kernel's calls and nothing else. On both sides one more disk
//! is there all the time, so that the base is attached already.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use hostd::disk::{Backend, Chosen, Disks, size_bytes};
use linux::dm::{self, Number, Target as Table};
use linux::loopdev::{self, Access, LoopDevice};
use model::SandboxId;
use tokio_util::sync::CancellationToken;

use crate::pairs::{Pairs, Side, print_progress, side_order};
use crate::place::Place;
use crate::report::{Row, Target};
use crate::stats::Better;

/// Names of our bare devices begin so.
const PREFIX: &str = "wbench-";

const PAIRS: usize = 50;
const MAX_RATIO: f64 = 1.25;
/// Mark of our bare loop devices.
const MARK: &str = "wbench";

/// Measures create and remove of disks; no rows where the kernel has no device mapper, which is
/// said.
///
/// # Errors
/// When a disk cannot be made or taken away.
pub async fn measure(place: &Place, cancelled: &CancellationToken) -> anyhow::Result<Vec<Row>> {
    if !dm::is_there() {
        eprintln!("disks: this kernel has no device mapper, so there is nothing to measure");
        return Ok(Vec::new());
    }
    let dir = place.disks();
    let image = place.image();
    let cancelled = cancelled.clone();
    tokio::task::spawn_blocking(move || measure_in(&dir, &image, &cancelled)).await?
}

fn measure_in(dir: &Path, image: &Path, cancelled: &CancellationToken) -> anyhow::Result<Vec<Row>> {
    fs::create_dir_all(dir)?;
    let ours = Ours::new(dir, image)?;
    let bare = Bare::new(dir, image)?;
    let mut create = Pairs::default();
    let mut remove = Pairs::default();
    for pair in 0..PAIRS {
        for side in side_order(pair) {
            let [made, removed] = match side {
                Side::Ours => ours.turn()?,
                Side::Bare => bare.turn()?,
            };
            create.push(side, made);
            remove.push(side, removed);
        }
        print_progress("disks", pair + 1, PAIRS);
        anyhow::ensure!(!cancelled.is_cancelled(), "interrupted");
    }
    ours.end()?;
    let row =
        |pairs: &Pairs, name| pairs.row(name, "ms", Better::Lower, Target::RatioAtMost(MAX_RATIO));
    Ok(vec![
        row(&create, "device-mapper disk made"),
        row(&remove, "device-mapper disk removed"),
    ])
}

/// Removes the remains of a killed run: bare devices, and those of the disks in `roots`. Their loop
/// devices go with them.
///
/// # Errors
/// The first device that stays.
pub fn clear_devices(roots: &[PathBuf]) -> anyhow::Result<()> {
    if !dm::is_there() {
        return Ok(());
    }
    for name in dm::list(PREFIX)? {
        dm::remove(&name)?;
    }
    for root in roots.iter().filter(|root| root.exists()) {
        if let Some(error) = disks_in(root)?
            .reclaim_devices(&BTreeSet::new())
            .into_iter()
            .next()
        {
            return Err(error.into());
        }
    }
    Ok(())
}

fn disks_in(dir: &Path) -> Result<Disks, hostd::disk::Error> {
    Disks::new(
        dir,
        Chosen {
            backend: Backend::DeviceMapper,
            why: String::new(),
        },
    )
}

fn timed(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed().as_secs_f64() * 1000.0)
}

struct Ours {
    disks: Disks,
    dir: PathBuf,
    image: PathBuf,
    bytes: u64,
    stays: SandboxId,
}

impl Ours {
    fn new(dir: &Path, image: &Path) -> anyhow::Result<Self> {
        let disks = disks_in(dir)?;
        let bytes = size_bytes(image, None)?;
        let ours = Self {
            disks,
            dir: dir.to_owned(),
            image: image.to_owned(),
            bytes,
            stays: SandboxId::random(),
        };
        ours.create(&ours.stays)?;
        Ok(ours)
    }

    fn create(&self, id: &SandboxId) -> anyhow::Result<()> {
        let dir = self.dir.join(id.as_str());
        fs::create_dir(&dir)?;
        self.disks.create(id, &self.image, &dir, self.bytes)?;
        Ok(())
    }

    fn remove(&self, id: &SandboxId) -> anyhow::Result<()> {
        let dir = self.dir.join(id.as_str());
        self.disks.remove(id, &dir)?;
        fs::remove_dir(dir).context("the directory of a disk")
    }

    fn turn(&self) -> anyhow::Result<[f64; 2]> {
        let id = SandboxId::random();
        Ok([timed(|| self.create(&id))?, timed(|| self.remove(&id))?])
    }

    fn end(self) -> anyhow::Result<()> {
        self.remove(&self.stays)
    }
}

struct Bare {
    base: LoopDevice,
    store: PathBuf,
    bytes: u64,
}

impl Bare {
    fn new(dir: &Path, image: &Path) -> anyhow::Result<Self> {
        let base = loopdev::attach(image, Access::ReadOnly, MARK)?;
        Ok(Self {
            base,
            store: dir.join("bare.cow"),
            bytes: size_bytes(image, None)?,
        })
    }

    fn create(&self, name: &str) -> anyhow::Result<()> {
        let store = File::create_new(&self.store)?;
        // Sparse, so more than enough costs nothing.
        store.set_len(self.bytes * 2)?;
        let cow = loopdev::attach(&self.store, Access::ReadWrite, MARK)?;
        let origin = Number::of_loop(self.base.number());
        let cow = Number::of_loop(cow.number());
        dm::create(
            name,
            name,
            &[Table::Snapshot {
                sectors: self.bytes / dm::SECTOR,
                origin,
                cow,
            }],
            false,
        )?;
        Ok(())
    }

    fn turn(&self) -> anyhow::Result<[f64; 2]> {
        let name = format!("{PREFIX}{}", std::process::id());
        let made = timed(|| self.create(&name))?;
        // The store's loop device goes with its last user.
        let removed = timed(|| {
            dm::remove(&name)?;
            fs::remove_file(&self.store).context("the store of a bare disk")
        })?;
        Ok([made, removed])
    }
}
