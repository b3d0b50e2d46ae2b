//! Flags and JSON forms, which several instructions have.

use crate::error::{DockerfileError, Result};
use crate::words::split_words;

/// A command in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CommandForm {
    /// JSON array: program and arguments.
    Exec(Vec<String>),
    /// Text for the shell.
    Shell(String),
}

impl CommandForm {
    pub(crate) fn read(rest: &str) -> Self {
        match json_array(rest) {
            Some(words) => Self::Exec(words),
            None => Self::Shell(rest.to_owned()),
        }
    }
}

/// A flag of an instruction: `--name` or `--name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flag {
    pub(crate) name: String,
    pub(crate) value: Option<String>,
}

impl Flag {
    /// Returns its value.
    ///
    /// # Errors
    /// When it has none.
    pub(crate) fn value(self, line: usize) -> Result<String> {
        let name = &self.name;
        let missing =
            || DockerfileError::new(line, format!("--{name} needs a value: --{name}=VALUE"));
        self.value
            .filter(|value| !value.is_empty())
            .ok_or_else(missing)
    }
}

/// Returns the strings of a JSON array; `None` for everything else.
pub(crate) fn json_array(text: &str) -> Option<Vec<String>> {
    text.starts_with('[')
        .then(|| serde_json::from_str(text).ok())
        .flatten()
}

/// Takes the flags from the beginning of `rest`.
pub(crate) fn take_flags(rest: &str, escape: char) -> (Vec<Flag>, &str) {
    let mut flags = Vec::new();
    let mut rest = rest;
    while rest.starts_with("--") {
        let Some(word) = split_words(rest, escape).into_iter().next() else {
            break;
        };
        rest = rest[word.len()..].trim_start();
        if word == "--" {
            break;
        }
        let flag = &word[2..];
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        flags.push(Flag {
            name: name.to_owned(),
            value,
        });
    }
    (flags, rest)
}
