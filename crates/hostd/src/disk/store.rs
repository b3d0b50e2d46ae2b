//! Size and use of the kernel's store of copy-on-write chunks, whose layout [`disk_diff::store`] has.

use std::fs::File;
use std::io;

pub(super) use disk_diff::store::CHUNK;
use disk_diff::store::{ENTRIES, FIRST_ENTRIES, STRIDE, read_chunks};

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
    let chunks = read_chunks(store)?;
    Ok(chunks.map(|chunks| chunks.into_iter().map(|chunk| chunk.of_disk).collect()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn store_holds_every_chunk(disk in 0_u64..1 << 44) {
            let bytes = store_bytes(disk);
            prop_assert!(bytes > disk && bytes.is_multiple_of(CHUNK));
            prop_assert!(bytes - disk <= disk / 200 + 3 * STRIDE * CHUNK);
        }
    }
}
