//! What a live VMM is and has, as `/proc` tells it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use linux::cgroup::{self, DiskLimits, Tree};
use vmm::{Jail, Net, VmConfig};

use crate::devices::Network;
use crate::lab::{Lab, on_every_driver};
use crate::machine::Machine;

/// A running VM with everything that a VM has, in a control group where there are any.
struct Jailed {
    machine: Machine,
    user: u32,
    group: Option<PathBuf>,
    tree: Option<Tree>,
    _network: Network,
}

impl Jailed {
    async fn boot(lab: &Lab) -> Self {
        let config = lab.config("vm", "count");
        let user = config
            .jail
            .as_ref()
            .map(|jail| jail.uid)
            .expect("tests have jails");
        let network = Network::new("jail", user);
        // Of its own: another test takes an empty directory of groups away at any moment.
        let tree = Tree::prepare(&format!("wtest-vmm-{user}")).expect("a directory of groups");
        let group = tree.as_ref().map(|tree| tree.group(&user.to_string()));
        let disk = DiskLimits {
            bytes: Some(1 << 30),
            operations: None,
        };
        let jail = Jail {
            uid: user,
            gid: user,
            cgroup: group.clone(),
            disk,
        };
        let net = Net {
            netns: network.netns.clone(),
            tap: "tap0".into(),
            mac: [2, 0, 0, 0xab, 0, 1],
        };
        let mut machine = lab
            .boot(VmConfig {
                net: Some(net),
                jail: Some(jail),
                ..config
            })
            .await;
        machine.count_on().await;
        Self {
            machine,
            user,
            group,
            tree,
            _network: network,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new("/proc")
            .join(self.machine.vm.pid().to_string())
            .join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("the VMM lives")
    }

    fn link(&self, name: &str) -> PathBuf {
        fs::read_link(self.path(name)).expect("the VMM lives")
    }

    fn names(&self, dir: &str) -> BTreeSet<String> {
        let entries = fs::read_dir(self.path(dir)).expect("the VMM lives");
        entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }

    async fn end(self) {
        self.machine.kill().await;
        if let (Some(group), Some(tree)) = (&self.group, &self.tree) {
            cgroup::remove(group).expect("the group can be removed");
            cgroup::remove(&tree.group("")).expect("its directory can be removed");
        }
    }
}

fn field<'a>(table: &'a str, name: &str) -> Vec<&'a str> {
    let line = table.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("{name} is not in:\n{table}"))
        .split_ascii_whitespace()
        .collect()
}

#[test]
fn vmm_is_unprivileged_own_user() {
    on_every_driver(async |lab| {
        let jailed = Jailed::boot(lab).await;
        // Threads have privileges of their own, and those of the virtual CPUs matter most.
        for thread in jailed.names("task") {
            let status = jailed.read(&format!("task/{thread}/status"));
            let user = jailed.user.to_string();
            assert_eq!(field(&status, "Uid:"), [user.as_str(); 4]);
            assert_eq!(field(&status, "Gid:"), [user.as_str(); 4]);
            assert!(field(&status, "Groups:").is_empty(), "{status}");
            for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
                assert_eq!(field(&status, set), ["0000000000000000"], "{set}");
            }
            assert_eq!(field(&status, "NoNewPrivs:"), ["1"]);
            assert_eq!(field(&status, "Seccomp:"), ["2"]);
        }
        let limits = jailed.read("limits");
        for (name, limit) in [
            ("core file size", "0"),
            ("locked memory", "0"),
            ("open files", "1024"),
        ] {
            assert_eq!(
                field(&limits, &format!("Max {name}"))[..2],
                [limit; 2],
                "{name}"
            );
        }
        assert_eq!(
            field(&limits, "Max processes")[..2],
            ["193"; 2],
            "1 virtual CPU and 192 others"
        );
        let VmConfig {
            memory_mb, disk, ..
        } = &jailed.machine.config;
        let longest = (disk.size_bytes + (u64::from(*memory_mb) << 20) + (64 << 20)).to_string();
        assert_eq!(field(&limits, "Max file size")[..2], [longest.as_str(); 2]);
        jailed.end().await;
    });
}

#[test]
fn vmm_sees_own_and_system_files() {
    on_every_driver(async |lab| {
        lab.empty_dir("neighbour");
        let jailed = Jailed::boot(lab).await;
        let VmConfig {
            dir,
            kernel,
            initramfs,
            disk,
            ..
        } = &jailed.machine.config;
        let names: &[&str] = match lab.driver.name() {
            "firecracker" => &["console", "firecracker.log", "metrics", "out", "run"],
            _ => &["memory", "run"],
        };
        let own: Vec<PathBuf> = names
            .iter()
            .map(|name| dir.join(name))
            .chain([disk.path.clone()])
            .collect();
        let system = [
            "/",
            "/usr",
            "/lib",
            "/lib32",
            "/lib64",
            "/bin",
            "/sbin",
            "/etc/ld.so.cache",
        ]
        .map(PathBuf::from);
        let shown = [kernel, initramfs, &jailed.link("exe")].map(Clone::clone);
        let table = jailed.read("mountinfo");
        for line in table.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let place = PathBuf::from(fields[4]);
            let (mine, theirs) = (
                own.contains(&place),
                system.contains(&place) || shown.contains(&place),
            );
            assert!(mine || theirs, "it sees {line}");
            assert!(
                mine || fields[5].starts_with("ro,"),
                "it can write to {line}"
            );
            assert!(
                fields[5].contains("nosuid") && !line.contains(" shared:"),
                "{line}"
            );
        }
        let top = jailed.names("root");
        assert!(!top.contains("proc") && !top.contains("sys"), "{top:?}");
        // Unless the checkout lies there, with kernel and programs.
        let lies_there = own
            .iter()
            .chain(&shown)
            .any(|path| path.starts_with("/root"));
        assert!(!top.contains("root") || lies_there, "{top:?}");
        let beside = jailed.names(&format!("root{}", lab.root().display()));
        assert_eq!(
            beside,
            ["initramfs", "vm", "vm.disk"].map(String::from).into(),
            "beside what is its own"
        );
        assert_eq!(
            jailed.names(&format!("root{}", dir.display())),
            names.iter().map(ToString::to_string).collect()
        );
        jailed.end().await;
    });
}

/// What it writes beside its disk and memory is in memory, bounded, and has no name on the host.
#[test]
fn vmm_working_directory_is_bounded_memory() {
    on_every_driver(async |lab| {
        let jailed = Jailed::boot(lab).await;
        let run = jailed.machine.config.dir.join("run");
        assert!(!run.exists(), "it is on the host");
        assert_eq!(jailed.link("cwd"), run);
        let table = jailed.read("mountinfo");
        let line = table
            .lines()
            .find(|line| line.split(' ').nth(4) == run.to_str())
            .expect("it is mounted");
        assert!(
            line.contains(" - tmpfs ") && line.contains("size=32768k,nr_inodes=64"),
            "{line}"
        );
        assert!(line.contains("nodev") && line.contains("noexec"), "{line}");
        jailed.end().await;
    });
}

#[test]
fn vmm_inherits_no_descriptors() {
    on_every_driver(async |lab| {
        let jailed = Jailed::boot(lab).await;
        let VmConfig { dir, disk, .. } = &jailed.machine.config;
        let devices = ["/dev/null", "/dev/kvm", "/dev/net/tun", "/dev/urandom"].map(PathBuf::from);
        for number in jailed.names("fd") {
            let target = jailed.link(&format!("fd/{number}"));
            let own = target == disk.path || target.starts_with(dir) || devices.contains(&target);
            // Sockets, pipes and events have no path.
            assert!(
                own || !target.is_absolute(),
                "it holds {} open",
                target.display()
            );
        }
        jailed.end().await;
    });
}

#[test]
fn vmm_has_own_namespaces_and_cgroup() {
    on_every_driver(async |lab| {
        let jailed = Jailed::boot(lab).await;
        for kind in ["mnt", "pid", "net", "ipc"] {
            let ours = fs::read_link(format!("/proc/self/ns/{kind}")).expect("/proc");
            assert_ne!(jailed.link(&format!("ns/{kind}")), ours, "{kind}");
        }
        if lab.driver.name() == "qemu" {
            // Its guest's device is an open descriptor: it has no network but that.
            let links = jailed.read("net/dev");
            assert!(
                links
                    .lines()
                    .filter(|line| line.contains(':'))
                    .all(|line| line.trim().starts_with("lo:")),
                "{links}"
            );
            assert!(!jailed.names("root/dev").contains("net"));
        }
        let pid = jailed.machine.vm.pid().to_string();
        assert_eq!(field(&jailed.read("status"), "NSpid:"), [pid.as_str(), "1"]);
        if let (Some(group), Some(tree)) = (&jailed.group, &jailed.tree) {
            let groups = jailed.read("cgroup");
            assert!(
                groups
                    .lines()
                    .any(|line| line == format!("0::/wtest-vmm-{0}/{0}", jailed.user)),
                "{groups}"
            );
            let limits = [
                ("cpu", "cpu.max", "150000 100000"),
                ("pids", "pids.max", "193"),
                ("io", "io.weight", "default 100"),
            ];
            for (controller, file, limit) in limits {
                let has = tree.controllers().iter().any(|name| name == controller);
                let found = fs::read_to_string(group.join(file)).ok();
                assert!(
                    !has || found.as_deref().map(str::trim) == Some(limit),
                    "{file} is {found:?}"
                );
            }
            // Of the disk's file; without a line where that is on no disk that the kernel tells.
            let fast = fs::read_to_string(group.join("io.max")).unwrap_or_default();
            assert!(
                fast.is_empty() || fast.contains("rbps=1073741824 wbps=1073741824"),
                "{fast}"
            );
            if tree.controllers().iter().any(|name| name == "memory") {
                let text = fs::read_to_string(group.join("memory.max")).expect("memory.max");
                let limit: u64 = text.trim().parse().expect("a number of bytes");
                let memory = u64::from(jailed.machine.config.memory_mb) << 20;
                assert!(limit > memory && limit < memory + (2 << 30), "{limit}");
            }
        }
        jailed.end().await;
    });
}

#[test]
fn unreadable_file_is_told_with_fix() {
    use std::os::unix::fs::PermissionsExt;
    on_every_driver(async |lab| {
        let config = lab.config("vm", "count");
        let kernel = lab.root().join("kernel");
        fs::write(&kernel, b"not read").expect("a file");
        fs::set_permissions(&kernel, fs::Permissions::from_mode(0o600)).expect("a mode");
        let error = lab
            .driver
            .boot(&VmConfig {
                kernel: kernel.clone(),
                ..config
            })
            .await
            .expect_err("it is shut out");
        let vmm::Error::Io { path, source, .. } = &error else {
            panic!("{error:?}")
        };
        assert!(
            *path == kernel && source.to_string().contains("chmod o+r"),
            "{source}"
        );
        lab.assert_no_process();
    });
}
