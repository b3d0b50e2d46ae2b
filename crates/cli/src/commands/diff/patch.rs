//! Changes as `git diff` prints them, with a line for an owner, which git does not know.

use std::fmt::Write;

use client::types::{FileDiff, FileState, InodeKind};

use crate::output::printable;

/// Bits of a mode that say what a file is, in git's form.
fn kind_bits(kind: InodeKind) -> u32 {
    match kind {
        InodeKind::File => 0o100_000,
        InodeKind::Directory => 0o040_000,
        InodeKind::Symlink => 0o120_000,
        InodeKind::BlockDevice => 0o060_000,
        InodeKind::CharacterDevice => 0o020_000,
        InodeKind::Fifo => 0o010_000,
        InodeKind::Socket => 0o140_000,
    }
}

fn mode(state: &FileState) -> String {
    format!("{:06o}", kind_bits(state.kind) | state.mode)
}

fn owner(state: &FileState) -> String {
    format!("{}:{}", state.uid, state.gid)
}

/// Returns the change as a part of a unified diff, coloured where there are colours.
pub fn render_patch(change: &FileDiff) -> String {
    let mut text = String::new();
    let path = printable(&change.path);
    let mut add = |line: String| {
        let _ = writeln!(text, "{line}");
    };
    add(bold(format!("diff --git a{path} b{path}")));
    for line in headers(change) {
        add(bold(line));
    }
    let body = body(change);
    if body.is_empty() {
        return text;
    }
    let name = |side: &Option<FileState>, prefix| match side {
        Some(_) => format!("{prefix}{path}"),
        None => "/dev/null".to_owned(),
    };
    let before = name(&change.before, "a");
    let after = name(&change.after, "b");
    match body {
        Body::Hunks(hunks) => {
            add(bold(format!("--- {before}")));
            add(bold(format!("+++ {after}")));
            // A carriage return is a part of its line, whose change may be that alone.
            for line in hunks.split_terminator('\n') {
                add(colored(&printable(line)));
            }
            if change.patch.as_ref().is_some_and(|patch| patch.is_cut) {
                add("\\ The rest is too long".to_owned());
            }
        }
        Body::Binary => add(format!("Binary files {before} and {after} differ")),
        Body::TooLong => add(format!(
            "Files {before} and {after} differ, and are too long to compare by lines"
        )),
        Body::Nothing => {}
    }
    text
}

/// Content of a change.
enum Body {
    Hunks(String),
    Binary,
    /// A text, or all patches together, is too long.
    TooLong,
    Nothing,
}

impl Body {
    fn is_empty(&self) -> bool {
        matches!(self, Self::Nothing)
    }
}

fn body(change: &FileDiff) -> Body {
    let target = |state: &Option<FileState>| state.as_ref()?.symlink_target.clone();
    let targets = (target(&change.before), target(&change.after));
    if targets.0 != targets.1 {
        return Body::Hunks(target_hunk(targets.0.as_deref(), targets.1.as_deref()));
    }
    match &change.patch {
        Some(patch) if patch.is_binary => Body::Binary,
        Some(patch) if patch.is_cut && patch.text.is_empty() => Body::TooLong,
        Some(patch) if !patch.text.is_empty() => Body::Hunks(patch.text.clone()),
        _ => Body::Nothing,
    }
}

/// Returns the targets of a symbolic link as git shows them: as a content without line end.
fn target_hunk(before: Option<&str>, after: Option<&str>) -> String {
    let range = |side: Option<&str>| if side.is_some() { "1" } else { "0,0" };
    let mut hunk = format!("@@ -{} +{} @@\n", range(before), range(after));
    for (sign, target) in [('-', before), ('+', after)] {
        if let Some(target) = target {
            let _ = writeln!(
                hunk,
                "{sign}{}\n\\ No newline at end of file",
                printable(target)
            );
        }
    }
    hunk
}

fn headers(change: &FileDiff) -> Vec<String> {
    if change.unreadable {
        return vec!["could not be read in full".to_owned()];
    }
    let (before, after) = match (&change.before, &change.after) {
        (None, Some(after)) => return vec![format!("new file mode {}", mode(after))],
        (Some(before), None) => return vec![format!("deleted file mode {}", mode(before))],
        (Some(before), Some(after)) => (before, after),
        (None, None) => return Vec::new(),
    };
    let mut lines = Vec::new();
    let mut add = |what: &str, old: String, new: String| {
        if old != new {
            lines.push(format!("old {what} {old}"));
            lines.push(format!("new {what} {new}"));
        }
    };
    add("mode", mode(before), mode(after));
    add("owner", owner(before), owner(after));
    let device = |state: &FileState| state.device.clone().unwrap_or_default();
    add("device", device(before), device(after));
    if change.attributes_changed {
        lines.push("extended attributes differ".to_owned());
    }
    lines
}

fn bold(line: String) -> String {
    console::style(line).bold().to_string()
}

fn colored(line: &str) -> String {
    let styled = console::style(line);
    let styled = match line.as_bytes().first() {
        Some(b'+') => styled.green(),
        Some(b'-') => styled.red(),
        Some(b'@') => styled.cyan(),
        _ => styled,
    };
    styled.to_string()
}

#[cfg(test)]
mod tests {
    use client::types::FilePatch;

    use super::*;

    fn state(kind: InodeKind, mode: u32) -> FileState {
        FileState {
            kind,
            size: 0,
            mode,
            uid: 0,
            gid: 0,
            symlink_target: None,
            device: None,
            sha256: None,
        }
    }

    fn change(before: Option<FileState>, after: Option<FileState>) -> FileDiff {
        FileDiff {
            path: "/etc/motd".to_owned(),
            before,
            after,
            content_changed: false,
            attributes_changed: false,
            unreadable: false,
            patch: None,
        }
    }

    #[test]
    fn patch_looks_like_git() {
        console::set_colors_enabled(false);
        let patch = |text: &str| FilePatch {
            text: text.to_owned(),
            is_cut: false,
            is_binary: text.is_empty(),
        };
        let file = || Some(state(InodeKind::File, 0o644));
        let mut edited = change(file(), Some(state(InodeKind::File, 0o755)));
        edited.patch = Some(patch("@@ -1 +1 @@\n-a\n+\u{1b}b\r\n"));
        assert_eq!(
            render_patch(&edited),
            "diff --git a/etc/motd b/etc/motd\nold mode 100644\nnew mode 100755\n--- a/etc/motd\n\
             +++ b/etc/motd\n@@ -1 +1 @@\n-a\n+\\u{1b}b\\r\n"
        );
        let mut added = change(None, file());
        added.patch = Some(patch(""));
        assert_eq!(
            render_patch(&added),
            "diff --git a/etc/motd b/etc/motd\nnew file mode 100644\n\
             Binary files /dev/null and b/etc/motd differ\n"
        );
        added.patch = Some(FilePatch {
            is_cut: true,
            is_binary: false,
            ..patch("")
        });
        assert!(render_patch(&added).ends_with("and are too long to compare by lines\n"));
        let unreadable = FileDiff {
            unreadable: true,
            ..change(None, file())
        };
        let expected = "diff --git a/etc/motd b/etc/motd\ncould not be read in full\n";
        assert_eq!(render_patch(&unreadable), expected);
        let mut link = state(InodeKind::Symlink, 0o777);
        link.symlink_target = Some("issue".to_owned());
        assert_eq!(
            render_patch(&change(Some(link), None)),
            "diff --git a/etc/motd b/etc/motd\ndeleted file mode 120777\n--- a/etc/motd\n+++ /dev/null\n\
             @@ -1 +0,0 @@\n-issue\n\\ No newline at end of file\n"
        );
    }
}
