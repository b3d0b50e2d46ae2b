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
pub const CHUNK: u64 = dm::CHUNK_SECTORS * dm::SECTOR;
const ENTRY: usize = 16;
/// Number of entries of a chunk of them.
pub const ENTRIES: u64 = CHUNK / ENTRY as u64;
/// Chunks from one chunk of entries to the next.
pub const STRIDE: u64 = ENTRIES + 1;
/// Number of the first chunk of entries.
pub const FIRST_ENTRIES: u64 = 1;
const MAGIC: u32 = 0x7041_6e53;
const VERSION: u32 = 1;

/// A chunk that was written: its number on the disk, and in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredChunk {
    pub of_disk: u64,
    pub of_store: u64,
}

/// Returns the chunks of the disk that are in the store, in the order in which they were first
/// written. `None` if the store has another format, or is marked invalid.
///
/// # Errors
/// The file system's error.
pub fn read_chunks(store: &File) -> io::Result<Option<Vec<StoredChunk>>> {
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
            let of_disk = number(&entry[..8]);
            let of_store = number(&entry[8..]);
            // The chunk 0 of the store is the header: an entry that names it is the end.
            if of_store == 0 {
                return Ok(Some(chunks));
            }
            // The kernel wrote it, so it is in the file. Checked for what multiplies it.
            if of_store >= length / CHUNK {
                return Ok(None);
            }
            chunks.push(StoredChunk { of_disk, of_store });
        }
        at += STRIDE * CHUNK;
    }
    Ok(Some(chunks))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Writes a store of these chunks of the disk, as the kernel does.
    pub(crate) fn store(chunks: &[u64]) -> File {
        let file = tempfile::tempfile().unwrap();
        let header: Vec<u8> = [MAGIC, 1, VERSION, 8]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        file.write_all_at(&header, 0).unwrap();
        let areas = (chunks.len() as u64).div_ceil(ENTRIES) + 1;
        file.set_len((FIRST_ENTRIES + areas * STRIDE) * CHUNK)
            .unwrap();
        let mut next_free = 2_u64;
        for (index, of_disk) in (0_u64..).zip(chunks) {
            if (next_free - FIRST_ENTRIES).is_multiple_of(STRIDE) {
                next_free += 1;
            }
            let at =
                (FIRST_ENTRIES + index / ENTRIES * STRIDE) * CHUNK + index % ENTRIES * ENTRY as u64;
            let entry = [of_disk.to_le_bytes(), next_free.to_le_bytes()].concat();
            file.write_all_at(&entry, at).unwrap();
            next_free += 1;
        }
        // The kernel wants room for one more chunk than it has used.
        assert!((next_free + 1) * CHUNK <= file.metadata().unwrap().len());
        file
    }

    proptest! {
        #[test]
        fn what_the_kernel_wrote_is_read(chunks in prop::collection::vec(0_u64..1 << 40, 0..2000)) {
            let read = read_chunks(&store(&chunks)).unwrap().unwrap();
            let of_disk: Vec<u64> = read.iter().map(|chunk| chunk.of_disk).collect();
            prop_assert_eq!(of_disk, chunks);
            let is_data = |chunk: &StoredChunk| {
                chunk.of_store > 1 && !(chunk.of_store - FIRST_ENTRIES).is_multiple_of(STRIDE)
            };
            prop_assert!(read.iter().all(is_data));
        }
    }

    #[test]
    fn file_without_store_is_refused() {
        let file = store(&[1, 2, 3]);
        file.write_all_at(&[0], 4).unwrap();
        assert_eq!(read_chunks(&file).unwrap(), None);
        assert!(read_chunks(&tempfile::tempfile().unwrap()).is_err());
    }
}
