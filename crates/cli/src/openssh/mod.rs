//! SSH of this machine to sandboxes: host key, configuration of ssh, starting ssh.
//!
//! On disk, in a directory of the user's own ([`state::ssh_dir`]), each file written under another
//! name and renamed:
//!
//! - `host_key`: made once, mode 0600, and never replaced. A process that dies before it has its
//!   name leaves none; the next one makes another.
//! - `known_hosts`: its public half, written again whenever it says something else.
//! - `config`: by `wrenn ssh-config --install`, before the user's configuration includes it; taken
//!   out after that does not any more.
//!
//! The user's configuration is read, changed by whole lines of ours at its beginning, and replaced
//! with owner and mode kept; dying anywhere leaves the old one or the new one. The keys and known
//! hosts of the user are not touched.

pub mod config;
pub mod include;
pub mod start;
pub mod state;
