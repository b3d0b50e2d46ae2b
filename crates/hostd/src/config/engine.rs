//! VMM and accelerator of guests, and the users that VMMs run as.

use std::ops::RangeInclusive;

use runtime::config::Variables;
use vmm::engine::{AccelChoice, Choice, Enforcement, Wanted};

use crate::jail::DEFAULT_UID_BASE;
use crate::network::Slot;

const VMM: &str = "AGENT_VMM";
const ACCEL: &str = "AGENT_ACCEL";
const FIRECRACKER: &str = "FIRECRACKER_BIN";
const CPU_TEMPLATE: &str = "AGENT_CPU_TEMPLATE";
const SYSCALL_FILTER: &str = "AGENT_SYSCALL_FILTER";
const WARM: &str = "AGENT_WARM";
const UID_BASE: &str = "AGENT_UID_BASE";

/// Range of `AGENT_UID_BASE`. The host's own users are below it; the last two numbers of all are
/// reserved, and the users of all slots must be below them.
const UID_BASES: RangeInclusive<u32> = 65_536..=u32::MAX - 2 - Slot::MAX as u32;

/// VMM, accelerator and users.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// `AGENT_VMM`, `AGENT_ACCEL`, `FIRECRACKER_BIN`, `AGENT_CPU_TEMPLATE` and
    /// `AGENT_SYSCALL_FILTER`.
    pub wanted: Wanted,
    /// `AGENT_WARM`: whether sandboxes are restored from a guest that has booted, where there is
    /// one like them.
    pub preboot: bool,
    /// `AGENT_UID_BASE`: users and groups of VMMs are this plus the number of their network slot.
    pub uid_base: u32,
}

impl EngineConfig {
    pub(super) fn from_variables(variables: &mut Variables<'_>) -> Self {
        Self {
            wanted: Wanted {
                vmm: variables.parse_or(VMM, "auto, firecracker or qemu", Choice::Auto),
                accel: variables.parse_or(ACCEL, "auto, kvm or tcg", AccelChoice::Auto),
                firecracker: variables.optional_path(FIRECRACKER),
                cpu_template: variables.optional_path(CPU_TEMPLATE),
                enforcement: variables.parse_or(
                    SYSCALL_FILTER,
                    "enforce or log",
                    Enforcement::Enforce,
                ),
                ..Wanted::default()
            },
            preboot: variables.parse_or(WARM, "on or off", Switch(true)).0,
            uid_base: variables.parse_within(UID_BASE, &UID_BASES, DEFAULT_UID_BASE),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn uid_base_excludes_users_of_host() {
        for wrong in ["0", "1000", "65534", "4294967295", "4294967290"] {
            let config = Config::from_lookup(&|name| (name == UID_BASE).then(|| wrong.to_owned()));
            let text = config.unwrap_err().to_string();
            assert!(text.contains("AGENT_UID_BASE must be a number from 65536"));
        }
        let config = Config::from_lookup(&|_| None).unwrap();
        assert_eq!(config.engine.uid_base, DEFAULT_UID_BASE);
    }
}
