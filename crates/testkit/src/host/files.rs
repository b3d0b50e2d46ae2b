//! Files that fake sandboxes keep. Some paths are special: below `/full` the disk is full, below
//! `/secret` everything is forbidden, `/dev/null` takes everything and `/dev/zero` gives for ever.

use std::sync::Arc;

use connectrpc::{ConnectError, InboundStream, ServiceStream};
use futures::{StreamExt, stream};
use host_rpc as rpc;
use host_rpc::__buffa::oneof::{read_file_response, write_file_request};

use super::Shared;
use super::world::Sandbox;

const HOME: &str = "/home/user";

pub(super) fn absolute(path: &str) -> Result<String, ConnectError> {
    if path.starts_with("/full") {
        return Err(ConnectError::resource_exhausted(
            "no space left on the disk of the sandbox",
        ));
    }
    if path.starts_with("/secret") {
        return Err(ConnectError::permission_denied(format!(
            "{path}: permission denied"
        )));
    }
    Ok(if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{HOME}/{path}")
    })
}

fn missing(path: &str) -> ConnectError {
    ConnectError::not_found(format!("{path} does not exist"))
}

fn info(sandbox: &Sandbox, path: &str) -> Result<rpc::FileInfo, ConnectError> {
    let is_dir = path == "/" || path == HOME || sandbox.content.archives.contains_key(path);
    let (kind, size) = match sandbox.content.files.get(path) {
        Some(data) => (rpc::FileKind::FILE_KIND_FILE, data.len() as u64),
        None if is_dir => (rpc::FileKind::FILE_KIND_DIRECTORY, 4096),
        None if path.starts_with("/dev/") => (rpc::FileKind::FILE_KIND_UNSPECIFIED, 0),
        None => return Err(missing(path)),
    };
    Ok(rpc::FileInfo {
        path: path.to_owned(),
        kind: kind.into(),
        size,
        mode: sandbox.content.modes.get(path).copied().unwrap_or(0o644),
        owner: "user".to_owned(),
        group: "user".to_owned(),
        modified_at_ms: 1_767_225_600_000,
        ..Default::default()
    })
}

pub(super) fn stat(sandbox: &Sandbox, path: &str) -> Result<rpc::FileInfo, ConnectError> {
    info(sandbox, &absolute(path)?)
}

/// Most entries of one page.
const MAX_PAGE: usize = 1000;

/// Lists a page of the files below a directory, at any depth.
pub(super) fn list(
    sandbox: &Sandbox,
    request: &rpc::ListDirRequest,
) -> Result<rpc::ListDirResponse, ConnectError> {
    let path = absolute(&request.path)?;
    if sandbox.content.files.contains_key(&path) {
        return Err(ConnectError::invalid_argument(format!(
            "{path} is not a directory"
        )));
    }
    info(sandbox, &path)?;
    let below = format!("{}/", path.trim_end_matches('/'));
    let mut names: Vec<&str> = sandbox
        .content
        .files
        .keys()
        .filter_map(|file| file.strip_prefix(&below))
        .filter(|name| name.as_bytes() > request.after.as_slice())
        .collect();
    names.sort_unstable();
    let limit = match request.limit as usize {
        0 => MAX_PAGE,
        limit => limit.min(MAX_PAGE),
    };
    let next = match names.len() > limit {
        true => names[limit - 1].as_bytes().to_vec(),
        false => Vec::new(),
    };
    let entries = names.iter().take(limit);
    let entries: Result<_, _> = entries
        .map(|name| info(sandbox, &format!("{below}{name}")))
        .collect();
    Ok(rpc::ListDirResponse {
        entries: entries?,
        next,
        ..Default::default()
    })
}

pub(super) fn move_path(
    sandbox: &mut Sandbox,
    request: &rpc::MovePathRequest,
) -> Result<rpc::FileInfo, ConnectError> {
    let source = absolute(&request.source)?;
    let destination = absolute(&request.destination)?;
    if request.no_replace && sandbox.content.files.contains_key(&destination) {
        return Err(ConnectError::already_exists(format!(
            "{destination} already exists"
        )));
    }
    let data = sandbox.content.files.remove(&source);
    let data = data.ok_or_else(|| missing(&source))?;
    sandbox.content.files.insert(destination.clone(), data);
    info(sandbox, &destination)
}

pub(super) fn set_mode(
    sandbox: &mut Sandbox,
    request: &rpc::SetModeRequest,
) -> Result<rpc::FileInfo, ConnectError> {
    let path = absolute(&request.path)?;
    info(sandbox, &path)?;
    let mode = u32::from_str_radix(&request.mode, 8)
        .map_err(|_| ConnectError::invalid_argument("the mode is none"))?;
    sandbox.content.modes.insert(path.clone(), mode);
    info(sandbox, &path)
}

pub(super) fn set_owner(
    sandbox: &Sandbox,
    request: &rpc::SetOwnerRequest,
) -> Result<rpc::FileInfo, ConnectError> {
    let found = info(sandbox, &absolute(&request.path)?)?;
    Ok(rpc::FileInfo {
        owner: request.owner.clone().unwrap_or(found.owner),
        group: request.group.clone().unwrap_or(found.group),
        ..found
    })
}

pub(super) fn make_dir(sandbox: &mut Sandbox, path: &str) -> Result<rpc::FileInfo, ConnectError> {
    let path = absolute(path)?;
    if sandbox.content.files.contains_key(&path) {
        return Err(ConnectError::already_exists(format!(
            "{path} exists and is no directory"
        )));
    }
    sandbox.content.archives.entry(path.clone()).or_default();
    info(sandbox, &path)
}

pub(super) fn remove(sandbox: &mut Sandbox, path: &str) -> Result<(), ConnectError> {
    let path = absolute(path)?;
    let removed = sandbox.content.files.remove(&path).is_some()
        || sandbox.content.archives.remove(&path).is_some();
    if removed { Ok(()) } else { Err(missing(&path)) }
}

pub(super) fn read(
    shared: Arc<Shared>,
    request: &rpc::ReadFileRequest,
) -> Result<ServiceStream<rpc::ReadFileResponse>, ConnectError> {
    let path = absolute(&request.path)?;
    let (about, data) = {
        let mut world = shared.world();
        let sandbox = world.sandbox(&request.sandbox_id)?;
        let about = info(sandbox, &path)?;
        let is_file_archive = request.archive && request.single_file;
        let data = match (
            request.archive,
            sandbox.content.files.get(&path),
            sandbox.content.archives.get(&path),
        ) {
            (true, Some(data), _) if is_file_archive => archive_file(&path, data),
            (true, _, Some(tar)) if !is_file_archive => tar.clone(),
            (false, Some(data), _) => data.clone(),
            (true, ..) => {
                return Err(ConnectError::invalid_argument(format!(
                    "{path} is not a directory"
                )));
            }
            (false, ..) if path == "/dev/zero" => Vec::new(),
            (false, ..) => {
                return Err(ConnectError::invalid_argument(format!(
                    "{path} is a directory"
                )));
            }
        };
        (about, data)
    };
    let part = |part| {
        Ok(rpc::ReadFileResponse {
            part: Some(part),
            ..Default::default()
        })
    };
    let first = stream::iter([part(read_file_response::Part::from(about))]);
    if path == "/dev/zero" {
        let zeros = stream::repeat_with(move || {
            shared.world().given_out += rpc::FILE_CHUNK_BYTES as u64;
            part(read_file_response::Part::Data(vec![
                0;
                rpc::FILE_CHUNK_BYTES
            ]))
        });
        return Ok(first.chain(zeros).boxed());
    }
    let chunks: Vec<_> = data
        .chunks(rpc::FILE_CHUNK_BYTES)
        .map(<[u8]>::to_vec)
        .collect();
    let rest = stream::iter(chunks).map(move |chunk| part(read_file_response::Part::Data(chunk)));
    Ok(first.chain(rest).boxed())
}

/// Returns an archive of one file, as a real guest sends it; archives of one file that are uploaded
/// are kept as they came.
fn archive_file(path: &str, data: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(data.len() as u64);
    let mut archive = tar::Builder::new(Vec::new());
    let name = path.trim_start_matches('/');
    archive
        .append_data(&mut header, name, data)
        .and_then(|()| archive.into_inner())
        .expect("an archive in memory")
}

pub(super) async fn target(
    requests: &mut InboundStream<rpc::WriteFileRequest>,
) -> Result<rpc::WriteFileTarget, ConnectError> {
    match requests
        .next()
        .await
        .transpose()?
        .and_then(|message| message.to_owned_message().part)
    {
        Some(write_file_request::Part::Target(target)) => Ok(*target),
        _ => Err(ConnectError::invalid_argument(
            "the first message must be `target`",
        )),
    }
}

pub(super) async fn write(
    shared: &Shared,
    target: rpc::WriteFileTarget,
    mut requests: InboundStream<rpc::WriteFileRequest>,
) -> Result<u64, ConnectError> {
    let path = absolute(&target.path)?;
    let mut data = Vec::new();
    let mut length = 0;
    loop {
        let message = requests.next().await.transpose()?;
        match message.and_then(|message| message.to_owned_message().part) {
            Some(write_file_request::Part::Data(chunk)) => {
                length += chunk.len() as u64;
                if path != "/dev/null" {
                    data.extend_from_slice(&chunk);
                }
            }
            Some(write_file_request::Part::Done(_)) => break,
            _ => return Err(ConnectError::internal("the upload broke off")),
        }
    }
    let mut world = shared.world();
    if path == "/dev/null" {
        world.taken_in += length;
        return Ok(length);
    }
    let sandbox = world
        .sandboxes
        .get_mut(&target.sandbox_id)
        .ok_or_else(|| missing(&path))?;
    if target.archive && !target.single_file {
        sandbox.content.archives.insert(path, data);
    } else {
        sandbox
            .content
            .modes
            .extend(target.mode.map(|mode| (path.clone(), mode)));
        sandbox.content.files.insert(path, data);
    }
    Ok(length)
}
