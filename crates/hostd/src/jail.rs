//! Jail of a sandbox's VMM: a user, a group and a control group of the sandbox's own, numbered by
//! its network slot, which no two sandboxes of this machine have at the same time.

use std::io;
use std::time::Duration;

use linux::cgroup::{self, DiskLimits, Tree};
use linux::process;

use crate::network::Slot;

/// First user and group, less one, unless `AGENT_UID_BASE` is set. Distributions and
/// systemd give away nothing from 1,879,048,192 to 2,147,352,575 (systemd, "Users, Groups, UIDs and
/// GIDs"), and container managers stay below.
pub const DEFAULT_UID_BASE: u32 = 2_000_000_000;

/// Our directory in the hierarchy of control groups, shared by all agents of this machine.
const GROUPS: &str = "wrenn";

/// Jails of one agent's sandboxes, as sandboxes use them. Blocking: call it where that is allowed.
pub trait SandboxJails: std::fmt::Debug + Send + Sync {
    /// Returns the user of a slot's VMM; its group has the same number.
    fn user(&self, slot: Slot) -> u32;

    /// Returns the jail for the VMM of the sandbox that has this slot.
    fn jail(&self, slot: Slot) -> vmm::Jail;

    /// Ends whatever runs in the slot's control group or as its user, and removes the group. Only
    /// then may the slot be given to another sandbox: two VMMs of one user could look into each
    /// other. Idempotent.
    ///
    /// # Errors
    /// When a process or the group stays.
    fn remove(&self, slot: Slot) -> io::Result<()>;
}

/// Users and control groups of this machine for the sandboxes of one agent. All processes of these
/// users are VMMs of the agent.
#[derive(Debug)]
pub struct Jails {
    uid_base: u32,
    groups: Option<Tree>,
    disk: DiskLimits,
}

/// Time that killed processes may take to end. Freeing a large guest's memory takes the kernel some
/// seconds.
const END_TIMEOUT: Duration = Duration::from_secs(30);

impl Jails {
    /// Finds out what limits this machine can set, and logs what it cannot. Blocking.
    ///
    /// # Errors
    /// When control groups are there but none can be made.
    pub fn prepare(uid_base: u32, disk: DiskLimits) -> io::Result<Self> {
        let groups = Tree::prepare(GROUPS)?;
        let has = groups.as_ref().map(Tree::controllers).unwrap_or_default();
        let missing: Vec<&str> = cgroup::WANTED
            .into_iter()
            .filter(|wanted| !has.iter().any(|name| name == wanted))
            .collect();
        if !missing.is_empty() {
            tracing::warn!(
                "sandboxes have no cgroup limits for {}; see `wrenn doctor`",
                missing.join(", ")
            );
        }
        Ok(Self {
            uid_base,
            groups,
            disk,
        })
    }
}

impl SandboxJails for Jails {
    fn user(&self, slot: Slot) -> u32 {
        self.uid_base + u32::from(slot.number())
    }

    fn jail(&self, slot: Slot) -> vmm::Jail {
        let user = self.user(slot);
        let cgroup = self
            .groups
            .as_ref()
            .map(|groups| groups.group(&slot.cgroup()));
        vmm::Jail {
            uid: user,
            gid: user,
            cgroup,
            disk: self.disk,
        }
    }

    fn remove(&self, slot: Slot) -> io::Result<()> {
        if let Some(groups) = &self.groups {
            cgroup::remove(&groups.group(&slot.cgroup()))?;
        }
        // Without control groups nothing else finds a VMM that hides from its driver.
        process::end_all_of_user(self.user(slot), END_TIMEOUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Jails as on a machine without control groups.
    fn without_groups(uid_base: u32) -> Jails {
        Jails {
            uid_base,
            groups: None,
            disk: DiskLimits::default(),
        }
    }

    #[test]
    fn each_slot_has_own_unused_user() {
        let jails = without_groups(DEFAULT_UID_BASE);
        let first = Slot::new(1).unwrap();
        let last = Slot::new(Slot::MAX).unwrap();
        assert_eq!(jails.user(first), 2_000_000_001);
        assert!(jails.user(last) < 2_147_352_576);
        let jail = jails.jail(last);
        assert_eq!(
            (jail.uid, jail.gid, jail.cgroup),
            (2_000_032_767, 2_000_032_767, None)
        );
    }

    #[test]
    fn slot_is_not_free_while_its_user_has_processes() {
        use std::os::unix::process::CommandExt;
        // Of no agent on this machine.
        let jails = without_groups(2_045_000_000 + std::process::id());
        let slot = Slot::new(1).unwrap();
        let neighbour = Slot::new(2).unwrap();
        let start = |slot| {
            let user = jails.user(slot);
            std::process::Command::new("sleep")
                .arg("60")
                .uid(user)
                .gid(user)
                .spawn()
                .unwrap()
        };
        let mut hidden = start(slot);
        let mut other = start(neighbour);
        jails.remove(slot).unwrap();
        assert!(!std::path::Path::new(&format!("/proc/{}", hidden.id())).exists());
        assert!(other.try_wait().unwrap().is_none());
        let _ = hidden.wait();
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
