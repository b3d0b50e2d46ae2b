//! Files of the fake server.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{Multipart, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use client::types::{
    ChmodRequest, ChownRequest, FileInfo, FileKind, ListFilesRequest, MoveFileRequest, PathRequest,
    SearchFilesRequest, SearchMessage, WatchServerMessage,
};
use futures::{StreamExt, stream};

use super::{PAGE, Shared, refusal};

fn missing(path: &str) -> Response {
    refusal(404, "not_found", &format!("{path} does not exist"))
}

pub async fn write(State(world): Shared, mut form: Multipart) -> Response {
    let mut path = String::new();
    let mut mode = None;
    while let Some(mut field) = form.next_field().await.expect("a form") {
        match field.name().unwrap_or_default() {
            "path" => path = field.text().await.expect("text"),
            "mode" => mode = Some(field.text().await.expect("text")),
            "file" => {
                // Hangs up, as a server that refuses what it has not read.
                if path.contains("read-only") {
                    std::panic::resume_unwind(Box::new("the connection ends"));
                }
                let mut data = Vec::new();
                loop {
                    match field.chunk().await {
                        Ok(Some(part)) => data.extend_from_slice(&part),
                        Ok(None) => break,
                        // Broken off: nothing is kept.
                        Err(error) => return refusal(400, "invalid_request", &error.to_string()),
                    }
                }
                world
                    .lock()
                    .expect("the world")
                    .files
                    .insert(path.clone(), data);
            }
            _ => {}
        }
    }
    world.lock().expect("the world").mode = mode;
    StatusCode::NO_CONTENT.into_response()
}

/// Bytes that break off after the first piece, or come for ever; `None` for an ordinary path.
fn special(path: &str, first: Vec<u8>) -> Option<Response> {
    let first = stream::iter([Ok(first)]);
    let piece = || Bytes::from_static(&[b'x'; 16 * 1024]);
    if path.contains("broken") {
        let broken = stream::iter([Err(std::io::Error::other("the guest is gone"))]);
        return Some(Body::from_stream(first.chain(broken)).into_response());
    }
    path.contains("endless").then(|| {
        let rest = stream::repeat_with(move || Ok::<_, std::io::Error>(piece().to_vec()));
        Body::from_stream(first.chain(rest)).into_response()
    })
}

pub async fn read(State(world): Shared, Json(request): Json<PathRequest>) -> Response {
    if let Some(special) = special(&request.path, b"the first part".to_vec()) {
        return special;
    }
    match world.lock().expect("the world").files.get(&request.path) {
        Some(data) => Body::from(data.clone()).into_response(),
        None => missing(&request.path),
    }
}

pub async fn stat(State(world): Shared, Json(request): Json<PathRequest>) -> Response {
    if request.path.contains("stuck") {
        world.lock().expect("the world").stuck += 1;
        std::future::pending::<()>().await;
    }
    let world = world.lock().expect("the world");
    let path = request.path.trim_end_matches("/.").trim_end_matches('/');
    let (kind, size) = if path.contains("endless") || path.contains("broken") {
        let kind = if path.contains("dir") {
            FileKind::Directory
        } else {
            FileKind::File
        };
        (kind, 1 << 40)
    } else if let Some(data) = world.files.get(path) {
        (FileKind::File, data.len() as u64)
    } else if world.archives.contains_key(path) {
        (FileKind::Directory, 4096)
    } else {
        return missing(path);
    };
    Json(file_info(path, kind, size)).into_response()
}

fn file_info(path: &str, kind: FileKind, size: u64) -> FileInfo {
    FileInfo {
        path: path.to_owned(),
        kind,
        size,
        mode: 0o640,
        owner: "user".to_owned(),
        group: "user".to_owned(),
        modified_at: "2026-01-01T00:00:00Z".to_owned(),
        symlink_target: None,
    }
}

pub async fn list(State(world): Shared, Json(request): Json<ListFilesRequest>) -> Response {
    let world = world.lock().expect("the world");
    let after = request.cursor.unwrap_or_default();
    let below = world
        .files
        .iter()
        .filter(|(path, _)| path.starts_with(&request.path) && **path > after);
    let mut entries: Vec<FileInfo> = below
        .map(|(path, data)| file_info(path, FileKind::File, data.len() as u64))
        .collect();
    if request.limit.is_none() || entries.len() <= PAGE {
        return Json(entries).into_response();
    }
    entries.truncate(PAGE);
    let next = entries[PAGE - 1].path.clone();
    // Header fields are ASCII.
    let next = next.replace('\u{1b}', "");
    ([("x-next-cursor", next)], Json(entries)).into_response()
}

pub async fn mkdir(State(world): Shared, Json(request): Json<PathRequest>) -> Response {
    let mut world = world.lock().expect("the world");
    if world.archives.contains_key(&request.path) || world.files.contains_key(&request.path) {
        return refusal(409, "conflict", "it already exists");
    }
    world.archives.insert(request.path, Vec::new());
    StatusCode::NO_CONTENT.into_response()
}

pub async fn rename(State(world): Shared, Json(request): Json<MoveFileRequest>) -> Response {
    let mut world = world.lock().expect("the world");
    if !request.overwrite && world.files.contains_key(&request.destination) {
        return refusal(409, "conflict", "the destination already exists");
    }
    let Some(data) = world.files.remove(&request.source) else {
        return missing(&request.source);
    };
    let moved = file_info(&request.destination, FileKind::File, data.len() as u64);
    world.files.insert(request.destination, data);
    Json(moved).into_response()
}

pub async fn change_mode(State(world): Shared, Json(request): Json<ChmodRequest>) -> Response {
    let ChmodRequest {
        path,
        mode,
        recursive,
        ..
    } = request;
    let mut world = world.lock().expect("the world");
    world
        .changes
        .push(format!("chmod {path} {mode} {recursive}"));
    Json(file_info(&path, FileKind::File, 0)).into_response()
}

pub async fn change_owner(State(world): Shared, Json(request): Json<ChownRequest>) -> Response {
    let owner = request.owner.unwrap_or_default();
    let group = request.group.unwrap_or_default();
    let (path, recursive) = (request.path, request.recursive);
    let mut world = world.lock().expect("the world");
    world
        .changes
        .push(format!("chown {path} {owner}:{group} {recursive}"));
    Json(file_info(&path, FileKind::File, 0)).into_response()
}

pub async fn remove(State(world): Shared, Json(request): Json<PathRequest>) -> Response {
    match world.lock().expect("the world").files.remove(&request.path) {
        Some(_) => StatusCode::NO_CONTENT.into_response(),
        None => missing(&request.path),
    }
}

/// Query of the archive routes.
#[derive(Debug, serde::Deserialize)]
pub struct ArchiveRequest {
    path: String,
    #[serde(default)]
    single_file: bool,
}

impl ArchiveRequest {
    /// The refusal of a server of before this kind of archive.
    fn refuse_if_old(&self) -> Option<Response> {
        let is_old = self.single_file && self.path.contains("old");
        is_old.then(|| refusal(400, "invalid_request", "unknown field `single_file`"))
    }
}

fn pack_file(data: &[u8]) -> Response {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o640);
    header.set_size(data.len() as u64);
    let mut archive = tar::Builder::new(Vec::new());
    archive
        .append_data(&mut header, "file", data)
        .expect("an archive");
    Body::from(archive.into_inner().expect("an archive")).into_response()
}

pub async fn pack(State(world): Shared, Query(request): Query<ArchiveRequest>) -> Response {
    if let Some(refusal) = request.refuse_if_old() {
        return refusal;
    }
    let mut header = tar::Header::new_gnu();
    header.set_path("notes").expect("a name");
    header.set_mode(0o644);
    header.set_size(1 << 40);
    header.set_cksum();
    if let Some(special) = special(&request.path, header.as_bytes().to_vec()) {
        return special;
    }
    let mut world = world.lock().expect("the world");
    if request.single_file {
        world.single_files += 1;
        return match world.files.get(&request.path) {
            Some(data) => pack_file(data),
            None => missing(&request.path),
        };
    }
    match world.archives.get(&request.path) {
        Some(tar) => ([("content-type", "application/x-tar")], tar.clone()).into_response(),
        None => missing(&request.path),
    }
}

pub async fn unpack(
    State(world): Shared,
    Query(request): Query<ArchiveRequest>,
    tar: Bytes,
) -> Response {
    if let Some(refusal) = request.refuse_if_old() {
        return refusal;
    }
    let mut world = world.lock().expect("the world");
    if request.single_file {
        world.single_files += 1;
        world.single_file_bytes += tar.len();
        let mut archive = tar::Archive::new(&tar[..]);
        let entry = archive.entries().expect("an archive").next();
        let mut entry = entry.expect("an entry").expect("an entry");
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut data).expect("a file");
        let mode = entry.header().mode().expect("a mode") & 0o7777;
        world.mode = Some(format!("{mode:04o}"));
        world.files.insert(request.path, data);
    } else {
        world.archives.insert(request.path, tar.to_vec());
    }
    StatusCode::NO_CONTENT.into_response()
}

/// Lines that have the content, as text; an answer about `/broken` has no end.
pub async fn search(State(world): Shared, Json(request): Json<SearchFilesRequest>) -> Response {
    let world = world.lock().expect("the world");
    let content = request.content.unwrap_or_default();
    let mut found = Vec::new();
    for (path, data) in &world.files {
        let text = String::from_utf8_lossy(data).into_owned();
        if path.starts_with(&request.path) && text.contains(&content) {
            let line = (!content.is_empty()).then_some(1);
            found.push(SearchMessage::Match {
                path: path.clone(),
                kind: FileKind::File,
                line,
                text: line.map(|_| text),
                is_cut: false,
            });
        }
    }
    let limit = request.limit.unwrap_or(1000) as usize;
    let is_cut = found.len() > limit;
    found.truncate(limit);
    if request.path != "/broken" {
        found.push(SearchMessage::End {
            incomplete: is_cut.then(|| "the limit".to_owned()),
            searched: 0,
            binary: 0,
            unreadable: 0,
        });
    }
    let lines = found
        .iter()
        .map(|found| serde_json::to_string(found).expect("JSON") + "\n");
    Body::from(lines.collect::<String>()).into_response()
}

/// The first watch breaks after a change; each other one sees a rename, and ends.
pub async fn watch(
    State(world): Shared,
    Query(query): Query<BTreeMap<String, String>>,
    upgrade: WebSocketUpgrade,
) -> Response {
    if query["path"] == "/no" {
        return missing("/no");
    }
    let is_first = {
        let mut world = world.lock().expect("the world");
        world.watches += 1;
        world.watches == 1
    };
    upgrade.on_upgrade(move |mut socket| async move {
        let mut messages = vec![WatchServerMessage::Started];
        if is_first {
            messages.push(WatchServerMessage::Create {
                path: "/srv/new\u{1b}".to_owned(),
                is_directory: false,
            });
        } else {
            messages.push(WatchServerMessage::Rename {
                from: "/srv/a".to_owned(),
                path: "/srv/b".to_owned(),
                is_directory: false,
            });
            messages.push(WatchServerMessage::Ended {
                data: "the watched directory was removed".to_owned(),
            });
        }
        for message in messages {
            let text = serde_json::to_string(&message).expect("JSON");
            let _ = socket.send(Message::text(text)).await;
        }
    })
}
