//! Uploads into the guest that go on after a break.

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use guest_rpc::http::{UploadStart, UploadState};
use http::{Method, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};

use super::files::encode;
use super::{Error, Guest, read_small_body};

/// Longest id of an upload.
const MAX_ID: usize = 64;

/// Returns true if a text can be the id of an upload: it becomes part of a path.
#[must_use]
pub fn is_upload_id(id: &str) -> bool {
    (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

impl Guest {
    /// Begins an upload as a user.
    ///
    /// # Errors
    /// [`Error::Refused`] with status 403 if the user has no permission, 404 by a guest agent of an
    /// earlier version, 429 with too many uploads, 507 without room for the file.
    pub async fn begin_upload(
        &self,
        start: &UploadStart,
        user: Option<&str>,
    ) -> Result<UploadState, Error> {
        let user = user.map(|user| format!("?username={}", encode(user)));
        let path = format!("/files/uploads{}", user.unwrap_or_default());
        read_state(self.send(Ok(self.post_json(&path, start)?)).await?).await
    }

    /// Returns the state of an upload.
    ///
    /// # Errors
    /// [`Error::Refused`] with status 404 where there is none.
    pub async fn get_upload(&self, id: &str) -> Result<UploadState, Error> {
        let request = self.request(Method::GET, &format!("/files/uploads/{id}"));
        read_state(self.send(request.body(super::empty())).await?).await
    }

    /// Appends to an upload. What arrived before an error in `content` stays.
    ///
    /// # Errors
    /// [`Error::Refused`] with status 404 where there is none, 409 where it is not at `offset`.
    pub async fn write_upload(
        &self,
        id: &str,
        offset: u64,
        content: impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
    ) -> Result<UploadState, Error> {
        let body = BodyExt::boxed_unsync(StreamBody::new(content.map_ok(Frame::data)));
        let path = format!("/files/uploads/{id}?offset={offset}");
        let request = self
            .request(Method::PATCH, &path)
            .header("content-type", "application/octet-stream")
            .body(body);
        read_state(self.send(request).await?).await
    }

    /// Deletes an upload that is not complete, with what has arrived.
    ///
    /// # Errors
    /// [`Error::Refused`] with status 404 where there is none.
    pub async fn remove_upload(&self, id: &str) -> Result<(), Error> {
        let request = self.request(Method::DELETE, &format!("/files/uploads/{id}"));
        self.send(request.body(super::empty())).await.map(drop)
    }
}

async fn read_state(answer: Response<Incoming>) -> Result<UploadState, Error> {
    parse_state(&read_small_body(answer).await?)
}

/// Parses the state of an upload, as the guest agent says it.
pub(crate) fn parse_state(body: &[u8]) -> Result<UploadState, Error> {
    let state: UploadState =
        serde_json::from_slice(body).map_err(|error| Error::Nonsense(error.to_string()))?;
    let is_sound = is_upload_id(&state.id)
        && state.offset <= state.length
        && (!state.is_complete || state.offset == state.length);
    match is_sound {
        true => Ok(state),
        false => Err(Error::Nonsense("the state of an upload".to_owned())),
    }
}
