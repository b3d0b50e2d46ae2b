//! Layout of the kernel's store of copy-on-write chunks (Linux `drivers/md/dm-snap-persistent.c`).
//!
//! ```text
//!   chunk 0   header: magic, valid, version, chunk size
//!   chunk 1   256 entries, each the number of a chunk of the disk and of the store
//!   …         256 chunks of data, then again a chunk of entries, and so on
//! ```
//!
//! The kernel fills it from the beginning, one chunk for each chunk of the disk that was ever
//! written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use linux::dm;

/// Bytes of a chunk.
pub(super) const CHUNK: u64 = dm::CHUNK_SECTORS * dm::SECTOR;
const ENTRY: usize = 16;
const ENTRIES: u64 = CHUNK / ENTRY as u64;
/// Chunks from one chunk of entries to the next.
const STRIDE: u64 = ENTRIES + 1;
const FIRST_ENTRIES: u64 = 1;
const MAGIC: u32 = 0x7041_6e53;
const VERSION: u32 = 1;

/// Returns the bytes of a store that cannot overflow, whatever is written to a disk of
/// `disk_bytes`: header, every chunk once, and the entries; one more area, since the kernel begins
/// the next one before it needs it.
pub(super) fn store_bytes(disk_bytes: u64) -> u64 {
    let areas = disk_bytes.div_ceil(CHUNK).div_ceil(ENTRIES) + 1;
    (FIRST_ENTRIES + areas * STRIDE) * CHUNK
}

/// Returns the numbers of the disk's chunks that are in the store, in no order. `None` if the store
/// has another format, or is marked invalid.
pub(super) fn written_chunks(store: &File) -> io::Result<Option<Vec<u64>>> {
    let mut header = [0; 16];
    store.read_exact_at(&mut header, 0)?;
    let word = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    if (word(0), word(4), word(8), u64::from(word(12))) != (MAGIC, 1, VERSION, dm::CHUNK_SECTORS) {
        return Ok(None);
    }
    let length = store.metadata()?.len();
    let mut chunks = Vec::new();
    let mut page = vec![0; usize::try_from(CHUNK).unwrap_or_default()];
    let mut at = FIRST_ENTRIES * CHUNK;
    while at + CHUNK <= length {
        store.read_exact_at(&mut page, at)?;
        for entry in page.chunks_exact(ENTRY) {
            let number = |part: &[u8]| {
                part.iter()
                    .rev()
                    .fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
            };
            let old = number(&entry[..8]);
            let new = number(&entry[8..]);
            // The chunk 0 of the store is the header: an entry that names it is the end.
            if new == 0 {
                return Ok(Some(chunks));
            }
            chunks.push(old);
        }
        at += STRIDE * CHUNK;
    }
    Ok(Some(chunks))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the kernel writes it.
    fn store(chunks: &[u64]) -> File {
        let file = tempfile::tempfile().unwrap();
        let header: Vec<u8> = [MAGIC, 1, VERSION, 8]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        file.write_all_at(&header, 0).unwrap();
        file.set_len(store_bytes(chunks.len() as u64 * CHUNK))
            .unwrap();
        let mut next_free = 2_u64;
        for (index, old) in (0_u64..).zip(chunks) {
            if (next_free - FIRST_ENTRIES).is_multiple_of(STRIDE) {
                next_free += 1;
            }
            let at =
                (FIRST_ENTRIES + index / ENTRIES * STRIDE) * CHUNK + index % ENTRIES * ENTRY as u64;
            file.write_all_at(&[old.to_le_bytes(), next_free.to_le_bytes()].concat(), at)
                .unwrap();
            next_free += 1;
        }
        // The kernel wants room for one more chunk than it has used.
        assert!((next_free + 1) * CHUNK <= file.metadata().unwrap().len());
        file
    }

    proptest! {
        #[test]
        fn what_the_kernel_wrote_is_read(chunks in prop::collection::vec(0_u64..1 << 40, 0..2000)) {
            prop_assert_eq!(written_chunks(&store(&chunks)).unwrap(), Some(chunks));
        }

        #[test]
        fn store_holds_every_chunk(disk in 0_u64..1 << 44) {
            let bytes = store_bytes(disk);
            prop_assert!(bytes > disk && bytes.is_multiple_of(CHUNK));
            prop_assert!(bytes - disk <= disk / 200 + 3 * STRIDE * CHUNK);
        }
    }

    #[test]
    fn file_without_store_is_refused() {
        let file = store(&[1, 2, 3]);
        file.write_all_at(&[0], 4).unwrap();
        assert_eq!(written_chunks(&file).unwrap(), None);
        assert!(written_chunks(&tempfile::tempfile().unwrap()).is_err());
    }
}
