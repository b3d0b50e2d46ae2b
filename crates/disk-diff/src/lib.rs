//! Differences between the files of two disks of one sandbox, read from the file systems on them.
//!
//! The guest does not run for it, and the host's kernel mounts nothing: a file system that a guest
//! has written is as hostile as the guest, and the kernel's own reader is not made for that. So it
//! is read by a process of its own, which ends with the comparison:
//!
//! ```text
//!  agent                                       reader
//!   opens the files of both disks
//!   starts it in a jail, hands over      →     task, files
//!                                        ←     started
//!                                        ←     changes, in the order of their paths
//!   reads, with a deadline               ←     end: what is missing, and why
//!   kills it if that passes
//! ```
//! It is this program again ([`serve_if_asked`]), as a user that sees nothing but its libraries,
//! opens nothing, and may use so much memory and no more. A panic, a loop or all memory used up end
//! that comparison, with a reason, and nothing else. Nothing is on disk; if the agent dies, the
//! reader fails at its next message.
//!
//! | module | is |
//! |---|---|
//! | [`disk`] | bytes of a disk, from its files |
//! | [`ext4`] | files of a file system |
//! | [`compare`] | the walk over both, and contents |
//! | [`serve`], [`reader`] | both ends of the process |

pub mod compare;
pub mod disk;
pub mod ext4;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod reader;
mod serve;
pub mod store;
mod syscalls;
#[cfg(test)]
mod tests;

pub use serve::{ARGUMENT, Image, Message, Task, serve_if_asked};
