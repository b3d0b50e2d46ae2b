//! Sandboxes as tools of a language model, by the Model Context Protocol
//! (<https://modelcontextprotocol.io/specification/2026-07-28>).
//!
//! Two ways in, one set of tools: [`serve_stdio`] for a client that starts a program (`wrenn mcp`),
//! [`http_service`] for one that connects to the control plane (`/mcp`). Both call the REST API
//! with the key of the user, so that nothing is possible here that the key does not allow.
//!
//! # Sessions
//!
//! A session is one connection over standard input, or one HTTP session of a protocol before
//! 2026-07-28. It owns the sandboxes that its tools create:
//!
//! | sandbox | in this session | at the end of the session |
//! |---|---|---|
//! | created | may be left out as argument while it is the only one | deleted |
//! | kept (`keep_sandbox`, or `--keep`) | as before | stays |
//! | attached (`attach_sandbox`, or `--sandbox`) | as before | stays |
//! | any other | refused | stays |
//!
//! Who owns what is known to the session alone. A process that is killed deletes nothing; therefore
//! a sandbox that is not kept has an end of its own, [`session::LIFETIME`] after its creation, and
//! is paused in between as any idle sandbox is. Its label [`session::LABEL`] says what it is.
//!
//! HTTP of protocol 2026-07-28 has no sessions: each request stands for itself. There every tool
//! takes the sandbox by name or id, any that the key may reach, and sandboxes end as above.
//!
//! # Bounds
//!
//! What a model reads is bounded by [`text::MAX_TEXT`] an answer; an answer that is longer says how
//! to get the rest.

mod arguments;
mod commands;
mod failure;
mod file_text;
mod files;
mod resources;
mod sandboxes;
mod server;
pub mod session;
mod states;
pub mod text;
mod transport;
mod whole_file;

pub use server::SandboxServer;
pub use session::{Caller, Options, Session};
pub use transport::{HttpService, IDLE, http_service, serve_stdio};
