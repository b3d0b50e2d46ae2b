//! Parts of text files, and changes of them; pure.

use crate::text::MAX_TEXT;

/// Largest file that is edited or shown as a resource, in bytes; the whole of it is in memory then.
pub const MAX_FILE: usize = 4 * 1024 * 1024;

/// Lines of a file, collected from its bytes as they come, in bounded memory.
#[derive(Debug)]
pub struct LineRange {
    first: u64,
    count: u64,
    /// Line that the next byte belongs to, from 1.
    line: u64,
    kept: Vec<u8>,
    is_full: bool,
    is_binary: bool,
    /// Whether bytes come after those that are kept.
    has_more: bool,
}

/// Lines that were asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Lines {
    pub text: String,
    /// First line that is not in `text`; `None` at the end of the file.
    pub next_line: Option<u64>,
    /// The only line of `text` is longer.
    pub is_cut: bool,
}

impl LineRange {
    /// Keeps `count` lines from `first` on, which counts from 1.
    #[must_use]
    pub fn new(first: u64, count: u64) -> Self {
        Self {
            first: first.max(1),
            count,
            line: 1,
            kept: Vec::new(),
            is_full: false,
            is_binary: false,
            has_more: false,
        }
    }

    /// Takes bytes; false when more are not needed.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if part.contains(&0) {
                self.is_binary = true;
                return false;
            }
            if self.line >= self.first.saturating_add(self.count) || self.is_full {
                self.has_more = true;
                return false;
            }
            if self.line >= self.first {
                let room = MAX_TEXT - self.kept.len();
                self.kept.extend_from_slice(&part[..part.len().min(room)]);
                if part.len() > room {
                    self.is_full = true;
                    self.has_more = true;
                    return false;
                }
            }
            self.line += u64::from(part.ends_with(b"\n"));
        }
        true
    }

    /// Returns the lines. `None` if the file has a NUL byte, as text has none.
    #[must_use]
    pub fn finish(mut self) -> Option<Lines> {
        if self.is_binary {
            return None;
        }
        let mut next_line = self.has_more.then_some(self.line);
        let mut is_cut = false;
        if self.is_full {
            // Whole lines, unless a single one is too long.
            match self.kept.iter().rposition(|byte| *byte == b'\n') {
                Some(end) => self.kept.truncate(end + 1),
                None => {
                    next_line = Some(self.line + 1);
                    is_cut = true;
                }
            }
        }
        Some(Lines {
            text: String::from_utf8_lossy(&self.kept).into_owned(),
            next_line,
            is_cut,
        })
    }
}

/// Replaces `old` in `content`.
///
/// # Errors
/// The text says why nothing was replaced.
pub fn replace(content: &str, old: &str, new: &str, all: bool) -> Result<(String, usize), String> {
    if old.is_empty() {
        return Err("old_text is empty; to make a new file use write_file".to_owned());
    }
    match content.matches(old).count() {
        0 => Err(
            "old_text is not in the file; read it again, and copy the text with its white space"
                .to_owned(),
        ),
        count if count > 1 && !all => Err(format!(
            "old_text is {count} times in the file; add lines around it until it is there once, or set replace_all"
        )),
        count => {
            // Checked before it is made: many short texts that become long ones are terabytes.
            let added = new.len().saturating_mul(count);
            if (content.len() - old.len() * count).saturating_add(added) > MAX_FILE {
                return Err(format!(
                    "the file would be larger than {} MiB; change it with run_command (sed, a script)",
                    MAX_FILE >> 20
                ));
            }
            Ok((content.replace(old, new), count))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(content: &[u8], first: u64, count: u64, part: usize) -> Option<Lines> {
        let mut range = LineRange::new(first, count);
        for bytes in content.chunks(part.max(1)) {
            if !range.push(bytes) {
                break;
            }
        }
        range.finish()
    }

    fn joined(content: &str, count: u64) -> String {
        let mut all = String::new();
        let mut next = Some(1);
        while let Some(first) = next {
            let lines = lines(content.as_bytes(), first, count, 7).unwrap();
            assert!(lines.next_line.is_none_or(|next| next > first));
            all.push_str(&lines.text);
            next = lines.next_line;
        }
        all
    }

    proptest! {
        #[test]
        fn pages_of_lines_make_file(content in "([a-z]{0,9}\n){0,30}[a-z]{0,5}", count in 1u64..9) {
            prop_assert_eq!(joined(&content, count), content);
        }
    }

    #[test]
    fn large_files_come_in_pages() {
        let content = "0123456789abcdef0123456789abcde\n".repeat(5000);
        assert_eq!(joined(&content, 100_000), content);
    }

    #[test]
    fn long_line_is_cut_and_passed() {
        let content = format!("{}\nend\n", "x".repeat(MAX_TEXT + 10));
        let first = lines(content.as_bytes(), 1, 10, 4096).unwrap();
        assert_eq!((first.text.len(), first.next_line), (MAX_TEXT, Some(2)));
        assert!(first.is_cut);
        let second = lines(content.as_bytes(), 2, 10, 4096).unwrap();
        assert_eq!((second.text.as_str(), second.next_line), ("end\n", None));
    }

    #[test]
    fn binary_file_has_no_lines() {
        assert_eq!(lines(b"ELF\0", 1, 10, 2), None);
    }

    #[test]
    fn ambiguous_edit_changes_nothing() {
        assert!(
            replace("a b a", "a", "c", false)
                .unwrap_err()
                .contains("2 times")
        );
        assert_eq!(
            replace("a b a", "a", "c", true),
            Ok(("c b c".to_owned(), 2))
        );
        assert!(
            replace("a", "b", "c", false)
                .unwrap_err()
                .contains("not in the file")
        );
        assert!(replace("a", "", "c", true).is_err());
    }

    #[test]
    fn edit_beyond_bound_is_refused() {
        let (content, long) = ("a".repeat(1 << 12), "b".repeat(1 << 12));
        assert!(
            replace(&content, "a", &long, true)
                .unwrap_err()
                .contains("larger than 4 MiB")
        );
        let half = &long[..1 << 10];
        assert_eq!(
            replace(&content, "a", half, true).unwrap().0.len(),
            MAX_FILE
        );
    }
}
