//! `POST /files?archive=tar`: unpacks a tar archive below a directory, while it comes in.
//!
//! The archive is hostile: a name that is absolute or has `..` is refused, and every directory on
//! the way is opened with `openat2` in a way that cannot leave the directory, also not over a
//! symbolic link that the archive itself brought. Files belong to the user and keep mode and time;
//! devices and pipes are passed over. A file in the way of another is replaced, a directory is not:
//! a new file is written beside it and renamed over it when it is whole. Blocks of zeroes become
//! holes. If the upload breaks off, or the disk is full, the file being written is removed; files
//! that were complete stay, and so do those that would have been replaced next. So it is, too, if
//! the process dies, except that then the last file is incomplete.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt as _;
use guest_rpc::archive::BoundedReader;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use sparse::SparseWriter;
use tokio::sync::mpsc;

use super::body::Pieces;
use super::chunks::CHUNK;
use crate::as_user::as_user;
use crate::filesystem::error::FileError;
use crate::filesystem::path::{STAGED_PREFIX, ensure_dir};
use crate::http::error::HttpError;
use crate::user::User;

/// Pieces between the connection and the thread that writes.
const DEPTH: usize = 4;

/// Names that are tried for a file that is to replace another: as many archives can be unpacked
/// into a folder at once.
const STAGED_ATTEMPTS: usize = 1024;

/// Mode of directories that the archive names only as part of a path.
const DIRECTORY_MODE: u32 = 0o755;

/// Unpacks the body below `dir`, which is made if it is missing.
///
/// # Errors
/// 400 for a broken or hostile archive, 403, 507.
pub async fn unpack_archive(dir: PathBuf, user: &User, body: &mut Pieces) -> Result<(), HttpError> {
    let user = user.clone();
    read_blocking(body, move |inlet| {
        as_user(&user, || unpack_all(&dir, inlet)).map_err(|e| FileError::identity(&e))?
    })
    .await
}

/// Gives a blocking thread the body as a reader.
///
/// # Errors
/// Errors of `read`; 400 and 408 where the body breaks off.
pub async fn read_blocking<T: Send + 'static>(
    body: &mut Pieces,
    read: impl FnOnce(Inlet) -> Result<T, FileError> + Send + 'static,
) -> Result<T, HttpError> {
    let (sender, receiver) = mpsc::channel(DEPTH);
    let reading = tokio::task::spawn_blocking(move || read(Inlet::new(receiver)));
    let fed = feed(sender, body).await;
    let done = reading.await.map_err(|e| FileError::task(&e))?;
    fed?;
    Ok(done?)
}

/// Passes the body on. If the other side stopped, because it failed or has read all, the rest stays
/// unread.
async fn feed(sender: mpsc::Sender<Option<Bytes>>, body: &mut Pieces) -> Result<(), HttpError> {
    while let Some(piece) = body.next().await {
        if sender.send(Some(piece?)).await.is_err() {
            return Ok(());
        }
    }
    // Without this the other side takes the end for a broken connection.
    drop(sender.send(None).await);
    Ok(())
}

/// The body as a blocking reader.
pub struct Inlet {
    receiver: mpsc::Receiver<Option<Bytes>>,
    piece: Bytes,
    ended: bool,
}

impl Inlet {
    fn new(receiver: mpsc::Receiver<Option<Bytes>>) -> Self {
        Self {
            receiver,
            piece: Bytes::new(),
            ended: false,
        }
    }
}

impl Read for Inlet {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Some(piece)) => self.piece = piece,
                Some(None) => self.ended = true,
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the upload broke off",
                    ));
                }
            }
        }
        let count = buffer.len().min(self.piece.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}

fn unpack_all(dir: &Path, inlet: Inlet) -> Result<(), FileError> {
    ensure_dir(dir)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::open(dir, flags, Mode::empty())
        .map_err(|e| FileError::io("open", dir, &e.into()))?;
    let mut unpacker = Unpacker {
        top,
        parent: None,
        modes: BTreeMap::new(),
        buffer: vec![0; CHUNK],
    };
    let (reader, bound) = BoundedReader::new(inlet);
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries().map_err(|e| broken(&e))? {
        let mut entry = entry.map_err(|e| broken(&e))?;
        bound.lift();
        unpacker.entry(&mut entry)?;
        // Of what is passed over the content is too.
        io::copy(&mut entry, &mut io::sink()).map_err(|e| broken(&e))?;
        bound.set();
    }
    bound.lift();
    unpacker.finish()?;
    // What follows the end of an archive is padding.
    io::copy(&mut archive.into_inner(), &mut io::sink())
        .map(drop)
        .map_err(|e| broken(&e))
}

/// Unpacks an archive, and panics if anything was written beside the directory.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let outer = std::env::temp_dir().join(format!("wrenn-fuzz-archive-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&outer);
    std::fs::create_dir(&outer).unwrap_or_else(|error| panic!("{}: {error}", outer.display()));
    let (sender, receiver) = mpsc::channel(2);
    let _ = sender.try_send(Some(Bytes::copy_from_slice(bytes)));
    let _ = sender.try_send(None);
    let _ = unpack_all(&outer.join("target"), Inlet::new(receiver));
    let names: Vec<_> = std::fs::read_dir(&outer)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    let _ = std::fs::remove_dir_all(&outer);
    assert!(
        names.iter().all(|name| name == "target"),
        "written beside the directory: {names:?}"
    );
}

/// Returns the error for an archive that cannot be read.
pub fn broken(error: &io::Error) -> FileError {
    FileError::invalid(format!("the archive cannot be read: {error}"))
}

struct Unpacker {
    top: OwnedFd,
    /// The directory opened last: archives name what is in one directory one after the other.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Modes of directories, set at the end: one without write permission would keep out what
    /// belongs in it.
    modes: BTreeMap<PathBuf, u32>,
    buffer: Vec<u8>,
}

impl Unpacker {
    fn entry(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<(), FileError> {
        let path = entry.path().map_err(|e| broken(&e))?.into_owned();
        let path = inside(&path)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(());
        };
        self.enter(parent)?;
        let kind = entry.header().entry_type();
        if kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse() {
            self.file(entry, &path, Path::new(name))
        } else if kind.is_dir() {
            self.directory(&path)?;
            let mode = entry.header().mode().map_err(|e| broken(&e))?;
            self.modes.insert(path, mode & 0o7777);
            Ok(())
        } else if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name().map_err(|e| broken(&e))?;
            let target = target.ok_or_else(|| refused(&path, "is a link to nothing"))?;
            self.link(&path, Path::new(name), &target, kind.is_symlink())
        } else {
            Ok(())
        }
    }

    /// Makes `dir` the directory that the next calls work in; missing ones are made.
    fn enter(&mut self, dir: &Path) -> Result<(), FileError> {
        if self
            .parent
            .as_ref()
            .is_some_and(|(entered, _)| entered == dir)
        {
            return Ok(());
        }
        self.parent = Some((dir.to_path_buf(), self.directory(dir)?));
        Ok(())
    }

    fn here(&self) -> &OwnedFd {
        self.parent.as_ref().map_or(&self.top, |(_, fd)| fd)
    }

    /// Opens a directory below the top, and makes missing ones.
    fn directory(&self, dir: &Path) -> Result<OwnedFd, FileError> {
        match self.open(dir) {
            Err(Errno::NOENT) => {}
            other => return other.map_err(|e| escaped(dir, e)),
        }
        let mut last = self.open(Path::new("")).map_err(|e| escaped(dir, e))?;
        let mut path = PathBuf::new();
        for name in dir.components() {
            path.push(name);
            match rustix::fs::mkdirat(&last, Path::new(&name), DIRECTORY_MODE.into()) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(FileError::io("make the directory", &path, &e.into())),
            }
            last = self.open(&path).map_err(|e| escaped(&path, e))?;
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
                other => return other,
            }
        }
    }

    fn file(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        path: &Path,
        name: &Path,
    ) -> Result<(), FileError> {
        let mode = entry.header().mode().map_err(|e| broken(&e))? & 0o7777;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let refused = |doing: &'static str| move |e: Errno| FileError::io(doing, path, &e.into());
        let create = |name: &Path| {
            rustix::fs::openat(self.here(), name, flags, (mode & 0o777 | 0o200).into())
        };
        let (file, staged) = match create(name) {
            Err(Errno::EXIST) => {
                let (file, staged) = beside(create).map_err(refused("write"))?;
                (file, Some(staged))
            }
            made => (made.map_err(refused("write"))?, None),
        };
        let made = staged.as_deref().unwrap_or(name);
        let mut writer = SparseWriter::new(File::from(file));
        let size = entry.size();
        let done = copy(entry, size, &mut writer, &mut self.buffer, path).and_then(|()| {
            let file = writer.file();
            rustix::fs::fchmod(file, mode.into()).map_err(refused("set the mode of"))?;
            let modified = sparse::modified_time(entry.header()).unwrap_or(0);
            let times = sparse::modification_time(modified);
            rustix::fs::futimens(file, &times).map_err(refused("set the time of"))?;
            match &staged {
                Some(staged) => rustix::fs::renameat(self.here(), staged, self.here(), name)
                    .map_err(refused("replace")),
                None => Ok(()),
            }
        });
        if done.is_err() {
            // Incomplete; the first error is the one to tell.
            let _unremoved = rustix::fs::unlinkat(self.here(), made, AtFlags::empty());
        }
        done
    }

    fn link(
        &self,
        path: &Path,
        name: &Path,
        target: &Path,
        symbolic: bool,
    ) -> Result<(), FileError> {
        let made = if symbolic {
            self.replacing(name, |here| rustix::fs::symlinkat(target, here, name))
        } else {
            let target = inside(target)?;
            let (Some(parent), Some(old)) = (target.parent(), target.file_name()) else {
                return Err(refused(path, "is a hard link to a directory"));
            };
            let parent = self.open(parent).map_err(|e| escaped(&target, e))?;
            self.replacing(name, |here| {
                rustix::fs::linkat(&parent, Path::new(old), here, name, AtFlags::empty())
            })
        };
        made.map_err(|e| FileError::io("make the link", path, &e.into()))
    }

    /// Makes a link; where something else is in the way, that goes.
    fn replacing<T>(
        &self,
        name: &Path,
        make: impl Fn(&OwnedFd) -> rustix::io::Result<T>,
    ) -> rustix::io::Result<T> {
        match make(self.here()) {
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(self.here(), name, AtFlags::empty())?;
                make(self.here())
            }
            other => other,
        }
    }

    /// Sets the modes of directories, the innermost first.
    fn finish(&mut self) -> Result<(), FileError> {
        for (path, mode) in std::mem::take(&mut self.modes).into_iter().rev() {
            let dir = self.open(&path).map_err(|e| escaped(&path, e))?;
            let refused = |e: Errno| FileError::io("set the mode of", &path, &e.into());
            // A descriptor that names only a place cannot change it, but what it leads to can be
            // opened from there.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            match rustix::fs::openat(&dir, ".", flags, Mode::empty()) {
                Ok(dir) => rustix::fs::fchmod(&dir, mode.into()).map_err(refused)?,
                Err(e) => return Err(refused(e)),
            }
        }
        Ok(())
    }
}

/// Makes a file with a name that nothing has.
fn beside<T>(create: impl Fn(&Path) -> rustix::io::Result<T>) -> rustix::io::Result<(T, PathBuf)> {
    for number in 0..STAGED_ATTEMPTS {
        let name = PathBuf::from(format!("{STAGED_PREFIX}{}-{number}", std::process::id()));
        match create(&name) {
            Err(Errno::EXIST) => {}
            made => return made.map(|file| (file, name)),
        }
    }
    Err(Errno::EXIST)
}

/// Returns the path without `.`; an error where it could lead outside.
fn inside(path: &Path) -> Result<PathBuf, FileError> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            _ => {
                return Err(refused(
                    path,
                    "leads outside the directory: archives must have relative names without ..",
                ));
            }
        }
    }
    Ok(clean)
}

fn refused(path: &Path, why: &str) -> FileError {
    FileError::invalid(format!("archive entry '{}' {why}", path.display()))
}

fn escaped(path: &Path, error: Errno) -> FileError {
    match error {
        Errno::XDEV | Errno::LOOP => {
            refused(path, "leads outside the directory over a symbolic link")
        }
        Errno::NOTDIR => refused(path, "has a part that is there and is not a directory"),
        Errno::NOENT => refused(
            path,
            "has a part that is a symbolic link to nothing, or names nothing",
        ),
        other => FileError::io("open", path, &other.into()),
    }
}

/// Copies all `size` bytes; an archive that ends before is broken.
fn copy(
    from: &mut impl Read,
    size: u64,
    to: &mut SparseWriter,
    buffer: &mut [u8],
    path: &Path,
) -> Result<(), FileError> {
    let mut left = size;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match from.read(&mut buffer[filled..]).map_err(|e| broken(&e))? {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            let cut = || {
                broken(&io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("it ends within '{}'", path.display()),
                ))
            };
            return if left == 0 {
                to.finish().map_err(|e| FileError::io("write", path, &e))
            } else {
                Err(cut())
            };
        }
        to.append([&buffer[..filled]])
            .map_err(|e| FileError::io("write", path, &e))?;
        left = left.saturating_sub(filled as u64);
    }
}
