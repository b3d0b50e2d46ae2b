//! Requests of the protocol itself, each a few system calls.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, Metadata, Permissions, ReadDir};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, futimens, utimensat};
use nix::sys::time::TimeSpec;
use rustix::fs::RenameFlags;

use super::attributes::{Attributes, OpenFlags, long_name, put_attributes};
use super::packet::{Answer, Code, Fields, Refusal, answer, request};

/// Most bytes of one answer to a read, so that the packet stays below the largest.
pub const MAX_READ: u32 = 255 * 1024;

/// Most entries of one answer to a `READDIR`.
const MAX_ENTRIES: usize = 100;

/// Most files and directories that are open at once.
pub const MAX_HANDLES: usize = 512;

/// Open file or directory of a handle.
#[derive(Debug)]
pub enum Opened {
    File { file: File, append: bool },
    Directory { entries: ReadDir, path: PathBuf },
}

/// Server; see the module above.
#[derive(Debug, Default)]
pub struct Server {
    opened: HashMap<u32, Opened>,
    next: u32,
}

type Answered = Result<Answer, Refusal>;

impl Server {
    /// Carries out a request and returns its answer.
    ///
    /// # Errors
    /// The status that says why it was refused.
    pub fn handle_request(&mut self, kind: u8, id: u32, fields: &mut Fields<'_>) -> Answered {
        match kind {
            request::OPEN => self.open(id, fields),
            request::CLOSE => self.close(id, fields),
            request::READ => self.read(id, fields),
            request::WRITE => self.write(id, fields),
            request::FSTAT => Ok(attributes(id, &self.file(fields)?.0.metadata()?)),
            request::FSETSTAT => {
                let (file, _) = self.file(fields)?;
                set_of_file(file, &Attributes::read(fields)?)?;
                Ok(Answer::ok(id))
            }
            request::OPENDIR => {
                let path = fields.path()?;
                let entries = fs::read_dir(&path)?;
                self.opened(id, Opened::Directory { entries, path })
            }
            request::READDIR => self.read_directory(id, fields),
            request::EXTENDED => self.extended(id, fields),
            _ => by_path(kind, id, fields),
        }
    }

    fn open(&mut self, id: u32, fields: &mut Fields<'_>) -> Answered {
        let path = fields.path()?;
        let flags = OpenFlags::from_bits(fields.u32()?);
        let attributes = Attributes::read(fields)?;
        let file = flags.options(attributes.mode)?.open(path)?;
        let append = flags.append;
        self.opened(id, Opened::File { file, append })
    }

    fn opened(&mut self, id: u32, opened: Opened) -> Answered {
        if self.opened.len() >= MAX_HANDLES {
            let text = format!("{MAX_HANDLES} files and directories are open: close some");
            return Err(Refusal::new(Code::Failure, text));
        }
        let handle = self.next;
        self.next = self.next.wrapping_add(1);
        self.opened.insert(handle, opened);
        let mut answer = Answer::new(answer::HANDLE, id);
        answer.put_bytes(&handle.to_be_bytes());
        Ok(answer)
    }

    fn close(&mut self, id: u32, fields: &mut Fields<'_>) -> Answered {
        let handle = handle_of(fields)?;
        match self.opened.remove(&handle) {
            Some(_) => Ok(Answer::ok(id)),
            None => Err(no_handle()),
        }
    }

    /// Returns the file of the handle in the next field, and whether writes are appended.
    pub fn file(&self, fields: &mut Fields<'_>) -> Result<(&File, bool), Refusal> {
        match self.opened.get(&handle_of(fields)?) {
            Some(Opened::File { file, append }) => Ok((file, *append)),
            Some(Opened::Directory { .. }) => Err(Refusal::new(
                Code::Failure,
                "the handle is that of a directory",
            )),
            None => Err(no_handle()),
        }
    }

    fn read(&self, id: u32, fields: &mut Fields<'_>) -> Answered {
        let (file, _) = self.file(fields)?;
        let offset = fields.u64()?;
        let length = fields.u32()?.min(MAX_READ);
        let mut data = vec![0; usize::try_from(length).unwrap_or_default()];
        let count = loop {
            match file.read_at(&mut data, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        if count == 0 && length > 0 {
            return Err(Refusal::new(Code::Eof, "End of file"));
        }
        let mut answer = Answer::new(answer::DATA, id);
        answer.put_bytes(&data[..count]);
        Ok(answer)
    }

    fn write(&self, id: u32, fields: &mut Fields<'_>) -> Answered {
        let (mut file, append) = self.file(fields)?;
        let offset = fields.u64()?;
        let data = fields.bytes()?;
        if append {
            file.write_all(data)?;
        } else {
            file.write_all_at(data, offset)?;
        }
        Ok(Answer::ok(id))
    }

    fn read_directory(&mut self, id: u32, fields: &mut Fields<'_>) -> Answered {
        let handle = handle_of(fields)?;
        let Some(Opened::Directory { entries, path }) = self.opened.get_mut(&handle) else {
            return Err(no_handle());
        };
        let mut found = Vec::new();
        for entry in entries.by_ref() {
            let name = entry?.file_name();
            // A file that was removed in between is not listed.
            if let Ok(metadata) = fs::symlink_metadata(path.join(&name)) {
                found.push((name, metadata));
            }
            if found.len() == MAX_ENTRIES {
                break;
            }
        }
        if found.is_empty() {
            return Err(Refusal::new(Code::Eof, "End of directory"));
        }
        let now = SystemTime::now();
        let mut answer = Answer::new(answer::NAME, id);
        answer.put_u32(u32::try_from(found.len()).unwrap_or_default());
        for (name, metadata) in &found {
            answer.put_bytes(name.as_bytes());
            let shown = name.to_string_lossy();
            answer.put_bytes(long_name(&shown, metadata, now).as_bytes());
            put_attributes(&mut answer, metadata);
        }
        Ok(answer)
    }
}

/// Carries out the requests that name paths alone.
fn by_path(kind: u8, id: u32, fields: &mut Fields<'_>) -> Answered {
    let path = fields.path()?;
    match kind {
        request::LSTAT => return Ok(attributes(id, &fs::symlink_metadata(path)?)),
        request::STAT => return Ok(attributes(id, &fs::metadata(path)?)),
        request::REALPATH => return Ok(name(id, &real_path(&path)?)),
        request::READLINK => return Ok(name(id, &fs::read_link(path)?)),
        request::SETSTAT => set_of_path(&path, &Attributes::read(fields)?, true)?,
        request::REMOVE => fs::remove_file(path)?,
        request::RMDIR => fs::remove_dir(path)?,
        request::MKDIR => {
            let mode = Attributes::read(fields)?.mode.unwrap_or(0o777);
            DirBuilder::new().mode(mode).create(path)?;
        }
        request::RENAME => rename_to_free_name(&path, &fields.path()?)?,
        // OpenSSH's order: first where the link leads. The draft has the other one.
        request::SYMLINK => std::os::unix::fs::symlink(path, fields.path()?)?,
        _ => {
            let text = format!("requests of type {kind} are not known");
            return Err(Refusal::new(Code::Unsupported, text));
        }
    }
    Ok(Answer::ok(id))
}

fn attributes(id: u32, metadata: &Metadata) -> Answer {
    let mut answer = Answer::new(answer::ATTRS, id);
    put_attributes(&mut answer, metadata);
    answer
}

/// Returns the answer that is one name, without attributes.
pub fn name(id: u32, path: &Path) -> Answer {
    let bytes = path.as_os_str().as_bytes();
    let mut answer = Answer::new(answer::NAME, id);
    answer.put_u32(1);
    answer.put_bytes(bytes);
    answer.put_bytes(bytes);
    answer.put_u32(0);
    answer
}

/// Returns the absolute path without links; the last part need not be there.
pub fn real_path(path: &Path) -> io::Result<PathBuf> {
    let refused = match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => error,
        found => return found,
    };
    let Some(last) = path.file_name() else {
        return Err(refused);
    };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok(fs::canonicalize(parent)?.join(last))
}

/// Renames, and refuses a name that is taken, as version 3 of the protocol wants it.
fn rename_to_free_name(from: &Path, to: &Path) -> io::Result<()> {
    let cwd = rustix::fs::CWD;
    match rustix::fs::renameat_with(cwd, from, cwd, to, RenameFlags::NOREPLACE) {
        // A file system that does not know the flag.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            if fs::symlink_metadata(to).is_ok() {
                return Err(rustix::io::Errno::EXIST.into());
            }
            fs::rename(from, to)
        }
        renamed => Ok(renamed?),
    }
}

/// Sets attributes of what a path names; `follow`: of what a link leads to. The owner before the
/// mode, of which a change of the owner takes bits away.
pub fn set_of_path(path: &Path, set: &Attributes, follow: bool) -> Result<(), Refusal> {
    if let Some(size) = set.size {
        File::options().write(true).open(path)?.set_len(size)?;
    }
    if let Some((uid, gid)) = set.owner {
        match follow {
            true => std::os::unix::fs::chown(path, Some(uid), Some(gid))?,
            false => std::os::unix::fs::lchown(path, Some(uid), Some(gid))?,
        }
    }
    // A link has no mode of its own on Linux.
    let is_link = !follow && fs::symlink_metadata(path)?.is_symlink();
    if let Some(mode) = set.mode.filter(|_| !is_link) {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    if let Some((accessed, modified)) = set.times {
        let flags = match follow {
            true => UtimensatFlags::FollowSymlink,
            false => UtimensatFlags::NoFollowSymlink,
        };
        utimensat(
            AT_FDCWD,
            path,
            &seconds(accessed),
            &seconds(modified),
            flags,
        )?;
    }
    Ok(())
}

fn set_of_file(file: &File, set: &Attributes) -> Result<(), Refusal> {
    if let Some(size) = set.size {
        file.set_len(size)?;
    }
    if let Some((uid, gid)) = set.owner {
        let now = file.metadata()?;
        // Clients send the owner together with the time; giving it to itself is no change.
        if (now.uid(), now.gid()) != (uid, gid) {
            std::os::unix::fs::fchown(file, Some(uid), Some(gid))?;
        }
    }
    if let Some(mode) = set.mode {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    if let Some((accessed, modified)) = set.times {
        futimens(file, &seconds(accessed), &seconds(modified))?;
    }
    Ok(())
}

fn seconds(since_1970: u32) -> TimeSpec {
    TimeSpec::new(i64::from(since_1970), 0)
}

fn handle_of(fields: &mut Fields<'_>) -> Result<u32, Refusal> {
    let bytes = fields.bytes()?.try_into().map_err(|_| no_handle())?;
    Ok(u32::from_be_bytes(bytes))
}

fn no_handle() -> Refusal {
    Refusal::new(Code::Failure, "no file or directory has that handle")
}
