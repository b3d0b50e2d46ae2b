//! Corpora of the fuzz targets, run as ordinary tests.

use std::fs;
use std::path::{Path, PathBuf};

/// Runs a fuzz target over every file of its corpus, `fuzz/corpus/NAME`.
///
/// # Panics
/// When the target panics, or the corpus has no files.
pub fn replay_corpus(name: &str, target: impl Fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(name);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a directory can be read").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no files", dir.display());
    for file in files {
        // Shown if the target panics.
        println!("{}", file.display());
        target(&fs::read(&file).expect("a file of the corpus can be read"));
    }
}
