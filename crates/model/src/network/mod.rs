//! Where a sandbox may connect to and how fast, and the pure part of deciding it.
//!
//! | destination | may it? |
//! |---|---|
//! | in [`BLOCKED_RANGES`] or [`BLOCKED_RANGES6`] | never |
//! | address in `allow_out` | yes: allow beats deny |
//! | name in `allow_out`, at an address that it really has | yes, also where `deny_out` has the address |
//! | address or name in `deny_out` | no |
//! | anything else | as `allow_internet` says |
//!
//! Where a rule has a name ([`NetworkSpec::has_names`]), an address that no rule allows can only be
//! reached as one that the sandbox was given for a name. Otherwise a program that knows an address
//! could go past a rule about its name.
//!
//! A network is of IPv4 or of IPv6, and so is what it stands for, but for one: `0.0.0.0/0` in
//! `deny_out` has always meant the whole internet, and closes IPv6, too. In `allow_out` it opens
//! IPv4 alone: `::/0` is the rest. Of two readings the one holds that lets less through.

mod bandwidth;
mod target;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::error::InvalidValue;
pub use bandwidth::Bandwidth;
pub use target::{NamePattern, Target};

/// Networks that no sandbox reaches over IPv4, whatever its rules say: addresses that are not of
/// the public internet (RFC 6890 and its registry), and the public address at which a cloud serves
/// metadata to its machines (Azure).
pub const BLOCKED_RANGES: [Ipv4Net; 16] = [
    net(0, 0, 0, 0, 8),
    net(10, 0, 0, 0, 8),
    net(100, 64, 0, 0, 10),
    net(127, 0, 0, 0, 8),
    net(168, 63, 129, 16, 32),
    net(169, 254, 0, 0, 16),
    net(172, 16, 0, 0, 12),
    net(192, 0, 0, 0, 24),
    net(192, 0, 2, 0, 24),
    net(192, 88, 99, 0, 24),
    net(192, 168, 0, 0, 16),
    net(198, 18, 0, 0, 15),
    net(198, 51, 100, 0, 24),
    net(203, 0, 113, 0, 24),
    net(224, 0, 0, 0, 4),
    net(240, 0, 0, 0, 4),
];

/// The same over IPv6. Public addresses are given out of 2000::/3 alone (IANA's registry of global
/// unicast addresses), so that private, link-local and multicast ones are outside, and all that
/// have an IPv4 address in them, such as NAT64's; those of 6to4 and Teredo are inside. The rest are
/// special purposes (RFC 6890 and its registry) and documentation.
pub const BLOCKED_RANGES6: [Ipv6Net; 7] = [
    net6([0, 0], 3),
    net6([0x2001, 0], 23),
    net6([0x2001, 0xdb8], 32),
    net6([0x2002, 0], 16),
    net6([0x3fff, 0], 20),
    net6([0x4000, 0], 2),
    net6([0x8000, 0], 1),
];

const fn net6([a, b]: [u16; 2], len: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), len)
}

const fn net(a: u8, b: u8, c: u8, d: u8, len: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), len)
}

/// Servers that answer questions about names over HTTPS, past every rule about names. Where there
/// are such rules, these must be in `allow_out` to be reached.
const DOH: [&str; 12] = [
    "cloudflare-dns.com",
    "dns.adguard.com",
    "dns.google",
    "dns.nextdns.io",
    "dns.quad9.net",
    "dns9.quad9.net",
    "dns10.quad9.net",
    "dns11.quad9.net",
    "doh.opendns.com",
    "mozilla.cloudflare-dns.com",
    "one.one.one.one",
    "chrome.cloudflare-dns.com",
];

/// Rules about where a sandbox may connect to, and how fast. [`NetworkSpec::check`] holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    #[serde(default)]
    pub allow_out: Vec<Target>,
    #[serde(default)]
    pub deny_out: Vec<Target>,
    /// True if the public internet is reached where no rule says otherwise.
    #[serde(default = "yes")]
    pub allow_internet: bool,
    #[serde(default, skip_serializing_if = "Bandwidth::is_none")]
    pub bandwidth: Bandwidth,
}

const fn yes() -> bool {
    true
}

impl Default for NetworkSpec {
    fn default() -> Self {
        Self {
            allow_out: Vec::new(),
            deny_out: Vec::new(),
            allow_internet: true,
            bandwidth: Bandwidth::default(),
        }
    }
}

/// Verdict of the rules on a name or an address alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Listed in [`BLOCKED_RANGES`] or [`BLOCKED_RANGES6`].
    Blocked,
    /// Listed in `allow_out`.
    Allowed,
    /// Listed in no rule, and the internet is open.
    Open,
    Denied,
}

impl NetworkSpec {
    /// Entries of each list. Each is looked at for each packet or question.
    pub const MAX_ENTRIES: usize = 256;

    /// Makes the rules of texts.
    ///
    /// # Errors
    /// The first entry that is none, with what would be right.
    pub fn parse(
        allow_out: &[String],
        deny_out: &[String],
        allow_internet: bool,
    ) -> Result<Self, InvalidValue> {
        let list = |field: &'static str, texts: &[String]| -> Result<Vec<Target>, InvalidValue> {
            // Before anything is read: lists come from outside.
            within_bounds(field, texts.len())?;
            texts
                .iter()
                .map(|text| Target::parse(field, text))
                .collect()
        };
        let spec = Self {
            allow_out: list("network.allow_out", allow_out)?,
            deny_out: list("network.deny_out", deny_out)?,
            allow_internet,
            bandwidth: Bandwidth::default(),
        };
        spec.check().map(|()| spec)
    }

    /// Returns the same rules with other limits of speed.
    #[must_use]
    pub fn with_bandwidth(self, bandwidth: Bandwidth) -> Self {
        Self { bandwidth, ..self }
    }

    /// Checks the rules. Those that could never have an effect are refused, so that no user relies
    /// on them.
    ///
    /// # Errors
    /// Names the entry.
    pub fn check(&self) -> Result<(), InvalidValue> {
        within_bounds("network.allow_out", self.allow_out.len())?;
        within_bounds("network.deny_out", self.deny_out.len())?;
        self.bandwidth.check()?;
        let is_blocked = |target: &&Target| match target {
            Target::Net(IpNet::V4(net)) => BLOCKED_RANGES.iter().any(|range| range.contains(net)),
            Target::Net(IpNet::V6(net)) => BLOCKED_RANGES6.iter().any(|range| range.contains(net)),
            Target::Name(_) => false,
        };
        match self.allow_out.iter().find(is_blocked) {
            None => Ok(()),
            Some(target) => Err(InvalidValue::new(
                "network.allow_out",
                format!(
                    "has {target}, which no sandbox can reach, whatever its rules: addresses that are private, \
                     link-local, shared, multicast or of cloud metadata, the host and other sandboxes; leave it out"
                ),
            )),
        }
    }

    /// Returns true if a rule has a name, so that names must be known for every connection.
    #[must_use]
    pub fn has_names(&self) -> bool {
        self.allow_out
            .iter()
            .chain(&self.deny_out)
            .any(|target| matches!(target, Target::Name(_)))
    }

    /// Returns true if destinations that are in no rule are denied, over IPv6 as over IPv4.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let is_all = |net: &IpNet| matches!(net, IpNet::V4(net) if net.prefix_len() == 0);
        !self.allow_internet || self.denied_nets().iter().any(is_all)
    }

    /// Returns the networks in `allow_out`, without those within another.
    #[must_use]
    pub fn allowed_nets(&self) -> Vec<IpNet> {
        nets(&self.allow_out)
    }

    /// Returns the networks in `deny_out`, without those within another.
    #[must_use]
    pub fn denied_nets(&self) -> Vec<IpNet> {
        nets(&self.deny_out)
    }

    /// Returns the verdict of the rules on an address, whatever name it has.
    #[must_use]
    pub fn judge_address(&self, address: IpAddr) -> Access {
        let within = |targets: &[Target]| targets.iter().any(|target| target.has_address(address));
        if is_blocked(address) {
            Access::Blocked
        } else if within(&self.allow_out) {
            Access::Allowed
        } else if within(&self.deny_out) || self.is_closed() {
            Access::Denied
        } else {
            Access::Open
        }
    }

    /// Returns the verdict of the rules on a name, whatever addresses it has. Case and a dot at its
    /// end do not matter.
    #[must_use]
    pub fn judge_name(&self, name: &str) -> Access {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let within = |targets: &[Target]| targets.iter().any(|target| target.has_name(&name));
        if within(&self.allow_out) {
            Access::Allowed
        } else if within(&self.deny_out)
            || self.is_closed()
            || (self.has_names() && DOH.contains(&name.as_str()))
        {
            Access::Denied
        } else {
            Access::Open
        }
    }

    /// Returns true if a connection to a name may go to an address, which must be one that the name
    /// really has.
    #[must_use]
    pub fn name_reaches(&self, name: &str, address: IpAddr) -> bool {
        match (self.judge_address(address), self.judge_name(name)) {
            (Access::Blocked, _) => false,
            (Access::Allowed, _) | (_, Access::Allowed) => true,
            (address, name) => address == Access::Open && name == Access::Open,
        }
    }
}

/// Returns true if an address is in [`BLOCKED_RANGES`] or [`BLOCKED_RANGES6`].
#[must_use]
pub fn is_blocked(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => BLOCKED_RANGES.iter().any(|range| range.contains(&address)),
        IpAddr::V6(address) => BLOCKED_RANGES6.iter().any(|range| range.contains(&address)),
    }
}

fn nets(targets: &[Target]) -> Vec<IpNet> {
    let nets: Vec<IpNet> = targets.iter().filter_map(Target::net).collect();
    IpNet::aggregate(&nets)
}

fn within_bounds(field: &'static str, entries: usize) -> Result<(), InvalidValue> {
    let most = NetworkSpec::MAX_ENTRIES;
    if entries <= most {
        return Ok(());
    }
    Err(InvalidValue::new(
        field,
        format!("must have at most {most} entries, not {entries}"),
    ))
}

#[cfg(test)]
mod tests;
