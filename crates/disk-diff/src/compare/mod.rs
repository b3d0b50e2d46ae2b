//! Differences between two trees of files, in the order of their paths.
//!
//! Both trees are walked side by side, a directory at a time, so that memory is bounded by the
//! largest directories and not by the trees. What is compared of a file are its kind, permission
//! bits, owner, size, content, target of a link, device number and extended attributes. Times are
//! not compared, since each build changes them all. Equal times do not prove equal contents either:
//! root in a guest sets them as it likes.
//!
//! A file that cannot be read is a change with [`Change::is_unreadable`]: a guest must not be able to
//! hide a difference by damage. What is below a directory that cannot be listed on one side is not
//! walked, since all of it would seem new or gone.
//!
//! The walk ends early at its limits ([`Limits`]), and says so. It knows no format of a disk
//! ([`Sides`]), so that tests compare it with a model.

mod content;
mod files;
mod text;

use std::collections::BTreeMap;
use std::time::Instant;

use model::InodeKind;
use serde::{Deserialize, Serialize};

pub use files::{DiskSides, NoSides};
pub use text::{MAX_PATCH_BYTES, MAX_TEXT_BYTES, Patch};

/// Longest path, bytes: no program can open a longer one at once (`PATH_MAX`), and with escapes it
/// still fits into messages. A file system that is damaged has circles.
pub const MAX_PATH: usize = 4096;
/// Entries of one directory: 100 MB of memory with names of the usual length.
pub const MAX_DIRECTORY: usize = 500_000;
/// Entries that are looked at, of both sides together.
pub const MAX_ENTRIES: u64 = 20_000_000;
/// Entries of directories that wait for their turn while the walk is in ones below them.
pub const MAX_WAITING: usize = 1_500_000;

/// Bounds of one comparison.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most changes that are told.
    pub changes: u64,
    pub deadline: Instant,
}

/// Bytes that may be no UTF-8: hexadecimal digits in messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Bytes(pub Vec<u8>);

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> Self {
        hex::encode(bytes.0)
    }
}

impl TryFrom<String> for Bytes {
    type Error = hex::FromHexError;

    fn try_from(digits: String) -> Result<Self, hex::FromHexError> {
        hex::decode(digits).map(Self)
    }
}

/// Attributes of one file on one side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    pub kind: InodeKind,
    /// Bytes; 0 for everything but regular files.
    pub size: u64,
    /// Permission bits.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Target of a symbolic link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Bytes>,
    /// Major and minor number of a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<(u32, u32)>,
    /// SHA-256 of the content in hexadecimal digits, where it was asked for and can be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// A file that is not as it was, or may be not. It is new without `before`, and gone without `after`,
/// unless it is unreadable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub path: Bytes,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<FileState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<FileState>,
    /// The bytes of a regular file differ.
    pub is_content_changed: bool,
    pub are_attributes_changed: bool,
    /// Not all of it could be read at both moments, or of what is in a directory: it may differ in
    /// more than is told. A side that could not be read at all is absent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_unreadable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<Patch>,
}

impl Change {
    fn is_different(&self) -> bool {
        self.before != self.after || self.is_content_changed || self.are_attributes_changed
    }
}

/// Result of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Reason why there may be more changes; `None` if these are all.
    pub incomplete: Option<String>,
    /// Number of files and directories that were compared.
    pub compared: u64,
    /// Number of changes that are unreadable.
    pub unreadable: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Before,
    After,
}

/// A file, or the reason why nothing can be said of it.
pub type Read<T> = Result<T, Unread>;

/// Reason why a file is not compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    Damaged,
    /// The deadline has passed.
    TimeOver,
}

/// The deadline has passed.
struct TimeOver;

/// Returns what was read; `None` where it is damaged.
fn unless_damaged<T>(read: Read<T>) -> Result<Option<T>, TimeOver> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(Unread::Damaged) => Ok(None),
        Err(Unread::TimeOver) => Err(TimeOver),
    }
}

/// Entries of a directory.
#[derive(Debug)]
pub struct Listing<E> {
    pub entries: BTreeMap<Vec<u8>, E>,
    pub is_cut: bool,
    /// Some entries could not be read.
    pub is_damaged: bool,
}

/// Two trees of files.
pub trait Sides {
    /// Name of a file within its tree, cheap to keep.
    type Entry: Copy;
    /// A file that was looked at.
    type File;

    /// Returns where the comparison begins; `None` on a side that has nothing there.
    fn root(&self, side: Side) -> Option<Self::Entry>;

    /// Returns the reason why files may have changed that are not read.
    fn missing(&self) -> Option<&'static str>;

    /// Looks at a file.
    fn open(&self, side: Side, entry: Self::Entry) -> Read<Self::File>;

    fn state<'a>(&self, file: &'a Self::File) -> &'a FileState;

    /// Lists a directory, up to `most` entries.
    fn list(&self, side: Side, directory: &Self::File, most: usize) -> Read<Listing<Self::Entry>>;

    /// Returns true if two regular files of the same size have the same content.
    fn is_content_same(&self, before: &Self::File, after: &Self::File) -> Read<bool>;

    fn are_attributes_same(&self, before: &Self::File, after: &Self::File) -> Read<bool>;

    /// Adds what is asked for about the content of a change.
    fn add_content(
        &self,
        before: Option<&Self::File>,
        after: Option<&Self::File>,
        change: &mut Change,
    ) -> Read<()>;
}

/// What one side has of a name.
#[derive(Debug, Clone, Copy)]
enum Presence<E> {
    Missing,
    There(E),
    /// There, or not: that part of the directory cannot be read.
    Unknown,
}

impl<E> From<Option<E>> for Presence<E> {
    fn from(entry: Option<E>) -> Self {
        entry.map_or(Self::Missing, Self::There)
    }
}

/// Pair of a name, and what each side has there.
type Pair<E> = (Vec<u8>, Presence<E>, Presence<E>);

/// A directory whose entries are being compared.
struct Frame<E> {
    /// Length of its path.
    path: usize,
    pairs: std::vec::IntoIter<Pair<E>>,
}

/// Compares two trees that begin at `path`, and calls `report` with each change.
///
/// # Errors
/// Those of `report`, which end the comparison.
pub fn compare<S: Sides, E>(
    sides: &S,
    path: &[u8],
    limits: Limits,
    report: impl FnMut(Change) -> Result<(), E>,
) -> Result<Summary, E> {
    let walk = Walk {
        sides,
        limits,
        report,
        path: path.to_vec(),
        frames: Vec::new(),
        waiting: 0,
        entries: 0,
        changes: 0,
        is_over: false,
        summary: Summary::default(),
    };
    walk.run()
}

struct Walk<'a, S: Sides, R> {
    sides: &'a S,
    limits: Limits,
    report: R,
    /// Path of the directory or file at hand.
    path: Vec<u8>,
    frames: Vec<Frame<S::Entry>>,
    waiting: usize,
    entries: u64,
    changes: u64,
    /// Nothing more is to be compared, since a limit of the whole comparison was reached.
    is_over: bool,
    summary: Summary,
}

impl<S: Sides, E, R: FnMut(Change) -> Result<(), E>> Walk<'_, S, R> {
    fn run(mut self) -> Result<Summary, E> {
        let roots = [Side::Before, Side::After].map(|side| self.sides.root(side));
        let [before, after] = roots.map(Presence::from);
        self.visit(before, after)?;
        while !self.is_over {
            let Some(frame) = self.frames.last_mut() else {
                break;
            };
            self.path.truncate(frame.path);
            let Some((name, before, after)) = frame.pairs.next() else {
                self.frames.pop();
                continue;
            };
            self.waiting -= 1;
            if self.path.last() != Some(&b'/') {
                self.path.push(b'/');
            }
            self.path.extend(name);
            if self.path.len() > MAX_PATH {
                self.set_incomplete(format!("there are paths of more than {MAX_PATH} bytes"));
                continue;
            }
            self.visit(before, after)?;
        }
        if let Some(reason) = self.sides.missing() {
            self.set_incomplete(reason);
        }
        match self.summary.unreadable {
            0 => {}
            1 => self.set_incomplete("a file or directory could not be read"),
            count => self.set_incomplete(format!("{count} files or directories could not be read")),
        }
        Ok(self.summary)
    }

    fn set_incomplete(&mut self, reason: impl Into<String>) {
        self.summary.incomplete.get_or_insert(reason.into());
    }

    fn time_over(&mut self) {
        self.is_over = true;
        self.set_incomplete("it took too long");
    }

    /// Compares what both sides have at the path.
    fn visit(&mut self, before: Presence<S::Entry>, after: Presence<S::Entry>) -> Result<(), E> {
        let is_there = |entry: &Presence<S::Entry>| matches!(entry, Presence::There(_));
        self.entries += u64::from(is_there(&before)) + u64::from(is_there(&after));
        self.summary.compared += 1;
        if self.entries >= MAX_ENTRIES {
            self.is_over = true;
            self.set_incomplete(format!("there are more than {MAX_ENTRIES} files"));
            return Ok(());
        }
        if Instant::now() >= self.limits.deadline {
            self.time_over();
            return Ok(());
        }
        match self.compare_files(before, after) {
            Ok(None) => Ok(()),
            Ok(Some(change)) => self.add_change(change),
            Err(TimeOver) => {
                self.time_over();
                Ok(())
            }
        }
    }

    fn add_change(&mut self, change: Change) -> Result<(), E> {
        if self.changes >= self.limits.changes {
            self.is_over = true;
            self.set_incomplete(format!("there are more than {} changes", self.changes));
            return Ok(());
        }
        self.changes += 1;
        (self.report)(change)
    }

    /// Compares two files, and has their directories walked.
    fn compare_files(
        &mut self,
        before: Presence<S::Entry>,
        after: Presence<S::Entry>,
    ) -> Result<Option<Change>, TimeOver> {
        let (before, is_before_known) = self.open(Side::Before, before)?;
        let (after, is_after_known) = self.open(Side::After, after)?;
        let mut change = self.find_change(before.as_ref(), after.as_ref())?;
        let are_known = is_before_known && is_after_known;
        if are_known {
            change.is_unreadable |= !self.push_directories(before.as_ref(), after.as_ref())?;
        } else {
            change.is_unreadable = true;
        }
        if !change.is_unreadable && !change.is_different() {
            return Ok(None);
        }
        // A content that only one side is known to have would be told as new or gone.
        if are_known && self.changes < self.limits.changes {
            let added = self
                .sides
                .add_content(before.as_ref(), after.as_ref(), &mut change);
            change.is_unreadable |= unless_damaged(added)?.is_none();
        }
        self.summary.unreadable += u64::from(change.is_unreadable);
        Ok(Some(change))
    }

    /// Opens what a side has of a name, and returns false if that cannot be read.
    fn open(
        &self,
        side: Side,
        entry: Presence<S::Entry>,
    ) -> Result<(Option<S::File>, bool), TimeOver> {
        match entry {
            Presence::Missing => Ok((None, true)),
            Presence::Unknown => Ok((None, false)),
            Presence::There(entry) => {
                let opened = unless_damaged(self.sides.open(side, entry))?;
                let is_known = opened.is_some();
                Ok((opened, is_known))
            }
        }
    }

    /// Compares two files; what is in directories, and how contents differ, is not looked at.
    fn find_change(
        &self,
        before: Option<&S::File>,
        after: Option<&S::File>,
    ) -> Result<Change, TimeOver> {
        let [old, new] = [before, after].map(|file| file.map(|file| self.sides.state(file)));
        let mut change = Change {
            path: Bytes(self.path.clone()),
            before: old.cloned(),
            after: new.cloned(),
            is_content_changed: false,
            are_attributes_changed: false,
            is_unreadable: false,
            patch: None,
        };
        if let (Some(before), Some(after), Some(old), Some(new)) = (before, after, old, new) {
            let are_files = old.kind == InodeKind::File && new.kind == InodeKind::File;
            if are_files && old.size != new.size {
                change.is_content_changed = true;
            } else if are_files {
                let is_same = unless_damaged(self.sides.is_content_same(before, after))?;
                change.is_content_changed = is_same == Some(false);
                change.is_unreadable |= is_same.is_none();
            }
            let are_same = unless_damaged(self.sides.are_attributes_same(before, after))?;
            change.are_attributes_changed = are_same == Some(false);
            change.is_unreadable |= are_same.is_none();
        }
        Ok(change)
    }

    /// Has the entries of a directory compared next, and returns false if not all of them are known.
    /// What is a directory on one side only is walked as well, since all in it is new or gone.
    fn push_directories(
        &mut self,
        before: Option<&S::File>,
        after: Option<&S::File>,
    ) -> Result<bool, TimeOver> {
        let mut entries: BTreeMap<Vec<u8>, [Option<S::Entry>; 2]> = BTreeMap::new();
        let mut is_damaged = [false; 2];
        for (side, file) in [(Side::Before, before), (Side::After, after)] {
            let Some(directory) =
                file.filter(|file| self.sides.state(file).kind == InodeKind::Directory)
            else {
                continue;
            };
            let listing = self.sides.list(side, directory, MAX_DIRECTORY);
            let Some(listing) = unless_damaged(listing)? else {
                return Ok(false);
            };
            if listing.is_cut {
                self.set_incomplete(format!(
                    "a directory has more than {MAX_DIRECTORY} entries, which are not compared"
                ));
                return Ok(false);
            }
            is_damaged[side as usize] = listing.is_damaged;
            for (name, entry) in listing.entries {
                entries.entry(name).or_default()[side as usize] = Some(entry);
            }
        }
        if self.waiting + entries.len() > MAX_WAITING {
            self.set_incomplete("directories with too many entries lie in each other");
            return Ok(false);
        }
        if entries.is_empty() {
            return Ok(is_damaged == [false; 2]);
        }
        self.waiting += entries.len();
        let presence = |entry, is_damaged| match (entry, is_damaged) {
            (None, true) => Presence::Unknown,
            (entry, _) => Presence::from(entry),
        };
        let pairs = entries.into_iter().map(|(name, [old, new])| {
            (
                name,
                presence(old, is_damaged[0]),
                presence(new, is_damaged[1]),
            )
        });
        let pairs: Vec<Pair<S::Entry>> = pairs.collect();
        self.frames.push(Frame {
            path: self.path.len(),
            pairs: pairs.into_iter(),
        });
        Ok(is_damaged == [false; 2])
    }
}

#[cfg(test)]
mod tests;
