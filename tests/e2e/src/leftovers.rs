//! Everything on the host that a platform could leave behind, listed before and after.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Names of processes, network namespaces, links, mounts, loop and device-mapper devices and
/// cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftovers(BTreeSet<String>);

impl Leftovers {
    #[must_use]
    pub fn list() -> Self {
        let mut all = BTreeSet::new();
        all.extend(processes());
        let namespaces = entries("/run/netns").chain(entries("/run/wrenn/netns"));
        all.extend(namespaces.map(|name| format!("network namespace {name}")));
        all.extend(entries("/sys/class/net").map(|name| format!("link {name}")));
        all.extend(entries("/dev/mapper").map(|name| format!("device-mapper device {name}")));
        all.extend(mounts());
        all.extend(loops());
        all.extend(cgroups(Path::new("/sys/fs/cgroup")));
        Self(all)
    }

    /// Panics with the list of what is there now and was not there when `self` was listed. What has
    /// just been told to end gets a moment for it.
    pub fn assert_nothing_new(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut left = self.new_since();
        while !left.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(100));
            left = self.new_since();
        }
        assert!(left.is_empty(), "left on the host: {left:#?}");
    }

    /// What is there now and was not there when `self` was listed.
    #[must_use]
    pub fn new_since(&self) -> Vec<String> {
        Self::list().0.difference(&self.0).cloned().collect()
    }
}

fn entries(dir: &str) -> impl Iterator<Item = String> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// Only programs that a platform starts: other people's come and go.
fn processes() -> Vec<String> {
    let mut found = Vec::new();
    for pid in entries("/proc").filter(|name| name.bytes().all(|b| b.is_ascii_digit())) {
        let Ok(comm) = fs::read_to_string(format!("/proc/{pid}/comm")) else {
            continue;
        };
        let comm = comm.trim();
        if ["qemu-system", "firecracker", "wrenn"]
            .iter()
            .any(|ours| comm.starts_with(ours))
        {
            found.push(format!("process {pid} ({comm})"));
        }
    }
    found
}

fn mounts() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(1));
    // The directory of handles of network namespaces is mounted once, and stays.
    points
        .filter(|point| *point != "/run/wrenn/netns")
        .map(|point| format!("mount {point}"))
        .collect()
}

fn loops() -> Vec<String> {
    let name = |dir: String| {
        let backing = fs::read_to_string(format!("/sys/block/{dir}/loop/backing_file")).ok()?;
        Some(format!("loop device {dir} on {}", backing.trim()))
    };
    entries("/sys/block")
        .filter(|dir| dir.starts_with("loop"))
        .filter_map(name)
        .collect()
}

/// Groups with our name, in whatever hierarchy, three levels down.
fn cgroups(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut level = vec![root.to_owned()];
    for _ in 0..3 {
        let mut next = Vec::new();
        for entry in level.iter().flat_map(fs::read_dir).flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().contains("wrenn") {
                    found.push(format!("cgroup {}", entry.path().display()));
                }
                next.push(entry.path());
            }
        }
        level = next;
    }
    found
}
