//! Claims of the network slots of this machine, and their holders.
//!
//! Several agents can share one machine (each with a `WRENN_DIR` of its own), so a slot is claimed
//! where all of them look: an exclusively created file `/run/wrenn/slots/N`, made before anything
//! else of the slot and removed after everything else of it. It names the agent's directory and the
//! sandbox. Beside the claims is a file with the slot to try first, which all agents advance: a
//! released slot is not used again before all others have been, by any agent, so that late packets
//! for one sandbox do not reach another one. If the agent dies with a claim held,
//! [`Slots::list_claims`] returns it at the next start. A claim whose agent's directory is gone is an
//! orphan, which any agent may clear.
//!
//! Directory and files are for root alone: a claim has a sandbox's id, and a process that can open
//! a file can lock it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use linux::file::{self, Lock};
use serde::{Deserialize, Serialize};
use stdx::io::OptionalExt;

use super::plan::{Plan, Slot};

/// Directory of the claims: gone after a reboot, as the networks are.
pub const CLAIMS_DIR: &str = "/run/wrenn/slots";

/// Name of the file beside the claims with the slot to try first. It is locked during a claim.
pub const NEXT: &str = "next";

/// Time to wait for other agents that claim slots, each of which takes a millisecond.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(5);

/// Content of a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// `WRENN_DIR` of the agent.
    pub dir: PathBuf,
    pub sandbox: String,
    /// Networks of its addresses; earlier agents had the original ones only.
    #[serde(default = "original", skip_serializing_if = "is_original")]
    pub plan: Plan,
}

fn original() -> Plan {
    Plan::ORIGINAL
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_original(plan: &Plan) -> bool {
    *plan == Plan::ORIGINAL
}

/// Holder of a slot that this agent may use or clear.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// A sandbox of this agent, or another name in its claim.
    Ours(String),
    /// An agent whose directory is gone; `None` if the claim cannot be read.
    Abandoned(Option<PathBuf>),
}

/// The slots that one agent hands out.
#[derive(Debug, Clone)]
pub struct Slots {
    dir: PathBuf,
    owner: PathBuf,
    plan: Plan,
}

impl Slots {
    /// Creates the slots of the agent that works in `owner`.
    #[must_use]
    pub fn new(owner: &Path) -> Self {
        Self::in_dir(Path::new(CLAIMS_DIR), owner)
    }

    /// Creates the slots of the agent that works in `owner`, with their claims in `dir`.
    #[must_use]
    pub fn in_dir(dir: &Path, owner: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            owner: owner.to_owned(),
            plan: Plan::ORIGINAL,
        }
    }

    /// Sets the networks of the addresses of slots that are claimed from now on.
    pub(super) fn with_plan(self, plan: Plan) -> Self {
        Self { plan, ..self }
    }

    fn claim_for(&self, sandbox: &str, plan: Plan) -> io::Result<Vec<u8>> {
        Ok(serde_json::to_vec(&Claim {
            dir: self.owner.clone(),
            sandbox: sandbox.to_owned(),
            plan,
        })?)
    }

    /// Claims a free slot.
    ///
    /// # Errors
    /// `QuotaExceeded` when every slot is taken.
    pub fn claim(&self, sandbox: &str) -> io::Result<Slot> {
        file::ensure_private_dir(&self.dir)?;
        let claim = self.claim_for(sandbox, self.plan)?;
        let mut turn = Turn::take(&self.dir.join(NEXT))?;
        for _ in 0..Slot::MAX {
            // A small network has no addresses for the last numbers.
            let Some(slot) = Slot::in_plan(turn.next().number(), self.plan) else {
                continue;
            };
            match File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(self.path(slot))
            {
                Ok(mut file) => {
                    file.write_all(&claim)?;
                    turn.keep()?;
                    return Ok(slot);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        let problem = format!(
            "all {} network slots of this machine are taken; delete sandboxes",
            self.plan.last_slot()
        );
        Err(io::Error::new(io::ErrorKind::QuotaExceeded, problem))
    }

    /// Replaces the sandbox in the claim of a slot that this agent holds.
    ///
    /// # Errors
    /// When the file cannot be replaced; the claim is as it was then.
    pub fn reassign(&self, slot: Slot, sandbox: &str) -> io::Result<()> {
        let claim = self.claim_for(sandbox, slot.plan())?;
        // No fsync: networks are gone after a restart of the machine, and claims mean nothing then.
        file::replace_content(&self.path(slot), &claim, 0o600)
    }

    /// Releases a slot. Idempotent.
    ///
    /// # Errors
    /// When the claim cannot be removed.
    pub fn release(&self, slot: Slot) -> io::Result<()> {
        stdx::fs::remove_file_if_exists(self.path(slot))
    }

    /// Returns true if the sandbox, of this agent, has claimed the slot.
    #[must_use]
    pub fn is_held_by(&self, slot: Slot, sandbox: &str) -> bool {
        read(&self.path(slot))
            .is_some_and(|claim| claim.dir == self.owner && claim.sandbox == sandbox)
    }

    /// Returns the claims of this agent, and orphans: claims of agents whose directory is gone, and
    /// those that were cut off while they were written.
    ///
    /// # Errors
    /// When the claims cannot be listed.
    pub fn list_claims(&self) -> io::Result<Vec<(Slot, Holder)>> {
        let Some(entries) = fs::read_dir(&self.dir).optional()? else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for entry in entries.flatten() {
            let number = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            let Some(number) = number else { continue };
            let claim = read(&entry.path());
            let plan = claim.as_ref().map_or(Plan::ORIGINAL, |claim| claim.plan);
            let Some(slot) = Slot::in_plan(number, plan) else {
                continue;
            };
            match claim {
                Some(claim) if claim.dir == self.owner => {
                    found.push((slot, Holder::Ours(claim.sandbox)))
                }
                Some(claim) if !claim.dir.exists() => {
                    found.push((slot, Holder::Abandoned(Some(claim.dir))))
                }
                None if is_old(&entry.path()) => found.push((slot, Holder::Abandoned(None))),
                _ => {}
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Takes the lock for clearing orphans, so that only one of the agents that see an orphan
    /// clears it, and none still does when the slot is claimed again. `None` while another agent
    /// has the lock.
    ///
    /// # Errors
    /// When the lock's directory cannot be created or locked.
    pub fn try_lock_orphans(&self) -> io::Result<Option<Lock>> {
        file::ensure_private_dir(&self.dir)?;
        Lock::try_take_dir(&self.dir)
    }

    /// Returns the networks of all claimed slots of this machine, of all agents.
    pub(super) fn claimed_plans(&self) -> io::Result<BTreeSet<Plan>> {
        let Some(entries) = fs::read_dir(&self.dir).optional()? else {
            return Ok(BTreeSet::new());
        };
        Ok(entries
            .flatten()
            .filter_map(|entry| read(&entry.path()))
            .map(|claim| claim.plan)
            .collect())
    }

    fn path(&self, slot: Slot) -> PathBuf {
        self.dir.join(slot.number().to_string())
    }
}

/// Slot to try next, with the lock on its file: other agents wait for it before they claim.
struct Turn {
    lock: Lock,
    next: u16,
}

impl Turn {
    /// Locks and reads the file. It begins with slot 1 if the file cannot be parsed, as after a
    /// crash in the middle of a write.
    fn take(path: &Path) -> io::Result<Self> {
        let lock = Lock::take_within(path, CLAIM_TIMEOUT)?;
        let mut text = String::new();
        let next = lock
            .file()
            .read_to_string(&mut text)
            .ok()
            .and_then(|_| text.trim().parse().ok())
            .unwrap_or(1);
        Ok(Self { lock, next })
    }

    fn next(&mut self) -> Slot {
        let slot = Slot::new(self.next).unwrap_or(Slot::FIRST);
        self.next = slot.number() % Slot::MAX + 1;
        slot
    }

    /// Writes the next slot, in as many digits as any, so that no digit of an older number stays.
    fn keep(&self) -> io::Result<()> {
        self.lock
            .file()
            .write_all_at(format!("{:05}", self.next).as_bytes(), 0)
    }
}

fn read(path: &Path) -> Option<Claim> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Returns true if a claim is older than its write can take (10 seconds): another agent may be
/// writing a younger one right now.
fn is_old(path: &Path) -> bool {
    let age = fs::metadata(path)
        .and_then(|meta| meta.modified())
        .ok()
        .and_then(|time| time.elapsed().ok());
    age.is_some_and(|age| age.as_secs() > 10)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn agents_never_share_a_slot() {
        let dir = tempfile::tempdir().unwrap();
        let one = dir.path().join("one");
        let two = dir.path().join("two");
        fs::create_dir_all(&one).unwrap();
        fs::create_dir_all(&two).unwrap();
        let claims = dir.path().join("claims");
        let first = Slots::in_dir(&claims, &one);
        let second = Slots::in_dir(&claims, &two);
        let a = first.claim("sb-a").unwrap();
        let b = second.claim("sb-b").unwrap();
        assert_ne!(a, b);
        assert!(first.is_held_by(a, "sb-a") && !first.is_held_by(b, "sb-b"));
        assert_eq!(
            first.list_claims().unwrap(),
            [(a, Holder::Ours("sb-a".to_owned()))]
        );
        // The directory of the second agent is gone: its claim is up for clearing.
        fs::remove_dir(&two).unwrap();
        assert_eq!(
            first.list_claims().unwrap(),
            [
                (a, Holder::Ours("sb-a".to_owned())),
                (b, Holder::Abandoned(Some(two)))
            ]
        );
        let lock = first.try_lock_orphans().unwrap();
        assert!(lock.is_some() && second.try_lock_orphans().unwrap().is_none());
        first.release(b).unwrap();
        first.release(b).unwrap();
        assert_eq!(first.list_claims().unwrap().len(), 1);
    }

    #[test]
    fn released_slot_is_reused_last() {
        let dir = tempfile::tempdir().unwrap();
        let claims = dir.path().join("claims");
        let one = Slots::in_dir(&claims, dir.path());
        let first = one.claim("sb-a").unwrap();
        one.release(first).unwrap();
        // The slot advances for another agent, too, and for the same one after a restart.
        let second = Slots::in_dir(&claims, &dir.path().join("other"))
            .claim("sb-b")
            .unwrap();
        assert_eq!(second.number(), first.number() + 1);
        fs::write(claims.join(NEXT), format!("{}", Slot::MAX)).unwrap();
        let last = one.claim("sb-c").unwrap();
        assert_eq!(
            (last.number(), one.claim("sb-d").unwrap()),
            (Slot::MAX, Slot::FIRST)
        );
        for nonsense in ["", "0", "99999", "-1", "\u{fffd}"] {
            fs::write(claims.join(NEXT), nonsense).unwrap();
            one.release(one.claim("sb-e").unwrap()).unwrap();
        }
    }

    #[test]
    fn foreign_lock_fails_claim_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let claims = dir.path().join("claims");
        // As an earlier version left it: any user can enter, read, and so lock.
        fs::create_dir(&claims).unwrap();
        let next = File::create(claims.join(NEXT)).unwrap();
        for path in [claims.clone(), claims.join(NEXT)] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        next.lock().unwrap();
        let slots = Slots::in_dir(&claims, dir.path());
        let error = slots.claim("sb-a").unwrap_err().to_string();
        assert!(
            error.contains("claims/next is locked by process"),
            "{error}"
        );
        drop(next);
        let slot = slots.claim("sb-a").unwrap();
        slots.reassign(slot, "sb-b").unwrap();
        let open = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o077;
        let paths = [claims.clone(), claims.join(NEXT), slots.path(slot)];
        assert_eq!(
            paths.map(|path| open(&path)),
            [0; 3],
            "none is open to others"
        );
    }
}
