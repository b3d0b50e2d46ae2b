//! Listings in pages, whose cursor is the path of the last entry.
//!
//! Entries come by the bytes of their names, each directory before its entries. A page begins at
//! the first path after its cursor, wherever that is now: so what is there during the whole listing
//! is listed exactly once, on every file system and whatever is made and removed meanwhile, also if
//! the entry of the cursor is gone. The price is that each page reads its directory from the
//! beginning; in return nothing is held but one page of names for each level.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use guest_rpc::filesystem::EntryInfo;

use crate::filesystem::entry;
use crate::filesystem::error::FileError;
use crate::filesystem::operations::not_found_error;
use crate::user::Database;

/// Most entries of one page.
const MAX_ENTRIES: usize = 1000;

/// Bytes of text after which a page ends: a message of the host may have four times as many.
const MAX_TEXT: usize = 1 << 20;

/// Levels that a cursor may have, as deep as a path of `PATH_MAX` bytes can be.
const MAX_LEVELS: usize = 2048;

/// One page of a listing.
#[derive(Debug, Default)]
pub struct Page {
    pub entries: Vec<EntryInfo>,
    /// Cursor of the next page; empty on the last one.
    pub next: Vec<u8>,
}

/// A directory that is being listed.
struct Level {
    dir: PathBuf,
    /// Name of the last entry that was listed or passed over.
    after: Option<OsString>,
    /// Names that follow it, in reverse.
    names: Vec<OsString>,
    /// More names follow those.
    more: bool,
}

/// Parses a cursor: a relative path without `.` and `..`, empty at the beginning.
///
/// # Errors
/// Invalid.
pub fn parse_after(after: &[u8]) -> Result<Vec<OsString>, FileError> {
    let path = PathBuf::from(OsString::from_vec(after.to_vec()));
    let names: Option<Vec<OsString>> = path
        .components()
        .map(|component| match component {
            Component::Normal(name) if !name.as_bytes().contains(&0) => Some(name.to_owned()),
            _ => None,
        })
        .collect();
    match names {
        Some(names) if names.len() <= MAX_LEVELS => Ok(names),
        _ => Err(FileError::invalid(
            "the cursor is not one that a list gave: begin again without it",
        )),
    }
}

/// Lists a page of the entries below `top`, down to `depth` levels. Symbolic links to directories
/// are not entered; nor are directories further down that the user may not read. Call it as the
/// user.
///
/// # Errors
/// Not found; invalid where `top` is no directory; denied.
pub fn list_page(
    top: &Path,
    depth: u32,
    after: &[OsString],
    limit: u32,
) -> Result<Page, FileError> {
    let failed =
        |e: io::Error| not_found_error(top, &e).unwrap_or_else(|| FileError::io("list", top, &e));
    if !fs::metadata(top).map_err(failed)?.is_dir() {
        let message = format!("path '{}' is not a directory", top.display());
        return Err(FileError::invalid(message));
    }
    let limit = match limit as usize {
        0 => MAX_ENTRIES,
        limit => limit.min(MAX_ENTRIES),
    };
    let users = Database::read(Path::new("/etc"));
    let mut levels = resume(top, depth, after);
    let mut page = Page::default();
    let mut text = 0;
    while let Some(level) = levels.last_mut() {
        if level.names.is_empty() && level.more {
            match fill(level, limit) {
                Ok(()) => {}
                Err(e) if levels.len() == 1 => return Err(failed(e)),
                Err(_) => drop(levels.pop()),
            }
            continue;
        }
        let Some(name) = level.names.pop() else {
            levels.pop();
            continue;
        };
        let path = level.dir.join(&name);
        level.after = Some(name);
        // What vanished meanwhile is left out.
        let Ok(own) = fs::symlink_metadata(&path) else {
            continue;
        };
        let entry = entry::describe_plain(&path, &own, &users);
        text += text_length(&entry);
        page.entries.push(entry);
        let is_last = page.entries.len() == limit || text >= MAX_TEXT;
        if is_last {
            let relative = path.strip_prefix(top).unwrap_or(Path::new(""));
            page.next = relative.as_os_str().as_bytes().to_vec();
            return Ok(page);
        }
        if own.is_dir() && levels.len() < depth as usize {
            levels.push(Level::new(path, None));
        }
    }
    Ok(page)
}

impl Level {
    fn new(dir: PathBuf, after: Option<OsString>) -> Self {
        Self {
            dir,
            after,
            names: Vec::new(),
            more: true,
        }
    }
}

/// Returns the directories that were being listed when a page ended with `after`: those of its path,
/// and itself where it is a directory, of which nothing was listed yet.
fn resume(top: &Path, depth: u32, after: &[OsString]) -> Vec<Level> {
    let mut levels = Vec::new();
    let mut dir = top.to_path_buf();
    for name in after.iter().take(depth as usize) {
        let below = dir.join(name);
        levels.push(Level::new(dir, Some(name.clone())));
        dir = below;
        // A link that took the place of a directory is not entered, as none is.
        if !fs::symlink_metadata(&dir).is_ok_and(|own| own.is_dir()) {
            return levels;
        }
    }
    if levels.len() < depth as usize {
        levels.push(Level::new(dir, None));
    }
    levels
}

/// Finds the next names of a directory, at most `limit` of them.
fn fill(level: &mut Level, limit: usize) -> io::Result<()> {
    let mut names: BTreeSet<OsString> = BTreeSet::new();
    let mut more = false;
    for entry in fs::read_dir(&level.dir)? {
        let name = entry?.file_name();
        if level
            .after
            .as_deref()
            .is_some_and(|after| name.as_os_str() <= after)
        {
            continue;
        }
        if names.len() == limit {
            more = true;
            // The smallest are kept.
            if names.last().is_some_and(|last| *last <= name) {
                continue;
            }
            names.pop_last();
        }
        names.insert(name);
    }
    level.names = names.into_iter().rev().collect();
    level.more = more;
    Ok(())
}

fn text_length(entry: &EntryInfo) -> usize {
    let target = entry.symlink_target.as_deref().map_or(0, str::len);
    // What the fields of fixed size take on the wire, generously.
    let rest = 128;
    entry.path.len() + entry.name.len() + entry.owner.len() + entry.group.len() + target + rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn relative(top: &Path, entry: &EntryInfo) -> OsString {
        let path = guest_rpc::bytes::from_text(&entry.path);
        let path = PathBuf::from(OsString::from_vec(path));
        path.strip_prefix(top)
            .expect("below")
            .as_os_str()
            .to_owned()
    }

    /// Lists all pages; `between` runs after each.
    fn list_all(
        top: &Path,
        depth: u32,
        limit: u32,
        mut between: impl FnMut(usize),
    ) -> Vec<OsString> {
        let mut all = Vec::new();
        let mut after = Vec::new();
        for round in 0.. {
            let page = list_page(top, depth, &parse_after(&after).expect("a cursor"), limit);
            let page = page.expect("lists");
            assert!(page.entries.len() <= limit as usize);
            all.extend(page.entries.iter().map(|entry| relative(top, entry)));
            if page.next.is_empty() {
                break;
            }
            after = page.next;
            between(round);
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn pages_are_whole_listing(
            paths in prop::collection::btree_set("[ab.\u{e4}]{1,2}(/[ab-]{1,2}){0,3}", 0..30),
            depth in 1..5_u32,
            limit in 1..8_u32,
        ) {
            let folder = tempfile::tempdir().expect("a folder");
            for path in paths {
                let path = Path::new(&path);
                if path.components().all(|c| matches!(c, Component::Normal(_))) {
                    fs::create_dir_all(folder.path().join(path)).expect("made");
                }
            }
            let pages = list_all(folder.path(), depth, limit, |_| {});
            let whole = crate::filesystem::operations::list_dir(folder.path(), depth).expect("lists");
            let whole: Vec<_> = whole.iter().map(|entry| relative(folder.path(), entry)).collect();
            prop_assert_eq!(pages, whole);
        }
    }

    #[test]
    fn listing_survives_changes_between_pages() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |n: usize| folder.path().join(format!("{n:04}"));
        for n in (0..300).filter(|n| n % 3 == 0) {
            fs::create_dir_all(at(n).join("inner")).expect("made");
        }
        // The entry of the cursor goes, and others come around it.
        let listed = list_all(folder.path(), 2, 7, |round| {
            let gone = round * 9 % 300;
            if gone % 2 == 1 {
                let _ = fs::remove_dir_all(at(gone));
            }
            let _ = fs::create_dir(at((round * 31 + 1) % 300));
        });
        let mut sorted = listed.clone();
        sorted.sort_by(|a, b| Path::new(a).cmp(Path::new(b)));
        sorted.dedup();
        assert_eq!(listed, sorted, "in order, and none twice");
        for n in (0..300).filter(|n| n % 6 == 0) {
            let name = OsString::from(format!("{n:04}"));
            assert!(listed.contains(&name), "{n} was there all the time");
        }
    }

    #[test]
    fn cursors_are_paths_below() {
        assert_eq!(parse_after(b"").expect("a cursor"), Vec::<OsString>::new());
        assert_eq!(parse_after(b"a/\xff").expect("a cursor").len(), 2);
        for bad in [&b"/a"[..], b"..", b"a/../../b", b"a\0", b"./a/../b"] {
            assert!(parse_after(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn page_of_odd_names_fits_message() {
        let folder = tempfile::tempdir().expect("a folder");
        for n in 0..1000_u32 {
            let mut name = vec![0xff; 240];
            name.extend(n.to_string().bytes());
            fs::write(folder.path().join(OsString::from_vec(name)), "").expect("made");
        }
        let page = list_page(folder.path(), 1, &[], 0).expect("lists");
        assert!(!page.next.is_empty());
        let text: usize = page.entries.iter().map(text_length).sum();
        assert!(text < 2 * MAX_TEXT, "{text}");
        assert_eq!(list_all(folder.path(), 1, 1000, |_| {}).len(), 1000);
    }
}
