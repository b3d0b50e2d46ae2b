//! Imports images: receives an archive into a file, has it unpacked by a process of its own in a
//! jail ([`oci`]), and publishes the result ([`super::imported`]).
//!
//! Archives are received without order, two are unpacked at a time, since each may use a processor
//! and gigabytes of memory; more wait. What is received goes with its connection; from its end on
//! the import goes on whether the caller waits or not.

mod pull;
mod space;
mod unpacking;

use std::io::{self, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::{ImageConfig, TemplateName};
use oci::serve::Failure;
use registry::{Puller, RegistryError, RegistryPolicy};
use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use super::Images;
use super::imported::{ImportRecord, Staging};
use crate::config::limits::Limits;
pub(crate) use pull::{PullPhase, PullRequest, PullStatus};
use space::{Promise, Space};
pub(crate) use unpacking::MAX_ENTRIES;

/// Images that are unpacked at a time.
pub(crate) const MAX_UNPACKED: usize = 2;
/// Longest time for unpacking one: 20 GiB at 20 MB/s take 17 minutes, which is slow.
pub(crate) const UNPACK_TIME: Duration = Duration::from_secs(1800);
/// Time for unpacking that every image has, and bytes of its archive for each second more, so that
/// a small archive does not keep an unpacker from others for as long as a large one may.
const BASE_UNPACK_TIME: Duration = Duration::from_secs(120);
const BYTES_PER_SECOND: u64 = 1 << 20;
/// Bytes that an upload is promised at a time.
const PROMISED_BYTES: u64 = 64 << 20;

/// Reason why an image is not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It is none, or too large, or the upload broke off.
    #[error("{0}")]
    Refused(String),
    #[error("the host has no room for the image; free some of its disk, or import a smaller one")]
    NoRoom,
    #[error(
        "this host has {0} imported images, and keeps no more (AGENT_MAX_IMAGES); remove some, or raise the limit and \
         restart the host agent"
    )]
    TooMany(usize),
    #[error(transparent)]
    Registry(RegistryError),
    #[error("the image cannot be imported")]
    Host(#[source] io::Error),
}

impl From<RegistryError> for ImportError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Refused(text) => Self::Refused(text),
            RegistryError::Host(error) => error.into(),
            other => Self::Registry(other),
        }
    }
}

impl From<io::Error> for ImportError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull => Self::NoRoom,
            _ => Self::Host(error),
        }
    }
}

impl From<tokio::task::JoinError> for ImportError {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Host(error.into())
    }
}

impl From<Failure> for ImportError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Invalid(text) | Failure::Limit(text) => Self::Refused(text),
            Failure::NoRoom => Self::NoRoom,
            Failure::Host(text) => Self::Host(io::Error::other(text)),
        }
    }
}

/// Imports of one agent.
#[derive(Debug, Clone)]
pub struct Imports {
    images: Images,
    /// User of unpackers, which no other process has.
    user: u32,
    /// Bytes of an image, unpacked.
    max_bytes: u64,
    /// Images that are kept.
    max_images: usize,
    permits: Arc<Semaphore>,
    space: Space,
    puller: Puller,
}

/// An archive that is being received.
#[derive(Debug)]
pub struct Upload {
    staging: Staging,
    archive: tokio::fs::File,
    bytes: u64,
    max_bytes: u64,
    space: Space,
    /// For bytes up to `promised_bytes`; those that were written are no longer free anyway.
    promise: Promise,
    promised_bytes: u64,
}

/// An image that was unpacked and has no name yet.
#[derive(Debug)]
pub struct UnpackedImage {
    staging: Staging,
    image: PathBuf,
    record: ImportRecord,
    config: Option<ImageConfig>,
}

impl Imports {
    #[must_use]
    pub fn new(images: Images, user: u32, limits: &Limits) -> Self {
        Self {
            space: Space::new(images.dir()),
            images,
            user,
            max_bytes: limits.image_bytes,
            max_images: limits.images,
            permits: Arc::new(Semaphore::new(MAX_UNPACKED)),
            puller: Puller::new(RegistryPolicy::default()),
        }
    }

    /// Pulls images by these rules.
    #[must_use]
    pub fn with_registries(self, policy: RegistryPolicy) -> Self {
        Self {
            puller: Puller::new(policy),
            ..self
        }
    }

    /// Checks that the host may have one more image. Blocking.
    ///
    /// # Errors
    /// [`ImportError::TooMany`].
    pub fn check_count(&self) -> Result<(), ImportError> {
        let count = self.images.count_imports()?;
        if count >= self.max_images {
            return Err(ImportError::TooMany(count));
        }
        Ok(())
    }

    /// Begins to receive an archive.
    ///
    /// # Errors
    /// The host's.
    pub async fn begin_upload(&self) -> Result<Upload, ImportError> {
        self.stage_archive(PROMISED_BYTES).await
    }

    /// Creates the file of an archive for which so much room is promised.
    async fn stage_archive(&self, promised_bytes: u64) -> Result<Upload, ImportError> {
        let images = self.images.clone();
        let space = self.space.clone();
        let stage = move || {
            let staging = images.stage_import()?;
            let promise = space.promise(promised_bytes)?;
            Ok::<_, ImportError>((staging, promise))
        };
        let (staging, promise) = stdx::task::run_blocking(stage).await?;
        let archive = tokio::fs::File::create_new(staging.path("archive")).await?;
        Ok(Upload {
            staging,
            archive,
            bytes: 0,
            max_bytes: self.max_bytes,
            space: self.space.clone(),
            promise,
            promised_bytes,
        })
    }

    /// Unpacks an archive that was received. `name` becomes the label of the file system.
    ///
    /// # Errors
    /// When it is no image, or there is no room.
    pub async fn unpack_archive(
        &self,
        upload: Upload,
        name: &TemplateName,
    ) -> Result<UnpackedImage, ImportError> {
        let Upload {
            staging,
            mut archive,
            bytes,
            promise,
            ..
        } = upload;
        archive.flush().await?;
        archive.set_len(bytes).await?;
        drop(promise);
        // It is never closed.
        let _permit = self.permits.acquire().await.ok();
        let settings = unpacking::Settings {
            user: self.user,
            max_bytes: self.max_bytes,
            time: unpack_time(bytes),
            // As long as ext4 has room for.
            label: name.as_str().chars().take(16).collect(),
        };
        unpacking::unpack_archive(staging, settings, &self.space).await
    }

    /// Gives an image its name, which must be free and stay so during this; or, with `replace`,
    /// that of an import. Blocking.
    ///
    /// # Errors
    /// The host's.
    pub fn publish_image(
        &self,
        unpacked: &UnpackedImage,
        name: &TemplateName,
        replace: bool,
    ) -> io::Result<()> {
        let UnpackedImage {
            staging,
            image,
            record,
            config,
        } = unpacked;
        self.images
            .stage_image(staging, image, record, config.as_ref())?;
        match replace {
            true => self.images.replace_import(staging, name),
            false => self.images.publish_import(staging, name),
        }
    }
}

impl Upload {
    /// Appends bytes.
    ///
    /// # Errors
    /// When they are too many, or there is no room.
    pub async fn append_bytes(&mut self, bytes: &[u8]) -> Result<(), ImportError> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.max_bytes {
            return Err(archive_too_large(self.max_bytes));
        }
        if self.bytes > self.promised_bytes {
            let space = self.space.clone();
            let promise = move || space.promise(PROMISED_BYTES);
            self.promise = stdx::task::run_blocking(promise).await?;
            self.promised_bytes = self.bytes + PROMISED_BYTES;
        }
        // A file system as it is has mostly free room, which becomes a hole.
        if bytes.iter().all(|byte| *byte == 0) {
            let skipped = i64::try_from(bytes.len()).map_err(io::Error::other)?;
            self.archive.seek(SeekFrom::Current(skipped)).await?;
        } else {
            self.archive.write_all(bytes).await?;
        }
        Ok(())
    }
}

fn archive_too_large(max_bytes: u64) -> ImportError {
    ImportError::Refused(format!(
        "the archive has more than {} MiB; the operator of the host can allow more with AGENT_IMAGE_MAX_MB",
        max_bytes >> 20
    ))
}

fn unpack_time(archive_bytes: u64) -> Duration {
    let more = Duration::from_secs(archive_bytes / BYTES_PER_SECOND);
    UNPACK_TIME.min(BASE_UNPACK_TIME.saturating_add(more))
}
