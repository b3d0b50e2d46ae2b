//! Saved state of fake sandboxes: snapshots, which are templates, and checkpoints.

use connectrpc::ConnectError;
use host_rpc as rpc;
use host_rpc::TemplateKind;
use stdx::time::now_ms;

use super::lifecycle::alive;
use super::world::{Checkpoint, Content, Snapshot, World};

/// MiB of every disk.
const DISK_MB: u32 = 4096;
/// Bytes of everything that is saved.
const SIZE: u64 = 1 << 20;

/// Lists base images and snapshots.
pub(super) fn templates(world: &World) -> Vec<rpc::Template> {
    let base = |name: &String| rpc::Template {
        name: name.clone(),
        size_bytes: 1 << 30,
        created_at_ms: 1_767_225_600_000,
        kind: TemplateKind::TEMPLATE_KIND_BASE.into(),
        ..Default::default()
    };
    let snapshots = world
        .snapshots
        .values()
        .map(|snapshot| snapshot.template.clone());
    world.templates.iter().map(base).chain(snapshots).collect()
}

/// Returns the content with which a new sandbox begins.
pub(super) fn content_for(world: &World, spec: &rpc::SandboxSpec) -> Result<Content, ConnectError> {
    if world.templates.contains(&spec.template) {
        return Ok(Content::default());
    }
    let unknown = || ConnectError::not_found(format!("there is no template {}", spec.template));
    let Snapshot { template, content } = world.snapshots.get(&spec.template).ok_or_else(unknown)?;
    let is_memory = template.kind == TemplateKind::TEMPLATE_KIND_SNAPSHOT;
    if is_memory && (template.vcpus, template.memory_mb) != (spec.vcpus, spec.memory_mb) {
        return Err(ConnectError::invalid_argument(
            "the snapshot has other vCPUs or memory",
        ));
    }
    Ok(content.clone())
}

pub(super) fn create_snapshot(
    world: &mut World,
    request: rpc::CreateSnapshotRequest,
) -> Result<rpc::Template, ConnectError> {
    let rpc::CreateSnapshotRequest {
        sandbox_id,
        name,
        memory,
        overwrite,
        ..
    } = request;
    let source = alive(world, &sandbox_id)?.clone();
    if world.templates.contains(&name) || world.snapshots.contains_key(&name) && !overwrite {
        return Err(ConnectError::already_exists(format!(
            "there is a template {name} already"
        )));
    }
    check_unused(world, &name)?;
    let kind = if memory {
        TemplateKind::TEMPLATE_KIND_SNAPSHOT
    } else {
        TemplateKind::TEMPLATE_KIND_IMAGE
    };
    let template = rpc::Template {
        name: name.clone(),
        size_bytes: SIZE,
        created_at_ms: now_ms(),
        kind: kind.into(),
        vcpus: source.spec.vcpus,
        memory_mb: source.spec.memory_mb,
        disk_mb: source.spec.disk_mb.unwrap_or(DISK_MB),
        source_sandbox_id: sandbox_id,
        ..Default::default()
    };
    world.snapshots.insert(
        name,
        Snapshot {
            template: template.clone(),
            content: source.content,
        },
    );
    Ok(template)
}

pub(super) fn remove_snapshot(world: &mut World, name: &str) -> Result<(), ConnectError> {
    check_unused(world, name)?;
    world.snapshots.remove(name);
    Ok(())
}

fn check_unused(world: &World, name: &str) -> Result<(), ConnectError> {
    let users = world
        .sandboxes
        .values()
        .filter(|sandbox| sandbox.spec.template == name);
    let users: Vec<&str> = users.map(|sandbox| sandbox.id.as_str()).collect();
    if users.is_empty() {
        return Ok(());
    }
    Err(ConnectError::aborted(format!(
        "the snapshot {name} is in use by {}",
        users.join(", ")
    )))
}

pub(super) fn create_checkpoint(
    world: &mut World,
    request: &rpc::CreateCheckpointRequest,
) -> Result<rpc::Checkpoint, ConnectError> {
    alive(world, &request.sandbox_id)?;
    let sandbox = world.sandbox(&request.sandbox_id)?;
    if sandbox
        .checkpoints
        .iter()
        .any(|checkpoint| checkpoint.about.name == request.name)
    {
        return Err(ConnectError::already_exists(format!(
            "it has a checkpoint {} already",
            request.name
        )));
    }
    let name = request.name.clone();
    let about = rpc::Checkpoint {
        name,
        created_at_ms: now_ms(),
        size_bytes: SIZE,
        ..Default::default()
    };
    sandbox.checkpoints.push(Checkpoint {
        about: about.clone(),
        content: sandbox.content.clone(),
    });
    Ok(about)
}

pub(super) fn list_checkpoints(
    world: &World,
    id: &str,
) -> Result<Vec<rpc::Checkpoint>, ConnectError> {
    Ok(alive(world, id)?
        .checkpoints
        .iter()
        .map(|checkpoint| checkpoint.about.clone())
        .collect())
}

pub(super) fn remove_checkpoint(
    world: &mut World,
    request: &rpc::RemoveCheckpointRequest,
) -> Result<(), ConnectError> {
    let sandbox = world.sandbox(&request.sandbox_id)?;
    sandbox
        .checkpoints
        .retain(|checkpoint| checkpoint.about.name != request.name);
    Ok(())
}

pub(super) fn find_checkpoint(
    world: &World,
    id: &str,
    name: &str,
) -> Result<Checkpoint, ConnectError> {
    let mut checkpoints = alive(world, id)?.checkpoints.iter();
    let found = checkpoints.find(|checkpoint| checkpoint.about.name == name);
    found
        .cloned()
        .ok_or_else(|| ConnectError::not_found(format!("it has no checkpoint {name}")))
}
