//! Entry of a list of rules: an address, a network, or a name.

use core::fmt;
use core::net::{IpAddr, Ipv6Addr};
use core::str::FromStr;

use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::InvalidValue;

/// Characters of a name, and of one part of it (RFC 1035).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// IPv6 addresses that stand for IPv4 ones (RFC 4291, section 2.5.5.2). No packet has one.
const MAPPED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);

/// Destinations that a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `192.0.2.7`, `192.0.2.0/24`, `2001:db8::7` and `2001:db8::/32`; what is beyond the prefix is
    /// zero.
    Net(IpNet),
    Name(NamePattern),
}

/// `example.com`, `*.example.com` (everything below it, but not it) or `*` (every name). Lower
/// case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern {
    /// Name without the asterisk; begins with a dot where there was one.
    suffix: String,
    is_wildcard: bool,
}

impl Target {
    /// Reads an entry of the list `field`.
    ///
    /// # Errors
    /// Text for the user: what is wrong with it.
    pub fn parse(field: &'static str, text: &str) -> Result<Self, InvalidValue> {
        let shown: String = text.chars().take(MAX_NAME).collect();
        let wrong = |problem: &str| InvalidValue::new(field, format!("has {shown:?}: {problem}"));
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Net(address.to_canonical().into()));
        }
        if let Ok(net) = text.parse::<IpNet>() {
            let is_mapped = matches!(net, IpNet::V6(net) if MAPPED.contains(&net));
            return if is_mapped {
                Err(wrong("write it as the IPv4 network that it is"))
            } else {
                Ok(Self::Net(net.trunc()))
            };
        }
        if text.contains(':') {
            return Err(wrong(
                "it is no IPv6 address or network (2001:db8::/32), and a name has no port; leave it out",
            ));
        }
        if text.contains('/') {
            return Err(wrong(
                "a network is written as in 192.0.2.0/24 or 2001:db8::/32",
            ));
        }
        NamePattern::parse(text).map(Self::Name).map_err(wrong)
    }

    pub(super) fn net(&self) -> Option<IpNet> {
        match self {
            Self::Net(net) => Some(*net),
            Self::Name(_) => None,
        }
    }

    pub(super) fn has_address(&self, address: IpAddr) -> bool {
        self.net().is_some_and(|net| net.contains(&address))
    }

    /// Returns true if the target has `name`, which must be in lower case and without a dot at its
    /// end.
    pub(super) fn has_name(&self, name: &str) -> bool {
        match self {
            Self::Net(_) => false,
            Self::Name(pattern) => pattern.matches(name),
        }
    }
}

impl NamePattern {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let lower = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if lower == "*" {
            return Ok(Self {
                suffix: String::new(),
                is_wildcard: true,
            });
        }
        let name = lower.strip_prefix("*.").unwrap_or(&lower);
        if name.contains('*') {
            return Err("an asterisk stands for the first parts of a name, as in *.example.com");
        }
        if !name.is_ascii() {
            return Err(
                "a name with other letters is written in its ASCII form, which begins with xn--",
            );
        }
        let is_label = |label: &str| {
            let right = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(right)
        };
        if name.len() > MAX_NAME || !name.split('.').all(is_label) {
            return Err(
                "it is no address, network (192.0.2.0/24) or name (example.com, *.example.com)",
            );
        }
        // 192.0.2 and 10 are incomplete addresses, not names.
        if name
            .rsplit('.')
            .next()
            .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()))
        {
            return Err("an address has four parts, and a network is written as in 192.0.2.0/24");
        }
        let is_wildcard = name.len() < lower.len();
        let suffix = if is_wildcard {
            format!(".{name}")
        } else {
            name.to_owned()
        };
        Ok(Self {
            suffix,
            is_wildcard,
        })
    }

    /// Returns true if the pattern matches `name`, which must be in lower case and without a dot at
    /// its end.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self.is_wildcard {
            true => name.len() > self.suffix.len() && name.ends_with(&self.suffix),
            false => name == self.suffix,
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}{}",
            if self.is_wildcard { "*" } else { "" },
            self.suffix
        )
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Self::Net(net) => net.fmt(f),
            Self::Name(pattern) => pattern.fmt(f),
        }
    }
}

impl FromStr for Target {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        Self::parse("network", text)
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}
