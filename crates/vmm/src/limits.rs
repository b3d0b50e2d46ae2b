//! Bounds of one VMM, for diagnosis and documents. They are enforced where the constants are
//! defined.

/// Bytes by which a file may be longer than disk and memory together.
pub const FILE_SLACK_BYTES: u64 = crate::jail::FILE_SLACK;
/// Size of the directory in memory that a VMM writes to, bytes.
pub const RUN_DIR_BYTES: u64 = crate::run_dir::BYTES;
/// Number of files in that directory.
pub const RUN_DIR_FILES: u64 = crate::run_dir::INODES;
/// Maximum bytes of console output that are kept until they are read.
pub const CONSOLE_BYTES: usize = crate::console::LIMIT;
