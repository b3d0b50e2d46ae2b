//! Reads variables and collects every error in them, so that all are reported at once.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// All errors in the environment, each with the variable's name.
#[derive(Debug, thiserror::Error)]
#[error("the settings are wrong:\n  {}", .0.join("\n  "))]
pub struct ConfigErrors(pub Vec<String>);

/// Variables of the environment, with the errors found in those read so far.
#[expect(missing_debug_implementations, reason = "a closure has none")]
pub struct Variables<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    errors: Vec<String>,
}

impl<'a> Variables<'a> {
    /// Reads variables through `lookup`, which gives none for one that is empty.
    #[must_use]
    pub fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            lookup,
            errors: Vec::new(),
        }
    }

    /// Returns the value of a variable that is set and not empty.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        (self.lookup)(name)
    }

    /// Returns the path in a variable, made absolute.
    #[must_use]
    pub fn optional_path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(|path| absolute_path(Path::new(&path)))
    }

    /// Returns the path in a variable, or `default`, made absolute.
    #[must_use]
    pub fn path(&self, name: &str, default: &Path) -> PathBuf {
        self.optional_path(name)
            .unwrap_or_else(|| absolute_path(default))
    }

    /// Returns the parsed value of a variable, or `default`. `expected` completes "NAME must be".
    pub fn parse_or<T: FromStr>(&mut self, name: &str, expected: &str, default: T) -> T {
        let Some(text) = self.text(name) else {
            return default;
        };
        text.parse().unwrap_or_else(|_| {
            self.add_error(format!("{name} must be {expected}, not {text:?}"));
            default
        })
    }

    /// Returns the number in a variable, or `default`, which lies in `range`.
    pub fn parse_within<T: FromStr + PartialOrd + Display>(
        &mut self,
        name: &str,
        range: &RangeInclusive<T>,
        default: T,
    ) -> T {
        let Some(text) = self.text(name) else {
            return default;
        };
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.unwrap_or_else(|| {
            let (least, most) = (range.start(), range.end());
            self.add_error(format!(
                "{name} must be a number from {least} to {most}, not {text:?}"
            ));
            default
        })
    }

    /// Adds an error; its text names the variable.
    pub fn add_error(&mut self, error: String) {
        self.errors.push(error);
    }

    /// Returns `config` if all variables were right.
    ///
    /// # Errors
    /// All errors that were found.
    pub fn finish<T>(self, config: T) -> Result<T, ConfigErrors> {
        if self.errors.is_empty() {
            Ok(config)
        } else {
            Err(ConfigErrors(self.errors))
        }
    }
}

/// Makes a path absolute: a VM's directory must mean the same in every process, wherever it stands.
#[must_use]
pub fn absolute_path(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
