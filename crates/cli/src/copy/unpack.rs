//! A tar stream from a sandbox into a local directory. The archive is the guest's and hostile.
//!
//! Every directory on the way is opened with `openat2` in a way that cannot leave the target, also
//! not over a symbolic link that the archive itself brought; names that lead outside are left out.
//! No device, pipe or set-id bit is made, and owners are ours. The headers between the contents of
//! two entries (long names and the like, which are held in memory) are bounded. A file gets its
//! name when it is whole: a copy that breaks off leaves the old file, and if we are killed
//! outright, at most one file `.wrenn-…` beside it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use client::archive::BoundedReader;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use sparse::SparseWriter;
use tar::{Archive, Entry, EntryType};

use super::CHUNK;
use crate::output;

/// Maximum number of names that are told one by one.
const MAX_NOTES: usize = 20;

/// Mode of directories that the archive names only as part of a path.
const DIRECTORY_MODE: u32 = 0o755;

/// Unpacks everything below `target`, which exists.
pub fn unpack(tar: impl Read, target: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::open(target, flags, Mode::empty())?;
    let mut unpacker = Unpacker {
        top,
        parent: None,
        buffer: vec![0; CHUNK],
        left_out: 0,
    };
    let (tar, bound) = BoundedReader::new(tar);
    let mut archive = Archive::new(tar);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.header().entry_type() == EntryType::XGlobalHeader {
            // It says nothing that is of use here, and counts as what stands between two files.
            io::copy(&mut entry, &mut io::sink())?;
            continue;
        }
        bound.lift();
        unpacker.entry(&mut entry)?;
        // Of what is left out the content is, too.
        io::copy(&mut entry, &mut io::sink())?;
        bound.set();
    }
    if unpacker.left_out > MAX_NOTES {
        output::print_note(&format!("and {} more", unpacker.left_out - MAX_NOTES));
    }
    Ok(())
}

struct Unpacker {
    top: OwnedFd,
    /// The directory opened last: archives name what is in one directory one after the other.
    parent: Option<(PathBuf, OwnedFd)>,
    buffer: Vec<u8>,
    left_out: usize,
}

impl Unpacker {
    fn entry(&mut self, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
        let name = entry.path_bytes().into_owned();
        let kind = entry.header().entry_type();
        let Some(path) = inside(&name) else {
            return self.leave_out(&name, "it leads outside");
        };
        let (Some(parent), Some(file_name)) = (path.parent(), path.file_name()) else {
            return Ok(());
        };
        let done = match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => self
                .enter(parent)
                .and_then(|()| self.file(entry, Path::new(file_name))),
            EntryType::Directory => self.directory(&path).and_then(|dir| {
                let mode = entry.header().mode()? & 0o777;
                // Later entries are written into it, and the user has to be able to remove it.
                change_mode(&dir, mode | 0o700)
            }),
            EntryType::Symlink | EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                if kind == EntryType::Link && inside(&target).is_none() {
                    return self.leave_out(&name, "it is a link to outside");
                }
                self.enter(parent)
                    .and_then(|()| self.link(&target, Path::new(file_name), kind))
            }
            _ => return self.leave_out(&name, "it is neither file nor directory nor link"),
        };
        done.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", shown(&name))))
    }

    fn leave_out(&mut self, name: &[u8], why: &str) -> io::Result<()> {
        self.left_out += 1;
        if self.left_out <= MAX_NOTES {
            output::print_note(&format!("left out, because {why}: {}", shown(name)));
        }
        Ok(())
    }

    /// Makes `dir` the directory that the next calls work in; missing ones are made.
    fn enter(&mut self, dir: &Path) -> io::Result<()> {
        if self
            .parent
            .as_ref()
            .is_some_and(|(entered, _)| entered == dir)
        {
            return Ok(());
        }
        self.parent = Some((dir.to_owned(), self.directory(dir)?));
        Ok(())
    }

    fn here(&self) -> &OwnedFd {
        self.parent.as_ref().map_or(&self.top, |(_, fd)| fd)
    }

    /// Opens a directory below the top, and makes missing ones.
    fn directory(&self, dir: &Path) -> io::Result<OwnedFd> {
        match self.open(dir) {
            Err(Errno::NOENT) => {}
            opened => return opened.map_err(explained),
        }
        let mut last = self.open(Path::new("")).map_err(explained)?;
        let mut path = PathBuf::new();
        for name in dir.components() {
            path.push(name);
            match rustix::fs::mkdirat(&last, Path::new(&name), DIRECTORY_MODE.into()) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            last = self.open(&path).map_err(explained)?;
        }
        Ok(last)
    }

    fn open(&self, dir: &Path) -> rustix::io::Result<OwnedFd> {
        let dir = if dir.as_os_str().is_empty() {
            Path::new(".")
        } else {
            dir
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(&self.top, dir, flags, Mode::empty(), resolve) {
                // Something on the way was renamed while the kernel looked.
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return opened,
            }
        }
    }

    fn file(&mut self, entry: &mut Entry<'_, impl Read>, name: &Path) -> io::Result<()> {
        let mode = entry.header().mode()? & 0o777;
        let modified = sparse::modified_time(entry.header())?;
        let size = entry.size();
        let temporary = temporary_name();
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.here(), &temporary, flags, Mode::from(0o600))?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let written = copy(entry, size, SparseWriter::new(file.into()), &mut buffer);
        self.buffer = buffer;
        let named = written.and_then(|file| {
            rustix::fs::fchmod(&file, mode.into())?;
            rustix::fs::futimens(&file, &sparse::modification_time(modified))?;
            Ok(rustix::fs::renameat(
                self.here(),
                &temporary,
                self.here(),
                name,
            )?)
        });
        named.inspect_err(|_| self.remove(&temporary))
    }

    fn link(&self, target: &[u8], name: &Path, kind: EntryType) -> io::Result<()> {
        let temporary = temporary_name();
        if kind == EntryType::Symlink {
            rustix::fs::symlinkat(target, self.here(), &temporary)?;
        } else {
            let target = inside(target).ok_or(Errno::XDEV)?;
            let (Some(parent), Some(old)) = (target.parent(), target.file_name()) else {
                return Err(Errno::ISDIR.into());
            };
            let parent = self.open(parent).map_err(explained)?;
            rustix::fs::linkat(
                &parent,
                Path::new(old),
                self.here(),
                &temporary,
                AtFlags::empty(),
            )?;
        }
        let named = rustix::fs::renameat(self.here(), &temporary, self.here(), name);
        // Two names of one file are left as they are by a rename.
        if named.is_err() || kind == EntryType::Link {
            self.remove(&temporary);
        }
        Ok(named?)
    }

    /// Removes a file, ignoring errors: the caller reports an earlier one.
    fn remove(&self, name: &Path) {
        let _ = rustix::fs::unlinkat(self.here(), name, AtFlags::empty());
    }
}

/// Returns the path without `.` and a leading `/`, as tar programs read it; `None` where it could
/// lead outside.
fn inside(name: &[u8]) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in Path::new(std::ffi::OsStr::from_bytes(name)).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

/// Returns a random name, which the archive cannot know.
fn temporary_name() -> PathBuf {
    let random =
        std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
    format!(".wrenn-{random:016x}").into()
}

/// Returns a name from the guest as printable text.
fn shown(name: &[u8]) -> String {
    output::printable(&client::bytes::to_text(name)).into_owned()
}

fn explained(error: Errno) -> io::Error {
    match error {
        Errno::XDEV | Errno::LOOP => {
            io::Error::new(error.kind(), "it leads outside over a symbolic link")
        }
        Errno::NOTDIR => {
            io::Error::new(error.kind(), "something that is no directory is in the way")
        }
        other => other.into(),
    }
}

/// Changes the mode of a directory through `/proc`: `fchmod` refuses an `O_PATH` descriptor.
fn change_mode(dir: &OwnedFd, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::chmod(
        format!("/proc/self/fd/{}", dir.as_raw_fd()),
        mode.into(),
    )?)
}

/// Copies all `size` bytes; an archive that ends before is broken.
fn copy(
    from: &mut impl Read,
    size: u64,
    mut to: SparseWriter,
    buffer: &mut [u8],
) -> io::Result<File> {
    let mut left = size;
    while left > 0 {
        let wanted = usize::try_from(left)
            .unwrap_or(buffer.len())
            .min(buffer.len());
        match from.read(&mut buffer[..wanted])? {
            0 => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the archive ends within it",
                ));
            }
            count => {
                to.append([&buffer[..count]])?;
                left -= count as u64;
            }
        }
    }
    to.finish()?;
    Ok(to.into_file())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn archive(entries: &[(&str, EntryType, &str, u32)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, content, mode) in entries {
            let mut header = tar::Header::new_gnu();
            // Set raw: the builder itself refuses hostile names.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(*mode);
            let link = matches!(kind, EntryType::Symlink | EntryType::Link);
            if link {
                header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
            }
            let data = if link { "" } else { content };
            header.set_size(data.len() as u64);
            header.set_cksum();
            builder.append(&header, data.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn corpus_cli_archive() {
        testkit::corpus::replay_corpus("cli_archive", |bytes| {
            let outer = tempfile::tempdir().unwrap();
            let target = outer.path().join("target");
            fs::create_dir(&target).unwrap();
            let _ = unpack(bytes, &target);
            let names: Vec<_> = fs::read_dir(&outer)
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            assert_eq!(names, ["target"], "written beside the directory");
        });
    }

    #[test]
    fn a_tree_comes_out_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let tar = archive(&[
            ("./", EntryType::Directory, "", 0o755),
            ("sub", EntryType::Directory, "", 0o555),
            ("sub/run.sh", EntryType::Regular, "#!/bin/sh\n", 0o4755),
            ("link", EntryType::Symlink, "sub/run.sh", 0o777),
        ]);
        unpack(tar.as_slice(), dir.path()).unwrap();
        let run = dir.path().join("sub/run.sh");
        assert_eq!(
            fs::metadata(&run).unwrap().permissions().mode() & 0o7777,
            0o755,
            "no set-user-id bit"
        );
        assert_eq!(
            fs::metadata(dir.path().join("sub"))
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o755
        );
        assert_eq!(
            fs::read_link(dir.path().join("link")).unwrap(),
            Path::new("sub/run.sh")
        );
    }

    #[test]
    fn nothing_leaves_the_directory() {
        let outer = tempfile::tempdir().unwrap();
        let target = outer.path().join("target");
        fs::create_dir(&target).unwrap();
        fs::write(outer.path().join("mine"), "mine").unwrap();
        let outside = outer.path().to_str().unwrap().to_owned();
        for entries in [
            vec![("../evil", EntryType::Regular, "x", 0o644)],
            vec![
                ("out", EntryType::Symlink, "..", 0o777),
                ("out/evil", EntryType::Regular, "x", 0o644),
            ],
            vec![
                ("abs", EntryType::Symlink, &outside, 0o777),
                ("abs/evil", EntryType::Regular, "x", 0o644),
            ],
            vec![
                ("file", EntryType::Symlink, "../mine", 0o777),
                ("file", EntryType::Regular, "x", 0o644),
            ],
            vec![("hard", EntryType::Link, "../mine", 0o644)],
            vec![("pipe", EntryType::Fifo, "", 0o644)],
            vec![("tty", EntryType::Char, "", 0o644)],
        ] {
            // Some are left out, some end the copy; both are fine.
            let _ = unpack(archive(&entries).as_slice(), &target);
            assert!(!outer.path().join("evil").exists(), "{entries:?}");
            assert_eq!(
                fs::read_to_string(outer.path().join("mine")).unwrap(),
                "mine",
                "{entries:?}"
            );
            assert!(
                !target.join("hard").exists()
                    && !target.join("pipe").exists()
                    && !target.join("tty").exists()
            );
            let left = fs::read_dir(&target).unwrap().filter(|entry| {
                entry
                    .as_ref()
                    .unwrap()
                    .file_name()
                    .as_bytes()
                    .starts_with(b".wrenn-")
            });
            assert_eq!(left.count(), 0, "{entries:?}");
        }
        unpack(
            archive(&[("/etc/passwd", EntryType::Regular, "x", 0o644)]).as_slice(),
            &target,
        )
        .unwrap();
        assert!(
            target.join("etc/passwd").exists(),
            "absolute names are taken as relative ones"
        );
    }

    /// S25: `join` replaces what an absolute name is joined to.
    #[test]
    fn absolute_directory_keeps_mode_of_its_namesake() {
        let outer = tempfile::tempdir().unwrap();
        let target = outer.path().join("target");
        let mine = outer.path().join("mine");
        fs::create_dir(&target).unwrap();
        fs::create_dir(&mine).unwrap();
        fs::set_permissions(&mine, fs::Permissions::from_mode(0o3500)).unwrap();
        let name = mine.to_str().unwrap();
        unpack(
            archive(&[(name, EntryType::Directory, "", 0o777)]).as_slice(),
            &target,
        )
        .unwrap();
        assert_eq!(
            fs::metadata(&mine).unwrap().permissions().mode() & 0o7777,
            0o3500
        );
        assert!(target.join(name.trim_start_matches('/')).is_dir());
    }

    /// S25: a long name, or extended headers, of any length.
    #[test]
    fn headers_have_a_bound() {
        struct Endless(u64);
        impl Read for Endless {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0 += buffer.len() as u64;
                buffer.fill(b'x');
                Ok(buffer.len())
            }
        }
        for kind in [
            EntryType::GNULongName,
            EntryType::GNULongLink,
            EntryType::XHeader,
            EntryType::XGlobalHeader,
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_path("x").unwrap();
            header.set_entry_type(kind);
            header.set_size(64 << 30);
            header.set_cksum();
            let mut endless = Endless(0);
            let dir = tempfile::tempdir().unwrap();
            let error = unpack(header.as_bytes().chain(&mut endless), dir.path()).unwrap_err();
            assert!(error.to_string().contains("1048576"), "{kind:?}: {error}");
            assert!(
                endless.0 < 8 << 20,
                "{kind:?}: {} bytes were read",
                endless.0
            );
        }
    }

    #[test]
    fn broken_archive_keeps_file_of_before() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("notes"), "of before").unwrap();
        let whole = archive(&[("notes", EntryType::Regular, &"new".repeat(1000), 0o644)]);
        let error = unpack(&whole[..1024], dir.path()).unwrap_err();
        assert!(error.to_string().contains("notes"), "{error}");
        assert_eq!(
            fs::read_to_string(dir.path().join("notes")).unwrap(),
            "of before"
        );
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing half-made stays"
        );
        unpack(whole.as_slice(), dir.path()).unwrap();
        assert_eq!(
            fs::read_to_string(dir.path().join("notes")).unwrap().len(),
            3000
        );
    }

    #[test]
    fn names_that_are_no_text_keep_their_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let mut tar = archive(&[("caf?.txt", EntryType::Regular, "x", 0o644)]);
        tar[3] = 0xe9;
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes().copy_from_slice(&tar[..512]);
        header.set_cksum();
        tar[..512].copy_from_slice(header.as_bytes());
        unpack(tar.as_slice(), dir.path()).unwrap();
        assert!(
            dir.path()
                .join(std::ffi::OsStr::from_bytes(b"caf\xe9.txt"))
                .exists()
        );
    }
}
