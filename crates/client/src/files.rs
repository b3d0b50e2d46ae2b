//! Files and directories of a sandbox, streamed both ways.

use std::io;
use std::pin::Pin;

use api_types::{
    ChmodRequest, ChownRequest, FileInfo, ListFilesRequest, MoveFileRequest, PathRequest,
};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use reqwest::multipart::{Form, Part};
use reqwest::{Body, Method, Response, Url};
use serde::Serialize;

use crate::connection::Client;
use crate::error::{Error, Result};
use crate::sandboxes::Page;

/// Most entries that a server gives in one page.
const MAX_PAGE: u32 = 1000;

/// Bytes as they come.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// Destination of a file.
#[derive(Debug, Clone, Default)]
pub struct FileTarget {
    /// Relative paths start at the image's working directory, else at the user's home. Parents are
    /// made.
    pub path: String,
    /// User in the guest; the template's default user where `None`.
    pub user: Option<String>,
    /// Permission bits; 0644 where `None`.
    pub mode: Option<u32>,
}

impl Client {
    fn files_route(&self, id: &str, verb: &str) -> Url {
        self.route(&["v1", "sandboxes", id, "files", verb])
    }

    pub(crate) async fn files_call<T: Serialize + Sync>(
        &self,
        id: &str,
        verb: &str,
        body: &T,
    ) -> Result<Response> {
        self.send(
            self.request(Method::POST, self.files_route(id, verb))
                .json(body),
        )
        .await
    }

    /// Reads a file.
    pub async fn read_file(&self, id: &str, path: &PathRequest) -> Result<ByteStream> {
        let response = self.files_call(id, "read", path).await?;
        Ok(self.byte_stream(response))
    }

    /// Writes a file of any size from a stream. `length` in bytes where it is known. A stream that
    /// fails leaves no new file.
    pub async fn write_file<S>(
        &self,
        id: &str,
        target: &FileTarget,
        data: S,
        length: Option<u64>,
    ) -> Result<()>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        let mut form = Form::new().text("path", target.path.clone());
        if let Some(user) = &target.user {
            form = form.text("user", user.clone());
        }
        if let Some(mode) = target.mode {
            form = form.text("mode", format!("{:04o}", mode & 0o7777));
        }
        let body = Body::wrap_stream(data);
        let part = match length {
            Some(length) => Part::stream_with_length(body, length),
            None => Part::stream(body),
        };
        let url = self.route(&["v1", "sandboxes", id, "files", "stream", "write"]);
        let request = self.request(Method::POST, url);
        self.send(request.multipart(form.part("file", part.file_name("file"))))
            .await
            .map(drop)
    }

    /// Reads a directory as a tar archive, whose names are relative to it.
    pub async fn read_archive(&self, id: &str, path: &PathRequest) -> Result<ByteStream> {
        self.get_tar(self.archive_route(id, path, false)).await
    }

    /// Unpacks a tar archive below a directory, which is made where it is missing.
    pub async fn write_archive<S>(&self, id: &str, path: &PathRequest, tar: S) -> Result<()>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        self.put_tar(self.archive_route(id, path, false), tar).await
    }

    /// Reads one file as the only entry of a tar archive, without the holes of a sparse file. A
    /// server or sandbox of an earlier version answers `invalid_request`.
    pub async fn read_sparse_file(&self, id: &str, path: &PathRequest) -> Result<ByteStream> {
        self.get_tar(self.archive_route(id, path, true)).await
    }

    /// Writes one file from a tar archive with this only entry, with permission bits and holes. The
    /// old file stays until the new one is complete. A server or sandbox of an earlier version
    /// answers `invalid_request`.
    pub async fn write_sparse_file<S>(&self, id: &str, path: &PathRequest, tar: S) -> Result<()>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        self.put_tar(self.archive_route(id, path, true), tar).await
    }

    async fn get_tar(&self, url: Url) -> Result<ByteStream> {
        let response = self.send(self.request(Method::GET, url)).await?;
        Ok(self.byte_stream(response))
    }

    async fn put_tar<S>(&self, url: Url, tar: S) -> Result<()>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        let request = self
            .request(Method::PUT, url)
            .header("content-type", "application/x-tar")
            .body(Body::wrap_stream(tar));
        self.send(request).await.map(drop)
    }

    pub async fn stat(&self, id: &str, path: &PathRequest) -> Result<FileInfo> {
        let response = self.files_call(id, "stat", path).await?;
        self.json(response).await
    }

    /// Lists a directory at once, up to 100,000 entries. For longer lists, and where the sandbox is
    /// not to decide how much memory the list takes, see [`Client::list_files_page`].
    pub async fn list_files(&self, id: &str, request: &ListFilesRequest) -> Result<Vec<FileInfo>> {
        let response = self.files_call(id, "list", request).await?;
        self.json(response).await
    }

    /// Lists a page of a directory, of `request.limit` entries; [`Page::next`] is the `cursor` of
    /// the next request.
    pub async fn list_files_page(
        &self,
        id: &str,
        request: &ListFilesRequest,
    ) -> Result<Page<FileInfo>> {
        let request = ListFilesRequest {
            limit: Some(request.limit.unwrap_or(MAX_PAGE)),
            ..request.clone()
        };
        let response = self.files_call(id, "list", &request).await?;
        self.page(response).await
    }

    /// Moves or renames a file or directory.
    pub async fn move_file(&self, id: &str, request: &MoveFileRequest) -> Result<FileInfo> {
        let response = self.files_call(id, "move", request).await?;
        self.json(response).await
    }

    /// Changes permission bits.
    pub async fn change_mode(&self, id: &str, request: &ChmodRequest) -> Result<FileInfo> {
        let response = self.files_call(id, "chmod", request).await?;
        self.json(response).await
    }

    /// Changes owner and group.
    pub async fn change_owner(&self, id: &str, request: &ChownRequest) -> Result<FileInfo> {
        let response = self.files_call(id, "chown", request).await?;
        self.json(response).await
    }

    /// Makes a directory and its parents.
    pub async fn make_dir(&self, id: &str, path: &PathRequest) -> Result<()> {
        self.files_call(id, "mkdir", path).await.map(drop)
    }

    /// Removes a file, or a directory with everything in it.
    pub async fn remove_file(&self, id: &str, path: &PathRequest) -> Result<()> {
        self.files_call(id, "remove", path).await.map(drop)
    }

    fn archive_route(&self, id: &str, path: &PathRequest, single_file: bool) -> Url {
        let mut url = self.files_route(id, "archive");
        url.query_pairs_mut().append_pair("path", &path.path);
        if let Some(user) = &path.user {
            url.query_pairs_mut().append_pair("user", user);
        }
        if single_file {
            url.query_pairs_mut().append_pair("single_file", "true");
        }
        url
    }

    pub(crate) fn byte_stream(&self, response: Response) -> ByteStream {
        let url = self.url().to_owned();
        response
            .bytes_stream()
            .map_err(move |error| Error::from_reqwest(error, &url))
            .boxed()
    }
}
