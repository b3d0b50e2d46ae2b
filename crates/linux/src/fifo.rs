//! Named pipes for writers that must not depend on a reader: 64 KiB in the kernel, never on disk.
//!
//! Opened for both directions, as Linux allows (fifo(7)), a pipe has always a reader, so its writer
//! gets no SIGPIPE, and always a writer, so its reader sees no end. Its content is kept for as
//! long as a process has it open.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

/// Creates a named pipe that only its owner can open.
///
/// # Errors
/// `AlreadyExists` if `path` exists; otherwise the file system's error.
pub fn make(path: &Path) -> io::Result<()> {
    Ok(mknodat(
        CWD,
        path,
        FileType::Fifo,
        Mode::RUSR | Mode::WUSR,
        0,
    )?)
}

/// Opens a named pipe for both directions, non-blocking.
///
/// # Errors
/// `NotFound` if there is none; otherwise the file system's error.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
    File::options()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn unread_pipe_fills_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        make(&path).unwrap();
        assert!(make(&path).is_err());
        let mut writer = open(&path).unwrap();
        let mut written = 0;
        let full = loop {
            match writer.write(&[b'x'; 4096]) {
                Ok(bytes) => written += bytes,
                Err(error) => break error,
            }
        };
        assert_eq!(
            (full.kind(), written),
            (io::ErrorKind::WouldBlock, 64 * 1024)
        );
        let mut reader = open(&path).unwrap();
        drop(writer);
        let mut content = Vec::new();
        assert_eq!(
            reader.read_to_end(&mut content).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        assert_eq!(content.len(), written);
    }
}
