//! Teams, which own resources, and scopes, which limit keys.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::error::InvalidValue;

/// Id of a team: 1 to 63 characters of `[a-z0-9-]`. Sandboxes, snapshots and keys belong to one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TeamId(String);

impl TeamId {
    pub const MAX_LEN: usize = 63;
    /// The only team of an installation that has made no others.
    pub const DEFAULT: &'static str = "default";

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The team [`TeamId::DEFAULT`].
impl Default for TeamId {
    fn default() -> Self {
        Self(Self::DEFAULT.to_owned())
    }
}

impl fmt::Display for TeamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TeamId {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(is_allowed) {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidValue::new(
            "team id",
            format!(
                "must be 1 to {} characters of a-z, 0-9 and -",
                Self::MAX_LEN
            ),
        ))
    }
}

/// Kind of thing that a scope is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    Sandboxes,
    Templates,
    Snapshots,
    Network,
    Team,
    Usage,
    Events,
    Webhooks,
}

impl Resource {
    pub const ALL: [Self; 8] = [
        Self::Sandboxes,
        Self::Templates,
        Self::Snapshots,
        Self::Network,
        Self::Team,
        Self::Usage,
        Self::Events,
        Self::Webhooks,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sandboxes => "sandboxes",
            Self::Templates => "templates",
            Self::Snapshots => "snapshots",
            Self::Network => "network",
            Self::Team => "team",
            Self::Usage => "usage",
            Self::Events => "events",
            Self::Webhooks => "webhooks",
        }
    }
}

/// Right of a key, as text `sandboxes:read`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    Read(Resource),
    /// Includes [`Scope::Read`].
    Write(Resource),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (resource, access) = match self {
            Self::Read(resource) => (resource, "read"),
            Self::Write(resource) => (resource, "write"),
        };
        write!(f, "{}:{access}", resource.as_str())
    }
}

impl FromStr for Scope {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let all = Resource::ALL.map(|resource| [Self::Read(resource), Self::Write(resource)]);
        all.into_iter()
            .flatten()
            .find(|scope| scope.to_string() == text)
            .ok_or_else(|| InvalidValue::new("scope", "must be like sandboxes:read or admin"))
    }
}

/// All rights of a key; as text separated by spaces, `admin` for every one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scopes {
    Admin,
    Only(BTreeSet<Scope>),
}

impl Scopes {
    /// Returns true if a key with these scopes has the right `scope`.
    #[must_use]
    pub fn allows(&self, scope: Scope) -> bool {
        match (self, scope) {
            (Self::Admin, _) => true,
            (Self::Only(scopes), Scope::Read(resource)) => {
                scopes.contains(&scope) || scopes.contains(&Scope::Write(resource))
            }
            (Self::Only(scopes), Scope::Write(_)) => scopes.contains(&scope),
        }
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin => f.write_str("admin"),
            Self::Only(scopes) => {
                let words: Vec<String> = scopes.iter().map(Scope::to_string).collect();
                f.write_str(&words.join(" "))
            }
        }
    }
}

impl FromStr for Scopes {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text == "admin" {
            return Ok(Self::Admin);
        }
        let scopes = text.split_whitespace().map(str::parse);
        Ok(Self::Only(scopes.collect::<Result<_, _>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_survive_text() {
        let scopes = Scopes::Only(BTreeSet::from([
            Scope::Read(Resource::Usage),
            Scope::Write(Resource::Sandboxes),
        ]));
        for scopes in [Scopes::Admin, scopes, Scopes::Only(BTreeSet::new())] {
            assert_eq!(scopes.to_string().parse(), Ok(scopes));
        }
        for wrong in ["sandboxes", "sandboxes:all", "admin sandboxes:read"] {
            assert!(wrong.parse::<Scopes>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn write_includes_read_and_nothing_else() {
        let scopes: Scopes = "sandboxes:write usage:read".parse().unwrap();
        for resource in Resource::ALL {
            let is_sandboxes = resource == Resource::Sandboxes;
            let is_usage = resource == Resource::Usage;
            let read = scopes.allows(Scope::Read(resource));
            assert_eq!(read, is_sandboxes || is_usage, "{resource:?}");
            assert_eq!(
                scopes.allows(Scope::Write(resource)),
                is_sandboxes,
                "{resource:?}"
            );
            assert!(Scopes::Admin.allows(Scope::Write(resource)));
        }
    }

    #[test]
    fn team_ids_are_short_and_plain() {
        assert_eq!(TeamId::DEFAULT.parse(), Ok(TeamId::default()));
        let long = "a".repeat(TeamId::MAX_LEN + 1);
        for wrong in ["", "A", "a b", "a\0", "../a", &long] {
            assert!(wrong.parse::<TeamId>().is_err(), "{wrong:?}");
        }
    }
}
