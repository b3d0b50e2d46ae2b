//! The nouns that every part of Wrenn shares: ids, states and their allowed transitions, sandbox
//! specs and limits, error codes. No I/O, no async, no SQL, no HTTP.
//!
//! A value of one of these types is valid: it was checked where it came in
//! ([`FromStr`](std::str::FromStr), [`SandboxSpec::check`]), so code further in cannot meet an
//! empty id or a path in place of a name. An enumeration of these is declared once more, in the
//! protocol of host agents; REST and store spell it by its serde names.

mod attributes;
mod auto_checkpoint;
mod error;
mod event;
mod exec_limits;
mod id;
mod image_config;
mod kind;
mod label;
pub mod network;
pub mod shared_limit;
mod signal;
mod spec;
mod state;
mod supervised;
mod team;
mod webhook;

pub use attributes::{EndPolicy, SandboxAttributes};
pub use auto_checkpoint::AutoCheckpoint;
pub use error::{ErrorCode, InvalidValue};
pub use event::EventKind;
pub use exec_limits::ExecLimits;
pub use id::{API_KEY_HEX_LEN, ApiKey, CheckpointName, SandboxId, SandboxName, TemplateName};
pub use image_config::{Healthcheck, ImageConfig};
pub use kind::{FileKind, InodeKind, LogSource, TemplateKind};
pub use label::{LabelFilter, Labels};
pub use network::{NetworkSpec, Target};
pub use shared_limit::{LimitOrigin, SharedLimit};
pub use spec::{
    IdleChange, IdleSettings, Limits, MachineSize, OnTimeout, ResourceRequest, SandboxSpec,
    SandboxSpecBuilder,
};
pub use state::{Generation, SandboxState, StopReason};
pub use supervised::{RestartCondition, RestartPolicy, SupervisedCommand};
pub use team::{Resource, Scope, Scopes, TeamId};
pub use webhook::{DeliveryId, DeliveryState, WebhookId};
