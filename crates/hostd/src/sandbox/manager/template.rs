//! Creates templates from sandboxes, and removes them.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{SandboxId, TemplateName};
use stdx::error::chain;
use tokio_util::sync::CancellationToken;

use super::Manager;
use crate::config::limits;
use crate::disk::{self, Disks};
use crate::images::Images;
use crate::operation::OperationKind;
use crate::sandbox::capture::remove_snapshot;
use crate::sandbox::command::{Command, SnapshotParts};
use crate::sandbox::error::SandboxError;
use crate::sandbox::handle::Handle;
use crate::snapshot::format::{MEMORY, Snapshot};
use crate::snapshot::template::{NewTemplate, Template, TemplateId, Templates};

impl Manager {
    /// Creates a template from a snapshot of a sandbox, which goes on as it was.
    ///
    /// # Errors
    /// [`SandboxError::NameTaken`]; [`SandboxError::TooMany`]; the step that failed.
    pub async fn create_template(
        self: &Arc<Self>,
        id: &SandboxId,
        name: &TemplateName,
        memory: bool,
        overwrite: bool,
    ) -> Result<Template, SandboxError> {
        let source = self.find_sandbox(id).await?;
        self.check_name_is_free(name, overwrite).await?;
        self.check_template_limit(id).await?;
        let staging = self.host.templates.staging_dir();
        let command = Command::Snapshot {
            dir: staging.clone(),
            parts: match memory {
                true => SnapshotParts::MemoryAndDisk,
                false => SnapshotParts::TrimmedDisk,
            },
        };
        let published = match source.send_command(command).await {
            Ok(()) => {
                fail::fail_point!("template::captured");
                // Read after the capture: a command that is in it has raised the limit before.
                let keep_alive = source.record.borrow().keep_alive;
                let new = NewTemplate {
                    name: name.clone(),
                    source: id.clone(),
                    has_memory: memory,
                    keep_alive,
                };
                self.publish_template(&staging, new, overwrite).await
            }
            Err(error) => Err(error),
        };
        if published.is_err() {
            remove_snapshot(&staging).await;
        }
        self.remove_outdated_templates().await;
        published
    }

    async fn publish_template(
        self: &Arc<Self>,
        staging: &Path,
        new: NewTemplate,
        overwrite: bool,
    ) -> Result<Template, SandboxError> {
        let dir = staging.to_owned();
        let disks = Arc::clone(&self.host.resources.disk.disks);
        let flatten = move || flatten_disk(&disks, &dir);
        OperationKind::Disk.run_blocking(flatten).await?;
        if new.has_memory {
            let memory = staging.join(MEMORY);
            let store = self.host.resources.vm.engine.driver.snapshot_store();
            let merge = move || store.merge(&memory, &CancellationToken::new());
            OperationKind::Snapshot.run_blocking(merge).await?;
        }
        fail::fail_point!("template::flat");
        let _names = self.template_names.lock().await;
        self.check_name_is_free(&new.name, overwrite).await?;
        let dir = staging.to_owned();
        let templates = Arc::clone(&self.host.templates);
        let publish = move || templates.publish_template(&dir, new);
        let published = OperationKind::Snapshot.run_blocking(publish).await?;
        Ok(published)
    }

    pub(super) async fn check_name_is_free(
        &self,
        name: &TemplateName,
        overwrite: bool,
    ) -> Result<(), SandboxError> {
        let images = self.host.images.clone();
        let templates = Arc::clone(&self.host.templates);
        let name = name.clone();
        let check = move || check_name(&images, &templates, &name, overwrite);
        tokio::task::spawn_blocking(check).await?
    }

    async fn check_template_limit(&self, source: &SandboxId) -> Result<(), SandboxError> {
        let most = self.host.limits.snapshots;
        let source = source.clone();
        let templates = Arc::clone(&self.host.templates);
        let count = move || Ok::<_, Infallible>(templates.count_made_from(&source));
        let count = OperationKind::Snapshot.run_blocking(count).await?;
        if count < most {
            return Ok(());
        }
        Err(SandboxError::TooMany {
            what: "snapshots",
            count,
            most,
            setting: limits::SNAPSHOTS,
        })
    }

    /// Removes the template of that name, and those whose name it had taken. Idempotent.
    ///
    /// # Errors
    /// [`SandboxError::TemplateInUse`] names the sandboxes that were created from it.
    pub async fn remove_template(&self, name: &TemplateName) -> Result<(), SandboxError> {
        loop {
            let retired = {
                let _names = self.template_names.lock().await;
                let wanted = name.clone();
                let templates = Arc::clone(&self.host.templates);
                let find = move || Ok::<_, Infallible>(templates.find_template(&wanted));
                let found = OperationKind::Snapshot.run_blocking(find).await?;
                let Some(template) = found else { return Ok(()) };
                self.retire_template(template).await?
            };
            remove_snapshot(&retired).await;
        }
    }

    /// Takes a template's name away. Returns its directory, which is to be removed.
    ///
    /// # Errors
    /// [`SandboxError::TemplateInUse`]; what failed.
    async fn retire_template(&self, template: Template) -> Result<PathBuf, SandboxError> {
        let in_use = |users: Vec<SandboxId>| SandboxError::TemplateInUse {
            name: template.name.to_string(),
            users: users.iter().map(ToString::to_string).collect(),
        };
        // Marked before its users are looked up: see `snapshot/template/pins.rs`.
        let retiring = self.host.templates.begin_retiring(&template.id);
        let _retiring = retiring.map_err(in_use)?;
        let is_user =
            |handle: &Handle| handle.record.borrow().snapshot.as_ref() == Some(&template.id);
        let mut users = self.registry.handles();
        users.retain(is_user);
        if !users.is_empty() {
            return Err(in_use(users.into_iter().map(|user| user.id).collect()));
        }
        let templates = Arc::clone(&self.host.templates);
        let retire = move || templates.retire_template(&template);
        let dir = OperationKind::Snapshot.run_blocking(retire).await?;
        Ok(dir)
    }

    /// Removes templates that have lost their name and their last user.
    pub(super) async fn remove_outdated_templates(&self) {
        let names = self.template_names.lock().await;
        let handles = self.registry.handles();
        let used = handles
            .iter()
            .filter_map(|handle| handle.record.borrow().snapshot.clone());
        let used: BTreeSet<TemplateId> = used.collect();
        let templates = Arc::clone(&self.host.templates);
        let find = move || Ok::<_, Infallible>(templates.list_outdated(&used));
        let outdated = OperationKind::Snapshot.run_blocking(find).await;
        let mut retired = Vec::new();
        for template in outdated.unwrap_or_default() {
            match self.retire_template(template).await {
                Ok(dir) => retired.push(dir),
                // A sandbox has been created from it since the list was made.
                Err(SandboxError::TemplateInUse { .. }) => {}
                Err(error) => {
                    tracing::warn!(
                        error = chain(&error),
                        "cannot remove a snapshot whose name another one has"
                    );
                }
            }
        }
        drop(names);
        for dir in retired {
            remove_snapshot(&dir).await;
        }
    }
}

fn check_name(
    images: &Images,
    templates: &Templates,
    name: &TemplateName,
    overwrite: bool,
) -> Result<(), SandboxError> {
    let taken = |what, hint| {
        Err(SandboxError::NameTaken {
            what,
            name: name.to_string(),
            hint,
        })
    };
    if images.find_import(name)?.is_some() {
        return taken("image", ", or remove it first");
    }
    if images
        .list_images()?
        .iter()
        .any(|image| image.name == *name)
    {
        return taken("base image", "");
    }
    match templates.find_template(name) {
        Some(_) if !overwrite => taken("snapshot", ", or overwrite it"),
        _ => Ok(()),
    }
}

/// Makes one image of the disk in `dir`, and removes the rest of the disk there.
fn flatten_disk(disks: &Disks, dir: &Path) -> Result<(), disk::Error> {
    let snapshot = Snapshot::read(dir).map_err(disk::Error::snapshot(dir))?;
    let size_bytes = snapshot.disk.size_bytes;
    // Name of the disk's device, if it needs one. No sandbox has this id, so the next start removes
    // the device if this is interrupted.
    let id = SandboxId::random();
    disks.restore_disk(&id, dir, size_bytes)?;
    let image = Templates::image_in(dir);
    let flattened = disks.write_flat_image(&id, dir, size_bytes, &image);
    disks.remove(&id, dir)?;
    flattened
}
