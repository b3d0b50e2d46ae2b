//! From this machine into a sandbox. The target is asked about first, because a directory takes things under their
//! own name and anything else is replaced.

use std::io;
use std::path::Path;

use anyhow::Context;
use bytes::Bytes;
use client::types::{FileKind, PathRequest};
use client::{Client, FileTarget};
use futures::{Stream, StreamExt};
use std::os::unix::fs::PermissionsExt;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::place::{Local, Remote, means_contents, name_of};
use super::{CHUNK, pack, stat};
use crate::failure::usage;
use crate::output::Progress;

/// Copies and gives the bytes that were sent. `to.id` is whole.
pub async fn upload(
    client: &Client,
    from: &Local,
    to: &Remote,
    user: Option<&str>,
    quiet: bool,
) -> anyhow::Result<u64> {
    let path = PathRequest { path: to.path.clone(), user: user.map(str::to_owned) };
    let Local::Path(source) = from else { return from_stdin(client, &to.id, path, quiet).await };
    let facts = tokio::fs::metadata(source).await.with_context(|| format!("{} cannot be read", source.display()))?;
    let there = stat(client, &to.id, &path).await?.map(|info| info.kind);
    let path = PathRequest { path: target_path(source, &to.path, there)?, ..path };
    if !facts.is_dir() {
        return file(client, &to.id, source, path, &facts, quiet).await;
    }
    if there.is_some_and(|kind| kind != FileKind::Directory) {
        return Err(usage(format!("{} is a directory and {} in the sandbox is not", source.display(), to.path)));
    }
    directory(client, &to.id, source, path, quiet).await
}

/// Where `source` goes when `wanted` was typed and is of kind `there`.
fn target_path(source: &Path, wanted: &str, there: Option<FileKind>) -> anyhow::Result<String> {
    let into = there == Some(FileKind::Directory) || (there.is_none() && wanted.ends_with('/') && !source.is_dir());
    let typed = source.to_string_lossy();
    if !into || (source.is_dir() && means_contents(&typed)) {
        return Ok(wanted.to_owned());
    }
    let Some(name) = name_of(&typed).map(|name| name.to_string_lossy().into_owned()) else {
        return Err(usage(format!("{} has no name that it could have in the sandbox: name the target", typed)));
    };
    Ok(format!("{}/{name}", wanted.trim_end_matches('/')))
}

async fn from_stdin(client: &Client, id: &str, path: PathRequest, quiet: bool) -> anyhow::Result<u64> {
    if means_contents(&path.path) || path.path.ends_with('/') {
        return Err(usage("standard input has no name: name the file in the sandbox, as in SANDBOX:notes.txt"));
    }
    let target = FileTarget { path: path.path, user: path.user, mode: None };
    let progress = std::sync::Arc::new(Progress::bytes(None, quiet));
    let data = counted(ReaderStream::with_capacity(tokio::io::stdin(), CHUNK), &progress);
    client.write_file(id, &target, data, None).await?;
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
    // A pipe or a device has no length beforehand, and its permission bits are not those of its bytes.
    let length = facts.is_file().then_some(facts.len());
    let mode = facts.is_file().then(|| facts.permissions().mode() & 0o777);
    let target = FileTarget { path: path.path, user: path.user, mode };
    let opened = tokio::fs::File::open(source).await;
    let opened = opened.with_context(|| format!("{} cannot be read", source.display()))?;
    let progress = std::sync::Arc::new(Progress::bytes(length, quiet));
    // What is appended while it is read is not sent: the length stands at the front.
    let data = ReaderStream::with_capacity(opened.take(length.unwrap_or(u64::MAX)), CHUNK);
    client.write_file(id, &target, counted(data, &progress), length).await?;
    Ok(progress.total())
}

async fn directory(client: &Client, id: &str, source: &Path, path: PathRequest, quiet: bool) -> anyhow::Result<u64> {
    let progress = std::sync::Arc::new(Progress::bytes(None, quiet));
    let (packing, tar) = pack::pack(source.to_owned());
    let sent = client.write_archive(id, &path, counted(tar, &progress)).await;
    // When reading here failed, the upload failed only because of that.
    match packing.await.context("reading the directory")? {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).with_context(|| format!("{} cannot be read", source.display()))
        }
        _ => Ok(sent.map(|()| progress.total())?),
    }
}

fn counted<S>(data: S, progress: &std::sync::Arc<Progress>) -> impl Stream<Item = io::Result<Bytes>> + Send + use<S>
where
    S: Stream<Item = io::Result<Bytes>> + Send,
{
    let progress = progress.clone();
    data.inspect(move |part| progress.add(part.as_ref().map_or(0, Bytes::len)))
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
        assert_eq!(target_path(&file, "old", Some(FileKind::File)).unwrap(), "old");
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        assert_eq!(target_path(&tree, ".", directory).unwrap(), "./tree");
        assert_eq!(target_path(&tree, "new/", None).unwrap(), "new/");
        assert_eq!(target_path(&tree.join("."), "/srv", directory).unwrap(), "/srv");
    }
}
