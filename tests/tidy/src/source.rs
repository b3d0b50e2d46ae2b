//! The Rust files of the workspace, read and parsed once.

use std::path::{Path, PathBuf};
use std::{fmt, fs};

use walkdir::{DirEntry, WalkDir};

/// One file.
pub struct Source {
    /// From the root of the workspace.
    pub path: PathBuf,
    pub text: String,
    pub syntax: syn::File,
}

/// Without the syntax tree, which is long.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Source {
    /// Parses `text`.
    ///
    /// # Panics
    /// When it is not Rust; the compiler has refused it before.
    #[must_use]
    pub fn parse(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        let (path, text) = (path.into(), text.into());
        let syntax =
            syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { path, text, syntax }
    }

    /// Name of the folder below `crates/` that it is in.
    #[must_use]
    pub fn crate_name(&self) -> Option<&str> {
        self.path
            .strip_prefix("crates")
            .ok()?
            .components()
            .next()?
            .as_os_str()
            .to_str()
    }

    /// Whether it is part of a program, not of a test.
    #[must_use]
    pub fn is_product(&self) -> bool {
        let in_src = self
            .path
            .components()
            .nth(2)
            .is_some_and(|part| part.as_os_str() == "src");
        in_src
            && !self.is_module_of_tests()
            && self.crate_name().is_some_and(|name| name != "testkit")
    }

    /// Whether it is `#[cfg(test)] mod tests;` in a file of its own: `tests.rs`, `NAME_tests.rs`,
    /// or below `tests/`.
    fn is_module_of_tests(&self) -> bool {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        stem == "tests"
            || stem.ends_with("_tests")
            || self.path.iter().skip(3).any(|part| part == "tests")
    }
}

/// Every Rust file below `root`, but not what was built.
///
/// # Panics
/// When a file cannot be read.
#[must_use]
pub fn all(root: &Path) -> Vec<Source> {
    let is_rust = |path: &Path| path.extension().is_some_and(|extension| extension == "rs");
    files(root)
        .into_iter()
        .filter(|path| is_rust(path))
        .map(|path| read(root, &path))
        .collect()
}

fn read(root: &Path, path: &Path) -> Source {
    let text = fs::read_to_string(root.join(path))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Source::parse(path, text)
}

/// Every file of the checkout, by its path from `root`.
#[must_use]
pub fn files(root: &Path) -> Vec<PathBuf> {
    let is_ours = |entry: &DirEntry| {
        let name = entry.file_name().to_string_lossy();
        entry.depth() == 0
            || !(["target", "builds", "node_modules", ".git"].contains(&name.as_ref()))
    };
    let walk = WalkDir::new(root)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(is_ours)
        .filter_map(Result::ok);
    let files = walk.filter(|entry| entry.file_type().is_file());
    files
        .filter_map(|entry| Some(entry.path().strip_prefix(root).ok()?.to_owned()))
        .collect()
}

/// Whether an item is compiled for tests only.
#[must_use]
pub fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg")
                && attribute
                    .parse_args::<syn::Path>()
                    .is_ok_and(|path| path.is_ident("test"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_tells_kind_of_file() {
        let source = |path: &str| Source::parse(path, "");
        assert_eq!(source("crates/vmm/src/lib.rs").crate_name(), Some("vmm"));
        assert!(source("crates/vmm/src/qemu/mod.rs").is_product());
        assert!(!source("crates/vmm/tests/a.rs").is_product());
        assert!(!source("crates/testkit/src/lib.rs").is_product());
        assert!(!source("bench/src/main.rs").is_product());
    }
}
