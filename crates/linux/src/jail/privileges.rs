//! Drops the child's privileges between fork and exec. Only system calls: no allocation, no lock,
//! no other user's data.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::RawFd;
use std::ptr;

use nix::libc;
use rustix::fs::{Gid, Uid};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::BpfProgram;

use super::{filter, starts};

/// Resource limits of one process (getrlimit(2)), besides those of its cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Processes and threads of the jail's user.
    pub tasks: u64,
    /// Open file descriptors.
    pub files: u64,
    /// Maximum length of a file that it extends, bytes. Beyond it a write fails with `EFBIG`; the
    /// signal SIGXFSZ that comes with it is ignored unless the program handles it.
    pub file_bytes: u64,
    /// Address space, bytes; `None` for no limit: its control group counts what it really uses.
    pub address_bytes: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tasks: 256,
            files: 1024,
            file_bytes: 64 << 20,
            address_bytes: None,
        }
    }
}

/// Values that the child needs, all prepared before the fork.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) limits: Limits,
    pub(super) filter: BpfProgram,
    /// Socket for [`starts::close_behind`].
    pub(super) gate: RawFd,
}

impl Child {
    pub(super) fn drop_privileges(&self) -> io::Result<()> {
        rustix::process::setsid()?;
        let limits = [
            (Resource::Core, 0),
            (Resource::Memlock, 0),
            (Resource::Nofile, self.limits.files),
            (Resource::Nproc, self.limits.tasks),
            (Resource::Fsize, self.limits.file_bytes),
            (Resource::As, self.limits.address_bytes.unwrap_or(u64::MAX)),
        ];
        for (resource, limit) in limits {
            lower(resource, limit)?;
        }
        // Stays ignored over exec. By default it would end the VMM, and with it the guest, where a
        // failed write does. SAFETY: sets no handler.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        close_on_exec()?;
        drop_capabilities()?;
        leave_keyrings()?;
        become_user(self.uid, self.gid)?;
        rustix::thread::set_no_new_privs(true)?;
        starts::close_behind(self.gate)?;
        filter::apply_to_thread(&self.filter)
    }
}

/// Takes an empty session keyring in place of root's, whose keys are used without being named
/// (keyrings(7)).
fn leave_keyrings() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: without a name, no memory is read.
    if unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            JOIN_SESSION_KEYRING,
            ptr::null::<libc::c_char>(),
        )
    } >= 0
    {
        return Ok(());
    }
    match io::Error::last_os_error() {
        // There are no keyrings in this kernel, or we are in a container that has none, and there
        // is nothing to leave.
        error if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Ok(()),
        error => Err(error),
    }
}

/// Lowers a resource limit, for good: raising it again would take a capability.
fn lower(resource: Resource, limit: u64) -> io::Result<()> {
    let now = rustix::process::getrlimit(resource)
        .maximum
        .unwrap_or(u64::MAX);
    let limit = Some(limit.min(now)).filter(|limit| *limit != u64::MAX);
    Ok(rustix::process::setrlimit(
        resource,
        Rlimit {
            current: limit,
            maximum: limit,
        },
    )?)
}

/// Closes all descriptors but the first three on exec, also those that the agent itself inherited.
fn close_on_exec() -> io::Result<()> {
    // SAFETY: sets a flag on descriptors; closes none.
    match unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3_u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Drops all capabilities from the bounding and the ambient set; the other sets go with user 0.
fn drop_capabilities() -> io::Result<()> {
    for number in 0..u64::BITS {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(
            1 << number,
        )) {
            Ok(()) => {}
            // Past the last one that this kernel knows.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(rustix::thread::clear_ambient_capability_set()?)
}

fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    let uid = Uid::from_raw(uid);
    let gid = Gid::from_raw(gid);
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    let none = CapabilitySet::empty();
    Ok(rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `linux/keyctl.h`.
    const GET_KEYRING_ID: libc::c_int = 0;
    const SESSION: libc::c_int = -3;

    fn session() -> i64 {
        // SAFETY: only numbers.
        unsafe { libc::syscall(libc::SYS_keyctl, GET_KEYRING_ID, SESSION, 0) }
    }

    fn finds(description: &std::ffi::CStr) -> bool {
        // SAFETY: strings that live, and no more.
        unsafe {
            libc::syscall(
                libc::SYS_request_key,
                c"user".as_ptr(),
                description.as_ptr(),
                ptr::null::<u8>(),
                0,
            ) >= 0
        }
    }

    /// Keyrings belong to threads, so that the rest of this program keeps its own.
    #[test]
    fn keys_of_the_session_stay_behind() {
        let (before, after) = std::thread::spawn(|| {
            // One of its own to begin with, so that nothing of the real session is touched.
            leave_keyrings().unwrap();
            let kind = c"user".as_ptr();
            let name = c"wtest".as_ptr();
            let content = c"secret".as_ptr();
            // SAFETY: strings that live; the key goes with its keyring.
            let added =
                unsafe { libc::syscall(libc::SYS_add_key, kind, name, content, 6, SESSION) };
            assert!(added > 0, "{}", io::Error::last_os_error());
            let before = (session(), finds(c"wtest"));
            leave_keyrings().unwrap();
            (before, (session(), finds(c"wtest")))
        })
        .join()
        .unwrap();
        assert!(
            before.1 && !after.1 && before.0 != after.0,
            "{before:?} {after:?}"
        );
    }
}
