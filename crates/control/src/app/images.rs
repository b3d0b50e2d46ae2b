//! Images that teams import. They are templates on one host, as snapshots are; the store has only
//! which team a name belongs to, by the same claims ([`super::snapshots`]).
//!
//! The name is claimed when the archive begins to arrive, and locked for as long as the host has
//! it. If the archive breaks off, or is no image, the claim is released; if we die, it stays, and
//! the team can use the name again.

use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use model::{ErrorCode, EventKind, Resource, TemplateName};
use serde_json::json;

use super::App;
use super::image_uploads::with_idle_limit;
use super::snapshot_lock::SnapshotLock;
use super::templates::FoundTemplates;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{Host, Template};

impl App {
    /// Imports an image, and returns when it is safe on a host's disk.
    ///
    /// # Errors
    /// `InvalidRequest` with the reason if it is no image for the host; `Conflict` if the name is
    /// taken or in use by another request; `ResourceExhausted` with too many imports at once; the
    /// host's. There is no image then.
    pub async fn import_image<S>(
        &self,
        principal: &Principal,
        name: &TemplateName,
        archive: S,
    ) -> Result<Template>
    where
        S: Stream<Item = Result<Bytes>> + Send + 'static,
    {
        principal.require_write(Resource::Templates)?;
        let _place = self.image_uploads.reserve_place(&principal.team_id)?;
        let archive = with_idle_limit(archive);
        let host = self.image_host().await?;
        self.check_claimable(principal, name).await?;
        let lock = SnapshotLock::acquire(&self.store, name).await?;
        let imported = match self.claim_new(principal, &host, name).await {
            Ok(claim) => {
                let imported = host.import_image(name, archive).await;
                self.finish_claimed(principal, name, claim, lock, imported)
                    .await
            }
            Err(error) => {
                lock.release().await;
                Err(error)
            }
        };
        if let Ok(template) = &imported {
            tracing::info!(template = %name, digest = template.digest, "image imported");
            let data = json!({ "size_bytes": template.size_bytes, "digest": template.digest });
            let kind = EventKind::TemplateCreated;
            self.record_event(principal, kind, name.as_str(), None, data)
                .await;
        }
        imported
    }

    /// Returns the first host that answers.
    pub(super) async fn image_host(&self) -> Result<Arc<Host>> {
        let mut failed = Error::new(ErrorCode::HostUnavailable, "there is no host");
        for host in self.hosts.all() {
            match host.list_templates().await {
                Ok(_) => return Ok(Arc::clone(host)),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Returns an image: a base image, or one that the team has imported.
    ///
    /// # Errors
    /// `NotFound`, also for snapshots; `HostUnavailable` if only a host that does not answer may
    /// have it.
    pub async fn get_image(&self, principal: &Principal, name: &TemplateName) -> Result<Template> {
        principal.require_read(Resource::Templates)?;
        let mut found = self.find_images(principal, name).await?;
        match found.templates.pop() {
            Some((host, _)) => host.get_image(name).await,
            None => Err(found.missing(no_image(name))),
        }
    }

    /// Deletes an image that was imported. Sandboxes that were made from it keep their disks.
    ///
    /// # Errors
    /// `NotFound`, also for snapshots; `Forbidden` for base images; `Conflict` if another request is
    /// busy with the name, or the image is needed where it is; `HostUnavailable` if only a host
    /// that does not answer may have it.
    pub async fn delete_image(&self, principal: &Principal, name: &TemplateName) -> Result<()> {
        principal.require_write(Resource::Templates)?;
        self.find_imports(principal, name).await?;
        let lock = SnapshotLock::acquire(&self.store, name).await?;
        // The name may be another team's by now.
        match self.find_imports(principal, name).await {
            Ok(found) => self.delete_found(principal, name, found, lock).await?,
            Err(error) => {
                lock.release().await;
                return Err(error);
            }
        }
        tracing::info!(template = %name, "image removed");
        let kind = EventKind::TemplateDeleted;
        self.record_event(principal, kind, name.as_str(), None, json!({}))
            .await;
        Ok(())
    }

    async fn delete_found(
        &self,
        principal: &Principal,
        name: &TemplateName,
        found: FoundTemplates,
        lock: SnapshotLock,
    ) -> Result<()> {
        for (host, _) in &found.templates {
            if let Err(error) = host.remove_image(name).await {
                lock.release_after(&error).await;
                return Err(error);
            }
        }
        // A host that did not answer may have the image; its name stays claimed.
        if found.unreachable.is_none() {
            lock.release_claim(&principal.team_id).await;
        }
        lock.release().await;
        Ok(())
    }

    /// Returns the hosts that have an image which the team has imported, at least one.
    ///
    /// # Errors
    /// As [`App::delete_image`].
    async fn find_imports(
        &self,
        principal: &Principal,
        name: &TemplateName,
    ) -> Result<FoundTemplates> {
        let mut found = self.find_images(principal, name).await?;
        let is_base = !found.templates.is_empty();
        found.templates.retain(|(_, image)| image.is_import());
        if found.templates.is_empty() && is_base {
            let text = format!(
                "{name} is a base image, which is a file in the images directory of the host; its administrator removes it"
            );
            return Err(Error::new(ErrorCode::Forbidden, text));
        }
        if found.templates.is_empty() {
            return Err(found.missing(no_image(name)));
        }
        Ok(found)
    }

    /// Returns the hosts that have an image which the team sees.
    pub(super) async fn find_images(
        &self,
        principal: &Principal,
        name: &TemplateName,
    ) -> Result<FoundTemplates> {
        let mut found = self.find_templates(principal).await?;
        let is_image = |image: &Template| image.is_import() || !image.is_snapshot();
        found
            .templates
            .retain(|(_, template)| template.name == *name && is_image(template));
        Ok(found)
    }
}

fn no_image(name: &TemplateName) -> Error {
    let text = format!("there is no image {name}; `wrenn image ls` lists them");
    Error::new(ErrorCode::NotFound, text)
}
