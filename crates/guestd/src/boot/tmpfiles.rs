//! Files that tmpfiles.d(5) of the image has an init system make at each boot, in `/run` and
//! `/tmp`: all else of it is on disk since the image was built.
//!
//! Known are directories, files, links, pipes, and modes of what is there. A line with something
//! that is not known, such as a specifier of systemd's, is passed over; so is one that fails, for
//! its program will say what it lacks.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::user::{Database, read_bounded};

/// Folders of the image, the first wins where two have a file of one name.
const FOLDERS: [&str; 4] = [
    "etc/tmpfiles.d",
    "run/tmpfiles.d",
    "usr/lib/tmpfiles.d",
    "lib/tmpfiles.d",
];

/// Folders below which files are made at each boot. The second and third are links to the first
/// where they are not of old.
const ABOVE: [&str; 4] = ["/run/", "/var/run/", "/var/lock/", "/tmp/"];

/// Maximum number of bytes of one file that are read.
const LIMIT: u64 = 256 << 10;

/// Makes all of it below `root`.
pub fn create_all(root: &Path) {
    let names = Database::read(&root.join("etc"));
    for entry in entries_of(root) {
        if let Err(error) = entry.create(root, &names) {
            eprintln!(
                "envd: tmpfiles.d: {} cannot be made: {error}",
                entry.path.display()
            );
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Directory,
    File,
    Link,
    Pipe,
    Adjust,
}

#[derive(Debug)]
struct Entry {
    kind: Kind,
    /// Absolute path without `..`.
    path: PathBuf,
    mode: Option<u32>,
    user: Option<String>,
    group: Option<String>,
    argument: Option<String>,
}

fn entries_of(root: &Path) -> Vec<Entry> {
    let mut files: BTreeMap<_, PathBuf> = BTreeMap::new();
    for folder in FOLDERS {
        for entry in fs::read_dir(root.join(folder))
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = entry.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "conf")
            {
                files.entry(entry.file_name()).or_insert(path);
            }
        }
    }
    let texts = files.into_values().map(|path| read_bounded(&path, LIMIT));
    let mut entries: Vec<Entry> = texts
        .flat_map(|text| text.lines().filter_map(parse).collect::<Vec<_>>())
        .collect();
    // A directory before what is in it, whichever file names it.
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    entries
}

/// Parses a line `TYPE PATH MODE USER GROUP AGE ARGUMENT`, the last of which may have spaces; `-`
/// or nothing for the default.
fn parse(line: &str) -> Option<Entry> {
    let line = line.trim();
    let mut fields = Fields(line);
    let kind = kind(
        fields
            .next()
            .filter(|word| !word.starts_with('#'))?
            .as_str(),
    )?;
    let path = expand(&fields.next()?)?;
    let mut given = || fields.next().filter(|word| word != "-");
    let mode = given();
    let user = given();
    let group = given();
    let _age = given();
    let argument = fields
        .rest()
        .filter(|rest| rest != "-")
        .and_then(|rest| expand(&rest));
    let normal = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    let is_ours = ABOVE.iter().any(|above| path.starts_with(above))
        && Path::new(&path).components().all(normal);
    let mode =
        mode.and_then(|mode| u32::from_str_radix(mode.trim_start_matches(['~', ':']), 8).ok());
    is_ours.then(|| Entry {
        kind,
        path: path.into(),
        mode,
        user,
        group,
        argument,
    })
}

fn kind(word: &str) -> Option<Kind> {
    match word.trim_end_matches(['!', '-', '+', '=', '?', '$', '^', '~']) {
        "d" | "D" | "v" | "q" | "Q" => Some(Kind::Directory),
        "f" | "F" => Some(Kind::File),
        "L" => Some(Kind::Link),
        "p" => Some(Kind::Pipe),
        "z" | "m" => Some(Kind::Adjust),
        _ => None,
    }
}

/// Puts in the specifiers that mean the same in every guest.
fn expand(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '%' => match letters.next()? {
                '%' => out.push('%'),
                't' => out.push_str("/run"),
                'T' => out.push_str("/tmp"),
                _ => return None,
            },
            other => out.push(other),
        }
    }
    Some(out)
}

/// Words, of which those in quotes may have spaces.
struct Fields<'a>(&'a str);

impl Fields<'_> {
    fn next(&mut self) -> Option<String> {
        self.0 = self.0.trim_start();
        let quote = self
            .0
            .chars()
            .next()
            .filter(|first| matches!(first, '"' | '\''));
        let (word, rest) = match quote {
            Some(quote) => self.0[1..].split_once(quote)?,
            None => self
                .0
                .split_once(char::is_whitespace)
                .unwrap_or((self.0, "")),
        };
        let word = word.to_owned();
        self.0 = rest;
        (quote.is_some() || !word.is_empty()).then_some(word)
    }

    fn rest(&self) -> Option<String> {
        Some(self.0.trim().to_owned()).filter(|rest| !rest.is_empty())
    }
}

impl Entry {
    fn create(&self, root: &Path, names: &Database) -> io::Result<()> {
        let path = root.join(self.path.strip_prefix("/").unwrap_or(&self.path));
        if self.kind != Kind::Adjust
            && let Some(parent) = path.parent()
        {
            fs::create_dir_all(parent)?;
        }
        let default = match self.kind {
            Kind::Directory => {
                match fs::create_dir(&path) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
                    }
                    made => made?,
                }
                Some(0o755)
            }
            Kind::File => {
                if fs::symlink_metadata(&path).is_err() {
                    fs::write(&path, self.argument.as_deref().unwrap_or_default())?;
                }
                Some(0o644)
            }
            Kind::Link => return self.link(&path),
            Kind::Pipe => {
                if fs::symlink_metadata(&path).is_err() {
                    mkfifo(&path, Mode::from_bits_truncate(0o644))?;
                }
                Some(0o644)
            }
            Kind::Adjust if path.exists() => None,
            Kind::Adjust => return Ok(()),
        };
        self.give(&path, default, names)
    }

    fn link(&self, path: &Path) -> io::Result<()> {
        match &self.argument {
            Some(target) if fs::symlink_metadata(path).is_err() => symlink(target, path),
            _ => Ok(()),
        }
    }

    fn give(&self, path: &Path, default: Option<u32>, names: &Database) -> io::Result<()> {
        let unknown = |what: &str| io::Error::other(format!("the image has no {what}"));
        let uid = match self.user.as_deref() {
            Some(user) => Some(
                names
                    .lookup(user)
                    .map_err(|_| unknown(&format!("user '{user}'")))?
                    .uid,
            ),
            None => default.map(|_| 0),
        };
        let gid = match self.group.as_deref() {
            Some(group) => Some(
                names
                    .group_id(group)
                    .ok_or_else(|| unknown(&format!("group '{group}'")))?,
            ),
            None => default.map(|_| 0),
        };
        chown(path, uid, gid)?;
        match self.mode.or(default) {
            Some(mode) => fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::test_image::image_with;

    #[test]
    fn lines_of_debian_packages_are_made() {
        let root = image_with(&[
            (
                "etc/passwd",
                "root:x:0:0::/root:\npostgres:x:105:109::/var/lib/postgresql:\n",
            ),
            ("etc/group", "root:x:0:\npostgres:x:109:\nutmp:x:43:\n"),
            (
                "usr/lib/tmpfiles.d/postgresql.conf",
                "# x\nd /run/postgresql 2775 postgres postgres - -\n",
            ),
            ("usr/lib/tmpfiles.d/sshd.conf", "d /run/sshd 0755\n"),
            (
                "usr/lib/tmpfiles.d/x11.conf",
                "D! /tmp/.X11-unix 1777 root root 10d\n",
            ),
            (
                "usr/lib/tmpfiles.d/systemd.conf",
                "F! /run/utmp 0664 root utmp -\nd /run/user/%u 0700\nd /var/cache/no\n",
            ),
            (
                "usr/lib/tmpfiles.d/legacy.conf",
                "L /run/initctl - - - - /run/init/fifo\nf /run/msg 0640 - - - two words\n",
            ),
        ]);
        create_all(root.path());
        let there = |name: &str| fs::symlink_metadata(root.path().join(name)).expect("is there");
        let facts = |name: &str| {
            (
                there(name).mode() & 0o7777,
                there(name).uid(),
                there(name).gid(),
            )
        };
        assert_eq!(facts("run/postgresql"), (0o2775, 105, 109));
        assert_eq!(facts("run/sshd"), (0o755, 0, 0));
        assert_eq!(facts("tmp/.X11-unix"), (0o1777, 0, 0));
        assert_eq!(facts("run/utmp"), (0o664, 0, 43));
        assert!(there("run/initctl").is_symlink());
        assert_eq!(
            fs::read_to_string(root.path().join("run/msg")).expect("is there"),
            "two words"
        );
        assert!(!root.path().join("var").exists() && !root.path().join("run/user").exists());
    }

    #[test]
    fn administrator_overrides_package_by_file_name() {
        let root = image_with(&[
            ("usr/lib/tmpfiles.d/a.conf", "d /run/a 0700\n"),
            (
                "etc/tmpfiles.d/a.conf",
                "d /run/b 0711\nd \"/run/with space\"\n",
            ),
        ]);
        create_all(root.path());
        assert!(!root.path().join("run/a").exists() && root.path().join("run/b").exists());
        assert!(root.path().join("run/with space").exists());
    }

    #[test]
    fn other_paths_and_lines_are_ignored() {
        for line in [
            "d /etc/x",
            "d /run/../etc/x",
            "r! /run/x",
            "d",
            "",
            "#d /run/x",
            "d /run/%b",
            "x /tmp/a",
            "q /tmp",
        ] {
            assert!(parse(line).is_none(), "{line}");
        }
    }
}
