//! Fetches the archive of an image from a registry ([`registry`], which tells the whole way).

use std::time::Duration;

use model::TemplateName;
use registry::{Credentials, ImageReference, PullProgress, RemoteImage};
use tokio::sync::watch;

use super::unpacking::architecture;
use super::{ImportError, Imports, Upload, archive_too_large};

/// Longest time for fetching all layers: 20 GiB at 6 MB/s.
const FETCH_TIME: Duration = Duration::from_secs(3600);

/// An image to pull.
#[derive(Debug)]
pub(crate) struct PullRequest {
    pub(crate) name: TemplateName,
    pub(crate) reference: ImageReference,
    pub(crate) credentials: Option<Credentials>,
    /// Replace an import of that name.
    pub(crate) replace: bool,
}

/// How far a pull is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PullStatus {
    pub(crate) phase: PullPhase,
    pub(crate) progress: PullProgress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum PullPhase {
    #[default]
    Resolving,
    Downloading,
    Unpacking,
}

impl Imports {
    /// Finds an image for this host in its registry.
    ///
    /// # Errors
    /// The registry's; when it has no image for this host.
    pub(crate) async fn resolve_image(
        &self,
        reference: &ImageReference,
        credentials: Option<Credentials>,
    ) -> Result<RemoteImage, ImportError> {
        let puller = &self.puller;
        Ok(puller
            .resolve_image(reference, credentials, architecture())
            .await?)
    }

    /// Fetches an image into an archive. It goes with the future of this.
    ///
    /// # Errors
    /// When it is too large, there is no room, or the registry fails.
    pub(crate) async fn fetch_archive(
        &self,
        image: &RemoteImage,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<Upload, ImportError> {
        let bytes = image.archive_bytes();
        if bytes > self.max_bytes {
            return Err(archive_too_large(self.max_bytes));
        }
        let mut upload = self.stage_archive(bytes).await?;
        let file = upload.archive.try_clone().await?.into_std().await;
        match tokio::time::timeout(FETCH_TIME, image.download_archive(file, progress)).await {
            Ok(fetched) => fetched?,
            Err(_) => {
                let seconds = FETCH_TIME.as_secs();
                let text = format!("fetching the image takes more than {seconds} s");
                return Err(ImportError::Refused(text));
            }
        }
        upload.bytes = bytes;
        Ok(upload)
    }
}
