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
    },
    /// Bytes of both sides.
    Binary(u64, u64),
}

impl Stat {
    pub fn add(&mut self, change: &FileDiff) {
        let bytes = |state: &Option<FileState>| state.as_ref().map_or(0, |state| state.size);
        let lines = match &change.patch {
            Some(patch) if patch.text.is_empty() && (patch.is_binary || patch.is_cut) => {
                Lines::Binary(bytes(&change.before), bytes(&change.after))
            }
            Some(patch) => {
                let count = |sign| {
                    patch
                        .text
                        .lines()
                        .filter(|line| line.starts_with(sign))
                        .count()
                };
                Lines::Counted {
                    added: count('+'),
                    removed: count('-'),
                }
            }
            None => Lines::Counted {
                added: 0,
                removed: 0,
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
        let (mut all_added, mut all_removed, mut most) = (0, 0, 0);
        for row in &self.rows {
            if let Lines::Counted { added, removed } = row.lines {
                all_added += added;
                all_removed += removed;
                most = most.max(added + removed);
            }
        }
        let digits = most.to_string().len().max(3);
        let mut text = String::new();
        for row in &self.rows {
            let path = console::pad_str(&row.path, width, console::Alignment::Left, None);
            let _ = match row.lines {
                Lines::Binary(before, after) => {
                    writeln!(
                        text,
                        " {path} | {:>digits$} {before} -> {after} bytes",
                        "Bin"
                    )
                }
                Lines::Counted { added, removed } => {
                    let bar = bar(added, removed, most);
                    let line = format!(" {path} | {:>digits$} {bar}", added + removed);
                    writeln!(text, "{}", line.trim_end())
                }
            };
        }
        let files = match self.rows.len() {
            1 => "1 file changed".to_owned(),
            count => format!("{count} files changed"),
        };
        let _ = writeln!(
            text,
            " {files}, {all_added} insertions(+), {all_removed} deletions(-)"
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

    #[test]
    fn lines_are_counted() {
        console::set_colors_enabled(false);
        let mut stat = Stat::default();
        for (path, text, is_binary) in [
            ("/a", "@@ -1 +1,2 @@\n-x\n+y\n+z\n", false),
            ("/long/name", "", true),
            ("/mode", "", false),
        ] {
            stat.add(&FileDiff {
                path: path.to_owned(),
                before: None,
                after: None,
                content_changed: true,
                attributes_changed: false,
                patch: Some(FilePatch {
                    text: text.to_owned(),
                    is_cut: false,
                    is_binary,
                }),
            });
        }
        assert_eq!(
            stat.render(),
            " /a         |   3 ++-\n /long/name | Bin 0 -> 0 bytes\n /mode      |   0\n \
             3 files changed, 2 insertions(+), 1 deletions(-)\n"
        );
    }
}
