//! The single checks.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use linux::{file, netns, programs, sysctl, tap};
use stdx::error::chain;
use vmm::engine::{self, Engine};

use super::{Check, existing, firewall};
use crate::config::Config;
use crate::disk::{self, Backend, Chosen};
use crate::images::checksums::Checksums;
use crate::images::{Images, PassedOver};
use crate::network::{Ipv6Mode, Ipv6Setting};

/// Oldest kernel that has all we use: `mount_setattr`, for jails, came with 5.12.
const OLDEST_KERNEL: (u32, u32) = (5, 12);
const GIB: u64 = 1 << 30;

pub(super) fn check_kernel() -> Check {
    let release = sysctl::get("kernel/osrelease").unwrap_or_default();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    let version = (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    );
    let found = format!("Linux {release}, {}", std::env::consts::ARCH);
    if std::env::consts::ARCH != "x86_64" {
        return Check::missing("kernel", found, "use an x86-64 machine");
    }
    if version < OLDEST_KERNEL {
        return Check::missing("kernel", found, "upgrade to Linux 5.12 or newer");
    }
    Check::ok("kernel", found)
}

pub(super) fn check_privileges() -> Check {
    if super::is_root() {
        Check::ok("privileges", "root")
    } else {
        Check::missing(
            "privileges",
            "not root: VMs, disks and networks need it",
            "sudo wrenn doctor, sudo wrenn up",
        )
    }
}

pub(super) fn check_engine(engine: &Result<Engine, engine::Error>) -> Check {
    match engine {
        Ok(engine) => Check::ok(
            "engine",
            format!("{} with {}: {}", engine.vmm, engine.accel, engine.why),
        ),
        Err(error) => Check::missing(
            "engine",
            chain(error),
            "apt-get install qemu-system-x86, and AGENT_VMM=auto",
        ),
    }
}

pub(super) fn check_firecracker(config: &Config) -> Check {
    match engine::find_firecracker(&config.engine.wanted) {
        Ok((program, version)) => Check::ok(
            "firecracker",
            format!("{} is version {version}", program.display()),
        ),
        Err(error) => {
            let fix = "nothing, if QEMU is fine; else install a current release of Firecracker";
            Check::warning("firecracker", chain(&error), fix)
        }
    }
}

pub(super) fn check_kvm() -> Check {
    let report = engine::probe_kvm();
    if report.usable {
        return Check::ok("kvm", report.detail);
    }
    let fix = "nothing, if slower sandboxes are fine: guests are emulated then; else use a machine with \
        hardware virtualisation turned on";
    Check::warning("kvm", report.detail, fix)
}

pub(super) fn check_tun() -> Check {
    match fs::File::options().read(true).write(true).open(tap::DEVICE) {
        Ok(_) => Check::ok("tun", format!("{} opens", tap::DEVICE)),
        Err(error) => Check::missing("tun", format!("{}: {error}", tap::DEVICE), "modprobe tun"),
    }
}

/// Makes a network namespace, with the rules that a host and a sandbox get, limits, and tracked
/// connections in it, and removes it.
pub(super) fn check_network(config: &Config) -> Check {
    let name = format!("wdoctor-{}", std::process::id());
    // If it cannot be chosen, the check of IPv6 reports that.
    let ipv6 = Ipv6Mode::choose(config.network.settings.ipv6).unwrap_or(Ipv6Mode::On);
    let tried = netns::create(&name)
        .and_then(|()| netns::enter(&name, move || crate::network::try_rules(ipv6)));
    let removed = netns::remove(&name);
    match tried.and(removed) {
        Ok(()) => Check::ok("nftables", "network namespaces, nftables and limits work"),
        Err(error) => Check::missing(
            "nftables",
            error.to_string(),
            "modprobe nf_tables nf_conntrack_netlink nft_fib_inet nft_masq nft_nat sch_tbf, or a kernel with them",
        ),
    }
}

pub(super) fn check_forwarding() -> Check {
    match sysctl::get("net/ipv4/ip_forward").as_deref() {
        Ok("1") => Check::ok("forwarding", "net.ipv4.ip_forward is on"),
        Ok(_) => Check::ok(
            "forwarding",
            "net.ipv4.ip_forward is off; the agent turns it on",
        ),
        Err(error) => Check::missing(
            "forwarding",
            format!("net.ipv4.ip_forward: {error}"),
            "use a kernel with IPv4",
        ),
    }
}

/// Reports if sandboxes have IPv6, why, and rules of the host that would stop it.
pub(super) fn check_ipv6(config: &Config) -> Check {
    const NAME: &str = "ipv6";
    let ipv6 = match Ipv6Mode::choose(config.network.settings.ipv6) {
        Ok(ipv6) => ipv6,
        Err(error) => {
            return Check::warning(
                NAME,
                error.to_string(),
                "AGENT_IPV6=off, if IPv6 is not needed",
            );
        }
    };
    match (ipv6, config.network.settings.ipv6) {
        (Ipv6Mode::Off(why), Ipv6Setting::On) => {
            let found = format!(
                "sandboxes have none, though AGENT_IPV6 is on: {}",
                why.as_text()
            );
            Check::warning(
                NAME,
                found,
                "turn IPv6 on for this host, or set AGENT_IPV6 to auto",
            )
        }
        (Ipv6Mode::Off(why), _) => {
            Check::ok(NAME, format!("sandboxes have none: {}", why.as_text()))
        }
        (Ipv6Mode::On, wanted) => {
            let why = match wanted {
                Ipv6Setting::On => "AGENT_IPV6 is on",
                _ => "the host has an IPv6 default route and a public address",
            };
            match firewall::stops_ipv6() {
                Ok(None) => Check::ok(NAME, format!("sandboxes have it: {why}")),
                Ok(Some((found, fix))) => {
                    Check::warning(NAME, found, format!("{fix}; or set AGENT_IPV6 to off"))
                }
                Err(error) => Check::warning(
                    NAME,
                    format!("the rules cannot be read: {error}"),
                    "sudo wrenn doctor",
                ),
            }
        }
    }
}

/// Starts a program in a jail, as root only.
pub(super) fn check_jail(config: &Config) -> Check {
    if !super::is_root() {
        return Check::warning("jail", "can be tried by root only", "sudo wrenn doctor");
    }
    match linux::process::probe_jail(config.engine.uid_base) {
        Ok(()) => Check::ok(
            "jail",
            format!(
                "programs run in jails, as users from {} on",
                config.engine.uid_base
            ),
        ),
        Err(error) => Check::missing(
            "jail",
            error.to_string(),
            "run as root of the host itself, not inside of a container; or set AGENT_UID_BASE to users that there are",
        ),
    }
}

pub(super) fn check_cgroups() -> Check {
    let fix = "boot with systemd.unified_cgroup_hierarchy=1; without it VMs have no limits but their own size";
    let (place, found) = match linux::cgroup::find_hierarchy() {
        Ok(Some(found)) => found,
        Ok(None) => return Check::warning("cgroup v2", "it is not mounted", fix),
        Err(error) => return Check::warning("cgroup v2", error.to_string(), fix),
    };
    let has = |wanted: &&str| found.iter().any(|name| name == wanted);
    let missing: Vec<&str> = linux::cgroup::WANTED
        .into_iter()
        .filter(|wanted| !has(wanted))
        .collect();
    if missing.is_empty() {
        return Check::ok(
            "cgroup v2",
            format!(
                "{} has {}",
                place.display(),
                linux::cgroup::WANTED.join(", ")
            ),
        );
    }
    Check::warning(
        "cgroup v2",
        format!(
            "{} has no controllers for {}",
            place.display(),
            missing.join(", ")
        ),
        fix,
    )
}

pub(super) fn loop_devices() -> Check {
    opens("loop devices", "/dev/loop-control", "modprobe loop")
}

pub(super) fn device_mapper() -> Check {
    let fix = "modprobe dm_snapshot; without it disks are reflinks, overlays or copies";
    opens("device-mapper", linux::dm::CONTROL, fix)
}

/// Opens a device node: it can exist without a driver behind it.
fn opens(name: &'static str, path: &str, fix: &str) -> Check {
    match fs::File::open(path) {
        Ok(_) => Check::ok(name, format!("{path} opens")),
        Err(error) => Check::warning(name, format!("{path}: {error}"), fix),
    }
}

pub(super) fn check_disks(chosen: &Result<Chosen, disk::Error>) -> Check {
    match chosen {
        Ok(chosen) if chosen.backend == Backend::Copy => {
            let fix = "modprobe dm_snapshot, or put the sandboxes on XFS or Btrfs: copies take time and space";
            Check::warning("disks", format!("copy: {}", chosen.why), fix)
        }
        Ok(chosen) => Check::ok(
            "disks",
            format!("{}: {}", chosen.backend.name(), chosen.why),
        ),
        Err(error @ disk::Error::Unavailable { .. }) => {
            Check::missing("disks", chain(error), "set AGENT_DISK to auto")
        }
        Err(error) => {
            let fix = "run as root, or set WRENN_DIR to a directory that you may write to";
            Check::missing("disks", chain(error), fix)
        }
    }
}

/// Reports the owner of the directory in which the agent works as root.
pub(super) fn check_directory(dir: &Path) -> Check {
    const NAME: &str = "directory";
    let place = dir.display();
    let owner = match fs::metadata(dir) {
        Ok(metadata) => std::os::unix::fs::MetadataExt::uid(&metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Check::ok(NAME, format!("{place} is not there yet"));
        }
        Err(error) => {
            return Check::warning(NAME, format!("{place}: {error}"), "sudo wrenn doctor");
        }
    };
    if owner == 0 {
        return Check::ok(NAME, format!("{place} belongs to root"));
    }
    Check::warning(
        NAME,
        format!("{place} belongs to user {owner}, who can become root through it"),
        format!("nothing, if that user may be root; else chown root: {place}"),
    )
}

pub(super) fn check_disk_space(config: &Config) -> Check {
    let dir = existing(&config.paths.sandboxes);
    let free = file::free_bytes(&dir).unwrap_or_default();
    #[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
    let found = format!(
        "{:.1} GiB free at {}",
        free as f64 / GIB as f64,
        dir.display()
    );
    let fix = "free some space, or set WRENN_DIR to another disk";
    match free {
        free if free < GIB => Check::missing("disk space", found, fix),
        free if free < 5 * GIB => Check::warning("disk space", found, fix),
        _ => Check::ok("disk space", found),
    }
}

pub(super) fn check_memory(total: u64) -> Check {
    let available = super::meminfo("MemAvailable:");
    let mib = |bytes: u64| bytes >> 20;
    let found = format!("{} of {} MiB available", mib(available), mib(total));
    if mib(available) < 256 {
        return Check::missing(
            "memory",
            found,
            "end other programs: the smallest sandbox takes 128 MiB and QEMU some more",
        );
    }
    Check::ok("memory", found)
}

pub(super) fn check_packages() -> Check {
    let missing: Vec<&str> = programs::NEEDED
        .iter()
        .filter(|(name, _)| programs::find(name).is_none())
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        let names: Vec<&str> = programs::NEEDED.iter().map(|(name, _)| *name).collect();
        return Check::ok("packages", names.join(", "));
    }
    let list = missing.join(" ");
    Check::missing(
        "packages",
        format!("not installed: {list}"),
        format!("apt-get install {list}"),
    )
}

pub(super) fn check_guest_kernel(config: &Config) -> Check {
    let path = &config.paths.kernel;
    let fix = "make kernel, or set AGENT_KERNEL_PATH to a bzImage or vmlinux";
    match fs::read(path).map(|image| crate::boot::vmlinux(&image)) {
        Ok(Ok(_)) => Check::ok("guest kernel", path.display().to_string()),
        Ok(Err(error)) => {
            Check::missing("guest kernel", format!("{}: {error}", path.display()), fix)
        }
        Err(error) => Check::missing("guest kernel", format!("{}: {error}", path.display()), fix),
    }
}

pub(super) fn check_guest_agent(config: &Config) -> Check {
    let path = &config.paths.envd;
    let fix = "make build-envd, or set AGENT_ENVD_PATH";
    match starts_as_elf(path) {
        Ok(true) => Check::ok("guest agent", path.display().to_string()),
        Ok(false) => Check::missing(
            "guest agent",
            format!("{} is no program", path.display()),
            fix,
        ),
        Err(error) => Check::missing("guest agent", format!("{}: {error}", path.display()), fix),
    }
}

fn starts_as_elf(path: &Path) -> io::Result<bool> {
    let mut magic = [0; 4];
    io::Read::read_exact(&mut fs::File::open(path)?, &mut magic)?;
    Ok(magic == *b"\x7fELF")
}

pub(super) fn check_templates(config: &Config) -> Check {
    const NAME: &str = "templates";
    let fix = format!(
        "make images, or put an ext4 image as NAME.ext4 into {}",
        config.paths.images.display()
    );
    let images = Images::new(&config.paths.images);
    let (found, passed_over) = match images
        .list_images()
        .and_then(|found| Ok((found, images.passed_over()?)))
    {
        Ok(looked) => looked,
        Err(error) => return Check::missing(NAME, chain(&error), fix),
    };
    let name = |file: &PassedOver| {
        file.path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let passed_over: Vec<String> = passed_over
        .iter()
        .take(10)
        .map(|file| format!("{} cannot be used: {}", name(file), chain(&file.why)))
        .collect();
    let names: Vec<&str> = found
        .iter()
        .take(10)
        .map(|image| image.name.as_str())
        .collect();
    if names.is_empty() {
        let found = [
            vec![format!("none in {}", config.paths.images.display())],
            passed_over,
        ]
        .concat();
        Check::missing(NAME, found.join("; "), fix)
    } else if passed_over.is_empty() {
        Check::ok(NAME, names.join(", "))
    } else {
        let found = [vec![names.join(", ")], passed_over].concat();
        Check::warning(
            NAME,
            found.join("; "),
            "give the file another name (lower-case letters, digits, . _ -), or correct a configuration",
        )
    }
}

/// Reports what the agent found when it last read the files that guests are made from.
pub(super) fn check_checksums(config: &Config) -> Check {
    const NAME: &str = "checksums";
    let (count, damaged) = Checksums::open(&config.dir).summary();
    let Some(first) = damaged.first() else {
        let found = match count {
            0 => "none yet: the agent reads images and kernels in the background".to_owned(),
            count => format!("{count} files are as they were"),
        };
        return Check::ok(NAME, found);
    };
    let found = match damaged.len() {
        1 => first.to_string(),
        all => format!("{first}; and {} more", all - 1),
    };
    Check::warning(
        NAME,
        found,
        "replace the file by a good copy: docs/images.md",
    )
}

pub(super) fn check_port(address: &SocketAddr) -> Check {
    match TcpListener::bind(address) {
        Ok(_) => Check::ok("port", format!("{address} is free")),
        Err(error) => Check::warning(
            "port",
            format!("{address}: {error}"),
            "fine if it is Wrenn that listens there; else name another one with --listen",
        ),
    }
}
