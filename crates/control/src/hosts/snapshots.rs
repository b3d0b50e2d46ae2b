//! Calls about templates, snapshots and checkpoints.

use host_rpc as rpc;
use model::{CheckpointName, InvalidValue, SandboxId, TemplateName};

use super::Host;
use super::calls::{ASK_TIMEOUT, FILES_TIMEOUT, SAVE_TIMEOUT, unary};
use crate::error::{Error, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TemplateKind {
    /// Installed on the host as a root file system; sandboxes boot from it.
    Base,
    /// Disk of a sandbox; sandboxes boot from it.
    Image,
    /// Disk and memory of a sandbox; sandboxes go on from there, with its sizes.
    Snapshot,
}

/// Template on a host, from which sandboxes can be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pub name: TemplateName,
    pub kind: TemplateKind,
    /// Bytes allocated on the host.
    pub size_bytes: u64,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
    /// Sizes of a [`TemplateKind::Snapshot`]; 0 otherwise. MiB.
    pub vcpus: u32,
    pub memory_mb: u32,
    pub disk_mb: u32,
    pub source_sandbox_id: Option<String>,
}

/// A saved state that belongs to a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    pub name: String,
    /// Bytes allocated on the host.
    pub size_bytes: u64,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
}

impl Template {
    /// Returns true if it was made of a sandbox, and so belongs to a team.
    #[must_use]
    pub fn is_snapshot(&self) -> bool {
        self.kind != TemplateKind::Base
    }
}

impl TryFrom<rpc::Template> for Template {
    type Error = InvalidValue;

    fn try_from(template: rpc::Template) -> std::result::Result<Self, InvalidValue> {
        use rpc::TemplateKind as Message;
        let kind = match template.kind.as_known() {
            Some(Message::TEMPLATE_KIND_SNAPSHOT) => TemplateKind::Snapshot,
            Some(Message::TEMPLATE_KIND_IMAGE) => TemplateKind::Image,
            Some(Message::TEMPLATE_KIND_BASE | Message::TEMPLATE_KIND_UNSPECIFIED) | None => {
                TemplateKind::Base
            }
        };
        Ok(Self {
            name: template.name.parse()?,
            kind,
            size_bytes: template.size_bytes,
            created_at: template.created_at_ms,
            vcpus: template.vcpus,
            memory_mb: template.memory_mb,
            disk_mb: template.disk_mb,
            source_sandbox_id: Some(template.source_sandbox_id).filter(|id| !id.is_empty()),
        })
    }
}

impl From<rpc::Checkpoint> for Checkpoint {
    fn from(checkpoint: rpc::Checkpoint) -> Self {
        Self {
            name: checkpoint.name,
            size_bytes: checkpoint.size_bytes,
            created_at: checkpoint.created_at_ms,
        }
    }
}

impl Host {
    /// Lists the templates of the host, without those whose names are invalid.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn list_templates(&self) -> Result<Vec<Template>> {
        let request = rpc::ListTemplatesRequest::default();
        let listed = unary!(self, list_templates_with_options(request), ASK_TIMEOUT)?;
        let templates = listed.templates.into_iter();
        Ok(templates
            .filter_map(|template| Template::try_from(template).ok())
            .collect())
    }

    /// Creates a snapshot of a sandbox as a template, with the guest's memory if `memory` is set.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn create_snapshot(
        &self,
        id: &SandboxId,
        name: &TemplateName,
        memory: bool,
        overwrite: bool,
    ) -> Result<Template> {
        let request = rpc::CreateSnapshotRequest {
            sandbox_id: id.to_string(),
            name: name.to_string(),
            memory,
            overwrite,
            ..Default::default()
        };
        self.forget_inventory();
        let answer = unary!(self, create_snapshot_with_options(request), SAVE_TIMEOUT);
        self.forget_inventory();
        let answer = answer?;
        let template = answer.template.into_option().unwrap_or_default();
        Template::try_from(template).map_err(|cause| {
            let text = "the host agent's answer makes no sense";
            Error::new(model::ErrorCode::AgentError, text).because(cause)
        })
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// `Conflict` while sandboxes use it; the host's.
    pub async fn remove_snapshot(&self, name: &TemplateName) -> Result<()> {
        let request = rpc::RemoveSnapshotRequest {
            name: name.to_string(),
            ..Default::default()
        };
        self.forget_inventory();
        let answer = unary!(self, remove_snapshot_with_options(request), FILES_TIMEOUT);
        self.forget_inventory();
        answer.map(drop)
    }

    /// Creates a checkpoint of a sandbox.
    ///
    /// # Errors
    /// `Conflict` when the sandbox has one of that name; the host's.
    pub async fn create_checkpoint(
        &self,
        id: &SandboxId,
        name: &CheckpointName,
    ) -> Result<Checkpoint> {
        let request = rpc::CreateCheckpointRequest {
            sandbox_id: id.to_string(),
            name: name.to_string(),
            ..Default::default()
        };
        let answer = unary!(self, create_checkpoint_with_options(request), SAVE_TIMEOUT)?;
        Ok(answer.checkpoint.into_option().unwrap_or_default().into())
    }

    /// Lists the checkpoints of a sandbox, oldest first.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn list_checkpoints(&self, id: &SandboxId) -> Result<Vec<Checkpoint>> {
        let request = rpc::ListCheckpointsRequest {
            sandbox_id: id.to_string(),
            ..Default::default()
        };
        let answer = unary!(self, list_checkpoints_with_options(request), ASK_TIMEOUT)?;
        let checkpoints = answer.checkpoints.into_iter();
        Ok(checkpoints.map(Checkpoint::from).collect())
    }

    /// Removes a checkpoint of a sandbox.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn remove_checkpoint(&self, id: &SandboxId, name: &CheckpointName) -> Result<()> {
        let request = rpc::RemoveCheckpointRequest {
            sandbox_id: id.to_string(),
            name: name.to_string(),
            ..Default::default()
        };
        unary!(self, remove_checkpoint_with_options(request), FILES_TIMEOUT).map(drop)
    }
}
