//! Uploads: from this machine into a sandbox. The target is asked about first, because a directory
//! takes things under their own name and anything else is replaced.

use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use client::types::{FileKind, PathRequest};
use client::{Client, Error, FileTarget};
use std::os::unix::fs::PermissionsExt;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::place::{Local, Remote, means_contents, name_of};
use super::resume::{MIN_RESUMABLE, Resumable, send_file};
use super::watched::{Failure, counted};
use super::{CHUNK, MIN_SPARSE, describe_path, pack};
use crate::failure::usage_error;
use crate::output::Progress;
use crate::stdio::Stdio;
use crate::values::escape_bytes;

/// Copies and gives the bytes that were sent. `to.id` is whole.
pub async fn upload(
    client: &Client,
    from: &Local,
    to: &Remote,
    user: Option<&str>,
    quiet: bool,
) -> anyhow::Result<u64> {
    let path = PathRequest {
        path: to.path.clone(),
        user: user.map(str::to_owned),
    };
    let Local::Path(source) = from else {
        return from_stdin(client, &to.id, path, quiet).await;
    };
    let facts = tokio::fs::metadata(source)
        .await
        .with_context(|| format!("{} cannot be read", source.display()))?;
    let there = describe_path(client, &to.id, &path)
        .await?
        .map(|info| info.kind);
    if to.path.ends_with('/') && there.is_some_and(|kind| kind != FileKind::Directory) {
        return Err(usage_error(format!(
            "{} in the sandbox is no directory: leave out the /",
            to.path
        )));
    }
    let path = PathRequest {
        path: target_path(source, &to.path, there)?,
        ..path
    };
    if !facts.is_dir() {
        return file(client, &to.id, source, path, &facts, quiet).await;
    }
    if there.is_some_and(|kind| kind != FileKind::Directory) {
        return Err(usage_error(format!(
            "{} is a directory and {} in the sandbox is not",
            source.display(),
            to.path
        )));
    }
    directory(client, &to.id, source, path, quiet).await
}

/// Returns the path of the copy of `source`, where `wanted` was typed and is of kind `there`.
fn target_path(source: &Path, wanted: &str, there: Option<FileKind>) -> anyhow::Result<String> {
    let into = there == Some(FileKind::Directory)
        || (there.is_none() && wanted.ends_with('/') && !source.is_dir());
    let typed = escape_bytes(source);
    if !into || (source.is_dir() && means_contents(&typed)) {
        return Ok(wanted.to_owned());
    }
    let Some(name) = name_of(&typed).map(escape_bytes) else {
        return Err(usage_error(format!(
            "{typed} has no name that it could have in the sandbox: name the target"
        )));
    };
    Ok(format!("{}/{name}", wanted.trim_end_matches('/')))
}

async fn from_stdin(
    client: &Client,
    id: &str,
    path: PathRequest,
    quiet: bool,
) -> anyhow::Result<u64> {
    if means_contents(&path.path) || path.path.ends_with('/') {
        return Err(usage_error(
            "standard input has no name: name the file in the sandbox, as in SANDBOX:notes.txt",
        ));
    }
    let target = FileTarget {
        path: path.path,
        user: path.user,
        mode: None,
    };
    let progress = Arc::new(Progress::bytes(None, quiet));
    let failure = Failure::default();
    let data = counted(failure.watch(Stdio::stdin()?.into_stream()), &progress);
    let sent = client.write_file(id, &target, data, None).await;
    failure
        .take()
        .map_or(Ok(()), |error| Err(error).context("reading standard input"))?;
    sent?;
    Ok(progress.total())
}

async fn file(
    client: &Client,
    id: &str,
    source: &Path,
    path: PathRequest,
    facts: &std::fs::Metadata,
    quiet: bool,
) -> anyhow::Result<u64> {
    // A pipe or a device has no length beforehand, and its permission bits are not those of its
    // bytes. Files of /proc are empty before they are read.
    let length = (facts.is_file() && facts.len() > 0).then_some(facts.len());
    let mode = facts.is_file().then(|| facts.permissions().mode() & 0o777);
    let target = FileTarget {
        path: path.path,
        user: path.user,
        mode,
    };
    let opened = tokio::fs::File::open(source).await;
    let mut opened = opened.with_context(|| format!("{} cannot be read", source.display()))?;
    if let Some(sent) = sparse_file(client, id, &opened, &target, length, quiet).await? {
        return Ok(sent);
    }
    let mut refusal = None;
    if let Some(length) = length.filter(|length| *length >= MIN_RESUMABLE) {
        match send_file(client, id, source, &target, length, quiet).await? {
            Resumable::Sent(sent) => return Ok(sent),
            Resumable::Refused(error) => refusal = Some(error),
        }
    }
    if length.is_some() {
        // Looking for holes has moved it.
        opened.rewind().await?;
    }
    let progress = Arc::new(Progress::bytes(length, quiet));
    // What is appended while it is read is not sent: the length stands at the front.
    let data = ReaderStream::with_capacity(opened.take(length.unwrap_or(u64::MAX)), CHUNK);
    let failure = Failure::default();
    let sent = client
        .write_file(id, &target, counted(failure.watch(data), &progress), length)
        .await;
    failure.take().map_or(Ok(()), |error| {
        Err(error).with_context(|| format!("reading {}", source.display()))
    })?;
    match (sent, refusal) {
        // A server that refuses what it has not read yet ends the connection; why, it has said.
        (Err(Error::Broken(_)), Some(refusal)) if is_about_target(&refusal) => Err(refusal.into()),
        (sent, _) => {
            sent?;
            Ok(progress.total())
        }
    }
}

/// Returns true if a refusal is about the sandbox or the path, and not about the kind of upload.
fn is_about_target(refusal: &Error) -> bool {
    matches!(refusal.code(), Some("invalid_state" | "forbidden"))
}

/// Sends a file with large holes without them. `None` where it has none, or where the server or the
/// sandbox knows no such upload.
async fn sparse_file(
    client: &Client,
    id: &str,
    file: &tokio::fs::File,
    target: &FileTarget,
    length: Option<u64>,
    quiet: bool,
) -> anyhow::Result<Option<u64>> {
    let Some(length) = length.filter(|length| *length >= MIN_SPARSE) else {
        return Ok(None);
    };
    let file = file.try_clone().await?.into_std().await;
    let Some(data) = sparse::data_extents(&file, length)? else {
        return Ok(None);
    };
    let data: u64 = data.iter().map(|extent| extent.end - extent.start).sum();
    if length - data < MIN_SPARSE {
        return Ok(None);
    }
    let path = PathRequest {
        path: target.path.clone(),
        user: target.user.clone(),
    };
    let progress = Arc::new(Progress::bytes(Some(data), quiet));
    let (packing, tar) = pack::pack_file(file);
    let sent = client
        .write_sparse_file(id, &path, counted(tar, &progress))
        .await;
    match (packing.await.context("reading the file")?, sent) {
        // When reading here failed, the upload failed only because of that.
        (Err(error), _) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).with_context(|| format!("sending {} of {length} bytes", target.path))
        }
        (_, Err(error)) if error.is_invalid_request() => Ok(None),
        (_, sent) => Ok(sent.map(|()| Some(length))?),
    }
}

async fn directory(
    client: &Client,
    id: &str,
    source: &Path,
    path: PathRequest,
    quiet: bool,
) -> anyhow::Result<u64> {
    let progress = Arc::new(Progress::bytes(None, quiet));
    let (packing, tar) = pack::pack(source.to_owned());
    let sent = client
        .write_archive(id, &path, counted(tar, &progress))
        .await;
    // When reading here failed, the upload failed only because of that.
    match packing.await.context("reading the directory")? {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).with_context(|| format!("{} cannot be read", source.display()))
        }
        _ => Ok(sent.map(|()| progress.total())?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_takes_things_under_their_own_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.txt");
        std::fs::write(&file, "x").unwrap();
        let directory = Some(FileKind::Directory);
        assert_eq!(target_path(&file, "/tmp", directory).unwrap(), "/tmp/a.txt");
        assert_eq!(target_path(&file, "/", directory).unwrap(), "/a.txt");
        assert_eq!(target_path(&file, "new/", None).unwrap(), "new/a.txt");
        assert_eq!(target_path(&file, "new", None).unwrap(), "new");
        assert_eq!(
            target_path(&file, "old", Some(FileKind::File)).unwrap(),
            "old"
        );
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        assert_eq!(target_path(&tree, ".", directory).unwrap(), "./tree");
        assert_eq!(target_path(&tree, "new/", None).unwrap(), "new/");
        assert_eq!(
            target_path(&tree.join("."), "/srv", directory).unwrap(),
            "/srv"
        );
    }
}
