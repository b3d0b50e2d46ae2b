//! Imports images, and removes them.

use std::io;
use std::path::Path;

use model::TemplateName;

use super::Manager;
use crate::disk;
use crate::images::Image;
use crate::images::import::Upload;
use crate::operation::OperationKind;
use crate::sandbox::error::SandboxError;

impl Manager {
    /// Checks that an image may get this name.
    ///
    /// # Errors
    /// [`SandboxError::NameTaken`].
    /// [`SandboxError::Import`] if the host has as many as it keeps.
    pub(crate) async fn check_image_name(&self, name: &TemplateName) -> Result<(), SandboxError> {
        self.check_name_is_free(name, false).await?;
        let imports = self.host.imports.clone();
        Ok(stdx::task::run_blocking(move || imports.check_count()).await?)
    }

    /// Makes a template of an archive that was received.
    ///
    /// # Errors
    /// [`SandboxError::Import`]; [`SandboxError::NameTaken`].
    pub(crate) async fn import_image(
        &self,
        upload: Upload,
        name: &TemplateName,
    ) -> Result<Image, SandboxError> {
        let imports = self.host.imports.clone();
        let unpacked = imports.unpack_archive(upload, name).await?;
        let _names = self.template_names.lock().await;
        self.check_image_name(name).await?;
        let images = self.host.images.clone();
        let name = name.clone();
        let publish = move || {
            imports.publish_image(&unpacked, &name)?;
            images.find_image(&name).map_err(io::Error::other)
        };
        Ok(OperationKind::Disk.run_blocking(publish).await?)
    }

    /// Removes an image that was imported. Idempotent. Sandboxes that were made from it keep its
    /// file: their disks are copies of it, or have another link to it.
    ///
    /// # Errors
    /// [`SandboxError::NotImported`]; [`SandboxError::ImageInUse`] names sandboxes whose disks only
    /// have its name, since they lie on another file system.
    pub(crate) async fn remove_image(&self, name: &TemplateName) -> Result<(), SandboxError> {
        let _names = self.template_names.lock().await;
        let images = self.host.images.clone();
        let wanted = name.clone();
        let find = move || {
            let import = images.find_import(&wanted).map_err(io::Error::other)?;
            let is_base = import.is_none() && images.find_image(&wanted).is_ok();
            Ok::<_, io::Error>((import, is_base))
        };
        let image = match OperationKind::Disk.run_blocking(find).await? {
            (Some(image), _) => image,
            (None, true) => return Err(SandboxError::NotImported(name.to_string())),
            (None, false) => return Ok(()),
        };
        let handles = self.registry.handles().into_iter();
        let ledger = &self.host.state.ledger;
        let dirs = handles.map(|handle| {
            let dir = ledger.sandbox_dir(&handle.id);
            (handle.id.to_string(), dir)
        });
        let dirs: Vec<_> = dirs.collect();
        let images = self.host.images.clone();
        let name = name.clone();
        let remove = move || {
            let users = dirs.into_iter().filter(|(_, dir)| needs_name(dir, &image));
            let users: Vec<String> = users.map(|(id, _)| id).collect();
            if users.is_empty() {
                images.remove_import(&name)?;
            }
            Ok::<_, io::Error>((name, users))
        };
        let (name, users) = OperationKind::Disk.run_blocking(remove).await?;
        if users.is_empty() {
            return Ok(());
        }
        Err(SandboxError::ImageInUse {
            name: name.to_string(),
            users,
        })
    }
}

/// Returns true if the disk in `dir` has a symbolic link to the image, and no link of its own.
fn needs_name(dir: &Path, image: &Path) -> bool {
    let Some(base) = disk::shared_base(dir) else {
        return false;
    };
    let Ok(target) = base.read_link() else {
        return false;
    };
    image.canonicalize().is_ok_and(|path| path == target)
}
