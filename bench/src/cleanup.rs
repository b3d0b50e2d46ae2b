//! Cleanup of everything of a run on this machine: found by names that only we use, so that what a
//! killed run left is cleared like what this one leaves.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use hostd::network::{Holder, NetworkSettings, Networks, SandboxNetworks};
use linux::process::Process;

use crate::place::Place;
use crate::{bare, disks};

/// Time for killed processes to end.
const END_TIMEOUT: Duration = Duration::from_secs(20);
/// Programs that a run starts.
const PROGRAMS: [&str; 4] = ["wrenn", "env", "qemu-system", "firecracker"];

/// Ends every process of the run and takes everything else of it away. Goes on past errors.
///
/// # Errors
/// The first thing that stays.
pub fn clear_all(place: &Place) -> anyhow::Result<()> {
    let processes = end_processes(&place.run()).context("processes of the run");
    let disks = disks::clear_devices(&place.disk_roots()).context("disk devices of the run");
    let networks = clear_networks(place).context("networks of the run");
    let bare = bare::clear_namespaces().context("the network namespaces of bare machines");
    let files = remove_all(&place.run());
    processes.and(disks).and(networks).and(bare).and(files)
}

/// Takes bare machines away that a group of rows has left when it failed, so that the next one
/// finds none.
///
/// # Errors
/// The first thing that stays.
pub fn clear_bare(place: &Place) -> anyhow::Result<()> {
    let processes = end_processes(&place.bare()).context("bare machines");
    let disks = disks::clear_devices(&[place.bare(), place.disks()])
        .context("disk devices of bare machines");
    let networks = bare::clear_namespaces().context("the network namespaces of bare machines");
    let files = remove_all(&place.bare()).and(remove_all(&place.disks()));
    processes.and(disks).and(networks).and(files)
}

/// Gives back networks that the group `network` has left when it failed. Not while a server
/// runs, whose networks would go, too.
///
/// # Errors
/// The first thing that stays.
pub fn clear_networks(place: &Place) -> anyhow::Result<()> {
    let networks = Networks::prepare(&place.installation(), &NetworkSettings::default())?;
    for (slot, holder) in networks.claimed()? {
        if matches!(holder, Holder::Ours(_)) {
            networks.clear(slot)?;
        }
    }
    Ok(())
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

/// Returns true if a command line (arguments separated by NUL) is one of our programs and names the
/// run's directory.
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
    fn only_own_processes_are_ended() {
        let is_ours = |line: &str| is_ours(line.replace(' ', "\0").as_bytes(), "/x/run/");
        assert!(is_ours("/b/wrenn up --dir /x/run/wrenn"));
        assert!(is_ours(
            "/usr/bin/qemu-system-x86_64 -pidfile /x/run/bare/vm/run/qemu.pid"
        ));
        assert!(!is_ours("/b/wrenn up --dir /x/run2/wrenn"));
        assert!(!is_ours("tail -f /x/run/wrenn/log"));
    }
}
