//! The host agent: does what the control plane tells it to with the VMs, disks and networks of one machine,
//! remembers what it did, and reports.

pub mod boot;
pub mod disk;
pub mod images;
pub mod network;
