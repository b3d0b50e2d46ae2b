//! Acts on files with the permissions of a user of the guest, so that the kernel decides what is
//! allowed.
//!
//! The agent is root. For the length of one closure the calling *thread* alone takes the user's
//! file system identity (`setfsuid`, `setfsgid`, `setgroups` by the raw system call, which glibc
//! would spread over all threads) and, unless the user is root, lays down its capabilities: one of
//! them would still open what other processes show of themselves in `/proc`. A user that overrides
//! files keeps those capabilities that files alone are asked for: he reads and changes every file,
//! and owns what he makes, as with E2B's agent, which acts as root and gives files away. Links of
//! the guest are then followed with that right, too. Leaving the closure,
//! also by a panic, takes all of it back. A descriptor opened inside stays usable outside. Nothing
//! is kept on disk; if the process dies, the identity dies with its thread.

use std::io;

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::filesystem::error::FileError;
use crate::user::User;

/// Capabilities that override the permissions of files, and no other.
const FILE_CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID);

/// Runs `act` on this thread as `user`. `act` must not hand work to other threads: those are root.
///
/// # Errors
/// Where the identity cannot be taken; `act` has not run then.
pub fn as_user<T>(user: &User, act: impl FnOnce() -> T) -> io::Result<T> {
    let _back = Switched::to(user)?;
    Ok(act())
}

/// Runs `act` as `user` on a thread that may block.
///
/// # Errors
/// Errors of `act`; internal where the identity cannot be taken or `act` panicked.
pub async fn run<T: Send + 'static>(
    user: &User,
    act: impl FnOnce() -> Result<T, FileError> + Send + 'static,
) -> Result<T, FileError> {
    let user = user.clone();
    blocking_as_user(move || as_user(&user, act).map_err(|e| FileError::identity(&e))?).await
}

/// Runs `act` with the agent's own permissions on a thread that may block.
///
/// # Errors
/// Errors of `act`; internal where it panicked.
pub async fn blocking_as_user<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, FileError> + Send + 'static,
) -> Result<T, FileError> {
    match tokio::task::spawn_blocking(act).await {
        Ok(result) => result,
        Err(e) => Err(FileError::task(&e)),
    }
}

/// A thread under another identity; holds the one to return to.
struct Switched {
    uid: Uid,
    gid: Gid,
    groups: Vec<rustix::process::Gid>,
    capabilities: CapabilitySets,
}

impl Switched {
    fn to(user: &User) -> io::Result<Self> {
        // Made before anything changes, so that a failure half-way is undone by its `Drop`.
        let groups = rustix::process::getgroups()?;
        let capabilities = capabilities(None)?;
        let back = Self {
            uid: fsuid(),
            gid: fsgid(),
            groups,
            capabilities,
        };
        let theirs: Vec<_> = user
            .groups
            .iter()
            .map(|gid| rustix::process::Gid::from_raw(*gid))
            .collect();
        rustix::thread::set_thread_groups(&theirs)?;
        setfsgid(Gid::from_raw(user.gid));
        setfsuid(Uid::from_raw(user.uid));
        if user.uid != 0 {
            let effective = match user.overrides_files {
                true => capabilities.effective & FILE_CAPABILITIES,
                false => CapabilitySet::empty(),
            };
            set_capabilities(
                None,
                CapabilitySets {
                    effective,
                    ..capabilities
                },
            )?;
        }
        if fsuid().as_raw() == user.uid && fsgid().as_raw() == user.gid {
            Ok(back)
        } else {
            Err(io::Error::from_raw_os_error(nix::libc::EPERM))
        }
    }
}

impl Drop for Switched {
    fn drop(&mut self) {
        setfsuid(self.uid);
        // Before the groups, which only a capable thread can set.
        let back = set_capabilities(None, self.capabilities);
        setfsgid(self.gid);
        if let Err(e) = back.and_then(|()| rustix::thread::set_thread_groups(&self.groups)) {
            tracing::error!("cannot make a thread root again: {e}");
        }
    }
}

/// Returns the file system uid in force: `setfsuid(2)` with an invalid id changes nothing and
/// returns it.
fn fsuid() -> Uid {
    setfsuid(Uid::from_raw(u32::MAX))
}

fn fsgid() -> Gid {
    setfsgid(Gid::from_raw(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn nobody() -> User {
        crate::user::lookup_user("nobody").expect("nobody is in /etc/passwd")
    }

    #[test]
    fn files_belong_to_user_root_returns() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
        let user = nobody();
        as_user(&user, || {
            fs::write(dir.path().join("a"), b"x").expect("writes")
        })
        .expect("switches");
        fs::write(dir.path().join("b"), b"x").expect("writes");
        let owner = |name| {
            fs::metadata(dir.path().join(name))
                .map(|m| (m.uid(), m.gid()))
                .expect("is there")
        };
        assert_eq!(owner("a"), (user.uid, user.gid));
        assert_eq!(owner("b"), (0, 0));
    }

    #[test]
    fn root_comes_back_after_a_panic() {
        let before = rustix::process::getgroups().expect("groups");
        let result = std::panic::catch_unwind(|| as_user(&nobody(), || panic!("on purpose")));
        assert!(result.is_err());
        assert_eq!((fsuid().as_raw(), fsgid().as_raw()), (0, 0));
        assert_eq!(rustix::process::getgroups().expect("groups"), before);
        assert!(
            capabilities(None)
                .expect("capabilities")
                .effective
                .contains(CapabilitySet::SYS_PTRACE)
        );
    }

    #[test]
    fn kernel_refuses_unreadable_files_of_others() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("secret");
        fs::write(&path, b"x").expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        let refused = as_user(&nobody(), || fs::read(&path))
            .expect("switches")
            .expect_err("must be refused");
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn override_reads_all_and_owns_own() {
        let dir = tempfile::tempdir().expect("a directory");
        let secret = dir.path().join("secret");
        fs::write(&secret, b"x").expect("writes");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("chmod");
        let user = User {
            overrides_files: true,
            ..nobody()
        };
        let made = dir.path().join("made");
        let (read, written) =
            as_user(&user, || (fs::read(&secret), fs::write(&made, b"y"))).expect("switches");
        assert_eq!(read.expect("is read"), b"x");
        written.expect("is written");
        let owner = fs::metadata(&made).map(|made| (made.uid(), made.gid()));
        assert_eq!(owner.expect("is there"), (user.uid, user.gid));
        let all = capabilities(None).expect("capabilities").effective;
        assert!(all.contains(CapabilitySet::SYS_PTRACE));
    }

    #[test]
    fn capabilities_open_no_other_process_files() {
        let hidden = tempfile::tempdir().expect("a directory");
        fs::write(hidden.path().join("secret"), b"x").expect("writes");
        let mut holder = std::process::Command::new("sleep")
            .arg("60")
            .current_dir(&hidden)
            .spawn()
            .expect("starts");
        let path = format!("/proc/{}/cwd/secret", holder.id());
        for overrides_files in [false, true] {
            let user = User {
                overrides_files,
                ..nobody()
            };
            let refused = as_user(&user, || fs::read(&path))
                .expect("switches")
                .expect_err("must be refused");
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        }
        assert_eq!(
            as_user(&crate::user::lookup_user("root").expect("root"), || {
                fs::read(&path).ok()
            })
            .expect("switches"),
            Some(b"x".to_vec())
        );
        holder.kill().and_then(|()| holder.wait()).expect("ends");
    }
}
