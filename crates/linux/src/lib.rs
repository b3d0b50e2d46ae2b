//! Handles on kernel objects of the host: processes and their jails, cgroups, network namespaces,
//! links, nftables, files, loop devices, the device mapper, and the memory of other processes.
//!
//! Synchronous, and the only crate on the host with `unsafe` code or that starts programs. Knows no
//! sandboxes: names come in as strings that the caller has built from validated ids. A handle is a
//! plain name or file descriptor; taking an object away is an explicit call that can fail, never a
//! `Drop`.

pub mod cgroup;
pub mod conntrack;
pub mod descriptors;
pub mod dm;
mod exec;
pub mod extents;
pub mod fifo;
pub mod file;
pub mod jail;
pub mod kvm;
pub mod limits;
pub mod link;
mod lock;
pub mod loopdev;
pub mod netns;
pub mod nflog;
pub mod nft;
pub mod overlay;
pub mod pages;
pub mod poll;
pub mod priority;
pub mod process;
pub mod program_file;
pub mod programs;
pub mod route;
pub mod sparse;
pub mod sysctl;
pub mod tap;
pub mod tc;
#[doc(hidden)]
pub mod trial;
pub mod tsc;
pub mod uffd;
pub mod untrusted_dir;
pub mod usage;
pub mod worker;
