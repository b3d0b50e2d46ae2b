//! The Rust SDK: sandboxes over REST, running programs over a WebSocket.
//!
//! A [`Client`] holds an address, a key and a pool of connections; it is cheap to clone and keeps
//! no other state. Everything that can be large (files, archives, output, logs) is a stream with
//! bounded memory in both directions: a slow reader slows the sender down. Nothing is retried: a
//! create that was not answered may have happened, and only the caller knows whether a second
//! sandbox would hurt.
//!
//! ```no_run
//! # async fn example() -> Result<(), client::Error> {
//! let client = client::Client::new("http://127.0.0.1:8000", "wrn_…")?;
//! let sandbox = client.create(&client::types::CreateSandbox::default()).await?;
//! let exec = client::types::ExecRequest { cmd: "uname".into(), ..Default::default() };
//! println!("{}", client.exec(&sandbox.id, &exec).await?.stdout);
//! client.delete(&sandbox.id).await?;
//! # Ok(()) }
//! ```

mod commands;
mod connection;
mod diff;
mod disk_usage;
mod error;
mod events;
mod exec_stream;
mod file_watch;
mod files;
mod image_pulls;
mod images;
mod lifecycle;
mod lines;
mod logs;
mod metrics;
mod ports;
mod sandboxes;
mod undo;
mod uploads;
mod webhooks;

/// Requests and answers, as they stand on the wire.
pub use api_types as types;

/// Text form of bytes that are not UTF-8 in paths, arguments and variables.
pub use guest_rpc::{archive, bytes};

pub use commands::{AttachEvent, AttachFrom, AttachOutput};
pub use connection::Client;
pub use diff::{DiffQuery, SandboxDiff};
pub use error::{Error, Result};
pub use events::{EventQuery, EventStream};
pub use exec_stream::{ExecEvent, ExecInput, ExecOutput, ExecStart};
pub use file_watch::{FileSearch, FileWatch};
pub use files::{ByteStream, FileTarget};
pub use image_pulls::ImagePull;
pub use lines::JsonLines;
pub use logs::LogStream;
pub use metrics::MetricsQuery;
pub use ports::PortConnection;
pub use sandboxes::{ListQuery, Page, SandboxFilter};
pub use uploads::{UploadId, UploadTarget};
pub use webhooks::DeliveryQuery;
