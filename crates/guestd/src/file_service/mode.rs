//! Permission bits as chmod(1) changes them: octal or symbolic, also recursively.

use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::{CWD, Mode};

use super::walk::{Visited, walk};
use crate::filesystem::error::FileError;
use crate::filesystem::operations::not_found_error;

/// Longest text of a mode, bytes; the longest useful one has some forty.
const MAX_TEXT: usize = 256;

/// Bits that a symbolic mode without `u`, `g`, `o` or `a` leaves alone: the umask of the agent.
const UMASK: u32 = 0o022;

/// A change of permission bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModeChange {
    /// Octal digits. Up to four of them leave the set-id bits of directories as they are.
    Octal {
        bits: u32,
        keeps_set_id: bool,
    },
    Symbolic(Vec<Action>),
}

/// One `[ugoa]*[-+=](perms)` of a symbolic mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// Bits of those whom it concerns.
    who: u32,
    is_masked: bool,
    operator: u8,
    perms: Perms,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Perms {
    /// Bits for all of user, group and others, and whether `X` was among them.
    Bits { bits: u32, search: bool },
    /// Those that the user (6), the group (3) or others (0) have, by their shift.
    CopyOf(u32),
}

impl ModeChange {
    /// Parses what a user types behind chmod(1).
    ///
    /// # Errors
    /// Invalid.
    pub fn parse(text: &str) -> Result<Self, FileError> {
        let wrong = || {
            let shown: String = text.chars().take(40).collect();
            FileError::invalid(format!(
                "mode '{shown}' is not one: give octal digits as in 0644, or a symbolic mode as in u+x or u=rwX,go-w"
            ))
        };
        if text.is_empty() || text.len() > MAX_TEXT {
            return Err(wrong());
        }
        if text.bytes().all(|byte| matches!(byte, b'0'..=b'7')) {
            let bits = u32::from_str_radix(text, 8).map_err(|_| wrong())?;
            return match bits <= 0o7777 {
                true => Ok(Self::Octal {
                    bits,
                    keeps_set_id: text.len() < 5,
                }),
                false => Err(wrong()),
            };
        }
        let mut actions = Vec::new();
        for clause in text.split(',') {
            parse_clause(clause.as_bytes(), &mut actions).ok_or_else(wrong)?;
        }
        Ok(Self::Symbolic(actions))
    }

    /// Returns the permission bits of a file that had `mode`.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Octal { bits, keeps_set_id } if *keeps_set_id && is_dir => bits | (mode & 0o6000),
            Self::Octal { bits, .. } => *bits,
            Self::Symbolic(actions) => actions
                .iter()
                .fold(mode, |mode, action| action.apply(mode, is_dir)),
        }
    }
}

impl Action {
    fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let bits = match self.perms {
            Perms::CopyOf(shift) => {
                let bits = (mode >> shift) & 0o7;
                bits * 0o111
            }
            Perms::Bits { bits, search } => {
                let is_searched = search && (is_dir || mode & 0o111 != 0);
                bits | if is_searched { 0o111 } else { 0 }
            }
        };
        let mask = if self.is_masked { !UMASK } else { !0 };
        let changed = bits & self.who & mask;
        match self.operator {
            b'+' => mode | changed,
            b'-' => mode & !changed,
            _ => {
                // As GNU chmod: `=` leaves the set-id bits of directories that it does not name.
                let kept = if is_dir { 0o6000 & !changed } else { 0 };
                (mode & (!self.who | kept)) | changed
            }
        }
    }
}

fn parse_clause(clause: &[u8], actions: &mut Vec<Action>) -> Option<()> {
    let named = clause
        .iter()
        .take_while(|byte| b"ugoa".contains(byte))
        .count();
    let (who, mut rest) = clause.split_at(named);
    let who = who.iter().fold(0, |who, byte| {
        who | match byte {
            b'u' => 0o4700,
            b'g' => 0o2070,
            b'o' => 0o1007,
            _ => 0o7777,
        }
    });
    if rest.is_empty() {
        return None;
    }
    while let Some((operator, perms)) = rest.split_first() {
        if !b"+-=".contains(operator) {
            return None;
        }
        let length = perms
            .iter()
            .take_while(|byte| !b"+-=".contains(byte))
            .count();
        let (perms, next) = perms.split_at(length);
        actions.push(Action {
            who: if who == 0 { 0o7777 } else { who },
            is_masked: who == 0,
            operator: *operator,
            perms: parse_perms(perms)?,
        });
        rest = next;
    }
    Some(())
}

fn parse_perms(perms: &[u8]) -> Option<Perms> {
    if let [copied @ (b'u' | b'g' | b'o')] = perms {
        return Some(Perms::CopyOf(match copied {
            b'u' => 6,
            b'g' => 3,
            _ => 0,
        }));
    }
    let mut bits = 0;
    let mut search = false;
    for perm in perms {
        match perm {
            b'r' => bits |= 0o444,
            b'w' => bits |= 0o222,
            b'x' => bits |= 0o111,
            b'X' => search = true,
            b's' => bits |= 0o6000,
            b't' => bits |= 0o1000,
            _ => return None,
        }
    }
    Some(Perms::Bits { bits, search })
}

/// Changes the mode of a path, reached through symbolic links; with `recursive` also of all that is
/// below it, but of symbolic links. Call it as the user.
///
/// # Errors
/// Not found; denied: what was visited before stays changed.
pub fn change_mode(path: &Path, change: &ModeChange, recursive: bool) -> Result<(), FileError> {
    let walked = walk(path, recursive, |visited| set_mode(visited, change));
    walked.map_err(|e| {
        let e = e.into();
        not_found_error(path, &e).unwrap_or_else(|| FileError::io("change the mode of", path, &e))
    })
}

fn set_mode(visited: &Visited, change: &ModeChange) -> rustix::io::Result<()> {
    // They have none of their own.
    if visited.is_symlink() {
        return Ok(());
    }
    let mode = change.apply(visited.mode(), visited.metadata.is_dir());
    // fchmod(2) refuses such descriptors, and fchmodat2(2) is younger than many guests.
    let path = format!("/proc/self/fd/{}", visited.file.as_raw_fd());
    rustix::fs::chmodat(CWD, path, Mode::from(mode), rustix::fs::AtFlags::empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn symbolic() -> impl Strategy<Value = String> {
        let perms = prop_oneof!["[rwxXst]{0,4}", "[ugo]"];
        let action = ("[-+=]", perms).prop_map(|(operator, perms)| operator + &perms);
        let clause = ("[ugoa]{0,3}", prop::collection::vec(action, 1..3));
        let clause = clause.prop_map(|(who, actions)| who + &actions.concat());
        prop::collection::vec(clause, 1..3).prop_map(|clauses| clauses.join(","))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn modes_change_as_chmod_does(
            text in prop_oneof![symbolic(), "[0-7]{1,4}"],
            before in 0..0o10000_u32,
            is_dir: bool,
        ) {
            let folder = tempfile::tempdir().expect("a folder");
            let make = |name: &str| {
                let path = folder.path().join(name);
                match is_dir {
                    true => std::fs::create_dir(&path),
                    false => std::fs::write(&path, ""),
                }
                .expect("made");
                let mode = std::fs::Permissions::from_mode(before);
                std::fs::set_permissions(&path, mode).expect("chmod");
                path
            };
            let (ours, theirs) = (make("ours"), make("theirs"));
            let change = ModeChange::parse(&text).expect("a mode");
            change_mode(&ours, &change, false).expect("changed");
            let script = r#"umask 022; exec chmod -- "$@""#;
            // Its exit code also says that the umask kept something back.
            let _ = Command::new("sh")
                .args(["-c", script, "sh", &text])
                .arg(&theirs)
                .stderr(std::process::Stdio::null())
                .status()
                .expect("chmod runs");
            let mode = |path| std::fs::metadata(path).expect("is there").permissions().mode();
            prop_assert_eq!(mode(&ours), mode(&theirs), "{} on {:o}", text, before);
        }
    }

    #[test]
    fn texts_that_are_no_modes_are_refused() {
        for text in [
            "", "8", "17777", "u", "rwx", "u+q", "u+x,", "a+ug", "+7", " 644", "0o644",
        ] {
            assert!(ModeChange::parse(text).is_err(), "{text:?}");
        }
        assert!(ModeChange::parse(&"u+x,".repeat(100)).is_err());
    }
}
