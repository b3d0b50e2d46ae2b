//! Downloads: from a sandbox to this machine. A file is written under a temporary name beside its
//! target and renamed when it is whole, so that a copy that breaks off changes nothing; a directory
//! is filled in place.

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use client::types::{FileInfo, FileKind, PathRequest};
use client::{ByteStream, Client};
use futures::{StreamExt, TryStreamExt, stream};
use sparse::SparseWriter;
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;
use tokio_util::io::{StreamReader, SyncIoBridge};
use tokio_util::sync::CancellationToken;

use super::place::{Local, Remote, means_contents, name_of};
use super::{CHUNK, MIN_SPARSE, describe_path, unpack};
use crate::failure::usage_error;
use crate::output::{self, Progress};
use crate::stdio::Stdio;

/// Copies and gives the bytes that came. `from.id` is whole.
pub async fn download(
    client: &Client,
    from: &Remote,
    to: &Local,
    user: Option<&str>,
    quiet: bool,
    stop: &CancellationToken,
) -> anyhow::Result<u64> {
    let path = PathRequest {
        path: from.path.clone(),
        user: user.map(str::to_owned),
    };
    let Some(info) = unless_stopped(stop, describe_path(client, &from.id, &path)).await? else {
        bail!(
            "there is no {} in {}; `wrenn exec {} -- ls -la` shows what there is",
            from.path,
            from.id,
            from.id
        );
    };
    let is_dir = info.kind == FileKind::Directory;
    check_kind(&from.path, &info)?;
    let total = (info.kind == FileKind::File).then_some(info.size);
    match to {
        Local::Stdio => {
            if is_dir && output::stdout_is_terminal() {
                return Err(usage_error(
                    "a directory comes as a tar archive, which is nothing for a terminal: redirect it",
                ));
            }
            let (data, progress) =
                open(client, &from.id, &path, is_dir, total, quiet, stop).await?;
            print(data).await.map(|()| progress.total())
        }
        Local::Path(target) => {
            let target = local_target(target, &from.path, is_dir)?;
            let writing = || format!("writing {}", target.display());
            if !is_dir && info.size >= MIN_SPARSE && !is_device(&target) {
                let data = open_sparse(client, &from.id, &path, total, quiet, stop).await?;
                if let Some(data) = data {
                    let saved = file(data, Form::Sparse, &target, &info).await;
                    return saved.with_context(writing);
                }
            }
            let (data, progress) =
                open(client, &from.id, &path, is_dir, total, quiet, stop).await?;
            let saved = if is_dir {
                directory(data, &target).await
            } else {
                file(data, Form::Content, &target, &info).await.map(drop)
            };
            saved.with_context(writing)?;
            Ok(progress.total())
        }
    }
}

/// Checks that a file can be copied, and that it is a directory if the path says so.
fn check_kind(path: &str, info: &FileInfo) -> anyhow::Result<()> {
    if path.ends_with('/') && info.kind == FileKind::File {
        return Err(usage_error(format!(
            "{} is a file, not a directory: leave out the /",
            path
        )));
    }
    if info.kind == FileKind::Other {
        return Err(usage_error(format!(
            "{} is neither a file nor a directory",
            path
        )));
    }
    Ok(())
}

/// Returns the path of the copy: below `wanted` under the source's name where that is a directory,
/// else `wanted`.
fn local_target(wanted: &Path, source: &str, source_is_dir: bool) -> anyhow::Result<PathBuf> {
    if wanted.is_dir() {
        return match name_of(source) {
            Some(name) => Ok(wanted.join(name)),
            None if source_is_dir && means_contents(source) => Ok(wanted.to_owned()),
            None => Err(usage_error(format!(
                "{source} has no name of its own: name the target"
            ))),
        };
    }
    if wanted.as_os_str().as_encoded_bytes().ends_with(b"/") && !source_is_dir {
        return Err(usage_error(format!(
            "{} is no directory; make it first, or leave out the /",
            wanted.display()
        )));
    }
    Ok(wanted.to_owned())
}

/// Opens a file as an archive without its holes. `None` where the server or the sandbox is of an
/// earlier version.
async fn open_sparse(
    client: &Client,
    id: &str,
    path: &PathRequest,
    total: Option<u64>,
    quiet: bool,
    stop: &CancellationToken,
) -> anyhow::Result<Option<ByteStream>> {
    match unless_stopped(stop, client.read_sparse_file(id, path)).await {
        Ok(data) => Ok(Some(watch(data, total, quiet, stop).0)),
        Err(error) if error.is_invalid_request() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Waits for an answer, which a sandbox that has to be resumed first may take long for.
async fn unless_stopped<T>(
    stop: &CancellationToken,
    answer: impl Future<Output = client::Result<T>>,
) -> client::Result<T> {
    stop.run_until_cancelled(answer)
        .await
        .unwrap_or_else(|| Err(stopped()))
}

fn stopped() -> client::Error {
    client::Error::Broken("stopped by a signal".into())
}

async fn open(
    client: &Client,
    id: &str,
    path: &PathRequest,
    is_dir: bool,
    total: Option<u64>,
    quiet: bool,
    stop: &CancellationToken,
) -> anyhow::Result<(ByteStream, Arc<Progress>)> {
    let data = if is_dir {
        unless_stopped(stop, client.read_archive(id, path)).await?
    } else {
        unless_stopped(stop, client.read_file(id, path)).await?
    };
    Ok(watch(data, total, quiet, stop))
}

/// Counts the bytes of a stream, and breaks it off when it is told to stop.
fn watch(
    data: ByteStream,
    total: Option<u64>,
    quiet: bool,
    stop: &CancellationToken,
) -> (ByteStream, Arc<Progress>) {
    let progress = Arc::new(Progress::bytes(total, quiet));
    let counter = progress.clone();
    let counted = data.inspect_ok(move |part| counter.add(part.len()));
    // Told to stop, it breaks off as if the connection did, so that what was begun is cleared away.
    let stopping = stop.clone();
    let broken = stream::iter([()])
        .filter_map(move |()| std::future::ready(stopping.is_cancelled().then(|| Err(stopped()))));
    let data = counted
        .take_until(stop.clone().cancelled_owned())
        .chain(broken)
        .boxed();
    (data, progress)
}

/// Returns true for a pipe or device, which is written to from front to back.
fn is_device(target: &Path) -> bool {
    fs::metadata(target).is_ok_and(|there| !there.is_file() && !there.is_dir())
}

/// Form in which the bytes of a file come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Bytes as they are.
    Content,
    /// Archive with the file as its only entry, without holes.
    Sparse,
}

async fn print(mut data: ByteStream) -> anyhow::Result<()> {
    let stdout = Stdio::stdout()?;
    while let Some(part) = data.next().await {
        stdout
            .write_all_async(part?)
            .await
            .map_err(output::stdout_error)?;
    }
    Ok(())
}

/// Writes into a file that exists, such as a pipe or a device.
async fn save(mut data: ByteStream, file: File) -> anyhow::Result<()> {
    let mut file = tokio::fs::File::from_std(file);
    while let Some(part) = data.next().await {
        file.write_all(&part?).await?;
    }
    Ok(file.flush().await?)
}

/// Writes a new file, with holes where there are zeroes. Returns its length.
async fn save_sparse(data: ByteStream, form: Form, file: File) -> anyhow::Result<u64> {
    let mut reader = SyncIoBridge::new(StreamReader::new(data.map_err(io::Error::other)));
    let saving = tokio::task::spawn_blocking(move || {
        let mut writer = SparseWriter::new(file);
        if form == Form::Sparse {
            let entry = sparse::Entry::read(&mut reader)?;
            entry.read_into(&mut reader, &mut writer)?;
            // The end of the archive, so that a transfer that breaks off is never taken for whole.
            sparse::read_rest(&mut reader)?;
            return Ok(entry.length);
        }
        let mut buffer = vec![0; CHUNK];
        loop {
            match reader.read(&mut buffer)? {
                0 => return writer.finish().map(|()| writer.length()),
                count => writer.append([&buffer[..count]])?,
            }
        }
    });
    saving.await?.map_err(from_stream)
}

/// Returns the client's error if it is the cause: errors of the server have texts and hints of
/// their own.
fn from_stream(error: io::Error) -> anyhow::Error {
    match error.downcast::<client::Error>() {
        Ok(error) => error.into(),
        Err(error) => error.into(),
    }
}

async fn file(data: ByteStream, form: Form, target: &Path, info: &FileInfo) -> anyhow::Result<u64> {
    let (target, permissions) = match fs::metadata(target) {
        Ok(there) if there.is_dir() => bail!("it is a directory"),
        // A pipe or a device is written to, never replaced.
        Ok(there) if !there.is_file() => {
            save(data, File::options().write(true).open(target)?).await?;
            return Ok(info.size);
        }
        // A file keeps its permissions, and a link to it stays a link.
        Ok(there) => (target.canonicalize()?, there.permissions()),
        Err(_) => (target.to_owned(), Permissions::from_mode(info.mode & 0o777)),
    };
    let dir = target
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let made = tempfile::Builder::new()
        .prefix(".wrenn-")
        .permissions(permissions)
        .tempfile_in(dir);
    let temporary: NamedTempFile =
        made.with_context(|| format!("{} cannot be written to", dir.display()))?;
    let length = save_sparse(data, form, temporary.as_file().try_clone()?).await?;
    temporary.persist(target)?;
    Ok(length)
}

async fn directory(data: ByteStream, target: &Path) -> anyhow::Result<()> {
    if !target.is_dir() {
        fs::create_dir(target)?;
    }
    let reader = SyncIoBridge::new(StreamReader::new(data.map_err(io::Error::other)));
    let target = target.to_owned();
    tokio::task::spawn_blocking(move || unpack::unpack(reader, &target))
        .await?
        .map_err(from_stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_takes_things_under_their_own_name() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = dir.path();
        assert_eq!(
            local_target(wanted, "/etc/hosts", false).unwrap(),
            wanted.join("hosts")
        );
        assert_eq!(
            local_target(wanted, "/srv/", true).unwrap(),
            wanted.join("srv")
        );
        assert_eq!(local_target(wanted, "/srv/.", true).unwrap(), wanted);
        assert_eq!(
            local_target(&wanted.join("new"), "/srv", true).unwrap(),
            wanted.join("new")
        );
        assert!(local_target(&wanted.join("new/"), "/etc/hosts", false).is_err());
    }
}
