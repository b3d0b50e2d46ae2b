//! OCI images, archives of Docker, and root file systems in other forms, made into ext4 file
//! systems that sandboxes boot from. Everything in here meets hostile bytes.
//!
//! # How an image becomes a file system
//!
//! ```text
//!   agent (root)                          unpacker: this crate, in a jail, one process an image
//!    receives the archive into a file
//!    starts the unpacker on the archive   → finds out what it is, verifies digests,
//!                                          merges the layers in memory (`tree`)
//!    mke2fs, with these sizes            ← plan: digest, configuration, blocks, inodes
//!    "go", with the new file             → writes data, directories, inodes (`ext4`)
//!                                          fsync
//!    rename                              ← done
//! ```
//! The unpacker has a user of its own, no file system, no network, and only the system calls of
//! reading and writing the files that it was given ([`mod@serve`]). No path of an image is ever one
//! of the host, so there is nothing to escape from: owners, modes, devices and attributes are bytes
//! in a file. mke2fs sees sizes alone, and makes what is easy to get wrong: journal, room to grow,
//! tables.
//!
//! # Why not otherwise
//!
//! | way | reason |
//! |---|---|
//! | crate `arcbox-ext4`, which formats and unpacks | names are text, and others are changed; devices, attributes, nanoseconds and holes are lost; no journal, no checksums; finding a name takes time by the size of its directory |
//! | a directory in a user namespace, then `mke2fs -d` | such namespaces have no devices, no `trusted.` attributes and not all users; every file of an attacker is one of the host for a while; each byte is written twice |
//! | crate `ocirender`, which merges layers into one tar | mke2fs reads no tar before 1.47.1, so it would only move the problem; its layers are read from files by name |
//! | a guest that unpacks | seconds and a gigabyte for each image, and many times slower where guests are emulated |
//!
//! Crates read what is foreign: `tar` (headers), `flate2`, `ruzstd`, `liblzma`, `oci-spec`.

mod archive;
mod counted;
mod decompress;
mod digest;
mod error;
mod ext4;
mod image;
pub mod limits;
pub mod process;
pub mod remote;
pub mod serve;
mod syscalls;
mod tar_stream;
mod tree;
mod unpack;

pub use digest::Digest;
pub use error::Error;
pub use ext4::Need;
pub use limits::{Budget, Limits};
pub use serve::{Message, Task, serve_if_asked};
pub use unpack::{Format, Plan, PlannedResult, Unpacking};
