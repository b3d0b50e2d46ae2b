//! From a sandbox to this machine. A file is written under a temporary name beside its target and
//! renamed when it is whole, so that a copy that breaks off changes nothing; a directory is filled
//! in place.

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use client::types::{FileInfo, FileKind, PathRequest};
use client::{ByteStream, Client};
use futures::{StreamExt, TryStreamExt, stream};
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;
use tokio_util::io::{StreamReader, SyncIoBridge};
use tokio_util::sync::CancellationToken;

use super::place::{Local, Remote, means_contents, name_of};
use super::sparse::SparseWriter;
use super::{CHUNK, stat, unpack};
use crate::failure::usage;
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
    let Some(info) = stat(client, &from.id, &path).await? else {
        bail!(
            "there is no {} in {}; `wrenn exec {} -- ls -la` shows what there is",
            from.path,
            from.id,
            from.id
        );
    };
    let is_dir = info.kind == FileKind::Directory;
    if from.path.ends_with('/') && info.kind == FileKind::File {
        return Err(usage(format!(
            "{} is a file, not a directory: leave out the /",
            from.path
        )));
    }
    if info.kind == FileKind::Other {
        return Err(usage(format!(
            "{} is neither a file nor a directory",
            from.path
        )));
    }
    let total = (info.kind == FileKind::File).then_some(info.size);
    match to {
        Local::Stdio => {
            if is_dir && output::stdout_is_terminal() {
                return Err(usage(
                    "a directory comes as a tar archive, which is nothing for a terminal: redirect it",
                ));
            }
            let (data, progress) =
                open(client, &from.id, &path, is_dir, total, quiet, stop).await?;
            print(data).await.map(|()| progress.total())
        }
        Local::Path(target) => {
            let target = local_target(target, &from.path, is_dir)?;
            let (data, progress) =
                open(client, &from.id, &path, is_dir, total, quiet, stop).await?;
            let saved = if is_dir {
                directory(data, &target).await
            } else {
                file(data, &target, &info).await
            };
            saved.with_context(|| format!("writing {}", target.display()))?;
            Ok(progress.total())
        }
    }
}

/// Where it goes: into `wanted` under its own name where that is a directory, else as `wanted`.
fn local_target(wanted: &Path, source: &str, source_is_dir: bool) -> anyhow::Result<PathBuf> {
    if wanted.is_dir() {
        return match name_of(source) {
            Some(name) => Ok(wanted.join(name)),
            None if source_is_dir && means_contents(source) => Ok(wanted.to_owned()),
            None => Err(usage(format!(
                "{source} has no name of its own: name the target"
            ))),
        };
    }
    if wanted.as_os_str().as_encoded_bytes().ends_with(b"/") && !source_is_dir {
        return Err(usage(format!(
            "{} is no directory; make it first, or leave out the /",
            wanted.display()
        )));
    }
    Ok(wanted.to_owned())
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
        client.read_archive(id, path).await?
    } else {
        client.read_file(id, path).await?
    };
    let progress = Arc::new(Progress::bytes(total, quiet));
    let counter = progress.clone();
    let counted = data.inspect_ok(move |part| counter.add(part.len()));
    // Told to stop, it breaks off as if the connection did, so that what was begun is cleared away.
    let stopped = stop.clone();
    let broken = stream::iter([()]).filter_map(move |()| {
        let error = || client::Error::Broken("stopped by a signal".into());
        std::future::ready(stopped.is_cancelled().then(|| Err(error())))
    });
    Ok((
        counted
            .take_until(stop.clone().cancelled_owned())
            .chain(broken)
            .boxed(),
        progress,
    ))
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

/// Into something that is there, such as a pipe or a device.
async fn save(mut data: ByteStream, file: File) -> anyhow::Result<()> {
    let mut file = tokio::fs::File::from_std(file);
    while let Some(part) = data.next().await {
        file.write_all(&part?).await?;
    }
    Ok(file.flush().await?)
}

/// Into a new file, with holes where there are zeroes.
async fn save_sparse(data: ByteStream, file: File) -> anyhow::Result<()> {
    let mut reader = SyncIoBridge::new(StreamReader::new(data.map_err(io::Error::other)));
    let saving = tokio::task::spawn_blocking(move || {
        let (mut writer, mut buffer) = (SparseWriter::new(file), vec![0; CHUNK]);
        loop {
            match reader.read(&mut buffer)? {
                0 => return writer.finish().map(drop),
                count => writer.write_all(&buffer[..count])?,
            }
        }
    });
    saving.await?.map_err(from_stream)
}

/// The error of the stream where it is one: what the server said has its own place and hint.
fn from_stream(error: io::Error) -> anyhow::Error {
    match error.downcast::<client::Error>() {
        Ok(error) => error.into(),
        Err(error) => error.into(),
    }
}

async fn file(data: ByteStream, target: &Path, info: &FileInfo) -> anyhow::Result<()> {
    let (target, permissions) = match fs::metadata(target) {
        Ok(there) if there.is_dir() => bail!("it is a directory"),
        // A pipe or a device is written to, never replaced.
        Ok(there) if !there.is_file() => {
            return save(data, File::options().write(true).open(target)?).await;
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
    save_sparse(data, temporary.as_file().try_clone()?).await?;
    temporary.persist(target)?;
    Ok(())
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
