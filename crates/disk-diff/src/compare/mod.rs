//! Differences between two trees of files, in the order of their paths.
//!
//! Both trees are walked side by side, a directory at a time, so that memory is bounded by the
//! largest directories and not by the trees. What is compared of a file are its kind, permission
//! bits, owner, size, content, target of a link, device number and extended attributes. Times are
//! not: a build writes them all, and nobody reviews them; and a content is never taken for the same
//! because of its times, which root in a guest sets as it likes.
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

pub use files::{DiskSides, NoSuchPath};
pub use text::{MAX_PATCH_BYTES, MAX_TEXT_BYTES, Patch};

/// Levels of directories below the one that is compared. A path that programs can open has at most
/// 2048; a file system that is damaged has circles.
pub const MAX_DEPTH: usize = 2048;
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

/// What is known of one file.
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

/// A file that is not as it was. It is new without `before`, and gone without `after`.
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<Patch>,
}

/// Result of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Reason why there may be more changes; `None` if these are all.
    pub incomplete: Option<String>,
    /// Number of files and directories that were compared.
    pub compared: u64,
    /// Number of files and directories that could not be read on one side or both.
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

/// Entries of a directory.
#[derive(Debug)]
pub struct Listing<E> {
    pub entries: BTreeMap<Vec<u8>, E>,
    pub is_cut: bool,
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

/// What each side has of one name.
type Both<E> = (Option<E>, Option<E>);

/// Pair of a name, and what each side has there.
type Pair<E> = (Vec<u8>, Option<E>, Option<E>);

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
        let [before, after] = roots;
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
            self.visit(before, after)?;
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
    fn visit(&mut self, before: Option<S::Entry>, after: Option<S::Entry>) -> Result<(), E> {
        self.entries += u64::from(before.is_some()) + u64::from(after.is_some());
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
            Err(Unread::Damaged) => {
                self.summary.unreadable += 1;
                Ok(())
            }
            Err(Unread::TimeOver) => {
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
        before: Option<S::Entry>,
        after: Option<S::Entry>,
    ) -> Read<Option<Change>> {
        let open = |side, entry: Option<S::Entry>| {
            entry.map(|entry| self.sides.open(side, entry)).transpose()
        };
        let before = open(Side::Before, before)?;
        let after = open(Side::After, after)?;
        let change = self.find_change(before.as_ref(), after.as_ref())?;
        self.push_directories(before.as_ref(), after.as_ref());
        Ok(change)
    }

    fn find_change(
        &self,
        before: Option<&S::File>,
        after: Option<&S::File>,
    ) -> Read<Option<Change>> {
        let states = [before, after].map(|file| file.map(|file| self.sides.state(file)));
        let mut is_content_changed = false;
        let mut are_attributes_changed = false;
        if let (Some(before), Some(after), [Some(old), Some(new)]) = (before, after, states) {
            let are_files = old.kind == InodeKind::File && new.kind == InodeKind::File;
            is_content_changed = are_files
                && (old.size != new.size || !self.sides.is_content_same(before, after)?);
            are_attributes_changed = !self.sides.are_attributes_same(before, after)?;
            if !is_content_changed && !are_attributes_changed && old == new {
                return Ok(None);
            }
        }
        let [old, new] = states;
        if old.is_none() && new.is_none() {
            return Ok(None);
        }
        let mut change = Change {
            path: Bytes(self.path.clone()),
            before: old.cloned(),
            after: new.cloned(),
            is_content_changed,
            are_attributes_changed,
            patch: None,
        };
        if self.changes < self.limits.changes {
            self.sides.add_content(before, after, &mut change)?;
        }
        Ok(Some(change))
    }

    /// Has the entries of a directory compared next. What is a directory on one side only is walked
    /// as well, since all in it is new or gone.
    fn push_directories(&mut self, before: Option<&S::File>, after: Option<&S::File>) {
        let mut pairs: BTreeMap<Vec<u8>, Both<S::Entry>> = BTreeMap::new();
        for (side, file) in [(Side::Before, before), (Side::After, after)] {
            let Some(directory) =
                file.filter(|file| self.sides.state(file).kind == InodeKind::Directory)
            else {
                continue;
            };
            if self.frames.len() >= MAX_DEPTH {
                self.set_incomplete(format!(
                    "there are more than {MAX_DEPTH} levels of directories"
                ));
                return;
            }
            let listing = match self.sides.list(side, directory, MAX_DIRECTORY) {
                Ok(listing) => listing,
                // Without one side everything would seem new or gone.
                Err(Unread::Damaged) => {
                    self.summary.unreadable += 1;
                    return;
                }
                Err(Unread::TimeOver) => return self.time_over(),
            };
            self.summary.unreadable += u64::from(listing.is_damaged);
            if listing.is_cut {
                self.set_incomplete(format!(
                    "a directory has more than {MAX_DIRECTORY} entries, which are not compared"
                ));
                return;
            }
            for (name, entry) in listing.entries {
                let pair = pairs.entry(name).or_default();
                match side {
                    Side::Before => pair.0 = Some(entry),
                    Side::After => pair.1 = Some(entry),
                }
            }
        }
        if pairs.is_empty() {
            return;
        }
        if self.waiting + pairs.len() > MAX_WAITING {
            self.set_incomplete("directories with too many entries lie in each other");
            return;
        }
        self.waiting += pairs.len();
        let pairs = pairs.into_iter();
        let pairs: Vec<Pair<S::Entry>> = pairs.map(|(name, (old, new))| (name, old, new)).collect();
        self.frames.push(Frame {
            path: self.path.len(),
            pairs: pairs.into_iter(),
        });
    }
}

#[cfg(test)]
mod tests;
