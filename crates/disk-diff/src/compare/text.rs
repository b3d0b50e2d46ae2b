//! Differences between texts, as a unified diff.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use similar::TextDiff;

/// Longest text that is compared by lines, bytes.
pub const MAX_TEXT_BYTES: usize = 1 << 20;
/// Longest unified diff of one file, bytes: six times as much in JSON at worst, which is less than
/// what clients read as a line.
pub const MAX_PATCH_BYTES: usize = 128 << 10;
/// Bytes from the beginning in which a NUL makes a file binary; git has the same.
pub(super) const BINARY_BYTES: usize = 8000;
/// Time for finding a short difference between two texts. A longer one is found after that.
const MAX_TIME: Duration = Duration::from_secs(1);
/// Unchanged lines around a change.
const CONTEXT: usize = 3;

/// How the content of a file differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patch {
    /// Hunks of a unified diff; empty where a side is binary or too long.
    pub text: String,
    /// Lines are left out at the end, or all of them.
    pub is_cut: bool,
    /// One of the sides is no text.
    pub is_binary: bool,
}

/// Returns the text that bytes are; `None` if they are binary.
fn as_text(bytes: &[u8]) -> Option<&str> {
    let start = &bytes[..bytes.len().min(BINARY_BYTES)];
    if start.contains(&0) {
        return None;
    }
    std::str::from_utf8(bytes).ok()
}

/// Returns the hunks of a unified diff. Only a line feed ends a line, as for `patch` and git: the
/// lines that `similar` makes by itself end at a carriage return, too.
fn unified_diff(before: &str, after: &str) -> String {
    let [old, new] =
        [before, after].map(|text| -> Vec<&str> { text.split_inclusive('\n').collect() });
    let diff = TextDiff::configure()
        .timeout(MAX_TIME)
        .diff_slices(&old, &new);
    let mut text = String::new();
    for hunk in diff.unified_diff().context_radius(CONTEXT).iter_hunks() {
        text += &format!("{}\n", hunk.header());
        for change in hunk.iter_changes() {
            let line = change.value();
            text += &format!("{}{line}", change.tag());
            if !line.ends_with('\n') {
                text += "\n\\ No newline at end of file\n";
            }
        }
    }
    text
}

impl Patch {
    pub(super) const BINARY: Self = Self {
        text: String::new(),
        is_cut: false,
        is_binary: true,
    };

    pub(super) const TOO_LONG: Self = Self {
        text: String::new(),
        is_cut: true,
        is_binary: false,
    };

    /// Compares two contents, of which one that does not exist is empty.
    pub(super) fn new(before: &[u8], after: &[u8], most: usize) -> Self {
        let (Some(before), Some(after)) = (as_text(before), as_text(after)) else {
            return Self::BINARY;
        };
        let mut text = unified_diff(before, after);
        let most = most.min(MAX_PATCH_BYTES);
        let is_cut = text.len() > most;
        if is_cut {
            let end = text.floor_char_boundary(most);
            let line = text[..end].rfind('\n').map_or(0, |line| line + 1);
            text.truncate(line);
        }
        Self {
            text,
            is_cut,
            is_binary: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patch_is_what_patch_reads() {
        let patch = Patch::new(b"one\ntwo\n", b"one\nzwei\n", MAX_PATCH_BYTES);
        assert_eq!(patch.text, "@@ -1,2 +1,2 @@\n one\n-two\n+zwei\n");
        let patch = Patch::new(b"", b"no line end", MAX_PATCH_BYTES);
        assert_eq!(
            patch.text,
            "@@ -0,0 +1 @@\n+no line end\n\\ No newline at end of file\n"
        );
    }

    /// Runs `patch` on a text, and returns what it makes of it.
    fn apply(before: &str, hunks: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, before).unwrap();
        let patch = dir.path().join("patch");
        std::fs::write(&patch, format!("--- file\n+++ file\n{hunks}")).unwrap();
        let output = std::process::Command::new("patch")
            .args(["--binary", "-s", "-i"])
            .args([&patch, &file])
            .output()
            .unwrap();
        assert!(output.status.success(), "{hunks:?}: {output:?}");
        std::fs::read_to_string(file).unwrap_or_default()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn patch_makes_one_of_other(
            before in "([ab]{0,2}(\r\n|\r|\n)){0,8}[ab]{0,2}",
            after in "([ab]{0,2}(\r\n|\r|\n)){0,8}[ab]{0,2}",
        ) {
            let patch = Patch::new(before.as_bytes(), after.as_bytes(), MAX_PATCH_BYTES);
            prop_assert_eq!(patch.text.is_empty(), before == after);
            if before != after {
                prop_assert_eq!(apply(&before, &patch.text), after);
            }
        }
    }

    #[test]
    fn carriage_return_ends_no_line() {
        let patch = Patch::new(b"one\n", b"one\rtwo\r", MAX_PATCH_BYTES);
        let expected = "@@ -1 +1 @@\n-one\n+one\rtwo\r\n\\ No newline at end of file\n";
        assert_eq!(patch.text, expected);
    }

    #[test]
    fn binary_is_told_apart_from_text() {
        for bytes in [&b"a\0b"[..], b"caf\xe9"] {
            assert_eq!(Patch::new(b"", bytes, MAX_PATCH_BYTES), Patch::BINARY);
        }
        let mut late = vec![b'a'; BINARY_BYTES];
        late.push(0);
        assert!(!Patch::new(b"", &late, MAX_PATCH_BYTES).is_binary);
    }

    #[test]
    fn long_patch_is_cut_at_line() {
        let lines: String = (0..100_000).map(|line| format!("line {line}\n")).collect();
        let patch = Patch::new(b"", lines.as_bytes(), 1000);
        assert!(patch.is_cut && patch.text.len() <= 1000 && patch.text.ends_with('\n'));
        assert!(patch.text.starts_with("@@ -0,0 +1,100000 @@\n+line 0\n"));
        let none = Patch::new(b"", b"a", 0);
        assert!(none.is_cut && none.text.is_empty());
    }
}
