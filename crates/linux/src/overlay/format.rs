//! The format qcow2, as far as overlays of ours use it (QEMU `docs/interop/qcow2.txt`): version 3,
//! clusters of 64 KiB, reference counts of 16 bits, no snapshots.
//!
//! ```text
//!   header, name of the base │ refcount table │ refcount block │ L1 table … │ L2 tables and data
//! ```
//! Each entry of an L1 table names an L2 table, and each entry of that a cluster of the disk.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::invalid;

const MAGIC: [u8; 4] = *b"QFI\xfb";
const VERSION: u64 = 3;
const CLUSTER_BITS: u64 = 16;
/// Bytes of a cluster.
pub const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Entries of an L2 table, which is a cluster.
const ENTRIES: u64 = CLUSTER / 8;
const HEADER_BYTES: u32 = 104;
/// Binary logarithm of the bits of a reference count: 16 bits.
const REFCOUNT_ORDER: u32 = 4;
/// The extension of the header that names the format of the base.
const BASE_FORMAT: u32 = 0xe279_2aca;
/// Maximum length of the base's name, bytes.
const MAX_NAME: usize = 1023;
/// Incompatible feature bit: the overlay was not closed properly.
const DIRTY: u64 = 1;

/// Bits of an entry: its cluster, reads as zeroes (L2), compressed (L2), and cluster with a
/// reference count of 1.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const ZERO: u64 = 1;
const COMPRESSED: u64 = 1 << 62;
const COPIED: u64 = 1 << 63;

/// Creates a copy-on-write overlay `overlay` of `bytes` over the raw image `base`, which may be
/// shorter.
///
/// # Errors
/// `InvalidInput` when the path of the base is too long for the format; `AlreadyExists`; the
/// file system's error.
pub fn create(base: &Path, overlay: &Path, bytes: u64) -> io::Result<()> {
    let name = base.as_os_str().as_bytes();
    if name.len() > MAX_NAME {
        let problem = format!("the path {} is too long for an overlay", base.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    let l1_entries = bytes.div_ceil(CLUSTER * ENTRIES);
    let clusters = 3 + (l1_entries * 8).div_ceil(CLUSTER);
    let file = File::create_new(overlay)?;
    file.set_len(clusters * CLUSTER)?;
    file.write_all_at(&header(name, bytes, l1_entries), 0)?;
    // The refcount table names one block, in which each cluster so far is used once.
    file.write_all_at(&(2 * CLUSTER).to_be_bytes(), CLUSTER)?;
    let counts: Vec<u8> = (0..clusters).flat_map(|_| 1_u16.to_be_bytes()).collect();
    file.write_all_at(&counts, 2 * CLUSTER)
}

fn header(name: &[u8], bytes: u64, l1_entries: u64) -> Vec<u8> {
    // Its end is followed by nothing but the end of the extensions.
    let extension: [&[u8]; 4] = [
        &BASE_FORMAT.to_be_bytes(),
        &3_u32.to_be_bytes(),
        b"raw\0\0\0\0\0",
        &[0; 8],
    ];
    let extension = extension.concat();
    let name_offset = u64::from(HEADER_BYTES) + extension.len() as u64;
    let name_length = u32::try_from(name.len()).unwrap_or_default();
    let l1_entries = u32::try_from(l1_entries).unwrap_or(u32::MAX);
    let fields: [&[u8]; 17] = [
        &MAGIC,
        &(VERSION as u32).to_be_bytes(),
        &name_offset.to_be_bytes(),
        &name_length.to_be_bytes(),
        &(CLUSTER_BITS as u32).to_be_bytes(),
        &bytes.to_be_bytes(),
        // No encryption.
        &0_u32.to_be_bytes(),
        &l1_entries.to_be_bytes(),
        &(3 * CLUSTER).to_be_bytes(),
        // The refcount table, of one cluster.
        &CLUSTER.to_be_bytes(),
        &1_u32.to_be_bytes(),
        // No snapshots, and no features of either of three kinds.
        &[0; 12],
        &[0; 24],
        &REFCOUNT_ORDER.to_be_bytes(),
        &HEADER_BYTES.to_be_bytes(),
        &extension,
        name,
    ];
    fields.concat()
}

/// Refuses what [`read_clusters`] does not read.
///
/// # Errors
/// `InvalidData` with the feature that it has.
pub(super) fn check(overlay: &File, size_bytes: u64) -> io::Result<()> {
    walk_clusters(overlay, size_bytes, &mut |_, _| {})
}

/// Returns the clusters of the disk that an overlay has, by number and in order: their offset in
/// the overlay, or `None` if they read as zeroes. Clusters that are missing are those of the base.
///
/// # Errors
/// `InvalidData` for an overlay of another size than the disk, and for everything that [`create`]
/// and QEMU with such an overlay do not produce: encryption, snapshots, bitmaps, data in another
/// file, compression, clusters that are named twice.
pub fn read_clusters(overlay: &File, size_bytes: u64) -> io::Result<Vec<(u64, Option<u64>)>> {
    let mut clusters = Vec::new();
    walk_clusters(overlay, size_bytes, &mut |number, offset| {
        clusters.push((number, offset));
    })?;
    Ok(clusters)
}

/// Calls `each` with the number of each cluster and its offset. Takes no more memory than a table.
fn walk_clusters(
    overlay: &File,
    size_bytes: u64,
    each: &mut dyn FnMut(u64, Option<u64>),
) -> io::Result<()> {
    let mut header = [0; HEADER_BYTES as usize];
    overlay.read_exact_at(&mut header, 0)?;
    let number = |range: std::ops::Range<usize>| {
        header[range]
            .iter()
            .fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    };
    if header[..4] != MAGIC || number(4..8) != VERSION {
        return Err(invalid("it is no overlay of ours"));
    }
    let size = number(24..32);
    if size != size_bytes {
        return Err(invalid(format!(
            "the overlay is of a disk of {size} bytes, and the sandbox's has {size_bytes}"
        )));
    }
    let l1_entries = number(36..40);
    let unexpected = [
        ("clusters of another size", number(20..24) != CLUSTER_BITS),
        ("encryption", number(32..36) != 0),
        ("snapshots", number(60..64) != 0),
        ("features that ours never has", number(72..80) & !DIRTY != 0),
        ("bitmaps", number(88..96) != 0),
        (
            "a table of another length",
            l1_entries != size_bytes.div_ceil(CLUSTER * ENTRIES),
        ),
    ];
    if let Some((what, _)) = unexpected.iter().find(|(_, found)| *found) {
        return Err(invalid(format!("the overlay has {what}")));
    }
    Walk::new(overlay)?.run(number(40..48), l1_entries, each)
}

/// Check of each entry of all tables.
struct Walk<'a> {
    overlay: &'a File,
    clusters: u64,
    /// Bitmap of the clusters of the file that an entry names.
    named: Vec<u64>,
}

impl<'a> Walk<'a> {
    fn new(overlay: &'a File) -> io::Result<Self> {
        let clusters = overlay.metadata()?.len().div_ceil(CLUSTER);
        let words = usize::try_from(clusters.div_ceil(64)).unwrap_or(usize::MAX);
        Ok(Self {
            overlay,
            clusters,
            named: vec![0; words],
        })
    }

    fn run(
        &mut self,
        l1_offset: u64,
        l1_entries: u64,
        each: &mut dyn FnMut(u64, Option<u64>),
    ) -> io::Result<()> {
        // Never more than a cluster in memory, however large the disk.
        for first in (0..l1_entries).step_by(ENTRIES as usize) {
            let count = (l1_entries - first).min(ENTRIES);
            let offset = l1_offset.checked_add(8 * first);
            let offset = offset.ok_or_else(|| invalid("the overlay has a table beyond its end"))?;
            for (table, entry) in (first..).zip(self.read(offset, count)?) {
                self.check_entry(entry, COPIED)?;
                if entry & OFFSET != 0 {
                    let entries = self.read(entry & OFFSET, ENTRIES)?;
                    for (number, entry) in (table * ENTRIES..).zip(entries) {
                        self.check_entry(entry, COPIED | ZERO)?;
                        let offset = entry & OFFSET;
                        if entry & ZERO != 0 {
                            each(number, None);
                        } else if offset != 0 {
                            each(number, Some(offset));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn read(&self, offset: u64, entries: u64) -> io::Result<Vec<u64>> {
        let mut bytes = vec![0; 8 * entries as usize];
        self.overlay.read_exact_at(&mut bytes, offset)?;
        Ok(bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|bytes| u64::from_be_bytes(*bytes))
            .collect())
    }

    fn check_entry(&mut self, entry: u64, flags: u64) -> io::Result<()> {
        if entry & COMPRESSED != 0 {
            return Err(invalid("the overlay has a compressed cluster"));
        }
        if entry & !(OFFSET | flags) != 0 {
            return Err(invalid("the overlay has reserved bits in a table"));
        }
        let offset = entry & OFFSET;
        if offset == 0 {
            return Ok(());
        }
        let cluster = offset / CLUSTER;
        if !offset.is_multiple_of(CLUSTER) {
            return Err(invalid("the overlay has a cluster at no border of one"));
        }
        if cluster >= self.clusters {
            return Err(invalid("the overlay has a cluster beyond its end"));
        }
        let word = (cluster / 64) as usize;
        let bit = 1 << (cluster % 64);
        if self.named[word] & bit != 0 {
            return Err(invalid("the overlay names a cluster twice"));
        }
        self.named[word] |= bit;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::programs;

    /// Of one, two and many entries of the first table.
    #[test]
    fn new_overlay_is_what_qemu_reads() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        let overlay = dir.path().join("overlay");
        fs::write(&base, vec![7; 1 << 20]).unwrap();
        for bytes in [2 << 20, (512 << 20) + 512, 8 << 40] {
            create(&base, &overlay, bytes).unwrap();
            assert!(create(&base, &overlay, bytes).is_err(), "it is there");
            let image = overlay.to_string_lossy();
            for args in [
                ["check", "-q", &image].as_slice(),
                &["info", "--backing-chain", &image],
            ] {
                let program = programs::find("qemu-img").unwrap();
                let output = programs::command(&program).args(args).output().unwrap();
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(output.status.success(), "{args:?}: {output:?}");
                if args[0] == "info" {
                    assert!(text.contains(&format!("({bytes} bytes)")), "{text}");
                    assert!(text.contains("backing file format: raw"), "{text}");
                    assert!(text.contains(&*base.to_string_lossy()), "{text}");
                }
            }
            check(&File::open(&overlay).unwrap(), bytes).unwrap();
            fs::remove_file(&overlay).unwrap();
        }
        let long = dir.path().join("x".repeat(MAX_NAME));
        assert!(create(&long, &overlay, 1 << 20).is_err());
    }
}
