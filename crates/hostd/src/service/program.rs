//! Parts of starts of programs that foreground and background commands share.

use std::time::Duration;

use connectrpc::{ConnectError, ErrorCode};
use guest_rpc::process::Signal;
use guest_rpc::start_error;
use host_rpc as rpc;

/// Time for the guest to start a program. Generous: a guest without hardware virtualisation that
/// has just been resumed can be slow.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(120);
/// Most characters of the guest's text about the end of a program.
pub(super) const MAX_REASON: usize = 1000;

/// Exit codes of a program that could not be started, as shells give them (POSIX, Shell Command
/// Language 2.8.2).
const NO_SUCH_PROGRAM: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;
/// Error number of a file that is not there (errno(3)).
const ENOENT: i32 = 2;

/// Returns the error for a guest that did not start a program in time.
pub(super) fn start_timed_out() -> ConnectError {
    let seconds = START_TIMEOUT.as_secs();
    ConnectError::deadline_exceeded(format!(
        "the guest agent did not start the program within {seconds} s"
    ))
}

/// Returns the end of a program that could not be started. `None` for other errors, such as those of
/// a guest without memory, which are not the program's.
pub(super) fn not_started(error: &ConnectError) -> Option<rpc::exec_response::ExecEnd> {
    if error.code != ErrorCode::InvalidArgument {
        return None;
    }
    let text = error.message.clone().unwrap_or_default();
    let exit_code = match start_error::number(&text)? {
        ENOENT => NO_SUCH_PROGRAM,
        _ => NOT_EXECUTABLE,
    };
    Some(rpc::exec_response::ExecEnd {
        exit_code,
        error: Some(text.chars().take(MAX_REASON).collect()),
        ..Default::default()
    })
}

/// Converts the number of a signal.
///
/// # Errors
/// `InvalidArgument` for a signal that cannot be sent.
pub(super) fn parse_signal(number: u32) -> Result<Signal, ConnectError> {
    Ok(match number {
        1 => Signal::SIGNAL_SIGHUP,
        2 => Signal::SIGNAL_SIGINT,
        3 => Signal::SIGNAL_SIGQUIT,
        9 => Signal::SIGNAL_SIGKILL,
        10 => Signal::SIGNAL_SIGUSR1,
        12 => Signal::SIGNAL_SIGUSR2,
        15 => Signal::SIGNAL_SIGTERM,
        other => {
            let text = format!("signal must be one of 1, 2, 3, 9, 10, 12 and 15, not {other}");
            return Err(ConnectError::invalid_argument(text));
        }
    })
}
