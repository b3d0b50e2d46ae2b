//! Deletes images that nothing uses.
//!
//! An import is in use as long as the team has a sandbox that was made from it, in whatever state.
//! Those that are not are deleted one by one as [`App::delete_image`] does, so that a crash in
//! between leaves each there or gone. A create that looks for such an image at that moment finds it,
//! and keeps what it needs of it, or does not.

use model::{Resource, TemplateName};
use store::SandboxFilter;

use super::App;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::Template;

/// Result of deleting images that nothing uses.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Images that were deleted, or would be, by name.
    pub images: Vec<Template>,
    /// Images that could not be deleted.
    pub failed: Vec<(TemplateName, Error)>,
}

impl App {
    /// Deletes the team's images that no sandbox was made from; with `dry_run` it only names them.
    ///
    /// # Errors
    /// `Forbidden`; if no host answers; the store's.
    pub async fn prune_images(&self, principal: &Principal, dry_run: bool) -> Result<Pruned> {
        principal.require_write(Resource::Templates)?;
        let mut pruned = Pruned::default();
        for image in self.unused_images(principal).await? {
            let name = image.name.clone();
            if dry_run {
                pruned.images.push(image);
                continue;
            }
            // Sandboxes may have been made since the others were deleted.
            if self.is_used(principal, &name).await? {
                continue;
            }
            match self.delete_image(principal, &name).await {
                Ok(()) => pruned.images.push(image),
                Err(error) => pruned.failed.push((name, error)),
            }
        }
        Ok(pruned)
    }

    async fn unused_images(&self, principal: &Principal) -> Result<Vec<Template>> {
        let mut unused = Vec::new();
        let templates = self.sorted_templates(principal).await?;
        for image in templates.into_iter().filter(Template::is_import) {
            if !self.is_used(principal, &image.name).await? {
                unused.push(image);
            }
        }
        Ok(unused)
    }

    async fn is_used(&self, principal: &Principal, name: &TemplateName) -> Result<bool> {
        let filter = SandboxFilter {
            template: Some(name.to_string()),
            ..SandboxFilter::default()
        };
        let users = self
            .store
            .sandbox_count(&principal.team_id, &filter)
            .await?;
        Ok(users > 0)
    }
}
