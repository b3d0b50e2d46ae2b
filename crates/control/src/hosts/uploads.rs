//! Calls about uploads that go on after a break.

use bytes::Bytes;
use futures::Stream;
use host_rpc as rpc;
use host_rpc::__buffa::oneof::write_upload_request::Part;
use model::SandboxId;

use super::Host;
use super::calls::{GUEST_TIMEOUT, query, unary};
use super::files::{ContentFailure, GuestPath, content_messages};
use crate::error::Result;

/// An upload that begins.
#[derive(Debug, Clone, Default)]
pub struct NewUpload {
    pub path: GuestPath,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Bytes of the whole file.
    pub length: u64,
    /// SHA-256 of the whole file in hexadecimal digits.
    pub sha256: Option<String>,
}

/// State of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadInfo {
    pub id: String,
    /// Bytes that have arrived.
    pub offset: u64,
    pub length: u64,
}

impl Host {
    /// Begins an upload.
    ///
    /// # Errors
    /// The guest's; the host's.
    pub async fn begin_upload(&self, id: &SandboxId, upload: NewUpload) -> Result<UploadInfo> {
        let request = rpc::BeginUploadRequest {
            sandbox_id: id.to_string(),
            path: upload.path.path,
            user: upload.path.user,
            mode: upload.mode,
            length: upload.length,
            sha256: upload.sha256,
            ..Default::default()
        };
        let answer = unary!(
            self,
            files.begin_upload_with_options(request),
            GUEST_TIMEOUT
        )?;
        Ok(answer.into())
    }

    /// Returns the state of an upload.
    ///
    /// # Errors
    /// The guest's; the host's.
    pub async fn get_upload(&self, id: &SandboxId, upload_id: String) -> Result<UploadInfo> {
        let request = rpc::GetUploadRequest {
            sandbox_id: id.to_string(),
            upload_id,
            ..Default::default()
        };
        let answer = query!(self, files.get_upload_with_options(request), GUEST_TIMEOUT)?;
        Ok(answer.into())
    }

    /// Deletes an upload.
    ///
    /// # Errors
    /// The guest's; the host's.
    pub async fn remove_upload(&self, id: &SandboxId, upload_id: String) -> Result<()> {
        let request = rpc::RemoveUploadRequest {
            sandbox_id: id.to_string(),
            upload_id,
            ..Default::default()
        };
        unary!(
            self,
            files.remove_upload_with_options(request),
            GUEST_TIMEOUT
        )
        .map(drop)
    }

    /// Appends to an upload. No time limit: a part takes as long as its sender does. When `content`
    /// fails, so does the write, with the same error; what came before stays.
    ///
    /// # Errors
    /// The guest's; the host's; those of `content`.
    pub async fn write_upload<S>(
        &self,
        id: &SandboxId,
        upload_id: String,
        offset: u64,
        content: S,
    ) -> Result<UploadInfo>
    where
        S: Stream<Item = Result<Bytes>> + Send + 'static,
    {
        let target = rpc::write_upload_request::UploadTarget {
            sandbox_id: id.to_string(),
            upload_id,
            offset,
            ..Default::default()
        };
        let message = |part| rpc::WriteUploadRequest {
            part: Some(part),
            ..Default::default()
        };
        let done = || Part::from(rpc::write_upload_request::UploadPartDone::default());
        let failure = ContentFailure::default();
        let messages = content_messages(
            message(Part::from(target)),
            move |data| message(Part::Data(data)),
            move || message(done()),
            content,
            failure.clone(),
        );
        let answer = self.client()?.files().write_upload(messages).await;
        // The host only sees that the part broke off.
        if let Some(error) = failure.take() {
            return Err(error);
        }
        let answer = answer.map_err(|error| self.failed(&error))?;
        Ok(answer.into_owned().into())
    }
}

impl From<rpc::UploadInfo> for UploadInfo {
    fn from(info: rpc::UploadInfo) -> Self {
        Self {
            id: info.upload_id,
            offset: info.offset,
            length: info.length,
        }
    }
}
