//! Images from archives that the tests make, unpacked into real file systems, which e2fsck and
//! debugfs read back.

mod archives;
mod hostile;
mod trees;
mod umoci;
mod world;
