//! Kernel settings as a distribution has them after its boot: ours first, then those of the image,
//! in the order of sysctl.d(5).
//!
//! The kernel's own defaults are lower than what programs are tested with: databases, file watchers
//! and `ping` as a user fail on them. A setting that the kernel does not have, or refuses, is
//! passed over.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Settings that Debian, Fedora and Arch have in their packages systemd and procps.
const DEFAULTS: [(&str, &str); 10] = [
    ("fs/inotify/max_user_instances", "1024"),
    ("fs/inotify/max_user_watches", "524288"),
    ("fs/protected_fifos", "1"),
    ("fs/protected_hardlinks", "1"),
    ("fs/protected_regular", "2"),
    ("fs/protected_symlinks", "1"),
    ("kernel/pid_max", "4194304"),
    // Every user may ping, as since systemd 243 (icmp(7)).
    ("net/ipv4/ping_group_range", "0 2147483647"),
    ("net/ipv4/conf/all/accept_source_route", "0"),
    ("vm/max_map_count", "1048576"),
];

/// Folders of the image, the first wins where two have a file of one name.
const FOLDERS: [&str; 4] = [
    "etc/sysctl.d",
    "usr/local/lib/sysctl.d",
    "usr/lib/sysctl.d",
    "lib/sysctl.d",
];

/// Maximum number of bytes of one file that are read.
const LIMIT: u64 = 256 << 10;

/// Applies them all.
pub fn apply_all() {
    let kernel = Path::new("/proc/sys");
    for (key, value) in DEFAULTS {
        set(kernel, key, value);
    }
    for (key, value) in settings_of(Path::new("/")) {
        for key in expand(kernel, &key) {
            set(kernel, &key, &value);
        }
    }
}

fn set(kernel: &Path, key: &str, value: &str) {
    // A kernel without it has a reason, and the boot goes on.
    let _ = fs::write(kernel.join(key), value);
}

/// Returns the settings of the image, in the order in which they apply.
fn settings_of(root: &Path) -> Vec<(String, String)> {
    let mut files: BTreeMap<_, PathBuf> = BTreeMap::new();
    for folder in FOLDERS {
        for entry in fs::read_dir(root.join(folder))
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = entry.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "conf")
            {
                files.entry(entry.file_name()).or_insert(path);
            }
        }
    }
    let last = root.join("etc/sysctl.conf");
    files
        .into_values()
        .chain([last])
        .flat_map(|path| parse(&crate::user::read_bounded(&path, LIMIT)))
        .collect()
}

/// Parses lines `key = value`. `-key = value` marks one that may fail; here all may.
fn parse(text: &str) -> Vec<(String, String)> {
    let line = |line: &str| {
        let line = line.trim();
        if line.starts_with(['#', ';']) {
            return None;
        }
        let (key, value) = line.split_once('=')?;
        let key = key.trim().trim_start_matches('-').trim();
        let safe = !key.is_empty() && !key.starts_with('/') && !key.contains("..");
        safe.then(|| (as_path(key), value.trim().to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// Converts a key to a path. Dots separate, unless the first separator is a slash; then a dot is
/// part of a name (`net/ipv4/conf/eth0.1/…`).
fn as_path(key: &str) -> String {
    match key.find(['.', '/']) {
        Some(at) if key.as_bytes()[at] == b'.' => key
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        _ => key.to_owned(),
    }
}

/// Returns the keys that match `key`, in which `*` may stand for a component.
fn expand(kernel: &Path, key: &str) -> Vec<String> {
    let Some((before, after)) = key.split_once("/*/") else {
        return vec![key.to_owned()];
    };
    let entries = fs::read_dir(kernel.join(before))
        .into_iter()
        .flatten()
        .flatten();
    entries
        .map(|entry| format!("{before}/{}/{after}", entry.file_name().to_string_lossy()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_follow_sysctl_syntax() {
        let text = "# a\n; b\nvm.swappiness = 10\n-net.ipv4.conf.*.rp_filter=2\nnet/ipv4/conf/eth0.1/x = 1\n\nbroken\n../a=1\n";
        let right = [
            ("vm/swappiness", "10"),
            ("net/ipv4/conf/*/rp_filter", "2"),
            ("net/ipv4/conf/eth0.1/x", "1"),
        ];
        assert_eq!(
            parse(text),
            right.map(|(key, value)| (key.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn folders_override_by_file_name() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent"))
                .and_then(|()| fs::write(path, text))
                .expect("a file");
        };
        put("usr/lib/sysctl.d/50-a.conf", "a.b=hidden");
        put("etc/sysctl.d/50-a.conf", "a.b=1");
        put("usr/lib/sysctl.d/10-z.conf", "a.c=2");
        put("usr/lib/sysctl.d/README", "a.d=3");
        put("etc/sysctl.conf", "a.e=4");
        let keys: Vec<_> = settings_of(root.path())
            .into_iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        assert_eq!(keys, ["a/c=2", "a/b=1", "a/e=4"]);
    }

    #[test]
    fn star_stands_for_every_interface() {
        let kernel = tempfile::tempdir().expect("a temporary folder");
        for name in ["lo", "eth0"] {
            fs::create_dir_all(kernel.path().join("net/conf").join(name)).expect("a folder");
        }
        let mut keys = expand(kernel.path(), "net/conf/*/x");
        keys.sort();
        assert_eq!(keys, ["net/conf/eth0/x", "net/conf/lo/x"]);
        assert_eq!(expand(kernel.path(), "vm/x"), ["vm/x"]);
    }
}
