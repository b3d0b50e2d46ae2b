//! Numbers of lines, as `git diff --stat` prints them.

use std::fmt::Write;

use client::types::{FileDiff, FileState};

use crate::output::printable;

/// Widest bar, as in git on a terminal of 80 columns.
const BAR: usize = 40;

/// Changes so far.
#[derive(Debug, Default)]
pub struct Stat {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    path: String,
    lines: Lines,
}

#[derive(Debug, Clone, Copy)]
enum Lines {
    Counted {
        added: usize,
        removed: usize,
        /// There are more.
        is_cut: bool,
    },
    /// Reason why no lines are counted, and bytes of both sides.
    Uncounted(&'static str, u64, u64),
}

impl Stat {
    pub fn add(&mut self, change: &FileDiff) {
        let bytes = |state: &Option<FileState>| state.as_ref().map_or(0, |state| state.size);
        let uncounted =
            |reason| Lines::Uncounted(reason, bytes(&change.before), bytes(&change.after));
        let lines = match &change.patch {
            _ if change.unreadable => uncounted("?"),
            Some(patch) if patch.is_binary => uncounted("Bin"),
            Some(patch) if patch.is_cut && patch.text.is_empty() => uncounted("Long"),
            Some(patch) => {
                let lines = patch.text.split_terminator('\n');
                let count = |sign| lines.clone().filter(|line| line.starts_with(sign)).count();
                Lines::Counted {
                    added: count('+'),
                    removed: count('-'),
                    is_cut: patch.is_cut,
                }
            }
            None => Lines::Counted {
                added: 0,
                removed: 0,
                is_cut: false,
            },
        };
        self.rows.push(Row {
            path: printable(&change.path).into_owned(),
            lines,
        });
    }

    pub fn render(&self) -> String {
        let width = self
            .rows
            .iter()
            .map(|row| console::measure_text_width(&row.path))
            .max();
        let width = width.unwrap_or_default();
        let mut all_added = 0;
        let mut all_removed = 0;
        let mut most = 0;
        let mut is_any_cut = false;
        for row in &self.rows {
            match row.lines {
                Lines::Counted {
                    added,
                    removed,
                    is_cut,
                } => {
                    all_added += added;
                    all_removed += removed;
                    most = most.max(added + removed);
                    is_any_cut |= is_cut;
                }
                Lines::Uncounted(reason, ..) => is_any_cut |= reason != "Bin",
            }
        }
        let digits = most.to_string().len().max(3);
        let mut text = String::new();
        for row in &self.rows {
            let path = console::pad_str(&row.path, width, console::Alignment::Left, None);
            let _ = match row.lines {
                Lines::Uncounted(reason, before, after) => {
                    writeln!(
                        text,
                        " {path} | {reason:>digits$} {before} -> {after} bytes"
                    )
                }
                Lines::Counted {
                    added,
                    removed,
                    is_cut,
                } => {
                    let bar = bar(added, removed, most);
                    let more = if is_cut { "+" } else { "" };
                    let line = format!(" {path} | {:>digits$}{more} {bar}", added + removed);
                    writeln!(text, "{}", line.trim_end())
                }
            };
        }
        let files = match self.rows.len() {
            1 => "1 file changed".to_owned(),
            count => format!("{count} files changed"),
        };
        let or_more = if is_any_cut { ", or more" } else { "" };
        let _ = writeln!(
            text,
            " {files}, {all_added} insertions(+), {all_removed} deletions(-){or_more}"
        );
        text
    }
}

fn bar(added: usize, removed: usize, most: usize) -> String {
    let scaled = |lines: usize| match most > BAR {
        true => (lines * BAR).div_ceil(most),
        false => lines,
    };
    let added = console::style("+".repeat(scaled(added))).green();
    let removed = console::style("-".repeat(scaled(removed))).red();
    format!("{added}{removed}")
}

#[cfg(test)]
mod tests {
    use client::types::FilePatch;

    use super::*;

    fn stat(changes: &[(&str, &str, bool, bool)]) -> String {
        console::set_colors_enabled(false);
        let mut stat = Stat::default();
        for (path, text, is_cut, is_binary) in changes {
            stat.add(&FileDiff {
                path: (*path).to_owned(),
                before: None,
                after: None,
                content_changed: true,
                attributes_changed: false,
                unreadable: false,
                patch: Some(FilePatch {
                    text: (*text).to_owned(),
                    is_cut: *is_cut,
                    is_binary: *is_binary,
                }),
            });
        }
        stat.render()
    }

    #[test]
    fn lines_are_counted() {
        let changes = [
            ("/a", "@@ -1 +1,2 @@\n-x\n+y\n+z\n", false, false),
            ("/long/name", "", false, true),
            ("/mode", "", false, false),
        ];
        assert_eq!(
            stat(&changes),
            " /a         |   3 ++-\n /long/name | Bin 0 -> 0 bytes\n /mode      |   0\n \
             3 files changed, 2 insertions(+), 1 deletions(-)\n"
        );
    }

    #[test]
    fn cut_patch_is_no_whole_one() {
        let changes = [
            ("/a", "@@ -1 +1,2 @@\n-x\n+y\n", true, false),
            ("/b", "", true, false),
        ];
        assert_eq!(
            stat(&changes),
            " /a |   2+ +-\n /b | Long 0 -> 0 bytes\n \
             2 files changed, 1 insertions(+), 1 deletions(-), or more\n"
        );
    }
}
