//! Disks that the kernel's device mapper makes, for real, and those that share blocks in XFS and
//! Btrfs. Needs root and a kernel that has it all.

mod agents;
mod crowd;
mod full;
mod image;
mod kill;
mod limits;
mod reflink;
mod world;
