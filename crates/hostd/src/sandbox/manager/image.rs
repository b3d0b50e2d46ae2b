//! Imports images, pulls them, and removes them.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::TemplateName;
use registry::PullProgress;
use tokio::sync::watch;

use super::Manager;
use crate::disk;
use crate::images::Image;
use crate::images::import::{PullPhase, PullRequest, PullStatus, UnpackedImage, Upload};
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
        self.publish_image(unpacked, name, false).await
    }

    /// Gives an image its name. The lock of names is held.
    async fn publish_image(
        &self,
        unpacked: UnpackedImage,
        name: &TemplateName,
        replace: bool,
    ) -> Result<Image, SandboxError> {
        let imports = self.host.imports.clone();
        let images = self.host.images.clone();
        let name = name.clone();
        let publish = move || {
            imports.publish_image(&unpacked, &name, replace)?;
            images.find_image(&name).map_err(io::Error::other)
        };
        Ok(OperationKind::Disk.run_blocking(publish).await?)
    }

    /// Pulls an image from a registry. Dropped, it ends, and leaves nothing; but an image that gets
    /// its name at that moment has it.
    ///
    /// # Errors
    /// [`SandboxError::Import`]; [`SandboxError::NameTaken`]; [`SandboxError::ImageInUse`] where
    /// one that is to be replaced is needed by its name.
    pub(crate) async fn pull_image(
        self: &Arc<Self>,
        mut request: PullRequest,
        status: &watch::Sender<PullStatus>,
    ) -> Result<Image, SandboxError> {
        let imports = self.host.imports.clone();
        let existing = self.find_imported(&request.name).await?;
        if existing.is_none() {
            self.check_image_name(&request.name).await?;
        }
        let credentials = request.credentials.take();
        let remote = imports
            .resolve_image(&request.reference, credentials)
            .await?;
        match existing {
            Some(image) if has_digest(&image, &remote.digest) => return Ok(image),
            Some(_) if !request.replace => return Err(other_image(&request.name)),
            _ => {}
        }
        let (progress, changes) = watch::channel(PullProgress::default());
        let fetch = imports.fetch_archive(&remote, &progress);
        let upload = tokio::select! {
            fetched = fetch => fetched?,
            never = forward_progress(changes, status) => match never {},
        };
        status.send_modify(|status| status.phase = PullPhase::Unpacking);
        let unpacked = imports.unpack_archive(upload, &request.name).await?;
        let manager = Arc::clone(self);
        let publish = async move { manager.publish_pulled(unpacked, &request).await };
        tokio::spawn(runtime::trace::in_current_context(publish)).await?
    }

    async fn publish_pulled(
        &self,
        unpacked: UnpackedImage,
        request: &PullRequest,
    ) -> Result<Image, SandboxError> {
        let _names = self.template_names.lock().await;
        let name = &request.name;
        let Some(existing) = self.find_imported(name).await? else {
            self.check_image_name(name).await?;
            return self.publish_image(unpacked, name, false).await;
        };
        if !request.replace {
            return Err(other_image(name));
        }
        let users = self.users_of_image(existing.path).await?;
        if !users.is_empty() {
            let name = name.to_string();
            return Err(SandboxError::ImageInUse { name, users });
        }
        self.publish_image(unpacked, name, true).await
    }

    /// Returns the import of that name, if there is one.
    async fn find_imported(&self, name: &TemplateName) -> Result<Option<Image>, SandboxError> {
        let images = self.host.images.clone();
        let name = name.clone();
        let find = move || match images.find_import(&name)? {
            Some(_) => Ok(Some(images.find_image(&name)?)),
            None => Ok(None),
        };
        stdx::task::run_blocking(find).await
    }

    /// Returns the sandboxes that only have the name of the file under their disks.
    async fn users_of_image(&self, image: PathBuf) -> Result<Vec<String>, SandboxError> {
        let handles = self.registry.handles().into_iter();
        let ledger = &self.host.state.ledger;
        let dirs = handles.map(|handle| {
            let dir = ledger.sandbox_dir(&handle.id);
            (handle.id.to_string(), dir)
        });
        let dirs: Vec<_> = dirs.collect();
        let find = move || {
            let users = dirs.into_iter().filter(|(_, dir)| needs_name(dir, &image));
            Ok::<_, io::Error>(users.map(|(id, _)| id).collect())
        };
        Ok(OperationKind::Disk.run_blocking(find).await?)
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
        let users = self.users_of_image(image).await?;
        if !users.is_empty() {
            let name = name.to_string();
            return Err(SandboxError::ImageInUse { name, users });
        }
        let images = self.host.images.clone();
        let name = name.clone();
        let remove = move || images.remove_import(&name);
        Ok(OperationKind::Disk.run_blocking(remove).await?)
    }
}

fn has_digest(image: &Image, digest: &oci::Digest) -> bool {
    let import = image.import.as_ref();
    import.is_some_and(|import| import.digest == digest.to_string())
}

fn other_image(name: &TemplateName) -> SandboxError {
    SandboxError::NameTaken {
        what: "other image",
        name: name.to_string(),
        hint: ", or replace it (`wrenn image pull --replace`)",
    }
}

/// Tells the progress of the layers as that of the pull, without an end.
async fn forward_progress(
    mut changes: watch::Receiver<PullProgress>,
    status: &watch::Sender<PullStatus>,
) -> Infallible {
    loop {
        let progress = *changes.borrow_and_update();
        let phase = PullPhase::Downloading;
        status.send_replace(PullStatus { phase, progress });
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
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
