//! Reads variables and collects every mistake in them, so that all are reported at once.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::Mistakes;

/// Variables of the environment, with the mistakes found in those read so far.
pub(super) struct Variables<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    mistakes: Vec<String>,
}

impl<'a> Variables<'a> {
    pub(super) fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            lookup,
            mistakes: Vec::new(),
        }
    }

    /// Returns the value of a variable that is set and not empty.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        (self.lookup)(name)
    }

    /// Returns the path in a variable, made absolute.
    pub(super) fn optional_path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(|path| absolute(Path::new(&path)))
    }

    /// Returns the path in a variable, or `default`, made absolute.
    pub(super) fn path(&self, name: &str, default: &Path) -> PathBuf {
        self.optional_path(name)
            .unwrap_or_else(|| absolute(default))
    }

    /// Returns the parsed value of a variable, or `default`. `expected` completes "NAME must be".
    pub(super) fn parsed<T: FromStr>(&mut self, name: &str, expected: &str, default: T) -> T {
        let Some(text) = self.text(name) else {
            return default;
        };
        text.parse().unwrap_or_else(|_| {
            self.add_mistake(format!("{name} must be {expected}, not {text:?}"));
            default
        })
    }

    /// Returns the number in a variable, or `default`, which lies in `range`.
    pub(super) fn bounded<T: FromStr + PartialOrd + Display>(
        &mut self,
        name: &str,
        range: &RangeInclusive<T>,
        default: T,
    ) -> T {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        let number = self.parsed(name, &expected, default);
        if !range.contains(&number) {
            self.add_mistake(format!("{name} must be {expected}, not {number}"));
        }
        number
    }

    /// Adds a mistake; the text names the variable.
    pub(super) fn add_mistake(&mut self, mistake: String) {
        self.mistakes.push(mistake);
    }

    /// Returns `config` if all variables were right.
    pub(super) fn finish<T>(self, config: T) -> Result<T, Mistakes> {
        if self.mistakes.is_empty() {
            Ok(config)
        } else {
            Err(Mistakes(self.mistakes))
        }
    }
}

/// Makes a path absolute: a VM's directory must mean the same in every process, wherever it stands.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
