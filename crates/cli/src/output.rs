//! Printing: text for people, JSON for programs, colours and progress only on a terminal.
//!
//! Standard output may be a pipe whose reader is gone; that ends the command quietly
//! ([`Quiet::StdoutClosed`]) and is never a panic. Text from a guest is printed with its control
//! characters escaped.

use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal, Write};
use std::time::Duration;

use comfy_table::{Cell, Color, ContentArrangement, Table};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use crate::quiet::Quiet;
use crate::stdio::Stdio;

/// Prints a line on standard output.
pub fn print_line(text: &str) -> anyhow::Result<()> {
    print_raw(format!("{text}\n").as_bytes())
}

/// Prints one JSON document.
pub fn print_json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    print_line(&printable_json(&serde_json::to_string_pretty(value)?))
}

/// Prints bytes as they are.
pub fn print_raw(bytes: &[u8]) -> anyhow::Result<()> {
    Stdio::stdout()
        .and_then(|mut stdout| stdout.write_all(bytes))
        .map_err(stdout_error)
}

/// Converts the error of a write on standard output: a broken pipe ends the command quietly.
pub fn stdout_error(error: std::io::Error) -> anyhow::Error {
    if error.kind() == ErrorKind::BrokenPipe {
        return Quiet::StdoutClosed.into();
    }
    anyhow::Error::new(error).context("writing to standard output")
}

/// Prints a line on standard error. Failures are ignored.
pub fn print_note(text: &str) {
    let _ = Stdio::stderr().and_then(|mut stderr| stderr.write_all(format!("{text}\n").as_bytes()));
}

/// Returns text with its control characters (but tab) and those that only change how others are
/// shown escaped, so that a guest can neither drive the user's terminal nor make a name read as
/// another.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped_where(
        text,
        |c| c != '\t' && is_invisible(c),
        |c| c.escape_default().to_string(),
    )
}

/// Does the same as [`printable`] for a JSON document: outside of its strings there is nothing to
/// escape.
pub fn printable_json(document: &str) -> Cow<'_, str> {
    let escape = |c: char| {
        c.encode_utf16(&mut [0; 2])
            .iter()
            .map(|unit| format!("\\u{unit:04x}"))
            .collect()
    };
    escaped_where(document, |c| c != '\n' && is_invisible(c), escape)
}

/// Controls (Cc), formats such as bidirectional overrides (Cf), and separators that some terminals
/// take for new lines.
fn is_invisible(c: char) -> bool {
    use GeneralCategory::{Control, Format, LineSeparator, ParagraphSeparator};
    !c.is_ascii_graphic()
        && matches!(
            c.general_category(),
            Control | Format | LineSeparator | ParagraphSeparator
        )
}

fn escaped_where(
    text: &str,
    is_harmful: impl Fn(char) -> bool,
    escape: impl Fn(char) -> String,
) -> Cow<'_, str> {
    if !text.chars().any(&is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_harmful(c) {
            escaped.push_str(&escape(c));
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// Creates a cell; its text is untrusted.
pub fn cell(text: impl AsRef<str>) -> Cell {
    Cell::new(printable(text.as_ref()))
}

/// Creates a cell in colour, where there are colours.
pub fn colored_cell(text: &str, color: Color) -> Cell {
    if console::colors_enabled() {
        cell(text).fg(color)
    } else {
        cell(text)
    }
}

/// Prints rows below a header, as [`render_table`] makes them.
pub fn print_table(header: &[&str], rows: Vec<Vec<Cell>>) -> anyhow::Result<()> {
    print_line(&render_table(header, rows))
}

/// Returns rows below a header, without borders. Nothing is wrapped or cut: ids are there to be
/// copied.
pub fn render_table(header: &[&str], rows: Vec<Vec<Cell>>) -> String {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    if console::colors_enabled() {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table.set_header(header.iter().map(cell));
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let rendered = table.to_string();
    let lines: Vec<&str> = rendered.lines().map(str::trim_end).collect();
    lines.join("\n")
}

pub fn stdout_is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Returns an RFC 3339 time relative to `now`, for people; the text itself if it is not a time.
pub fn format_age(time: &str, now: OffsetDateTime) -> String {
    let Ok(time) = OffsetDateTime::parse(time, &Rfc3339) else {
        return printable(time).into_owned();
    };
    let seconds = (now - time).whole_seconds().max(0);
    match seconds {
        0..=4 => "now".to_owned(),
        5..=119 => format!("{seconds} seconds ago"),
        120..=7199 => format!("{} minutes ago", seconds / 60),
        7200..=172_799 => format!("{} hours ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// Formats a number of bytes for people.
pub fn format_size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// Progress of long work, shown on a terminal only; removed when dropped.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// Creates a spinner beside `text`.
    pub fn spinner(text: &'static str, json: bool) -> Self {
        let bar = ProgressBar::with_draw_target(None, target(json));
        bar.set_message(text);
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    /// Counts bytes, up to `total` where that is known.
    pub fn bytes(total: Option<u64>, json: bool) -> Self {
        let template = match total {
            Some(_) => "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
            None => "{spinner} {bytes}, {bytes_per_sec}",
        };
        let bar = ProgressBar::with_draw_target(total, target(json));
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self(bar)
    }

    pub fn add(&self, bytes: usize) {
        self.0.inc(bytes as u64);
    }

    /// Sets the bytes counted so far.
    pub fn set(&self, bytes: u64) {
        self.0.set_position(bytes);
    }

    /// Returns the bytes counted so far.
    pub fn total(&self) -> u64 {
        self.0.position()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn target(json: bool) -> ProgressDrawTarget {
    if json || !std::io::stderr().is_terminal() {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn control_characters_of_a_guest_are_escaped() {
        assert_eq!(printable("plain\ttext ü"), "plain\ttext ü");
        assert_eq!(printable("a\x1b[2Jb\r\u{9b}"), "a\\u{1b}[2Jb\\r\\u{9b}");
    }

    #[test]
    fn characters_that_reorder_others_are_escaped() {
        for c in [
            '\u{202e}',
            '\u{2066}',
            '\u{200b}',
            '\u{feff}',
            '\u{ad}',
            '\u{e0041}',
            '\u{2028}',
        ] {
            assert_eq!(
                printable(&format!("a{c}b")),
                format!("a{}b", c.escape_default()),
                "{c:?}"
            );
        }
        let name = "\u{9b}2J\u{202e}\u{e0041}\u{e4}";
        let document = printable_json(&serde_json::to_string(name).unwrap()).into_owned();
        assert_eq!(document, "\"\\u009b2J\\u202e\\udb40\\udc41\u{e4}\"");
        assert_eq!(
            serde_json::from_str::<String>(&document).unwrap(),
            name,
            "it stays the same document"
        );
    }

    #[test]
    fn times_are_human() {
        let now = datetime!(2026-03-01 12:00 UTC);
        for (time, expected) in [
            ("2026-03-01T11:59:59Z", "now"),
            ("2026-03-01T13:00:00+01:00", "now"),
            ("2026-03-01T11:59:00Z", "60 seconds ago"),
            ("2026-03-01T11:00:00Z", "60 minutes ago"),
            ("2026-02-28T12:00:00Z", "24 hours ago"),
            ("2026-02-01T12:00:00Z", "28 days ago"),
            ("yesterday", "yesterday"),
        ] {
            assert_eq!(format_age(time, now), expected);
        }
    }
}
