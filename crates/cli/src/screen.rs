//! A text that is kept up to date in place, as `top` shows it: on the terminal's alternate screen,
//! so that what was on it before is there again afterwards, with the last text below it.

use std::io::Write;

use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{self, SignalKind};

use crate::output::stdout_error;
use crate::stdio::Stdio;
use crate::terminal::window_size;

/// Enters the alternate screen and hides the cursor; shows it and leaves; begins at the top; clears
/// the rest of a line, and of the screen (ECMA-48, xterm's control sequences).
const OPEN: &str = "\x1b[?1049h\x1b[?25l";
const CLOSE: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K\r\n";
const CLEAR_REST: &str = "\x1b[J";

/// The terminal while a text is shown on it. It is as before when this is dropped; signals that end
/// us are caught by the command, which then drops this. From here on SIGTSTP stops this process in
/// [`Self::stop_when_asked`] alone.
#[derive(Debug)]
pub struct Screen {
    stdout: Stdio,
    text: String,
    stops: unix::Signal,
}

impl Screen {
    pub fn open() -> anyhow::Result<Self> {
        let mut stdout = Stdio::stdout()?;
        let stops = unix::signal(SignalKind::from_raw(Signal::TSTP.as_raw()))?;
        stdout.write_all(OPEN.as_bytes()).map_err(stdout_error)?;
        let text = String::new();
        Ok(Self {
            stdout,
            text,
            stops,
        })
    }

    /// Waits for SIGTSTP (Ctrl-Z) and stops this process, with the terminal as it was before for
    /// the shell that uses it then. Shows the text again after SIGCONT.
    pub async fn stop_when_asked(&mut self) -> anyhow::Result<()> {
        if self.stops.recv().await.is_none() {
            return std::future::pending().await;
        }
        let close = self.stdout.write_all(CLOSE.as_bytes());
        close.map_err(stdout_error)?;
        kill_process(getpid(), Signal::STOP)?;
        let open = self.stdout.write_all(OPEN.as_bytes());
        open.map_err(stdout_error)?;
        let text = std::mem::take(&mut self.text);
        self.draw(&text)
    }

    /// Replaces the text. What the window has no room for is left out.
    pub fn draw(&mut self, text: &str) -> anyhow::Result<()> {
        let size = window_size();
        let frame = frame(text, size.cols as usize, size.rows as usize);
        text.clone_into(&mut self.text);
        self.stdout
            .write_all(frame.as_bytes())
            .map_err(stdout_error)
    }
}

fn frame(text: &str, cols: usize, rows: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    // The last row stays empty: a line end there would scroll.
    let room = rows.saturating_sub(1).max(1);
    let is_cut = all.len() > room;
    let shown = if is_cut { room - 1 } else { all.len() };
    let mut frame = HOME.to_owned();
    for line in &all[..shown] {
        frame += &console::truncate_str(line, cols, "");
        frame += CLEAR_LINE;
    }
    if is_cut {
        frame += &format!("… and {} more", all.len() - shown);
        frame += CLEAR_LINE;
    }
    frame + CLEAR_REST
}

impl Drop for Screen {
    fn drop(&mut self) {
        let last = match self.text.as_str() {
            "" => String::new(),
            text => format!("{text}\n"),
        };
        let _ = self.stdout.write_all(format!("{CLOSE}{last}").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_never_leaves_the_window() {
        let text = "head\nfirst line\nsecond\nthird\nfourth";
        let drawn = frame(text, 5, 4);
        assert!(drawn.starts_with(HOME) && drawn.ends_with(CLEAR_REST));
        let lines: Vec<&str> = drawn.trim_start_matches(HOME).split(CLEAR_LINE).collect();
        assert_eq!(lines, ["head", "first", "… and 3 more", CLEAR_REST]);
        assert_eq!(frame("a\nb", 80, 24).matches(CLEAR_LINE).count(), 2);
    }
}
