//! Errors that keep an agent from starting.

use std::io;
use std::path::PathBuf;

use tokio::task::JoinError;

use crate::egress::dns::UpstreamError;
use crate::operation::OperationError;
use crate::sandbox::ledger;
use crate::{boot, disk, images, network, token};

/// Reason why an agent cannot start. [`chain`](stdx::error::chain) makes the text for the user, with
/// a fix.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("VMs, disks and networks need root; start this again with sudo")]
    NotRoot,
    #[error(transparent)]
    Dir(#[from] token::Error),
    #[error("cannot raise the limit of open files")]
    OpenFiles(#[source] io::Error),
    #[error("cannot lock {path}")]
    Lock { path: PathBuf, source: io::Error },
    #[error("another host agent works in {0}; stop it, or set WRENN_DIR")]
    DirInUse(PathBuf),
    #[error("cannot use {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Engine(#[from] vmm::engine::Error),
    #[error(transparent)]
    Boot(#[from] boot::Error),
    #[error(transparent)]
    Images(#[from] images::Error),
    #[error(transparent)]
    Disk(#[from] disk::Error),
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    #[error(transparent)]
    Network(#[from] network::Error),
    #[error("cannot make control groups for sandboxes")]
    Jail(#[source] io::Error),
    #[error(transparent)]
    NameServers(#[from] UpstreamError),
    #[error("cannot take over the sandboxes of an earlier run")]
    TakeOver(#[source] OperationError),
    #[error("a step of the start failed")]
    Task(#[from] JoinError),
}
