//! Moves files and tar archives in and out of the guest, streamed.

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use http::Method;
use http_body_util::{BodyDataStream, BodyExt, StreamBody};
use hyper::body::Frame;

use super::{Error, Guest};

/// File or directory in the guest, and the user that reads or writes it.
#[derive(Debug, Clone, Default)]
pub struct FileQuery {
    pub path: String,
    pub user: Option<String>,
    /// Permission bits of a new file.
    pub mode: Option<u32>,
    pub form: FileForm,
}

/// Form in which content is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FileForm {
    /// The bytes of a file.
    #[default]
    Content,
    /// A tar archive of the content of a directory.
    Directory,
    /// A tar archive of one file, without its holes.
    SingleFile,
}

impl FileForm {
    /// Returns the form that a request of the control plane names.
    #[must_use]
    pub fn from_request(archive: bool, single_file: bool) -> Self {
        match (archive, single_file) {
            (false, _) => Self::Content,
            (true, false) => Self::Directory,
            (true, true) => Self::SingleFile,
        }
    }

    fn archive(self) -> Option<&'static str> {
        match self {
            Self::Content => None,
            Self::Directory => Some("tar"),
            Self::SingleFile => Some("file"),
        }
    }
}

impl FileQuery {
    fn target(&self) -> String {
        let mut query = vec![("path", self.path.clone())];
        query.extend(self.user.clone().map(|user| ("username", user)));
        query.extend(self.mode.map(|mode| ("mode", format!("{mode:o}"))));
        query.extend(self.form.archive().map(|kind| ("archive", kind.to_owned())));
        let parts: Vec<String> = query
            .iter()
            .map(|(name, value)| format!("{name}={}", encode(value)))
            .collect();
        format!("/files?{}", parts.join("&"))
    }
}

/// Percent-encodes everything that is not unreserved (RFC 3986 2.3).
pub(super) fn encode(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// Stream of content from the guest.
pub type FileBody = futures::stream::BoxStream<'static, Result<Bytes, Error>>;

impl Guest {
    /// Opens a file or directory for reading.
    ///
    /// # Errors
    /// [`Error::Refused`] with status 404 if there is none, 403 if the user has no permission, 400
    /// for a directory without `archive`.
    pub async fn read_file(&self, query: &FileQuery) -> Result<FileBody, Error> {
        let answer = self
            .send(
                self.request(Method::GET, &query.target())
                    .body(super::empty()),
            )
            .await?;
        let data = BodyDataStream::new(answer.into_body());
        Ok(
            TryStreamExt::map_err(data, |error| Error::Unreachable(stdx::error::chain(&error)))
                .boxed(),
        )
    }

    /// Writes a file, or unpacks an archive. An error in `content` aborts the upload, and the
    /// guest agent then removes a file that did not exist before.
    ///
    /// # Errors
    /// [`Error::Refused`] with status 403 if the user has no permission, 507 if the guest's disk is
    /// full.
    pub async fn write_file(
        &self,
        query: &FileQuery,
        content: impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
    ) -> Result<(), Error> {
        let body = BodyExt::boxed_unsync(StreamBody::new(content.map_ok(Frame::data)));
        let request = self
            .request(Method::POST, &query.target())
            .header("content-type", "application/octet-stream")
            .body(body);
        self.send(request).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_paths_stay_one_value() {
        let query = FileQuery {
            path: "/a b&username=root#?%2e".to_owned(),
            user: Some("user".to_owned()),
            mode: Some(0o755),
            form: FileForm::Directory,
        };
        assert_eq!(
            query.target(),
            "/files?path=%2Fa%20b%26username%3Droot%23%3F%252e&username=user&mode=755&archive=tar"
        );
    }
}
