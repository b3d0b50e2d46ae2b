//! Programs that are started by an open file. An upgrade puts another file at the path of a program
//! that runs; parts of one program that talk to each other must be of one version.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Program that stays the same, whatever happens to its path.
#[derive(Debug, Clone)]
pub struct ProgramFile {
    path: PathBuf,
    file: Arc<File>,
}

impl ProgramFile {
    /// Opens the program that is at `path` now. It must be a binary: a script is opened by its
    /// interpreter, which knows only names.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(File::open(path)?),
        })
    }

    /// Opens the program that runs, even if its file was replaced or removed since it was started.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn open_running() -> io::Result<Self> {
        Ok(Self {
            path: std::env::current_exe()?,
            file: Arc::new(File::open("/proc/self/exe")?),
        })
    }

    /// Returns the path where it was found.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Returns a descriptor to execute. It is closed by exec.
    pub(crate) fn to_descriptor(&self) -> io::Result<OwnedFd> {
        self.file.as_fd().try_clone_to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::jail::{Enforcement, Jail, Limits, PROGRAM_CALLS, Syscalls};
    use crate::process::{Ended, Spawn};
    use crate::programs;

    /// Exit code of the old version.
    const OLD: i32 = 7;
    const LIMIT: Duration = Duration::from_secs(20);

    /// A shell that is replaced by another program, and then started.
    fn start_replaced(jail: impl FnOnce(&ProgramFile) -> Option<Jail>) -> Ended {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        fs::copy(programs::find("sh").unwrap(), &path).unwrap();
        let program = ProgramFile::open(&path).unwrap();
        let upgrade = dir.path().join("upgrade");
        fs::copy(programs::find("false").unwrap(), &upgrade).unwrap();
        fs::rename(&upgrade, &path).unwrap();
        let spawn = Spawn {
            jail: jail(&program),
            args: ["-c", "exit 7"].map(OsString::from).to_vec(),
            ..Spawn::from_file(&program)
        };
        let process = spawn.spawn().unwrap();
        process.wait(LIMIT).unwrap().expect("it ends")
    }

    #[test]
    fn replaced_program_starts_as_opened() {
        assert_eq!(start_replaced(|_| None), Ended::Code(OLD));
    }

    #[test]
    fn replaced_program_starts_in_jail() {
        let user = 2_060_000_000 + std::process::id() % 10_000;
        for listed in [false, true] {
            let ended = start_replaced(|program| {
                let mut jail = Jail::new(user, user, Limits::default()).unwrap();
                jail.program_file(program).unwrap();
                if listed {
                    let calls: &[&[_]] = &[PROGRAM_CALLS];
                    jail.allow_syscalls(Syscalls::Only(calls, Enforcement::Log));
                }
                Some(jail)
            });
            assert_eq!(ended, Ended::Code(OLD), "with a list: {listed}");
        }
    }

    #[test]
    fn running_program_is_own_binary() {
        let program = ProgramFile::open_running().unwrap();
        let own = fs::read("/proc/self/exe").unwrap();
        let mut opened = Vec::new();
        io::Read::read_to_end(&mut program.file(), &mut opened).unwrap();
        assert!(own == opened, "another file was opened");
    }
}
