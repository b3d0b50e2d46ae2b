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

/// Users and groups for the sandboxes of one agent.
#[derive(Debug)]
pub struct Jails {
    uid_base: u32,
    groups: Option<Tree>,
    disk: DiskLimits,
    /// True if all processes of our users are our VMMs, so that they may be killed.
    ends_processes: bool,
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
            ends_processes: true,
        })
    }

    /// Creates jails with users only, without control groups and processes: for simulations.
    #[must_use]
    pub fn without_groups(uid_base: u32) -> Self {
        Self {
            uid_base,
            groups: None,
            disk: DiskLimits::default(),
            ends_processes: false,
        }
    }

    /// Returns the user of a slot's VMM; its group has the same number.
    #[must_use]
    pub fn user(&self, slot: Slot) -> u32 {
        self.uid_base + u32::from(slot.number())
    }

    /// Returns the jail for the VMM of the sandbox that has this slot.
    #[must_use]
    pub fn of(&self, slot: Slot) -> vmm::Jail {
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

    /// Ends whatever runs in the slot's control group or as its user, and removes the group. Only
    /// then may the slot be given to another sandbox: two VMMs of one user could look into each
    /// other. Idempotent. Blocking.
    ///
    /// # Errors
    /// When a process or the group stays.
    pub fn remove(&self, slot: Slot) -> io::Result<()> {
        if let Some(groups) = &self.groups {
            cgroup::remove(&groups.group(&slot.cgroup()))?;
        }
        if self.ends_processes {
            // Without control groups nothing else finds a VMM that hides from its driver.
            process::end_all_of_user(self.user(slot), END_TIMEOUT)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_a_user_of_its_own_below_the_numbers_that_others_give_away() {
        let jails = Jails::without_groups(DEFAULT_UID_BASE);
        let first = Slot::new(1).unwrap();
        let last = Slot::new(Slot::MAX).unwrap();
        assert_eq!(jails.user(first), 2_000_000_001);
        assert!(jails.user(last) < 2_147_352_576);
        let jail = jails.of(last);
        assert_eq!(
            (jail.uid, jail.gid, jail.cgroup),
            (2_000_032_767, 2_000_032_767, None)
        );
        jails.remove(first).unwrap();
    }

    #[test]
    fn slot_is_not_free_while_its_user_has_processes() {
        use std::os::unix::process::CommandExt;
        // Of no agent on this machine.
        let jails = Jails {
            ends_processes: true,
            ..Jails::without_groups(2_045_000_000 + std::process::id())
        };
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
