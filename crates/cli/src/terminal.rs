//! The user's terminal: its size, and raw mode for the time of one command.

use std::convert::Infallible;

use anyhow::Context;
use client::types::TerminalSize;
use rustix::process::{Signal, getpid, kill_process};
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};

/// Size of a terminal in the sandbox when there is none here.
const FALLBACK: TerminalSize = TerminalSize { cols: 80, rows: 24 };

/// Returns true if standard input is a terminal.
pub fn stdin_is_terminal() -> bool {
    isatty(stdin())
}

/// Returns the size of the terminal that this command runs on.
pub fn window_size() -> TerminalSize {
    let sizes = [
        tcgetwinsize(stdout()),
        tcgetwinsize(stdin()),
        tcgetwinsize(stderr()),
    ];
    let known = sizes
        .into_iter()
        .flatten()
        .find(|size| size.ws_col > 0 && size.ws_row > 0);
    known.map_or(FALLBACK, |size| TerminalSize {
        cols: size.ws_col.into(),
        rows: size.ws_row.into(),
    })
}

/// Leaves the modes in which a full-screen program may have the user's terminal: alternate screen,
/// hidden cursor, application keys, mouse, bracketed paste, colours.
const LEAVE_MODES: &[u8] = b"\x1b[?1047l\x1b[?25h\x1b[?1l\x1b>\x1b[?1000l\x1b[?1002l\x1b[?1003l\
    \x1b[?1006l\x1b[?2004l\x1b[0m";

/// Raw mode: every key goes to the sandbox. The terminal is as before when this is dropped, also by
/// a panic; signals that end us are caught by the command, which then drops this. A program that
/// still runs then may have it in modes of its own, which are left too.
#[derive(Debug)]
pub struct RawMode {
    before: Termios,
    raw: Termios,
    has_ended: bool,
}

impl RawMode {
    /// Enters raw mode if `is_wanted` and standard input is a terminal.
    pub fn enter_if(is_wanted: bool) -> anyhow::Result<Option<Self>> {
        (is_wanted && stdin_is_terminal())
            .then(Self::enter)
            .transpose()
            .context("switching the terminal to raw mode")
    }

    /// Keeps bytes that were typed already: they are meant for the command.
    fn enter() -> std::io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self {
            before,
            raw,
            has_ended: false,
        })
    }

    /// Ends it after the end of the program, which leaves its modes itself.
    pub fn end(mut self) {
        self.has_ended = true;
    }

    /// Stops this process on SIGTSTP, with the terminal as it was before for the shell that uses it
    /// then, and goes on in raw mode after SIGCONT. Keys do not get here in raw mode, so it takes a
    /// `kill -TSTP`. Never returns.
    async fn give_back_while_stopped(&self) -> Infallible {
        let Ok(mut stops) = signal(SignalKind::from_raw(Signal::TSTP.as_raw())) else {
            return std::future::pending().await;
        };
        while stops.recv().await.is_some() {
            self.restore();
            let _ = kill_process(getpid(), Signal::STOP);
            let _ = tcsetattr(stdin(), OptionalActions::Drain, &self.raw);
        }
        std::future::pending().await
    }

    fn restore(&self) {
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &self.before);
        if !self.has_ended && isatty(stdout()) {
            let _ = crate::output::print_raw(LEAVE_MODES);
        }
    }
}

/// As [`RawMode::give_back_while_stopped`]; without raw mode there is nothing to give back.
pub async fn give_back_while_stopped(raw: Option<&RawMode>) -> Infallible {
    match raw {
        Some(raw) => raw.give_back_while_stopped().await,
        None => std::future::pending().await,
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        self.restore();
    }
}
