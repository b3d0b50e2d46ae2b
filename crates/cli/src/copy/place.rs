//! The two arguments of `wrenn cp`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use client::bytes::{from_text, to_text};

use crate::failure::usage_error;

/// Source or destination of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Local(Local),
    Remote(Remote),
}

/// A side on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Local {
    /// `-`
    Stdio,
    Path(PathBuf),
}

/// A side in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Id as typed: possibly shortened.
    pub id: String,
    /// Relative paths start at the image's working directory, else at the user's home; that is `.`.
    /// Bytes that are not UTF-8 are escaped, as in the API.
    pub path: String,
}

impl Place {
    /// Parses `-`, `SANDBOX:PATH`, or a local path. A local path with a colon is recognised by a
    /// `/` or `.` before it.
    pub fn parse(text: &Path) -> Self {
        let bytes = text.as_os_str().as_bytes();
        if bytes == b"-" {
            return Self::Local(Local::Stdio);
        }
        let colon = bytes.iter().position(|&byte| byte == b':');
        match colon.map(|colon| (&bytes[..colon], &bytes[colon + 1..])) {
            Some((id, path)) if could_be_id(id) => {
                let path = if path.is_empty() {
                    b".".as_slice()
                } else {
                    path
                };
                Self::Remote(Remote {
                    id: to_text(id),
                    path: to_text(path),
                })
            }
            _ => Self::Local(Local::Path(text.to_owned())),
        }
    }
}

fn could_be_id(text: &[u8]) -> bool {
    !text.is_empty()
        && text
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

/// Direction of a copy.
#[derive(Debug, PartialEq, Eq)]
pub enum Direction {
    Up(Local, Remote),
    Down(Remote, Local),
}

impl Direction {
    pub fn of(source: &Path, target: &Path) -> anyhow::Result<Self> {
        match (Place::parse(source), Place::parse(target)) {
            (Place::Local(source), Place::Remote(target)) => Ok(Self::Up(source, target)),
            (Place::Remote(source), Place::Local(target)) => Ok(Self::Down(source, target)),
            (Place::Local(_), Place::Local(_)) => Err(usage_error(
                "neither side is in a sandbox: write that one as SANDBOX:PATH, as in `wrenn cp notes.txt sb-4f2:/tmp/`",
            )),
            (Place::Remote(_), Place::Remote(_)) => Err(usage_error(
                "both sides are in a sandbox (SANDBOX:PATH): copy to this machine first, or write a local path with \
                 a colon in it as ./a:b",
            )),
        }
    }
}

/// Returns true if a path means the content of a directory and not the directory itself: `DIR/.`,
/// `.`, `..`, `/`.
pub fn means_contents(path: &str) -> bool {
    name_of(path).is_none()
}

/// Returns the last component of a path; `None` where the path has no name of its own.
pub fn name_of(path: &str) -> Option<OsString> {
    let last = path
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default();
    (!matches!(last, "" | "." | ".." | "~")).then(|| OsString::from_vec(from_text(last)))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn remote(id: &str, path: &str) -> Remote {
        Remote {
            id: id.to_owned(),
            path: path.to_owned(),
        }
    }

    #[test]
    fn arguments_are_told_apart() {
        let parse = |text: &str| Place::parse(Path::new(text));
        let local = |text: &str| Place::Local(Local::Path(text.into()));
        assert_eq!(
            parse("sb-4f2:/tmp/x"),
            Place::Remote(remote("sb-4f2", "/tmp/x"))
        );
        assert_eq!(parse("4f2:a:b"), Place::Remote(remote("4f2", "a:b")));
        assert_eq!(parse("4f2:"), Place::Remote(remote("4f2", ".")));
        assert_eq!(parse("-"), Place::Local(Local::Stdio));
        let latin = Place::parse(Path::new(OsStr::from_bytes(b"4f2:caf\xe9")));
        assert_eq!(latin, Place::Remote(remote("4f2", "caf\u{10fffd}xE9")));
        assert_eq!(
            name_of("/tmp/caf\u{10fffd}xE9"),
            Some(OsStr::from_bytes(b"caf\xe9").to_owned())
        );
        for text in [
            "a",
            "./a:b",
            "/tmp/a:b",
            ":x",
            "Notes: today.txt",
            "dir/x:y",
            "",
        ] {
            assert_eq!(parse(text), local(text), "{text:?}");
        }
    }

    #[test]
    fn one_side_is_in_a_sandbox() {
        let of = |source: &str, target: &str| Direction::of(Path::new(source), Path::new(target));
        assert_eq!(
            of("-", "a:b").unwrap(),
            Direction::Up(Local::Stdio, remote("a", "b"))
        );
        assert_eq!(
            of("a:b", "c").unwrap(),
            Direction::Down(remote("a", "b"), Local::Path("c".into()))
        );
        assert!(
            of("a", "b")
                .unwrap_err()
                .to_string()
                .contains("SANDBOX:PATH")
        );
        assert!(of("a:b", "c:d").is_err());
    }

    #[test]
    fn names_and_contents() {
        assert_eq!(name_of("/a/b"), Some("b".into()));
        assert_eq!(name_of("b//"), Some("b".into()));
        for text in ["", "/", ".", "..", "a/.", "a/..", "~", "a/./"] {
            assert!(means_contents(text), "{text:?}");
        }
    }
}
