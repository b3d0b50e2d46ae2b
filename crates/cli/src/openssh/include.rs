//! The lines of ours in the user's configuration of ssh. Everything else in it is bytes that are
//! kept as they are.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::state::{create_private_dir, replace_file};

/// Line before the one that includes our file.
const MARK: &str = "# Sandboxes of Wrenn; `wrenn ssh-config --remove` takes these two lines out.";

fn include_line(included: &str) -> String {
    format!("Include \"{included}\"")
}

/// Returns the configuration with our lines at its beginning, where they hold for every host;
/// `None` if it has them.
fn with_include(config: &[u8], included: &str) -> Option<Vec<u8>> {
    let include = include_line(included);
    let is_section = |line: &[u8]| {
        let line = line.trim_ascii_start().to_ascii_lowercase();
        line.starts_with(b"host ") || line.starts_with(b"match ")
    };
    let mut global = config
        .split(|byte| *byte == b'\n')
        .take_while(|line| !is_section(line));
    if global.any(|line| line.trim_ascii() == include.as_bytes()) {
        return None;
    }
    let rest = without_include(config, included);
    let rest = rest.as_deref().unwrap_or(config);
    let mut changed = format!("{MARK}\n{include}\n").into_bytes();
    changed.extend_from_slice(rest);
    Some(changed)
}

/// Returns the configuration without our lines; `None` if it has none.
fn without_include(config: &[u8], included: &str) -> Option<Vec<u8>> {
    let include = include_line(included);
    let is_ours = |line: &&[u8]| {
        let line = line.trim_ascii();
        line == include.as_bytes() || line == MARK.as_bytes()
    };
    let lines = config.split_inclusive(|byte| *byte == b'\n');
    let kept: Vec<u8> = lines
        .filter(|line| !is_ours(line))
        .flatten()
        .copied()
        .collect();
    (kept.len() < config.len()).then_some(kept)
}

/// Makes the user's configuration include a file; false if it does already.
pub fn add_include(config: &Path, included: &str) -> anyhow::Result<bool> {
    if let Some(dir) = config.parent() {
        create_private_dir(dir)?;
    }
    change_config(config, |text| with_include(text, included))
}

/// Takes our lines out of the user's configuration; false if it has none.
pub fn remove_include(config: &Path, included: &str) -> anyhow::Result<bool> {
    change_config(config, |text| without_include(text, included))
}

/// Replaces the file that a path leads to: where it is a link, it stays one.
fn change_config(
    config: &Path,
    change: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
) -> anyhow::Result<bool> {
    let reading = || format!("reading {}", config.display());
    let (path, text, like): (PathBuf, _, _) = match fs::canonicalize(config) {
        Ok(path) => {
            let text = fs::read(&path).with_context(reading)?;
            let like = fs::metadata(&path).with_context(reading)?;
            (path, text, Some(like))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            (config.to_owned(), Vec::new(), None)
        }
        Err(error) => return Err(error).with_context(reading),
    };
    let Some(changed) = change(&text) else {
        return Ok(false);
    };
    replace_file(&path, &changed, like.as_ref())?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "/home/u/.ssh/wrenn/config";

    #[test]
    fn include_stands_before_first_host() {
        let config = b"Host a\n  User b\n";
        let added = with_include(config, FILE).unwrap();
        let text = String::from_utf8(added.clone()).unwrap();
        assert!(text.starts_with(&format!("{MARK}\nInclude \"{FILE}\"\nHost a\n")));
        assert_eq!(with_include(&added, FILE), None);
        let behind = format!("Host a\nInclude \"{FILE}\"\n");
        let moved = with_include(behind.as_bytes(), FILE).unwrap();
        let moved = String::from_utf8(moved).unwrap();
        assert_eq!(moved, format!("{MARK}\nInclude \"{FILE}\"\nHost a\n"));
        assert_eq!(without_include(config, FILE), None);
    }

    #[test]
    fn link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("dotfiles"), dir.path().join("config"));
        fs::write(&real, "Host a\n").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert!(add_include(&link, FILE).unwrap());
        assert!(!add_include(&link, FILE).unwrap());
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(fs::read_to_string(&real).unwrap().contains(FILE));
        assert!(remove_include(&link, FILE).unwrap());
        assert!(!remove_include(&link, FILE).unwrap());
        assert_eq!(fs::read_to_string(&real).unwrap(), "Host a\n");
        let absent = dir.path().join("no/config");
        assert!(add_include(&absent, FILE).unwrap());
        assert!(absent.exists());
    }

    proptest! {
        #[test]
        fn removal_gives_old_bytes_back(config in prop::collection::vec(any::<u8>(), 0..200)) {
            let added = with_include(&config, FILE).unwrap();
            prop_assert_eq!(without_include(&added, FILE), Some(config));
        }
    }
}
