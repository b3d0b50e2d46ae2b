//! Uploads that go on after a break. The guest has their state, so nothing is kept here.

use bytes::Bytes;
use futures::Stream;
use model::{Resource, SandboxId};

use super::App;
use super::files::{MAX_MODE, check_path};
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{NewUpload, UploadInfo};

/// Digits of a SHA-256.
const SHA256_DIGITS: usize = 64;

impl App {
    /// Begins an upload.
    ///
    /// # Errors
    /// `Forbidden`, `InsufficientStorage`; `ResourceExhausted` with too many uploads.
    pub async fn begin_upload(
        &self,
        principal: &Principal,
        id: &SandboxId,
        upload: NewUpload,
    ) -> Result<UploadInfo> {
        principal.require_write(Resource::Sandboxes)?;
        check_path(&upload.path)?;
        if upload.mode.is_some_and(|mode| mode > MAX_MODE) {
            return Err(Error::invalid("mode must be octal and at most 7777"));
        }
        let is_digest = |text: &String| {
            text.len() == SHA256_DIGITS && text.bytes().all(|digit| digit.is_ascii_hexdigit())
        };
        if !upload.sha256.as_ref().is_none_or(is_digest) {
            return Err(Error::invalid(format!(
                "sha256 must be {SHA256_DIGITS} hexadecimal digits"
            )));
        }
        let host = self.find_usable(principal, id).await?.host;
        host.begin_upload(id, upload).await
    }

    /// Returns the state of an upload.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn get_upload(
        &self,
        principal: &Principal,
        id: &SandboxId,
        upload: String,
    ) -> Result<UploadInfo> {
        principal.require_read(Resource::Sandboxes)?;
        let host = self.find_usable(principal, id).await?.host;
        host.get_upload(id, upload).await
    }

    /// Appends to an upload.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` where it is not at `offset`; `InvalidRequest` where the bytes are more
    /// than it has, or have another checksum; the stream's own.
    pub async fn write_upload<S>(
        &self,
        principal: &Principal,
        id: &SandboxId,
        upload: String,
        offset: u64,
        content: S,
    ) -> Result<UploadInfo>
    where
        S: Stream<Item = Result<Bytes>> + Send + 'static,
    {
        principal.require_write(Resource::Sandboxes)?;
        let host = self.find_usable(principal, id).await?.host;
        host.write_upload(id, upload, offset, content).await
    }

    /// Deletes an upload that is not complete.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn remove_upload(
        &self,
        principal: &Principal,
        id: &SandboxId,
        upload: String,
    ) -> Result<()> {
        principal.require_write(Resource::Sandboxes)?;
        let host = self.find_usable(principal, id).await?.host;
        host.remove_upload(id, upload).await
    }
}
