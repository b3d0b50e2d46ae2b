//! Files of an uncompressed tar archive by their names: an image in the form of `docker save`, or an
//! OCI layout.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use crate::Digest;
use crate::counted::Counted;
use crate::decompress::Section;
use crate::error::{Result, invalid, limit, printable};
use crate::limits::{Budget, MAX_BLOBS, MAX_DOCUMENTS, MAX_JSON};
use crate::tar_stream::{EntryKind, TarStream};

/// Links that are followed from one name to its content.
const MAX_LINKS: usize = 8;

#[derive(Debug)]
enum Member {
    /// Offset and length of the content.
    File(u64, u64),
    /// Older releases of Docker link layers that are the same.
    Link(Vec<u8>),
}

/// Index of an archive.
#[derive(Debug)]
pub(crate) struct Archive {
    file: File,
    members: BTreeMap<Vec<u8>, Member>,
    /// Bytes of the documents that were read.
    read: Cell<u64>,
}

impl Archive {
    /// Reads the headers of an archive. Returns `None` as soon as it has a file that no archive of
    /// an image has, since it is a root file system then. `needs_end` refuses one without the blocks
    /// that end archives.
    pub(crate) fn read_index(
        file: &File,
        needs_end: bool,
        mut budget: Budget,
    ) -> Result<Option<Self>> {
        let length = file.metadata()?.len();
        let section = Section::new(file, 0, length)?;
        let mut stream = TarStream::new(Counted::new(section, false, &mut budget)?);
        let mut members = BTreeMap::new();
        while let Some(entry) = stream.next_entry()? {
            stream.get_mut().budget.count_entry()?;
            let Some(path) = simplify(b"", &entry.path) else {
                return Ok(None);
            };
            let member = match entry.kind {
                EntryKind::File(data) if data.stored() == data.length => {
                    Member::File(data.offset, data.length)
                }
                EntryKind::Directory => continue,
                EntryKind::HardLink(target) => Member::Link(target),
                EntryKind::Symlink(target) => {
                    let parent = path.rsplitn(2, |byte| *byte == b'/').nth(1);
                    match simplify(parent.unwrap_or_default(), &target) {
                        Some(target) => Member::Link(target),
                        None => return Ok(None),
                    }
                }
                // Names of blobs are digests, so this is no directory of a root file system.
                EntryKind::File(_) if is_blob(&path) => {
                    return Err(invalid(format!(
                        "{} in the archive is a sparse file; pack the layout without tar's -S",
                        printable(&path)
                    )));
                }
                _ => return Ok(None),
            };
            members.insert(path, member);
            if members.len() > MAX_BLOBS {
                if members.contains_key(&b"oci-layout"[..])
                    || members.keys().all(|path| is_blob(path))
                {
                    let text = format!("the archive has more than {MAX_BLOBS} blobs");
                    return Err(limit(text));
                }
                return Ok(None);
            }
        }
        if needs_end && !stream.is_ended() {
            return Err(invalid(
                "the archive has no end: it was truncated; send it again",
            ));
        }
        Ok(Some(Self {
            file: file.try_clone()?,
            members,
            read: Cell::default(),
        }))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.members.contains_key(name.as_bytes())
    }

    /// Returns the content of a file.
    pub(crate) fn open_section(&self, name: &str) -> Result<Section> {
        let (offset, length) = self.place(name)?;
        Ok(Section::new(&self.file, offset, length)?)
    }

    fn place(&self, name: &str) -> Result<(u64, u64)> {
        let mut name = name.as_bytes();
        for _ in 0..MAX_LINKS {
            match self.members.get(name) {
                Some(Member::File(offset, length)) => return Ok((*offset, *length)),
                Some(Member::Link(target)) => name = target,
                None => break,
            }
        }
        let text = format!(
            "the archive lacks its file {}: it is not whole",
            printable(name)
        );
        Err(invalid(text))
    }

    /// Reads a JSON file.
    pub(crate) fn read_file(&self, name: &str) -> Result<Vec<u8>> {
        let (_, length) = self.place(name)?;
        if length > MAX_JSON {
            let text = format!("{name} in the archive has more than {MAX_JSON} bytes");
            return Err(limit(text));
        }
        self.read.set(self.read.get() + length);
        if self.read.get() > MAX_DOCUMENTS {
            let text = format!(
                "the archive has more than {} MiB of manifests and configurations",
                MAX_DOCUMENTS >> 20
            );
            return Err(limit(text));
        }
        let mut content = Vec::new();
        self.open_section(name)?
            .take(length)
            .read_to_end(&mut content)?;
        Ok(content)
    }

    /// Reads a blob, and verifies it.
    pub(crate) fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let content = self.read_file(&digest.path())?;
        digest.verify(&Digest::from_bytes(&content))?;
        Ok(content)
    }
}

/// Returns true for the path of a blob of an OCI layout.
fn is_blob(path: &[u8]) -> bool {
    let name = path.strip_prefix(b"blobs/sha256/").unwrap_or_default();
    name.len() == 64 && name.iter().all(u8::is_ascii_hexdigit)
}

/// Returns a path without what is redundant, `None` if it leads out.
fn simplify(parent: &[u8], path: &[u8]) -> Option<Vec<u8>> {
    let mut names: Vec<&[u8]> = Vec::new();
    let all = parent.split(|byte| *byte == b'/');
    for name in all.chain(path.split(|byte| *byte == b'/')) {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop()?;
            }
            name => names.push(name),
        }
    }
    Some(names.join(&b'/'))
}
