//! Paths of a run.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use linux::file::Lock;

/// Directories of a run. Held by one run at a time.
#[derive(Debug)]
pub struct Place {
    checkout: PathBuf,
    bench: PathBuf,
    _lock: Lock,
}

impl Place {
    /// Takes the directory for this run. Remains of an earlier one are still there: see
    /// [`crate::cleanup`].
    ///
    /// # Errors
    /// When something is missing that the run needs, or another run is under way.
    pub fn lock() -> anyhow::Result<Self> {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("..")
            .canonicalize()?;
        ensure!(
            hostd::doctor::is_root(),
            "the benchmarks run real VMs and need root; type: sudo make bench"
        );
        let bench = checkout.join("target/bench");
        fs::create_dir_all(&bench)?;
        let Some(lock) = Lock::try_take(&bench.join("lock"))? else {
            bail!(
                "another run is under way in {}; wait for its end",
                bench.display()
            );
        };
        let place = Self {
            checkout,
            bench,
            _lock: lock,
        };
        for needed in [
            place.program(),
            place.control_plane(),
            place.kernels().join("vmlinux"),
            place.image(),
        ] {
            ensure!(
                needed.exists(),
                "{} is missing; `make bench` makes it",
                needed.display()
            );
        }
        Ok(place)
    }

    /// Makes the directories of a run that begins.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn create_dirs(&self) -> anyhow::Result<()> {
        let _ = fs::remove_file(self.log());
        Ok(fs::create_dir_all(self.installation())?)
    }

    /// Returns the path of `wrenn`, which has `envd` beside it.
    pub fn program(&self) -> PathBuf {
        self.checkout.join("builds/wrenn")
    }

    pub fn control_plane(&self) -> PathBuf {
        self.checkout.join("builds/wrenn-cp")
    }

    pub fn kernels(&self) -> PathBuf {
        self.checkout.join("target/testdata/kernels")
    }

    pub fn image(&self) -> PathBuf {
        self.checkout.join("target/testdata/images/minimal.ext4")
    }

    /// Returns the path of the server's log, which is kept after the run.
    pub fn log(&self) -> PathBuf {
        self.bench.join("wrenn.log")
    }

    pub fn report(&self) -> PathBuf {
        self.bench.join("report.json")
    }

    /// Returns the directory of everything that is removed at the end.
    pub fn run(&self) -> PathBuf {
        self.bench.join("run")
    }

    /// Returns `WRENN_DIR` of the server.
    pub fn installation(&self) -> PathBuf {
        self.run().join("wrenn")
    }

    /// Returns the directories in which disks of the run may be.
    pub fn disk_roots(&self) -> [PathBuf; 3] {
        [
            self.disks(),
            self.bare(),
            self.installation().join("sandboxes"),
        ]
    }

    /// Returns the directory of disks that are measured by themselves.
    pub fn disks(&self) -> PathBuf {
        self.run().join("disks")
    }

    /// Returns the directory with kernel and initramfs of the sandboxes.
    pub fn boot(&self) -> PathBuf {
        self.run().join("boot")
    }

    /// Returns the directory of snapshots from which bare machines are restored.
    pub fn saved(&self) -> PathBuf {
        self.run().join("saved")
    }

    /// Returns the directory of bare machines, which have a directory each in it.
    pub fn bare(&self) -> PathBuf {
        self.run().join("bare")
    }
}
