//! Saved state of fake sandboxes: snapshots, which are templates, and checkpoints.

use connectrpc::ConnectError;
use host_rpc as rpc;
use host_rpc::TemplateKind;
use stdx::time::now_ms;

use super::lifecycle::alive;
use super::world::{Checkpoint, Content, Snapshot, World};

/// MiB of every disk.
const DISK_MB: u32 = 4096;
/// Bytes of everything that is saved, and those of them that nothing else has.
const SIZE: u64 = 1 << 20;
const EXCLUSIVE: u64 = 1 << 12;

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
        exclusive_bytes: EXCLUSIVE,
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

pub(super) fn import_image(
    world: &mut World,
    name: &str,
    bytes: usize,
) -> Result<rpc::Template, ConnectError> {
    if world.templates.iter().any(|known| known == name) || world.snapshots.contains_key(name) {
        return Err(ConnectError::already_exists(format!(
            "there is a template {name} already"
        )));
    }
    let template = rpc::Template {
        name: name.to_owned(),
        size_bytes: bytes as u64,
        exclusive_bytes: bytes as u64,
        created_at_ms: now_ms(),
        kind: TemplateKind::TEMPLATE_KIND_IMAGE.into(),
        digest: format!("sha256:{bytes:064x}"),
        format: "oci".to_owned(),
        ..Default::default()
    };
    let content = Content::default();
    let snapshot = Snapshot {
        template: template.clone(),
        content,
    };
    world.snapshots.insert(name.to_owned(), snapshot);
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
        exclusive_bytes: EXCLUSIVE,
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

/// Returns the space of things of [`SIZE`] each, of which [`EXCLUSIVE`] go with each.
fn space(count: usize) -> rpc::Space {
    rpc::Space {
        count: u32::try_from(count).unwrap_or(u32::MAX),
        sizes: Some(sizes(count)).into(),
        ..Default::default()
    }
}

fn sizes(count: usize) -> rpc::Sizes {
    rpc::Sizes {
        size_bytes: SIZE * count as u64,
        exclusive_bytes: EXCLUSIVE * count as u64,
        ..Default::default()
    }
}

pub(super) fn usage(
    world: &World,
    request: &rpc::GetDiskUsageRequest,
) -> rpc::GetDiskUsageResponse {
    let is_asked = |id: &String| request.whole_host || request.sandbox_ids.contains(id);
    let sandboxes = world.sandboxes.values();
    let sandboxes: Vec<_> = sandboxes.filter(|sandbox| is_asked(&sandbox.id)).collect();
    let is_paused =
        |sandbox: &super::world::Sandbox| sandbox.state == rpc::SandboxState::SANDBOX_STATE_PAUSED;
    let paused = sandboxes
        .iter()
        .filter(|sandbox| is_paused(sandbox))
        .count();
    let checkpoints = sandboxes
        .iter()
        .map(|sandbox| sandbox.checkpoints.len())
        .sum();
    let snapshots = world.snapshots.keys();
    let snapshots = snapshots
        .filter(|name| request.whole_host || request.snapshots.contains(name))
        .count();
    let of_host = |count: usize| request.whole_host.then(|| space(count)).into();
    let by_sandbox = sandboxes.iter().map(|sandbox| rpc::SandboxSpace {
        sandbox_id: sandbox.id.clone(),
        total: Some(sizes(1 + sandbox.checkpoints.len())).into(),
        own: Some(sizes(1)).into(),
        paused: Some(sizes(usize::from(is_paused(sandbox)))).into(),
        checkpoints: Some(space(sandbox.checkpoints.len())).into(),
        ..Default::default()
    });
    rpc::GetDiskUsageResponse {
        sandboxes: Some(space(sandboxes.len())).into(),
        paused: Some(space(paused)).into(),
        checkpoints: Some(space(checkpoints)).into(),
        snapshots: Some(space(snapshots)).into(),
        images: of_host(world.templates.len()),
        preboot: of_host(0),
        total: Some(sizes(sandboxes.len() + paused + checkpoints + snapshots)).into(),
        by_sandbox: by_sandbox.collect(),
        ..Default::default()
    }
}

pub(super) fn set_auto_checkpoint(
    world: &mut World,
    request: rpc::SetAutoCheckpointRequest,
) -> Result<(), ConnectError> {
    alive(world, &request.sandbox_id)?;
    world.sandbox(&request.sandbox_id)?.spec.auto_checkpoint = request.policy;
    Ok(())
}

/// Returns the policy of a sandbox, and its checkpoints that are called `auto-…`.
pub(super) fn history(world: &World, id: &str) -> Result<rpc::GetHistoryResponse, ConnectError> {
    let sandbox = alive(world, id)?;
    let checkpoints = sandbox.checkpoints.iter().rev();
    let steps = checkpoints
        .map(|checkpoint| checkpoint.about.clone())
        .filter(|about| about.name.starts_with("auto-"));
    Ok(rpc::GetHistoryResponse {
        policy: sandbox.spec.auto_checkpoint.clone(),
        steps: steps.collect(),
        ..Default::default()
    })
}

/// Saves the state before an undo. Returns where the undo goes, and the name of what was saved.
pub(super) fn begin_undo(
    world: &mut World,
    request: &rpc::UndoSandboxRequest,
) -> Result<(String, String), ConnectError> {
    let id = &request.sandbox_id;
    let to = if request.checkpoint.is_empty() {
        let steps = history(world, id)?.steps;
        let step = usize::try_from(request.steps)
            .unwrap_or_default()
            .checked_sub(1);
        let step = step.and_then(|step| steps.get(step));
        step.ok_or_else(|| ConnectError::not_found("the history does not go back so far"))?
            .name
            .clone()
    } else {
        find_checkpoint(world, id, &request.checkpoint)?.about.name
    };
    let count = alive(world, id)?.checkpoints.len();
    let saved = rpc::CreateCheckpointRequest {
        sandbox_id: id.clone(),
        name: format!("undo-{count}"),
        ..Default::default()
    };
    let saved = create_checkpoint(world, &saved)?;
    Ok((to, saved.name))
}
