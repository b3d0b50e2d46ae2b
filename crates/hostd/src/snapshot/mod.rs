//! Saved state of sandboxes on disk.
//!
//! | what | where | lives until |
//! |---|---|---|
//! | snapshot ([`format`]) | a directory with a manifest | its maker removes it |
//! | saved state of a paused sandbox | `paused/` of the sandbox | it is resumed |
//! | [`checkpoint`] | `checkpoints/NAME` of the sandbox | it, or the sandbox, is removed; those of its [`history`] also for newer ones |
//! | [`template`] | `SNAPSHOTS/sn-…` | it is removed and no sandbox is made from it |
//! | entry of the [`preboot`] cache | `WARM/KEY` | other entries are used more |

pub mod checkpoint;
pub mod format;
pub mod history;
pub mod preboot;
pub mod template;
