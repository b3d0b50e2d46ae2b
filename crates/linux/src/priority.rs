//! Priority of the calling thread.

#![allow(unsafe_code)]

use std::io;

use nix::libc;

/// `IOPRIO_WHO_PROCESS`, and class `IOPRIO_CLASS_IDLE` in a priority (linux/ioprio.h).
const WHO_PROCESS: libc::c_int = 1;
const CLASS_IDLE: libc::c_int = 3 << 13;
/// Lowest priority in sched(7).
const LOWEST: libc::c_int = 19;

/// Lowers the calling thread below all others, for as long as it lives: on processors, and on the
/// disk where its scheduler knows classes.
///
/// # Errors
/// The kernel's error; nothing depends on it.
pub fn lower_thread() -> io::Result<()> {
    // SAFETY: plain numbers; 0 is the calling thread.
    let refused = unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, LOWEST) != 0
            || libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE) != 0
    };
    if refused {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowered_thread_leaves_others_alone() {
        let nice = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            let fields: Vec<String> = stat.split(' ').map(str::to_owned).collect();
            fields[18].parse::<i32>().unwrap()
        };
        let before = nice();
        let lowered = std::thread::spawn(move || lower_thread().map(|()| nice()));
        assert_eq!(lowered.join().unwrap().unwrap(), LOWEST);
        assert_eq!(nice(), before);
    }
}
