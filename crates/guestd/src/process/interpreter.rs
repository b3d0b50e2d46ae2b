//! Missing interpreters of scripts: the kernel says only that something does not exist, and means
//! the program that the script's first line names.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::as_user::run;
use crate::filesystem::error::FileError;
use crate::user::User;

/// Longest first line that the kernel reads (`BINPRM_BUF_SIZE`).
const MAX_LINE: u64 = 256;

/// Adds the interpreter's name to an error, if it is the interpreter that does not exist.
pub async fn explain(error: io::Error, program: PathBuf, user: &User) -> io::Error {
    if error.kind() != io::ErrorKind::NotFound {
        return error;
    }
    let read = move || Ok::<_, FileError>(find_missing(&program));
    match run(user, read).await {
        Ok(Some(interpreter)) => io::Error::new(
            io::ErrorKind::NotFound,
            format!("its interpreter {interpreter:?} does not exist: {error}"),
        ),
        _ => error,
    }
}

fn find_missing(program: &Path) -> Option<String> {
    let file = File::open(program).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut line = Vec::new();
    file.take(MAX_LINE).read_to_end(&mut line).ok()?;
    let line = line
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    let line = String::from_utf8_lossy(line).into_owned();
    let interpreter = line.trim_matches([' ', '\t']).split([' ', '\t']).next()?;
    (!Path::new(interpreter).exists()).then(|| interpreter.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_interpreter_is_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("script");
        for (text, missing) in [
            ("#!/bin/sh\n", None),
            ("#!/bin/sh\r\necho\r\n", Some("/bin/sh\r")),
            ("#! \t/no/such -x\n", Some("/no/such")),
            ("#!/no/such", Some("/no/such")),
            ("echo\n", None),
            ("", None),
        ] {
            std::fs::write(&path, text).expect("writes");
            assert_eq!(find_missing(&path).as_deref(), missing, "{text:?}");
        }
        assert_eq!(find_missing(dir.path()), None);
    }
}
