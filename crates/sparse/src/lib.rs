//! Files with holes: a virtual disk of 40 GiB of which 2 GiB are written neither grows to 40 by
//! being copied, nor sends 40 over the wire.
//!
//! In a tar archive such a file is a GNU sparse entry (GNU tar's manual, "Old GNU Format"): the
//! header lists the extents that hold data, and only those follow. [`append`] writes an entry of an
//! archive with many, [`Entry`] reads the one entry of an archive of a single file without its
//! zeroes; the `tar` crate reads both, and gives the holes as zeroes. [`SparseWriter`] makes blocks
//! of zeroes holes again.

mod entry;
mod extents;
mod writer;

pub use entry::{Entry, append_file, header_for, modification_time, modified_time, read_rest};
pub use extents::data_extents;
pub use writer::{SparseWriter, copy_sparse};

/// Size of a block of ext4 and of most other file systems, bytes: they keep no smaller holes.
const HOLE: usize = 4096;

/// Archives count in blocks of this size, bytes.
const BLOCK: u64 = 512;

/// Maximum number of extents of one file. Readers hold their list in memory before the data, and
/// bound it; GNU tar needs 24 bytes for each.
const MAX_EXTENTS: usize = 16 * 1024;

/// Bytes that are copied at once.
const CHUNK: usize = 256 * 1024;
