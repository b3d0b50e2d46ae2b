//! The directory of a run, and everything else of it on this machine: found by names that only we
//! use, so that what a killed run left is cleared like what this one leaves.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use hostd::network::{Holder, NetworkSettings, Networks};
use linux::file::Lock;
use linux::process::Process;

use crate::disks;

/// For killed processes to end.
const END_TIMEOUT: Duration = Duration::from_secs(20);
/// Programs that a run starts.
const PROGRAMS: [&str; 4] = ["wrenn", "env", "qemu-system", "firecracker"];

/// Where the files of a run are. Held by one run at a time.
#[derive(Debug)]
pub struct Place {
    checkout: PathBuf,
    bench: PathBuf,
    _lock: Lock,
}

impl Place {
    /// Clears what an earlier run left, and makes the directory.
    ///
    /// # Errors
    /// When something is missing that the run needs, or another run is under way.
    pub fn prepare() -> anyhow::Result<Self> {
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
            place.kernels().join("vmlinux"),
            place.image(),
        ] {
            ensure!(
                needed.exists(),
                "{} is missing; `make bench` makes it",
                needed.display()
            );
        }
        place
            .clear()
            .context("an earlier run left something that cannot be taken away")?;
        let _ = fs::remove_file(place.log());
        fs::create_dir_all(place.installation())?;
        Ok(place)
    }

    /// `wrenn`, with `envd` beside it.
    pub fn program(&self) -> PathBuf {
        self.checkout.join("builds/wrenn")
    }

    pub fn kernels(&self) -> PathBuf {
        self.checkout.join("target/testdata/kernels")
    }

    pub fn image(&self) -> PathBuf {
        self.checkout.join("target/testdata/images/minimal.ext4")
    }

    /// What the server said; kept after the run.
    pub fn log(&self) -> PathBuf {
        self.bench.join("wrenn.log")
    }

    pub fn report(&self) -> PathBuf {
        self.bench.join("report.json")
    }

    /// Everything that goes at the end.
    pub fn run(&self) -> PathBuf {
        self.bench.join("run")
    }

    /// `WRENN_DIR` of the server.
    pub fn installation(&self) -> PathBuf {
        self.run().join("wrenn")
    }

    /// Where disks of the run may be.
    fn roots(&self) -> [PathBuf; 3] {
        [
            self.disks(),
            self.bare(),
            self.installation().join("sandboxes"),
        ]
    }

    /// Disks that are measured by themselves.
    pub fn disks(&self) -> PathBuf {
        self.run().join("disks")
    }

    /// Kernel and initramfs of the sandboxes.
    pub fn boot(&self) -> PathBuf {
        self.run().join("boot")
    }

    /// Instants of sandboxes that bare machines go on from.
    pub fn saved(&self) -> PathBuf {
        self.run().join("saved")
    }

    /// Files of bare machines, in a directory for each.
    pub fn bare(&self) -> PathBuf {
        self.run().join("bare")
    }

    /// Ends every process of the run and takes everything else of it away. Goes on past errors.
    ///
    /// # Errors
    /// The first thing that stays.
    pub fn clear(&self) -> anyhow::Result<()> {
        let processes = end_processes(&self.run()).context("processes of the run");
        let disks = disks::clear(&self.roots()).context("disk devices of the run");
        let networks = self.clear_networks().context("networks of the run");
        let bare = crate::bare::clear().context("the network namespaces of bare machines");
        let files = remove_all(&self.run());
        processes.and(disks).and(networks).and(bare).and(files)
    }

    /// Takes bare machines away that a group of rows has left when it failed, so that the next one
    /// finds none.
    ///
    /// # Errors
    /// The first thing that stays.
    pub fn clear_bare(&self) -> anyhow::Result<()> {
        let processes = end_processes(&self.bare()).context("bare machines");
        let disks =
            disks::clear(&[self.bare(), self.disks()]).context("disk devices of bare machines");
        let networks = crate::bare::clear().context("the network namespaces of bare machines");
        let files = remove_all(&self.bare()).and(remove_all(&self.disks()));
        processes.and(disks).and(networks).and(files)
    }

    /// Gives back networks that the group `network` has left when it failed. Not while a server
    /// runs, whose networks would go, too.
    ///
    /// # Errors
    /// The first thing that stays.
    pub fn clear_networks(&self) -> anyhow::Result<()> {
        let networks = Networks::prepare(&self.installation(), &NetworkSettings::default())?;
        for (slot, holder) in networks.claimed()? {
            if matches!(holder, Holder::Ours(_)) {
                networks.clear(slot)?;
            }
        }
        Ok(())
    }
}

fn end_processes(dir: &Path) -> anyhow::Result<()> {
    let needle = format!("{}/", dir.display());
    let processes = linux::process::find(|cmdline| is_ours(cmdline, &needle))?;
    processes.iter().try_for_each(Process::kill)?;
    for process in &processes {
        ensure!(
            process.wait(END_TIMEOUT)?.is_some(),
            "process {} does not end",
            process.pid()
        );
    }
    Ok(())
}

fn remove_all(dir: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).context(format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Whether a command line (arguments separated by NUL) is one of our programs and names the run's
/// directory.
fn is_ours(cmdline: &[u8], needle: &str) -> bool {
    let text = String::from_utf8_lossy(cmdline);
    let program = text.split('\0').next().unwrap_or_default();
    let name = program.rsplit('/').next().unwrap_or_default();
    PROGRAMS.iter().any(|known| name.starts_with(known)) && text.contains(needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_programs_in_our_directory_are_ended() {
        let is_ours = |line: &str| is_ours(line.replace(' ', "\0").as_bytes(), "/x/run/");
        assert!(is_ours("/b/wrenn up --dir /x/run/wrenn"));
        assert!(is_ours(
            "/usr/bin/qemu-system-x86_64 -pidfile /x/run/bare/vm/run/qemu.pid"
        ));
        assert!(!is_ours("/b/wrenn up --dir /x/run2/wrenn"));
        assert!(!is_ours("tail -f /x/run/wrenn/log"));
    }
}
