//! Entries of tar archives as they come: the formats of old tar, ustar, POSIX (pax) and GNU tar,
//! with extended attributes and sparse files in all forms that GNU tar writes.
//!
//! The crate `tar` reads single header blocks. Its reader of whole archives is not used: it splits
//! extended attributes at newlines, which are bytes like others in them, and knows one of the four
//! forms of sparse files.

mod pax;
mod sparse;

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use tar::{EntryType, Header};

use crate::error::{Result, invalid, limit, printable};
use crate::limits::{MAX_FILE, MAX_PATH, MAX_PAX};
use pax::Pax;

/// Bytes of a block of an archive.
pub(crate) const BLOCK: u64 = 512;

/// Memory of an entry and of an attribute beside their bytes: nodes of maps, vectors.
const ENTRY_BYTES: usize = 320;
const ATTRIBUTE_BYTES: usize = 64;

/// Extended attributes: name and value.
pub(crate) type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// An entry of an archive.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: EntryKind,
    /// Permission bits, with those of set-user-ID and the like.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since the Unix epoch, and nanoseconds.
    pub(crate) modified: (i64, u32),
    pub(crate) attributes: Attributes,
}

impl Entry {
    /// Returns roughly the memory that it takes in a tree.
    pub(crate) fn memory(&self) -> u64 {
        let attributes = self.attributes.iter();
        let attributes = attributes.map(|(name, value)| ATTRIBUTE_BYTES + name.len() + value.len());
        let kind = match &self.kind {
            EntryKind::File(data) => data.extents.len() * size_of::<Range<u64>>(),
            EntryKind::Symlink(target) => target.len(),
            _ => 0,
        };
        let bytes = ENTRY_BYTES + self.path.len() + attributes.sum::<usize>() + kind;
        bytes as u64
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File(Data),
    Directory,
    /// Path of another entry of the same archive or one below it.
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    /// Major and minor number.
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// Place of a file's data in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Data {
    /// Offset of the first byte of the archive, unpacked.
    pub(crate) offset: u64,
    /// Bytes of the file, with its holes.
    pub(crate) length: u64,
    /// Ranges of the file that are in the archive, one behind the other.
    pub(crate) extents: Vec<Range<u64>>,
}

impl Data {
    /// Returns the number of bytes in the archive.
    pub(crate) fn stored(&self) -> u64 {
        self.extents
            .iter()
            .map(|extent| extent.end - extent.start)
            .sum()
    }
}

/// Where an archive comes from.
pub(crate) trait Source: Read {
    /// Skips bytes, and returns how many there were before the end.
    fn skip(&mut self, bytes: u64) -> io::Result<u64>;
}

/// Reader of an archive.
#[derive(Debug)]
pub(crate) struct TarStream<R> {
    source: R,
    /// Bytes read so far.
    position: u64,
    /// Bytes of the current entry that were not read, with padding.
    rest: u64,
    /// Bytes of `rest` that only fill the last block.
    padding: u64,
    global: Arc<Pax>,
    is_ended: bool,
}

impl<R: Source> TarStream<R> {
    pub(crate) fn new(source: R) -> Self {
        Self {
            source,
            position: 0,
            rest: 0,
            padding: 0,
            global: Arc::default(),
            is_ended: false,
        }
    }

    pub(crate) fn get_mut(&mut self) -> &mut R {
        &mut self.source
    }

    pub(crate) fn into_source(self) -> R {
        self.source
    }

    /// Returns true if the blocks of zeroes were there that end an archive.
    pub(crate) fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Returns the next entry; `None` at the end.
    ///
    /// # Errors
    /// When the archive is broken.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>> {
        self.skip_rest()?;
        let mut local = Pax::default();
        let mut long_name = None;
        let mut long_link = None;
        let mut extra: u64 = 0;
        loop {
            let Some(header) = self.read_header()? else {
                return Ok(None);
            };
            let kind = header.entry_type();
            let is_extension = matches!(
                kind,
                EntryType::XHeader
                    | EntryType::XGlobalHeader
                    | EntryType::GNULongName
                    | EntryType::GNULongLink
            );
            if !is_extension {
                // The label of a volume of GNU tar.
                if kind.as_byte() == b'V' {
                    self.expect_data(header.entry_size()?);
                    self.skip_rest()?;
                    continue;
                }
                let pax = local.over(Arc::clone(&self.global));
                return self
                    .finish_entry(&header, pax, long_name, long_link)
                    .map(Some);
            }
            let size = header.entry_size()?;
            extra = extra.saturating_add(size);
            if extra > MAX_PAX {
                return Err(limit(format!(
                    "an entry of the archive has more than {} KiB of extended header",
                    MAX_PAX >> 10
                )));
            }
            let content = self.read_extension(size)?;
            match kind {
                EntryType::XHeader => local = Pax::parse(&content)?,
                EntryType::XGlobalHeader => {
                    let global = Pax::parse(&content)?;
                    self.global = Arc::new(global.with_rest_of(&self.global));
                }
                EntryType::GNULongName => long_name = Some(until_zero(content)),
                _ => long_link = Some(until_zero(content)),
            }
        }
    }

    fn finish_entry(
        &mut self,
        header: &Header,
        pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry> {
        let path = pax
            .sparse_name()
            .or_else(|| pax.get("path"))
            .map(<[u8]>::to_vec);
        let path = path
            .or(long_name)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        if path.len() > MAX_PATH {
            return Err(limit(format!(
                "the path {} has more than {MAX_PATH} bytes",
                printable(&path)
            )));
        }
        let link = pax.get("linkpath").map(<[u8]>::to_vec).or(long_link);
        let link = link.or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
        let size = pax
            .number("size")?
            .map_or_else(|| header.entry_size(), Ok)?;
        let kind = self.kind_of(header, &pax, &path, link, size)?;
        let mode = u16::try_from(header.mode()? & 0o7777).unwrap_or_default();
        let id = |name, field: io::Result<u64>| -> Result<u32> {
            let number = pax.number(name)?.map_or(field, Ok)?;
            u32::try_from(number)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| {
                    invalid(format!(
                        "{} has the {name} {number}, which is none of Linux",
                        printable(&path)
                    ))
                })
        };
        let uid = id("uid", header.uid())?;
        let gid = id("gid", header.gid())?;
        let modified = match pax.time("mtime")? {
            Some(time) => time,
            // Negative in base 256, two's complement, of which the crate gives the lower bits.
            None => (header.mtime()?.cast_signed(), 0),
        };
        let attributes = pax
            .attributes()
            .map_err(|what| limit(format!("the file {} has {what}", printable(&path))))?;
        Ok(Entry {
            path,
            kind,
            mode,
            uid,
            gid,
            modified,
            attributes,
        })
    }

    fn kind_of(
        &mut self,
        header: &Header,
        pax: &Pax,
        path: &[u8],
        link: Option<Vec<u8>>,
        size: u64,
    ) -> Result<EntryKind> {
        let link =
            || link.ok_or_else(|| invalid(format!("the link {} has no target", printable(path))));
        let device = || -> Result<(u32, u32)> {
            let field = |name, field: io::Result<Option<u32>>| -> Result<u32> {
                let found = pax.number(name)?;
                let found = found.and_then(|number| u32::try_from(number).ok());
                Ok(found.map_or_else(|| field.map(Option::unwrap_or_default), Ok)?)
            };
            Ok((
                field("SCHILY.devmajor", header.device_major())?,
                field("SCHILY.devminor", header.device_minor())?,
            ))
        };
        // The others have no data, whatever their header says.
        match header.entry_type() {
            EntryType::Link => Ok(EntryKind::HardLink(link()?)),
            EntryType::Symlink => Ok(EntryKind::Symlink(link()?)),
            EntryType::Char => device().map(|(major, minor)| EntryKind::CharDevice(major, minor)),
            EntryType::Block => device().map(|(major, minor)| EntryKind::BlockDevice(major, minor)),
            EntryType::Fifo => Ok(EntryKind::Fifo),
            EntryType::Directory => Ok(EntryKind::Directory),
            // Old tar has no type for directories.
            EntryType::Regular if path.ends_with(b"/") => Ok(EntryKind::Directory),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.expect_data(size);
                self.read_data(header, pax, path, size).map(EntryKind::File)
            }
            other => Err(invalid(format!(
                "{} is an entry of the unknown type {}",
                printable(path),
                printable(&[other.as_byte()])
            ))),
        }
    }

    fn read_data(&mut self, header: &Header, pax: &Pax, path: &[u8], size: u64) -> Result<Data> {
        let (length, extents) = if header.entry_type() == EntryType::GNUSparse {
            sparse::read_gnu(self, header)?
        } else if let Some(map) = sparse::read_pax(self, pax)? {
            map
        } else {
            (size, std::iter::once(0..size).collect())
        };
        let data = Data {
            offset: self.position,
            length,
            extents,
        };
        let mut end = 0;
        for extent in &data.extents {
            if extent.start < end || extent.end < extent.start || extent.end > length {
                return Err(invalid(format!(
                    "the sparse file {} has stretches that overlap or lie outside",
                    printable(path)
                )));
            }
            end = extent.end;
        }
        // What comes before the data in the newest form of sparse files is counted as data.
        let stored = padded(data.stored());
        if stored != self.rest {
            return Err(invalid(format!(
                "the sparse file {} has other stretches than data",
                printable(path)
            )));
        }
        if length > MAX_FILE {
            return Err(limit(format!(
                "the file {} has more than 16 TiB",
                printable(path)
            )));
        }
        Ok(data)
    }

    /// Reads a block of the current entry.
    fn read_block(&mut self) -> Result<[u8; BLOCK as usize]> {
        let mut block = [0; BLOCK as usize];
        self.source.read_exact(&mut block)?;
        self.position += BLOCK;
        Ok(block)
    }

    /// Reads a block that counts as data of the current entry.
    fn read_data_block(&mut self) -> Result<[u8; BLOCK as usize]> {
        self.rest = self
            .rest
            .checked_sub(BLOCK)
            .ok_or_else(|| invalid("a sparse file has no list of its stretches"))?;
        self.read_block()
    }

    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        let length = padded(size);
        let read = self
            .source
            .by_ref()
            .take(length)
            .read_to_end(&mut content)?;
        self.position += read as u64;
        if read as u64 != length {
            return Err(truncated());
        }
        content.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        Ok(content)
    }

    /// Reads a header; `None` at the end.
    fn read_header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        let bytes = header.as_mut_bytes();
        let mut have = 0;
        while have < bytes.len() {
            match self.source.read(&mut bytes[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(truncated()),
                Ok(count) => have += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.position += BLOCK;
        if bytes.iter().all(|byte| *byte == 0) {
            self.is_ended = true;
            return Ok(None);
        }
        if is_header(header.as_bytes()) {
            return Ok(Some(header));
        }
        Err(invalid(format!(
            "the archive is broken at byte {}: there should be the header of a file",
            self.position - BLOCK
        )))
    }

    fn expect_data(&mut self, size: u64) {
        self.rest = padded(size);
        self.padding = self.rest.saturating_sub(size);
    }

    /// Skips what is left of the current entry. The last block of an archive may be short: umoci
    /// and Go's archive/tar leave the padding out where no end follows.
    fn skip_rest(&mut self) -> Result<()> {
        let rest = std::mem::take(&mut self.rest);
        let padding = std::mem::take(&mut self.padding).min(rest);
        let data = self.source.skip(rest - padding)?;
        let skipped = data + self.source.skip(padding)?;
        self.position += skipped;
        if data != rest - padding {
            return Err(truncated());
        }
        Ok(())
    }
}

fn truncated() -> crate::Error {
    invalid("the archive ends within a file: it was truncated; send it again")
}

fn padded(size: u64) -> u64 {
    size.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX)
}

fn until_zero(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// Returns true if a block has the checksum of a header. Old programs summed signed bytes.
pub(crate) fn is_header(block: &[u8; BLOCK as usize]) -> bool {
    let mut header = Header::new_old();
    header.as_mut_bytes().copy_from_slice(block);
    let field = 148..156;
    let bytes = block.iter().enumerate();
    let bytes = bytes.map(|(at, byte)| if field.contains(&at) { b' ' } else { *byte });
    let unsigned: u32 = bytes.clone().map(u32::from).sum();
    let signed: i64 = bytes.map(|byte| i64::from(byte.cast_signed())).sum();
    header
        .cksum()
        .is_ok_and(|sum| sum == unsigned || i64::from(sum) == signed)
}
