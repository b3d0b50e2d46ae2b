//! Uploads that go on after a break, by the protocol tus 1.0.0.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::Stream;
use reqwest::{Body, Method, RequestBuilder, Response, Url};

use crate::connection::Client;
use crate::error::{Error, Result};

const TUS: (&str, &str) = ("tus-resumable", "1.0.0");
const OFFSET: &str = "upload-offset";

/// Destination of an upload that may go on after a break.
#[derive(Debug, Clone, Default)]
pub struct UploadTarget {
    /// Relative paths start at the image's working directory, else at the user's home. Parents are
    /// made.
    pub path: String,
    /// User in the guest; the template's default user where `None`.
    pub user: Option<String>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Bytes of the whole file.
    pub length: u64,
    /// SHA-256 of the whole file in hexadecimal digits, which is checked before the file gets its
    /// place.
    pub sha256: Option<String>,
}

/// Id of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadId(String);

impl Client {
    /// Begins an upload. A server or sandbox of an earlier version answers `not_found`,
    /// `method_not_allowed` or `invalid_state`.
    pub async fn begin_upload(&self, id: &str, target: &UploadTarget) -> Result<UploadId> {
        let mut metadata = vec![("path", target.path.clone())];
        metadata.extend(target.user.clone().map(|user| ("user", user)));
        metadata.extend(target.mode.map(|mode| ("mode", format!("{mode:04o}"))));
        metadata.extend(target.sha256.clone().map(|sha256| ("sha256", sha256)));
        let metadata: Vec<String> = metadata
            .into_iter()
            .map(|(name, value)| format!("{name} {}", STANDARD.encode(value)))
            .collect();
        let url = self.route(&["v1", "sandboxes", id, "files", "uploads"]);
        let request = self
            .tus(Method::POST, url)
            .header("upload-length", target.length)
            .header("upload-metadata", metadata.join(","));
        let response = self.send(request).await?;
        let location = response.headers().get("location");
        let location = location.and_then(|location| location.to_str().ok());
        let upload = location.and_then(|location| location.rsplit('/').next());
        let upload = upload.filter(|upload| upload.bytes().all(|b| b.is_ascii_alphanumeric()));
        match upload {
            Some(upload) if !upload.is_empty() => Ok(UploadId(upload.to_owned())),
            _ => Err(Error::Protocol("an upload without a location".to_owned())),
        }
    }

    /// Returns the number of bytes that have arrived, which is where the upload goes on.
    pub async fn upload_offset(&self, id: &str, upload: &UploadId) -> Result<u64> {
        let request = self.tus(Method::HEAD, self.upload_route(id, upload));
        offset(&self.send(request).await?)
    }

    /// Sends bytes from an offset on, and returns the offset behind them. With the last byte the
    /// file is in its place.
    pub async fn send_part<S>(&self, id: &str, upload: &UploadId, at: u64, data: S) -> Result<u64>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        let request = self
            .tus(Method::PATCH, self.upload_route(id, upload))
            .header(OFFSET, at)
            .header("content-type", "application/offset+octet-stream")
            .body(Body::wrap_stream(data));
        offset(&self.send(request).await?)
    }

    /// Deletes an upload, with what has arrived.
    pub async fn delete_upload(&self, id: &str, upload: &UploadId) -> Result<()> {
        let request = self.tus(Method::DELETE, self.upload_route(id, upload));
        self.send(request).await.map(drop)
    }

    fn tus(&self, method: Method, url: Url) -> RequestBuilder {
        self.request(method, url).header(TUS.0, TUS.1)
    }

    fn upload_route(&self, id: &str, UploadId(upload): &UploadId) -> Url {
        self.route(&["v1", "sandboxes", id, "files", "uploads", upload])
    }
}

fn offset(response: &Response) -> Result<u64> {
    let offset = response.headers().get(OFFSET);
    let offset = offset.and_then(|offset| offset.to_str().ok()?.parse().ok());
    offset.ok_or_else(|| Error::Protocol("an upload without an offset".to_owned()))
}
