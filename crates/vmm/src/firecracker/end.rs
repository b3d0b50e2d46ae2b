//! Reason for the end of a VM: from how its Firecracker ended and from its and the guest's output.
//!
//! | what the guest did | console | Firecracker | told as |
//! |---|---|---|---|
//! | restart | `reboot: Restarting system` | ends with 0 | [`Exit::Reset`] |
//! | panic | `Kernel panic - not syncing: …` | ends with 0 | [`Exit::Panic`] |
//! | triple fault | – | ends with 1, logs an unexpected exit `Shutdown` | [`Exit::Reset`] |
//! | power off, halt | `reboot: System halted` | **goes on**, its vCPUs stopped for good | [`Exit::Shutdown`] |
//! | power off by the magic SysRq key | `reboot: Power down` | **goes on**, without any device | [`Exit::Shutdown`] |
//! | – (killed, crashed, forbidden system call) | – | a signal or another code | [`Exit::Vmm`] |
//!
//! Firecracker gives its guests no means to switch the machine off, so the kernel halts: the
//! watcher of the console ends the VM then. Limits:
//! - A process that ended while no agent watched takes the console with it. Its log still shows
//!   that the guest ended by itself, but not whether it restarted or panicked: [`Exit::Reset`].
//! - A guest that halts with its console switched off, or while no agent watches and after more
//!   output than the pipe holds, looks idle.
//! - Root in a guest can write the kernel's words to its console, and thereby choose the reported
//!   reason.

use std::io;
use std::path::Path;

use linux::process::Ended;

use crate::Exit;
use crate::console::Console;
use crate::output::Output;
use crate::process::{exit_reason, read_tail};

use super::args::LOG;

/// Bytes at the end of the log that are searched.
const LOG_END: u64 = 4096;

/// Lines in the log of a Firecracker whose guest ended by itself.
const CLEAN: &str = "Firecracker exiting successfully";
const TRIPLE_FAULT: &str = "Unexpected exit reason on vcpu run: Shutdown";

/// Returns the end of a VM whose process is gone and was not watched; `None` if it did not come
/// from the guest.
pub(super) fn find_unwatched_end(dir: &Path) -> Option<Exit> {
    let log = log_end(dir);
    (log.contains(CLEAN) || log.contains(TRIPLE_FAULT)).then_some(Exit::Reset)
}

/// Returns the end of a VM whose process has ended, and whose console has been read up to its end.
pub(super) fn explain_end(
    ended: io::Result<Ended>,
    dir: &Path,
    output: &Output,
    console: &mut Console,
) -> Exit {
    if let Some(text) = console.panic_message() {
        return Exit::Panic(text);
    }
    let log = log_end(dir);
    match ended {
        Ok(Ended::Code(0)) => Exit::Reset,
        Ok(Ended::Unknown) if log.contains(CLEAN) => Exit::Reset,
        Ok(Ended::Code(_) | Ended::Unknown) if log.contains(TRIPLE_FAULT) => Exit::Reset,
        Ok(ended) => Exit::Vmm(format!(
            "Firecracker ended with {ended}{}; {}",
            meaning(ended),
            last_words(dir, output)
        )),
        Err(error) => Exit::Vmm(format!("the end of Firecracker cannot be seen: {error}")),
    }
}

/// Returns the last output of Firecracker, for people: on its standard error, else in its log.
pub(super) fn last_words(dir: &Path, output: &Output) -> String {
    let said = output.exit_reason().or_else(|| exit_reason(&dir.join(LOG)));
    said.unwrap_or_else(|| "it gave no reason".into())
}

fn log_end(dir: &Path) -> String {
    read_tail(&dir.join(LOG), LOG_END)
        .map(|read_tail| String::from_utf8_lossy(&read_tail).into_owned())
        .unwrap_or_default()
}

/// Explains Firecracker's own exit codes.
fn meaning(ended: Ended) -> &'static str {
    match ended {
        Ended::Code(148) => " (a system call that its filter forbids)",
        Ended::Code(149) => " (SIGBUS: memory or a disk of the host is full)",
        Ended::Code(150) => " (SIGSEGV)",
        Ended::Code(151) => " (SIGXFSZ)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(ended: Ended, log: &str, console: &[u8]) -> Exit {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(LOG), log).unwrap();
        let mut heard = Console::default();
        heard.push(console);
        let (output, _) = Output::create(dir.path(), "stderr").unwrap();
        explain_end(Ok(ended), dir.path(), &output, &mut heard)
    }

    #[test]
    fn console_tells_panic_from_restart() {
        let panic = b"[1] Kernel panic - not syncing: no init\r\n";
        assert_eq!(
            explained(Ended::Code(0), CLEAN, panic),
            Exit::Panic("Kernel panic - not syncing: no init".into())
        );
        assert_eq!(
            explained(Ended::Code(0), CLEAN, b"[1] reboot: Restarting system\r\n"),
            Exit::Reset
        );
        assert_eq!(explained(Ended::Unknown, CLEAN, b""), Exit::Reset);
        assert_eq!(explained(Ended::Code(1), TRIPLE_FAULT, b""), Exit::Reset);
    }

    #[test]
    fn vmm_failure_keeps_its_words() {
        let Exit::Vmm(text) = explained(Ended::Code(148), "intercepted", b"") else {
            panic!("not of the guest")
        };
        assert!(
            text.contains("filter forbids") && text.contains("intercepted"),
            "{text}"
        );
        assert!(matches!(explained(Ended::Signal(9), "", b""), Exit::Vmm(_)));
        assert!(matches!(explained(Ended::Unknown, "", b""), Exit::Vmm(_)));
    }

    #[test]
    fn log_outlives_unwatched_process() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(find_unwatched_end(dir.path()), None);
        std::fs::write(dir.path().join(LOG), "Running Firecracker").unwrap();
        assert_eq!(find_unwatched_end(dir.path()), None);
        std::fs::write(
            dir.path().join(LOG),
            format!("{}\n{CLEAN}. exit_code=0\n", "x".repeat(10_000)),
        )
        .unwrap();
        assert_eq!(find_unwatched_end(dir.path()), Some(Exit::Reset));
    }
}
