//! Standard error of a VMM: a pipe in the kernel, of which the newest text is kept.
//!
//! A guest can make its VMM complain for ever, so this is no file that grows. The pipe
//! (`linux::fifo`) has a name in the directory of the VM, so the next run of this program finds it
//! again, and the VMM holds it open for both directions: it never waits for a reader and gets no
//! signal for the lack of one. Text that finds no room in the pipe is lost. The watcher of the VM
//! reads every [`EVERY`], one pipe full each time, which bounds the work as well. The text of a VMM
//! that ended while no agent ran is lost with it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;

use crate::console::printable;
use crate::process::{LOG_TAIL, exit_reason};

/// Name of a VMM's pipe in the directory of its VM.
pub(crate) const STDERR: &str = "stderr";

/// Interval of reads by a watcher.
pub(crate) const EVERY: Duration = Duration::from_secs(10);

/// Size of a pipe (pipe(7)), and the maximum that is read at once, bytes.
const PIPE: u64 = 64 * 1024;

/// Maximum text that is kept, bytes: enough for an error, whatever the characters.
const KEPT: usize = 4 * LOG_TAIL;

/// Standard error of one VMM.
#[derive(Debug)]
pub(crate) struct Output {
    source: Source,
    kept: Mutex<Vec<u8>>,
}

#[derive(Debug)]
enum Source {
    Pipe(File),
    /// Log file, for VMs of earlier versions.
    Log(PathBuf),
}

impl Output {
    /// Creates the pipe, in place of an existing one, and opens it for the VMM.
    ///
    /// # Errors
    /// The file system's error.
    pub(crate) fn create(vm_dir: &Path, name: &str) -> io::Result<(Self, OwnedFd)> {
        let path = vm_dir.join(name);
        stdx::fs::remove_file_if_exists(&path)?;
        linux::fifo::make(&path)?;
        Ok((
            Self::of(Source::Pipe(linux::fifo::open(&path)?)),
            linux::fifo::open(&path)?.into(),
        ))
    }

    /// Opens the pipe of a VM that an earlier run of this program started; `log` is the name of its
    /// log file, for earlier versions.
    pub(crate) fn adopt(vm_dir: &Path, name: &str, log: &str) -> Self {
        let pipe = linux::fifo::open(&vm_dir.join(name)).map(Source::Pipe);
        Self::of(pipe.unwrap_or_else(|_| Source::Log(vm_dir.join(log))))
    }

    fn of(source: Source) -> Self {
        Self {
            source,
            kept: Mutex::default(),
        }
    }

    /// Reads the pipe, so that there is room for new text.
    pub(crate) fn drain(&self) {
        let Source::Pipe(pipe) = &self.source else {
            return;
        };
        let mut read = Vec::new();
        // An error means that there is no more.
        let _ = pipe.take(PIPE).read_to_end(&mut read);
        let mut kept = self.kept.lock();
        kept.extend(read);
        let surplus = kept.len().saturating_sub(KEPT);
        kept.drain(..surplus);
    }

    /// Returns the last text, for people; `None` if there is none.
    pub(crate) fn exit_reason(&self) -> Option<String> {
        self.drain();
        if let Source::Log(log) = &self.source {
            return exit_reason(log);
        }
        let text = printable(&self.kept.lock(), LOG_TAIL);
        (!text.is_empty()).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn endless_output_keeps_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let (output, writer) = Output::create(dir.path(), STDERR).unwrap();
        assert_eq!(output.exit_reason(), None);
        let mut writer = File::from(writer);
        let line = [b"virtio: broken ring ".as_slice(), &[b'x'; 1000]].concat();
        for _ in 0..10 {
            let full = (0..1000).find_map(|_| writer.write_all(&line).err());
            assert_eq!(full.unwrap().kind(), io::ErrorKind::WouldBlock);
            output.drain();
        }
        writer.write_all(b"\nSegmentation fault\n").unwrap();
        assert!(
            output
                .exit_reason()
                .unwrap()
                .ends_with("Segmentation fault")
        );
        assert!(output.kept.lock().len() <= KEPT);
        assert_eq!(
            std::fs::metadata(dir.path().join(STDERR)).unwrap().len(),
            0,
            "nothing is on disk"
        );
    }

    #[test]
    fn adopted_output_is_pipe_or_log() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("qemu.log"), "as it was before").unwrap();
        assert_eq!(
            Output::adopt(dir.path(), STDERR, "qemu.log")
                .exit_reason()
                .unwrap(),
            "as it was before"
        );
        let (first, writer) = Output::create(dir.path(), STDERR).unwrap();
        drop(first);
        File::from(writer.try_clone().unwrap())
            .write_all(b"while nobody read")
            .unwrap();
        assert_eq!(
            Output::adopt(dir.path(), STDERR, "qemu.log")
                .exit_reason()
                .unwrap(),
            "while nobody read"
        );
    }
}
