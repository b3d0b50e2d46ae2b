//! Writes the initramfs: a cpio archive (Linux
//! `Documentation/driver-api/early-userspace/buffer-format.rst`) with the guest agent as `/init`
//! and the modules as `/modules/NN-NAME.ko`, which it loads in the order of their names. Not
//! compressed: unpacking costs a guest more than reading.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use cpio::newc::{Builder, trailer};

use super::modules::Module;

/// File types as in stat(2).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// Writes the archive to `path`.
///
/// # Errors
/// Returns the error of the file system, or one if a file is over 4 GiB.
pub fn write_archive(path: &Path, agent: &[u8], modules: &[Module]) -> io::Result<()> {
    let mut archive = BufWriter::new(File::create(path)?);
    let mut inode = 0;
    let mut entry = |name: &str, mode: u32, content: &[u8]| -> io::Result<()> {
        inode += 1;
        let mut builder = Builder::new(name).ino(inode).mode(mode);
        if mode & CHARACTER_DEVICE == CHARACTER_DEVICE && mode & REGULAR != REGULAR {
            // /dev/console: the kernel opens it for /init before anything is mounted.
            builder = builder.rdev_major(5).rdev_minor(1);
        }
        let size = u32::try_from(content.len())
            .map_err(|_| io::Error::other(format!("{name} is over 4 GiB")))?;
        let mut file = builder.write(&mut archive, size);
        file.write_all(content)?;
        file.finish().map(|_| ())
    };
    for dir in ["dev", "proc", "sys", "root", "modules"] {
        entry(dir, DIRECTORY | 0o755, b"")?;
    }
    entry("dev/console", CHARACTER_DEVICE | 0o600, b"")?;
    entry("init", REGULAR | 0o755, agent)?;
    for (number, module) in modules.iter().enumerate() {
        entry(
            &format!("modules/{number:02}-{}", module.file_name),
            REGULAR | 0o644,
            &module.content,
        )?;
    }
    trailer(&mut archive)?;
    archive.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_has_modules_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("initramfs");
        let module = |name: &str| Module {
            file_name: name.to_owned(),
            content: vec![9; 5],
        };
        write_archive(
            &path,
            b"the agent",
            &[module("virtio.ko"), module("virtio_net.ko")],
        )
        .unwrap();
        let mut reader = File::open(&path).unwrap();
        let mut seen = Vec::new();
        loop {
            let entry = cpio::newc::Reader::new(reader).unwrap();
            if entry.entry().is_trailer() {
                break;
            }
            seen.push((
                entry.entry().name().to_owned(),
                entry.entry().mode(),
                entry.entry().file_size(),
            ));
            reader = entry.finish().unwrap();
        }
        let names: Vec<&str> = seen.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(
            names[5..],
            [
                "dev/console",
                "init",
                "modules/00-virtio.ko",
                "modules/01-virtio_net.ko"
            ]
        );
        assert_eq!(seen[6], ("init".to_owned(), 0o100_755, 9));
        assert_eq!(seen[5].1, 0o020_600);
    }
}
