//! Settings of the host agent: environment variables, read once. Every mistake is reported, not
//! just the first.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use linux::cgroup::DiskLimits;
use listener::ListenerLimits;
use model::network::Bandwidth;
use vmm::engine::{AccelChoice, Choice, Enforcement, Wanted};

use crate::disk;
use crate::jail::DEFAULT_UID_BASE;
use crate::network::{NetworkSettings, Plan, Slot, WantedIpv6, connections};

/// Where everything lives unless `WRENN_DIR` says otherwise (the original Wrenn's place).
pub const DEFAULT_DIR: &str = "/var/lib/wrenn";

/// Networks that are kept ready.
const DEFAULT_READY: usize = 4;
const MOST_READY: usize = 256;

/// Each connection to a port of a sandbox is one to the agent: 2048 for each of a few dozen busy
/// sandboxes.
const DEFAULT_CONNECTIONS: usize = 64 * 1024;
const MOST_CONNECTIONS: usize = 1024 * 1024;

/// Below are the users of the host itself; the last numbers of all mean nobody.
const LOWEST_UID_BASE: u32 = 65_536;
const HIGHEST_UID_BASE: u32 = u32::MAX - 2 - Slot::MAX as u32;

/// What the host agent needs to know before it starts.
#[derive(Debug, Clone)]
pub struct Config {
    /// `WRENN_DIR`: everything below is in it unless named apart.
    pub dir: PathBuf,
    /// `AGENT_LISTEN_ADDR`.
    pub listen: SocketAddr,
    /// `AGENT_KERNEL_PATH`: a bzImage or an ELF vmlinux.
    pub kernel: PathBuf,
    /// `AGENT_IMAGES_PATH`.
    pub images: PathBuf,
    /// `AGENT_SANDBOXES_PATH`.
    pub sandboxes: PathBuf,
    /// `AGENT_SNAPSHOTS_PATH`: templates made of sandboxes; best on the file system of the
    /// sandboxes.
    pub snapshots: PathBuf,
    /// `AGENT_ENVD_PATH`: the static guest agent.
    pub envd: PathBuf,
    /// `AGENT_VMM`, `AGENT_ACCEL`, `FIRECRACKER_BIN`, `AGENT_CPU_TEMPLATE` and
    /// `AGENT_SYSCALL_FILTER`.
    pub engine: Wanted,
    /// `AGENT_DISK`: what disks of new sandboxes are made of.
    pub disk: disk::Choice,
    /// `AGENT_WARM`: whether sandboxes go on from a guest that has booted, where there is one like
    /// them.
    pub warm: bool,
    /// `AGENT_NETWORK_POOL`: networks that are kept ready for new sandboxes.
    pub network_pool: usize,
    /// `AGENT_DISK_MBPS` and `AGENT_DISK_IOPS`: how fast each VMM may use its disk.
    pub disk_limits: DiskLimits,
    /// `AGENT_EGRESS_MBPS` and `AGENT_INGRESS_MBPS`: how fast each sandbox may be.
    pub limits: Bandwidth,
    /// `AGENT_DNS`: name servers that the resolvers of sandboxes ask.
    pub dns: String,
    /// `AGENT_IPV6`: whether sandboxes reach the internet over IPv6, too.
    pub ipv6: WantedIpv6,
    /// `AGENT_NETWORK_CIDR`: networks of sandboxes; without it such as nothing else on the host
    /// uses.
    pub network_plan: Option<Plan>,
    /// `AGENT_SANDBOX_CONNECTIONS`: of one sandbox at one time; without it a share of what the host
    /// can track.
    pub max_connections: Option<u32>,
    /// `AGENT_MAX_SANDBOXES`: running at the same time on this host.
    pub max_sandboxes: usize,
    /// `AGENT_MAX_CHECKPOINTS`: of one sandbox.
    pub max_checkpoints: usize,
    /// `AGENT_MAX_SNAPSHOTS`: made of one sandbox and still there.
    pub max_snapshots: usize,
    /// `AGENT_UID_BASE`: users and groups of VMMs are this plus the number of their network slot.
    pub uid_base: u32,
    /// `AGENT_MAX_CONNECTIONS`.
    pub listener: ListenerLimits,
    /// `AGENT_TOKEN`, or the credential `agent-token` that systemd has loaded (systemd.exec(5),
    /// `LoadCredential=`); without both the one in the file `agent-token` of the directory.
    pub token: Option<String>,
}

/// All mistakes in the environment, each with the variable's name.
#[derive(Debug, thiserror::Error)]
#[error("the settings are wrong:\n  {}", .0.join("\n  "))]
pub struct Mistakes(Vec<String>);

impl Config {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn from_env() -> Result<Self, Mistakes> {
        Self::from_lookup(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// The settings for `dir`, with everything else from the environment.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn for_dir(dir: &Path) -> Result<Self, Mistakes> {
        let dir = dir.to_string_lossy().into_owned();
        Self::from_lookup(|name| match name {
            "WRENN_DIR" => Some(dir.clone()),
            other => std::env::var(other).ok().filter(|value| !value.is_empty()),
        })
    }

    fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, Mistakes> {
        let mut mistakes = Vec::new();
        let dir =
            absolute(lookup("WRENN_DIR").map_or_else(|| PathBuf::from(DEFAULT_DIR), PathBuf::from));
        let path =
            |name: &str, default: PathBuf| absolute(lookup(name).map_or(default, PathBuf::from));
        let listen = lookup("AGENT_LISTEN_ADDR")
            .unwrap_or_else(|| format!("127.0.0.1:{}", host_rpc::DEFAULT_PORT));
        let listen = listen_address(&listen).unwrap_or_else(|| {
            mistakes.push(format!(
                "AGENT_LISTEN_ADDR must be an address and port like 127.0.0.1:50051, not {listen:?}"
            ));
            SocketAddr::from(([127, 0, 0, 1], 0))
        });
        let dns = name_servers(&lookup, &mut mistakes);
        let right = format!("a number from {LOWEST_UID_BASE} to {HIGHEST_UID_BASE}");
        let range = LOWEST_UID_BASE..=HIGHEST_UID_BASE;
        let uid_base = bounded(
            &lookup,
            "AGENT_UID_BASE",
            &right,
            range,
            DEFAULT_UID_BASE,
            &mut mistakes,
        );
        let right = format!("a number from 0 to {MOST_READY}");
        let range = 0..=MOST_READY;
        let network_pool = bounded(
            &lookup,
            "AGENT_NETWORK_POOL",
            &right,
            range,
            DEFAULT_READY,
            &mut mistakes,
        );
        let mut limit = |name: &str| {
            let limit: u64 = parsed(
                &lookup,
                name,
                "a number from 0, which is no limit",
                0,
                &mut mistakes,
            );
            (limit > 0).then_some(limit)
        };
        let disk_limits = DiskLimits {
            bytes: limit("AGENT_DISK_MBPS").map(|megabytes| megabytes.saturating_mul(1_000_000)),
            operations: limit("AGENT_DISK_IOPS"),
        };
        let limits = limits(&lookup, &mut mistakes);
        let listener = listener_limits(&lookup, &mut mistakes);
        let token = lookup("AGENT_TOKEN").or_else(|| credential(&lookup, "agent-token"));
        if token.as_ref().is_some_and(|token| {
            token.len() < 16 || !token.bytes().all(|byte| byte.is_ascii_graphic())
        }) {
            mistakes.push(
                "AGENT_TOKEN must be 16 or more printable characters without spaces".to_owned(),
            );
        }
        let config = Self {
            listen,
            kernel: path("AGENT_KERNEL_PATH", dir.join("kernels/vmlinux")),
            images: path("AGENT_IMAGES_PATH", dir.join("images")),
            sandboxes: path("AGENT_SANDBOXES_PATH", dir.join("sandboxes")),
            snapshots: path("AGENT_SNAPSHOTS_PATH", dir.join("snapshots")),
            envd: path("AGENT_ENVD_PATH", beside_program("envd")),
            engine: engine(&lookup, &mut mistakes),
            disk: parsed(
                &lookup,
                "AGENT_DISK",
                "auto, dm, reflink, qcow2 or copy",
                disk::Choice::Auto,
                &mut mistakes,
            ),
            max_sandboxes: parsed(
                &lookup,
                "AGENT_MAX_SANDBOXES",
                "a number from 0",
                1000,
                &mut mistakes,
            ),
            network_plan: network_plan(&lookup, &mut mistakes),
            max_connections: max_connections(&lookup, &mut mistakes),
            max_checkpoints: parsed(
                &lookup,
                "AGENT_MAX_CHECKPOINTS",
                "a number from 0",
                100,
                &mut mistakes,
            ),
            max_snapshots: parsed(
                &lookup,
                "AGENT_MAX_SNAPSHOTS",
                "a number from 0",
                100,
                &mut mistakes,
            ),
            warm: parsed(
                &lookup,
                "AGENT_WARM",
                "on or off",
                Switch(true),
                &mut mistakes,
            )
            .0,
            network_pool,
            ipv6: parsed(
                &lookup,
                "AGENT_IPV6",
                "auto, on or off",
                WantedIpv6::Auto,
                &mut mistakes,
            ),
            disk_limits,
            limits,
            uid_base,
            dns,
            listener,
            token,
            dir,
        };
        if mistakes.is_empty() {
            Ok(config)
        } else {
            Err(Mistakes(mistakes))
        }
    }

    pub(crate) fn network_settings(&self) -> NetworkSettings {
        NetworkSettings {
            plan: self.network_plan,
            name_servers: self.dns.clone(),
            ipv6: self.ipv6,
            limits: self.limits,
            connections: self.max_connections,
        }
    }
}

fn network_plan(
    lookup: &impl Fn(&str) -> Option<String>,
    mistakes: &mut Vec<String>,
) -> Option<Plan> {
    let text = lookup("AGENT_NETWORK_CIDR")?;
    let plan = text.parse().ok().and_then(Plan::halves);
    if plan.is_none() {
        let longest = Plan::LONGEST_PREFIX;
        mistakes.push(format!(
            "AGENT_NETWORK_CIDR must be a private IPv4 network of /{longest} or larger, as 10.212.0.0/15, not {text:?}"
        ));
    }
    plan
}

fn max_connections(
    lookup: &impl Fn(&str) -> Option<String>,
    mistakes: &mut Vec<String>,
) -> Option<u32> {
    const NAME: &str = "AGENT_SANDBOX_CONNECTIONS";
    let right = format!(
        "a number from {} to {}",
        connections::LEAST,
        connections::MOST
    );
    lookup(NAME)?;
    let range = connections::LEAST..=connections::MOST;
    Some(bounded(
        lookup,
        NAME,
        &right,
        range,
        connections::LEAST,
        mistakes,
    ))
}

/// What systemd has put into the service's own directory of credentials. Nothing in there is no
/// credential.
fn credential(lookup: impl Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    let content =
        std::fs::read_to_string(Path::new(&lookup("CREDENTIALS_DIRECTORY")?).join(name)).ok()?;
    Some(content.trim().to_owned()).filter(|text| !text.is_empty())
}

fn engine(lookup: &impl Fn(&str) -> Option<String>, mistakes: &mut Vec<String>) -> Wanted {
    Wanted {
        vmm: parsed(
            lookup,
            "AGENT_VMM",
            "auto, firecracker or qemu",
            Choice::Auto,
            mistakes,
        ),
        accel: parsed(
            lookup,
            "AGENT_ACCEL",
            "auto, kvm or tcg",
            AccelChoice::Auto,
            mistakes,
        ),
        firecracker: lookup("FIRECRACKER_BIN").map(|path| absolute(path.into())),
        cpu_template: lookup("AGENT_CPU_TEMPLATE").map(|path| absolute(path.into())),
        enforcement: parsed(
            lookup,
            "AGENT_SYSCALL_FILTER",
            "enforce or log",
            Enforcement::Enforce,
            mistakes,
        ),
        ..Wanted::default()
    }
}

fn name_servers(lookup: impl Fn(&str) -> Option<String>, mistakes: &mut Vec<String>) -> String {
    let dns = lookup("AGENT_DNS").unwrap_or_else(|| "8.8.8.8,8.8.4.4".to_owned());
    if dns.split(',').any(|server| !is_server(server)) {
        mistakes.push(format!(
            "AGENT_DNS must be IPv4 addresses, with ports where they are not 53, and commas between them, not {dns:?}"
        ));
    }
    dns
}

/// An address, maybe with a port.
fn is_server(text: &str) -> bool {
    text.parse::<std::net::Ipv4Addr>().is_ok() || text.parse::<std::net::SocketAddrV4>().is_ok()
}

fn limits(lookup: &impl Fn(&str) -> Option<String>, mistakes: &mut Vec<String>) -> Bandwidth {
    let most = Bandwidth::MAX_MBPS;
    let right = format!("a number of Mbit/s from 0 (no limit) to {most}");
    let mut mbps = |name| bounded(lookup, name, &right, 0..=most, 0, mistakes);
    Bandwidth {
        egress_mbps: mbps("AGENT_EGRESS_MBPS"),
        ingress_mbps: mbps("AGENT_INGRESS_MBPS"),
    }
}

fn listener_limits(
    lookup: &impl Fn(&str) -> Option<String>,
    mistakes: &mut Vec<String>,
) -> ListenerLimits {
    let right = format!("a number from 16 to {MOST_CONNECTIONS}");
    let range = 16..=MOST_CONNECTIONS;
    let connections = bounded(
        lookup,
        "AGENT_MAX_CONNECTIONS",
        &right,
        range,
        DEFAULT_CONNECTIONS,
        mistakes,
    );
    ListenerLimits {
        connections,
        ..ListenerLimits::default()
    }
}

/// `on` or `off`.
struct Switch(bool);

impl std::str::FromStr for Switch {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "on" => Ok(Self(true)),
            "off" => Ok(Self(false)),
            _ => Err(()),
        }
    }
}

fn parsed<T: std::str::FromStr>(
    lookup: impl Fn(&str) -> Option<String>,
    name: &str,
    right: &str,
    default: T,
    mistakes: &mut Vec<String>,
) -> T {
    let Some(text) = lookup(name) else {
        return default;
    };
    text.parse().unwrap_or_else(|_| {
        mistakes.push(format!("{name} must be {right}, not {text:?}"));
        default
    })
}

/// A number of a range; `default` is in it.
fn bounded<T: std::str::FromStr + PartialOrd + std::fmt::Display>(
    lookup: impl Fn(&str) -> Option<String>,
    name: &str,
    right: &str,
    range: RangeInclusive<T>,
    default: T,
    mistakes: &mut Vec<String>,
) -> T {
    let number = parsed(lookup, name, right, default, mistakes);
    if !range.contains(&number) {
        mistakes.push(format!("{name} must be {right}, not {number}"));
    }
    number
}

/// An address and port; a port alone, as `:50051`, means every interface (the original Wrenn's
/// spelling).
#[must_use]
pub fn listen_address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix(':') {
        Some(port) => Some(SocketAddr::from(([0, 0, 0, 0], port.parse().ok()?))),
        None => text.replace("localhost", "127.0.0.1").parse().ok(),
    }
}

/// A VM's directory must mean the same wherever a process stands.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// `make build` puts all programs into one directory.
fn beside_program(name: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    program
        .parent()
        .unwrap_or(Path::new("/usr/local/bin"))
        .join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_originals_paths() {
        let config = Config::from_lookup(|_| None).unwrap();
        assert_eq!(config.kernel, Path::new("/var/lib/wrenn/kernels/vmlinux"));
        assert_eq!(config.images, Path::new("/var/lib/wrenn/images"));
        assert_eq!(config.listen.to_string(), "127.0.0.1:50051");
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        const NAMES: [&str; 11] = [
            "AGENT_LISTEN_ADDR",
            "AGENT_VMM",
            "AGENT_SYSCALL_FILTER",
            "AGENT_DISK",
            "AGENT_DNS",
            "AGENT_IPV6",
            "AGENT_MAX_CONNECTIONS",
            "AGENT_NETWORK_CIDR",
            "AGENT_SANDBOX_CONNECTIONS",
            "AGENT_TOKEN",
            "AGENT_UID_BASE",
        ];
        let wrong = Config::from_lookup(|name| match name {
            name if NAMES.contains(&name) => Some("wrong!".to_owned()),
            _ => None,
        });
        let text = wrong.unwrap_err().to_string();
        for name in NAMES {
            assert!(text.contains(name), "{text}");
        }
    }

    #[test]
    fn token_comes_from_environment_or_credential() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("agent-token"), "0123456789abcdef\n").unwrap();
        let path = dir.path().to_str().unwrap().to_owned();
        let with = |token: Option<&'static str>| {
            Config::from_lookup(|name| match name {
                "CREDENTIALS_DIRECTORY" => Some(path.clone()),
                "AGENT_TOKEN" => token.map(str::to_owned),
                _ => None,
            })
        };
        assert_eq!(
            with(None).unwrap().token.as_deref(),
            Some("0123456789abcdef")
        );
        assert_eq!(
            with(Some("fedcba9876543210")).unwrap().token.as_deref(),
            Some("fedcba9876543210")
        );
        std::fs::write(dir.path().join("agent-token"), "short").unwrap();
        assert!(with(None).unwrap_err().to_string().contains("AGENT_TOKEN"));
    }

    #[test]
    fn users_of_the_host_are_nobody_elses() {
        for wrong in ["0", "1000", "65534", "4294967295", "4294967290"] {
            let text =
                Config::from_lookup(|name| (name == "AGENT_UID_BASE").then(|| wrong.to_owned()));
            assert!(
                text.unwrap_err()
                    .to_string()
                    .contains("AGENT_UID_BASE must be a number from 65536")
            );
        }
        assert_eq!(
            Config::from_lookup(|_| None).unwrap().uid_base,
            DEFAULT_UID_BASE
        );
    }

    #[test]
    fn a_port_alone_means_every_interface() {
        assert_eq!(
            listen_address(":50051"),
            Some(SocketAddr::from(([0, 0, 0, 0], 50051)))
        );
        assert_eq!(
            listen_address("localhost:1"),
            Some(SocketAddr::from(([127, 0, 0, 1], 1)))
        );
        assert_eq!(listen_address(":x"), None);
    }
}
