//! What each sandbox and the host use, now and lately: processor, memory, disk and network.
//!
//! One task reads the counters of all running sandboxes once a second ([`sampler`]), and a thread what
//! their disks take ([`disk_reader`]), which may not answer; each sandbox
//! keeps a history of bounded size ([`history`]): a point for each second of the last ten minutes,
//! and one for each minute of the last day. It lives in memory alone: it outlives pauses, and begins
//! anew with each start of the agent. What has to be kept for longer belongs into a system made for
//! that (`docs/metrics.md`).
//!
//! | of | read from | who can forge it |
//! |---|---|---|
//! | processor | the VMM's control group, or where the host has none its process | – |
//! | memory | the same: what the sandbox takes of the host, page cache included | – |
//! | disk | allocated blocks of the sandbox's files | – |
//! | network | counters of its veth pair | – |
//! | used memory and disk of the guest | the guest agent | the guest, within the size of both |
//!
//! An idle sandbox costs one read of one file a second: without processor time nothing else of it
//! changes. A guest is asked only while it works anyway, so that measuring wakes none, and its
//! answer counts as no use. Paused sandboxes cost nothing.

mod disk_reader;
pub mod history;
mod meter;
pub(crate) mod sampler;

pub use history::{History, Point, Query, Series, Usage};
pub use meter::{HostStats, SandboxStats};
