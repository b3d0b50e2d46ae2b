//! IPv6 of sandboxes: the decision for or against it, and the host's own settings that it needs.
//!
//! ```text
//!   AGENT_IPV6=off ─────────────────────────────────────────────→ off
//!   on, auto ──→ the kernel has IPv6, and it is not turned off? ──→ off
//!                  └─→ auto: a default route, a public address? → off
//!                        └─→ on: forwarding, after what it would break
//! ```
//! Forwarding has a side effect: a kernel that forwards ignores router advertisements, and links
//! that got their addresses and routes from them would lose these. So before it is turned on, links
//! whose `accept_ra` is 1 ("unless forwarding") get 2 ("also with forwarding"). Former values are
//! noted before they are changed, and restored by [`restore_settings`].
//!
//! Machines beside the host have public addresses over IPv6, which a router may shield from the
//! internet, but not from machines in the same network. So the networks that the host's own links
//! are in are not public for sandboxes ([`local_prefixes`]).

use std::fs;
use std::io;
use std::net::Ipv6Addr;
use std::path::Path;
use std::str::FromStr;

use ipnet::Ipv6Net;
use linux::link::{Links, Route6};
use linux::{file, link, sysctl};
use model::network::is_blocked;
use stdx::io::OptionalExt;

use super::plan::{NETWORK6, VETH_PREFIX};

/// Directory of the settings of all links, of each link, and of `default`, which new links get.
const CONF: &str = "net/ipv6/conf";
/// Shortest prefix of a route that counts as a local network. Shorter ones are routes to the
/// internet, such as those of a tunnel.
const NARROW: u8 = 32;
/// Most local networks: more than a host is in.
const MAX_LOCAL_PREFIXES: usize = 2048;
const FORWARDING: &str = "net/ipv6/conf/all/forwarding";

/// The setting `AGENT_IPV6`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ipv6Setting {
    /// On if the host has a default route and a public address. A route alone, as behind another
    /// translation of private addresses, may lead nowhere, and guests would try IPv6 first.
    #[default]
    Auto,
    On,
    Off,
}

impl FromStr for Ipv6Setting {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(()),
        }
    }
}

/// IPv6 of the networks of this host: on, or off for a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6Mode {
    On,
    Off(Why),
}

/// Reason for which sandboxes have no IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    NotWanted,
    NoKernel,
    Disabled,
    NoRoute,
    NoAddress,
}

impl Why {
    /// Returns the reason as part of a sentence.
    #[must_use]
    pub fn as_text(self) -> &'static str {
        match self {
            Self::NotWanted => "AGENT_IPV6 is off",
            Self::NoKernel => "the host's kernel has no IPv6",
            Self::Disabled => {
                "net.ipv6.conf.all.disable_ipv6 or net.ipv6.conf.default.disable_ipv6 is 1"
            }
            Self::NoRoute => "the host has no IPv6 default route",
            Self::NoAddress => "the host has no public IPv6 address",
        }
    }
}

impl Ipv6Mode {
    #[must_use]
    pub fn is_on(self) -> bool {
        self == Self::On
    }

    /// Returns the mode for the setting in the calling thread's namespace. Changes nothing.
    ///
    /// # Errors
    /// When the kernel's settings or routes cannot be read.
    pub fn choose(wanted: Ipv6Setting) -> io::Result<Self> {
        if wanted == Ipv6Setting::Off {
            return Ok(Self::Off(Why::NotWanted));
        }
        for of in ["all", "default"] {
            match sysctl::get(&format!("{CONF}/{of}/disable_ipv6")) {
                Ok(value) if value == "0" => {}
                Ok(_) => return Ok(Self::Off(Why::Disabled)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Self::Off(Why::NoKernel));
                }
                Err(error) => return Err(error),
            }
        }
        if wanted == Ipv6Setting::On {
            return Ok(Self::On);
        }
        if !link::list_routes6()?.iter().any(is_default) {
            return Ok(Self::Off(Why::NoRoute));
        }
        let is_public = |(address, ..): &(Ipv6Addr, u8, String)| !is_blocked((*address).into());
        Ok(if link::list_addresses6()?.iter().any(is_public) {
            Self::On
        } else {
            Self::Off(Why::NoAddress)
        })
    }
}

fn is_default(route: &Route6) -> bool {
    route.prefix == 0
}

/// Returns the networks that the links of the calling thread's namespace are in, except for our
/// links: those of their addresses, and those to which routes lead without a router. An address
/// that was given by itself, as by DHCP, does not tell its network.
///
/// # Errors
/// When the kernel's addresses or routes cannot be read; when there are too many.
pub fn local_prefixes() -> io::Result<Vec<Ipv6Net>> {
    let addresses = link::list_addresses6()?.into_iter();
    let routes = link::list_routes6()?
        .into_iter()
        .filter(|route| !route.has_gateway && route.prefix >= NARROW);
    let found = addresses.chain(routes.map(|route| (route.destination, route.prefix, route.link)));
    let nets: Vec<Ipv6Net> = found
        .filter(|(_, _, link)| !link.starts_with(VETH_PREFIX))
        .filter_map(|(address, prefix, _)| Ipv6Net::new(address, prefix).ok())
        .map(|net| net.trunc())
        .collect();
    let nets = Ipv6Net::aggregate(&nets);
    if nets.len() > MAX_LOCAL_PREFIXES {
        let problem = format!(
            "this host is in {} networks, and {MAX_LOCAL_PREFIXES} are kept apart; set AGENT_IPV6=off",
            nets.len()
        );
        return Err(io::Error::other(problem));
    }
    Ok(nets)
}

/// Adds an unreachable route for all addresses of sandboxes, so that packets to a sandbox that is
/// gone do not go to a router of the host.
pub(super) fn add_unreachable_route() -> io::Result<()> {
    let (network, prefix) = NETWORK6;
    Links::in_this_netns()?.add_unreachable6(network, prefix)
}

/// Turns forwarding on, and notes below `dir` what that changes.
pub(super) fn enable_forwarding(dir: &Path) -> io::Result<()> {
    let now = sysctl::get(FORWARDING)?;
    if now == "1" {
        return Ok(());
    }
    let mut before = vec![(FORWARDING.to_owned(), now)];
    for link in links()?.into_iter().filter(|link| link != "all") {
        let [forwards, listens] =
            ["forwarding", "accept_ra"].map(|setting| format!("{CONF}/{link}/{setting}"));
        if is_one(&forwards)? {
            // This link forwards already, so it ignores routers, and must do so after `restore_settings`.
            before.push((forwards, "1".to_owned()));
        } else if is_one(&listens)? {
            before.push((listens, "1".to_owned()));
        }
    }
    note(dir, &before)?;
    for (name, _) in before
        .iter()
        .filter(|(name, _)| name.ends_with("/accept_ra"))
    {
        if_there(sysctl::set(name, "2"))?;
    }
    sysctl::set(FORWARDING, "1")
}

/// Returns true if a setting is 1; false if it is not there.
fn is_one(name: &str) -> io::Result<bool> {
    match sysctl::get(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        other => Ok(other? == "1"),
    }
}

/// Restores the settings that are noted below `dir`, and removes the unreachable route.
pub(super) fn restore_settings(dir: &Path) -> io::Result<()> {
    if sysctl::get(FORWARDING).is_ok() {
        let (network, prefix) = NETWORK6;
        Links::in_this_netns()?.remove_unreachable6(network, prefix)?;
    }
    let path = dir.join(NOTE);
    // In the order of the note: turning `all` off comes first, since it turns off all links.
    for (name, value) in read(&path)? {
        if_there(sysctl::set(&name, &value))?;
    }
    if_there(fs::remove_file(path))
}

/// Name of the file with the former settings, in the directory of the host's notes: a name and a
/// value a line.
const NOTE: &str = "ipv6-was";

/// Adds former settings to the note. A value that an earlier agent has noted stays, since that is
/// the original one.
fn note(dir: &Path, before: &[(String, String)]) -> io::Result<()> {
    let path = dir.join(NOTE);
    let mut noted = read(&path)?;
    for (name, value) in before {
        if !noted.iter().any(|(known, _)| known == name) {
            noted.push((name.clone(), value.clone()));
        }
    }
    let text: String = noted
        .iter()
        .map(|(name, value)| format!("{name} {value}\n"))
        .collect();
    file::write_atomic(&path, text.as_bytes(), 0o600)
}

fn read(path: &Path) -> io::Result<Vec<(String, String)>> {
    let Some(text) = fs::read_to_string(path).optional()? else {
        return Ok(Vec::new());
    };
    let line = |line: &str| {
        line.split_once(' ')
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    Ok(text.lines().filter_map(line).collect())
}

/// Returns the links that have settings of IPv6, without ours, and `all` and `default`.
fn links() -> io::Result<Vec<String>> {
    let entries = fs::read_dir(Path::new("/proc/sys").join(CONF))?.flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names
        .filter(|name| !name.starts_with(VETH_PREFIX))
        .collect())
}

/// Turns the error "not found" into success: a link may be gone by now.
fn if_there(done: io::Result<()>) -> io::Result<()> {
    done.optional().map(drop)
}

#[cfg(test)]
mod tests {
    use linux::netns;

    use super::*;

    const ADDRESS: Ipv6Addr = Ipv6Addr::new(0x2a07, 0, 0, 0, 0, 0, 0, 5);
    const PRIVATE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
    const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

    /// In a namespace of its own with one link, which is up.
    fn on_a_host(name: &str, work: impl FnOnce(Links) -> io::Result<()> + Send + 'static) {
        let name = format!("wtest-ipv6-{name}-{}", std::process::id());
        let other = format!("{name}-far");
        netns::create(&name).unwrap();
        netns::create(&other).unwrap();
        let far = other.clone();
        let done = netns::enter(&name, move || {
            let links = Links::in_this_netns()?;
            links.add_veth(
                "eth0",
                "far",
                &far,
                [[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 2]],
            )?;
            links.without_own_ipv6("eth0")?;
            links.set_up("eth0")?;
            work(links)
        });
        netns::remove(&name).unwrap();
        netns::remove(&other).unwrap();
        done.unwrap();
    }

    #[test]
    fn ipv6_mode_follows_routes_and_setting() {
        on_a_host("choose", |links| {
            assert_eq!(
                Ipv6Mode::choose(Ipv6Setting::Auto)?,
                Ipv6Mode::Off(Why::NoRoute)
            );
            assert_eq!(
                (
                    Ipv6Mode::choose(Ipv6Setting::On)?,
                    Ipv6Mode::choose(Ipv6Setting::Off)?
                ),
                (Ipv6Mode::On, Ipv6Mode::Off(Why::NotWanted))
            );
            links.add_route6("eth0", Ipv6Addr::UNSPECIFIED, 0, ROUTER)?;
            links.add_address("eth0", PRIVATE, 64)?;
            assert_eq!(
                Ipv6Mode::choose(Ipv6Setting::Auto)?,
                Ipv6Mode::Off(Why::NoAddress)
            );
            links.add_address("eth0", ADDRESS, 64)?;
            assert_eq!(Ipv6Mode::choose(Ipv6Setting::Auto)?, Ipv6Mode::On);
            for of in ["default", "all"] {
                let setting = format!("{CONF}/{of}/disable_ipv6");
                sysctl::set(&setting, "1")?;
                for wanted in [Ipv6Setting::Auto, Ipv6Setting::On] {
                    assert_eq!(
                        Ipv6Mode::choose(wanted)?,
                        Ipv6Mode::Off(Why::Disabled),
                        "{of}"
                    );
                }
                sysctl::set(&setting, "0")?;
            }
            Ok(())
        });
    }

    #[test]
    fn changed_settings_are_put_back() {
        on_a_host("undo", |_| {
            let dir = tempfile::tempdir()?;
            let names = [
                "all/forwarding",
                "default/accept_ra",
                "eth0/accept_ra",
                "lo/forwarding",
                "lo/accept_ra",
            ];
            let state = || names.map(|name| sysctl::get(&format!("{CONF}/{name}")).unwrap());
            // One link forwards already, and one listens to no router.
            sysctl::set("net/ipv6/conf/lo/forwarding", "1")?;
            sysctl::set("net/ipv6/conf/default/accept_ra", "0")?;
            let before = state();
            enable_forwarding(dir.path())?;
            assert_eq!(state(), ["1", "0", "2", "1", "1"]);
            // Another program turns it off, and the next agent on again.
            sysctl::set(FORWARDING, "0")?;
            enable_forwarding(dir.path())?;
            restore_settings(dir.path())?;
            assert_eq!(state(), before);
            restore_settings(dir.path())?;
            assert_eq!(fs::read_dir(dir.path())?.count(), 0);
            // Where it was on nothing is changed, and nothing put back.
            sysctl::set(FORWARDING, "1")?;
            enable_forwarding(dir.path())?;
            restore_settings(dir.path())?;
            assert_eq!(sysctl::get(FORWARDING)?, "1");
            Ok(())
        });
    }

    #[test]
    fn networks_of_host_links_are_local() {
        on_a_host("near", |links| {
            assert!(local_prefixes()?.is_empty());
            links.add_address("eth0", ADDRESS, 64)?;
            assert_eq!(local_prefixes()?, ["2a07::/64".parse().unwrap()]);
            // A network to which a route leads, a way to everywhere, and one through a router.
            for to in ["2a08::/64", "2000::/3"] {
                let added = std::process::Command::new("ip")
                    .args(["-6", "route", "add", to, "dev", "eth0"])
                    .status()?;
                assert!(added.success());
            }
            links.add_route6("eth0", "2a09::".parse().unwrap(), 64, ROUTER)?;
            assert_eq!(
                local_prefixes()?,
                ["2a07::/64", "2a08::/64"].map(|net| net.parse().unwrap())
            );
            add_unreachable_route()?;
            add_unreachable_route()?;
            assert_eq!(local_prefixes()?.len(), 2);
            Ok(())
        });
    }
}
