//! What REST clients see: requests, answers, errors and stream messages of the control plane.
//!
//! The only place with public field names. The server builds its OpenAPI document from these types
//! and the Rust SDK speaks them, so the three cannot drift apart.

mod auto_checkpoint;
mod command;
mod diff;
mod disk_usage;
mod error;
mod event;
mod exec;
mod file;
mod history;
mod image;
mod log;
mod metrics;
mod network;
mod port;
mod sandbox;
mod supervised;
mod template;
mod webhook;

pub use auto_checkpoint::AutoCheckpoint;
pub use command::{
    AttachServerMessage, BackgroundExec, Command, CommandList, CommandOutput, CommandSignal,
    CommandState, OutputStream, Process, ProcessList, StartCommand,
};
pub use diff::{DiffMessage, FileDiff, FilePatch, FileState, InodeKind};
pub use disk_usage::{DiskUsage, SandboxDiskUsage, Sizes, Space};
pub use error::{ErrorBody, ErrorDetail};
pub use event::{Event, EventActor};
pub use exec::{
    Encoding, ExecClientMessage, ExecRequest, ExecResult, ExecServerMessage, ProcessSignal,
    SignalRequest, TerminalSize,
};
pub use file::{
    ChmodRequest, ChownRequest, FileInfo, FileKind, ListFilesRequest, MoveFileRequest, PathRequest,
    SearchFilesRequest, SearchMessage, WatchServerMessage,
};
pub use history::{History, UndoSandbox, Undone};
pub use image::{
    PrunedImages, PullImage, PullMessage, PullPhase, RegistryCredentials, UnprunedImage,
};
pub use log::{LogEntry, LogSource};
pub use metrics::{
    GuestUsage, HostMetrics, MetricsPoint, ResourceSizes, SandboxMetrics, SandboxUsage,
};
pub use network::NetworkRules;
pub use port::{PortLink, PortLinkRequest};
pub use sandbox::{
    CreateSandbox, Disk, Health, IfExists, OnTimeout, Sandbox, SandboxCount, SandboxStatus,
    StopReason, UpdateSandbox,
};
pub use supervised::{RestartCondition, SupervisedCommand, Supervision};
pub use template::{
    Checkpoint, CreateCheckpoint, CreateSnapshot, ForkSandbox, Template, TemplateKind,
};
pub use webhook::{
    CreateWebhook, DeliveryStatus, Redelivered, RotateSecret, UpdateWebhook, Webhook,
    WebhookDelivery,
};
