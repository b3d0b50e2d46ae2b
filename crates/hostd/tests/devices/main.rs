//! Disks that the kernel's device mapper makes, for real. Needs root and a kernel that has it.

mod agents;
mod crowd;
mod full;
mod image;
mod kill;
mod world;
