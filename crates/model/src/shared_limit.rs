//! Limits that sandboxes and clients share, as `wrenn doctor` and SECURITY.md list them. Each crate
//! lists its own, from the constants and settings that it works with.

use serde::Serialize;

/// Origin of a limit's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitOrigin {
    /// Constant, without a setting.
    BuiltIn,
    Default,
    Environment,
}

/// Limit that all users of an installation share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SharedLimit {
    /// Resource that is limited.
    pub of: &'static str,
    /// Name of the environment variable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub setting: Option<&'static str>,
    /// Value in force on this machine.
    pub value: String,
    /// Value without any setting, for all machines.
    pub default: String,
    pub origin: LimitOrigin,
    /// Consequence of reaching the limit.
    pub reached: &'static str,
}

impl SharedLimit {
    /// Creates a limit without a setting.
    pub fn built_in(of: &'static str, value: impl Into<String>, reached: &'static str) -> Self {
        let value = value.into();
        Self {
            of,
            setting: None,
            default: value.clone(),
            value,
            origin: LimitOrigin::BuiltIn,
            reached,
        }
    }

    /// Creates a limit with a setting. Its default is filled in by [`Self::compare`].
    pub fn set_by(
        setting: &'static str,
        of: &'static str,
        value: impl Into<String>,
        reached: &'static str,
    ) -> Self {
        Self {
            setting: Some(setting),
            origin: LimitOrigin::Default,
            ..Self::built_in(of, value, reached)
        }
    }

    /// Gives the value that a limit has on this machine, where that depends on the machine.
    #[must_use]
    pub fn with_actual(mut self, value: impl std::fmt::Display) -> Self {
        self.value = format!("{value} ({})", self.value);
        self
    }

    /// Fills in defaults and origins. `defaults` is the same list, made of the default settings.
    #[must_use]
    pub fn compare(
        in_force: Vec<Self>,
        defaults: Vec<Self>,
        is_set: impl Fn(&str) -> bool,
    ) -> Vec<Self> {
        let complete = |(limit, default): (Self, Self)| Self {
            default: default.default,
            origin: match limit.setting {
                Some(name) if is_set(name) => LimitOrigin::Environment,
                _ => limit.origin,
            },
            ..limit
        };
        in_force.into_iter().zip(defaults).map(complete).collect()
    }
}

/// Returns a number as a limit has it: zero is none.
#[must_use]
pub fn or_none(number: u64, unit: &str) -> String {
    match number {
        0 => "none".to_owned(),
        number => format!("{number} {unit}").trim_end().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_and_default_are_compared() {
        let list = |value: &str| {
            vec![
                SharedLimit::set_by("A", "things", value, "wait").with_actual(7),
                SharedLimit::built_in("others", "3", "end"),
            ]
        };
        let compared = SharedLimit::compare(list("2"), list("1"), |name| name == "A");
        assert_eq!(compared[0].value, "7 (2)");
        assert_eq!(compared[0].default, "1");
        assert_eq!(compared[0].origin, LimitOrigin::Environment);
        assert_eq!(compared[1].origin, LimitOrigin::BuiltIn);
        let unset = SharedLimit::compare(list("1"), list("1"), |_| false);
        assert_eq!(unset[0].origin, LimitOrigin::Default);
    }
}
