//! Background commands: processes that belong to the guest and not to a client, with a name, whose
//! output is kept and can be read again from any offset.
//!
//! ```text
//! start ──► running ──► ended ──► forgotten
//!              │          └ an hour later, or when newer ones need the room ([`table`])
//!              └ a task reads its output into its log ([`log`]), with readers and without
//! ```
//!
//! The start command ([`supervisor`]) has one entry and one log over all of its runs, and ends once
//! its policy starts it no more ([`restart`]).
//!
//! Owner of a command is its entry in the [`Commands`] table; the process itself is one of
//! [`super::table`] like any other, which E2B's service lists, too. Its log is the listener that
//! takes output at the speed of the disk; readers read the log and never delay the process. A
//! reader that is overtaken is told how many bytes it missed ([`ring`]).
//!
//! On disk is the output alone, in files without a name. The table is in memory: a pause, a fork or
//! a snapshot saves both. If the agent dies, the guest ends with it, and the next boot of its disk
//! finds neither commands nor files.

mod log;
mod reader;
mod restart;
mod ring;
mod service;
mod supervision;
mod supervisor;
mod table;

pub use service::service;
pub use table::Commands;
