//! The user's terminal: its size, and raw mode for the time of one command.

use client::types::TerminalSize;
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// For a terminal in the sandbox when there is none here.
const FALLBACK: TerminalSize = TerminalSize { cols: 80, rows: 24 };

/// Whether standard input is a terminal.
pub fn stdin_is_terminal() -> bool {
    isatty(stdin())
}

/// Size of the terminal that this command runs on.
pub fn size() -> TerminalSize {
    let sizes = [tcgetwinsize(stdout()), tcgetwinsize(stdin()), tcgetwinsize(stderr())];
    let known = sizes.into_iter().flatten().find(|size| size.ws_col > 0 && size.ws_row > 0);
    known.map_or(FALLBACK, |size| TerminalSize { cols: size.ws_col.into(), rows: size.ws_row.into() })
}

/// Raw mode: every key goes to the sandbox. The terminal is as before when this is dropped, also by a panic; signals
/// that end us are caught by the command, which then drops this.
#[derive(Debug)]
pub struct RawMode(Termios);

impl RawMode {
    pub fn enter() -> std::io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Flush, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &self.0);
    }
}
