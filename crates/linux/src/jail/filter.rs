//! System calls that nobody in a jail may make (seccomp(2)); a program's own filters come on top.
//!
//! A jail may be given a read-only loop device that others use as well. Whoever has opened one for writing, which the
//! kernel allows, may put another file in its place for all of them, without any capability (`drivers/block/loop.c`).

use std::collections::BTreeMap;
use std::io;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Requests to loop devices (`linux/loop.h`) are 0x4C00 to 0x4C0F, those to their control device follow up to 0x4C82.
const LOOP_REQUESTS: u64 = 0x4C00;
const MASK: u64 = 0xFFFF_FF00;

/// `ioctl` under all its numbers: the second and third are for programs with short pointers (`__X32_SYSCALL_BIT`).
const IOCTLS: [i64; 3] = [libc::SYS_ioctl, 0x4000_0000 | libc::SYS_ioctl, 0x4000_0000 | 0x0202];

/// Made before the fork, since it allocates.
pub(super) fn program() -> io::Result<BpfProgram> {
    let is_loop = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(MASK), LOOP_REQUESTS);
    let rule = is_loop.and_then(|condition| SeccompRule::new(vec![condition])).map_err(io::Error::other)?;
    let rules: BTreeMap<i64, Vec<SeccompRule>> = IOCTLS.map(|number| (number, vec![rule.clone()])).into();
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)
        .and_then(BpfProgram::try_from)
        .map_err(io::Error::other)
}

/// For the calling thread and its children, for good. Needs no capability once there are no new privileges.
pub(super) fn enter(program: &BpfProgram) -> io::Result<()> {
    // Nothing is made of other errors here, which would allocate.
    seccompiler::apply_filter(program).map_err(|_| io::Error::from_raw_os_error(libc::EPERM))
}
