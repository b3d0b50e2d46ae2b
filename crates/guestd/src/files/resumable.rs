//! `/files/uploads`: uploads that go on after a break.
//!
//! ```text
//!  begun ──part──▶ receiving ──part──▶ … ──last byte──▶ checked ──▶ complete
//!     │                │                                   │
//!     └────────────────┴── removed, expired, disk full ────┴──▶ gone, with its staged file
//! ```
//!
//! An upload is a staged file beside its target ([`super::target`]) and an entry here, in memory, so
//! both are in every snapshot of the guest: a pause, and a restart of whatever is between client and
//! guest, leave them alone. The path itself keeps what it has until all bytes are there and, where a
//! checksum was named, are right; then the staged file is made durable and renamed. If the agent
//! dies the guest ends with it. Parts come one after the other: a new one ends the one before, whose
//! client may be gone without our knowing.
//!
//! Bounds: [`MAX_UPLOADS`] at a time; each ends [`EXPIRY`] after its last part, by a clock that
//! stands still while the guest is paused; and none begins whose length the disk has no room for.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::extract::{Path, Query, Request, State};
use axum::response::Json;
use axum::routing::{get, post};
use bytes::Bytes;
use guest_rpc::http::{UploadStart, UploadState};
use http::StatusCode;
use parking_lot::Mutex;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::body::{self, Pieces};
use super::target::{Target, Wish};
use super::upload::gather;
use crate::Agent;
use crate::as_user::run;
use crate::auth::Caller;
use crate::filesystem::error::FileError;
use crate::filesystem::path;
use crate::http::error::HttpError;
use crate::settings::Settings;

/// Most uploads at a time; each holds two descriptors.
const MAX_UPLOADS: usize = 64;

/// Time after the last part, while the guest runs, after which an upload is given up.
const EXPIRY: Duration = Duration::from_secs(24 * 3600);

/// Time for which a complete upload is remembered, for a client that did not hear of its end.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// Longest JSON body.
const MAX_START: usize = 64 << 10;

/// Returns the routes of this module.
pub fn router(agent: &Agent) -> axum::Router {
    let state = Service {
        settings: agent.settings.clone(),
        uploads: Arc::default(),
    };
    axum::Router::new()
        .route("/files/uploads", post(begin))
        .route(
            "/files/uploads/{id}",
            get(show).patch(append).delete(remove),
        )
        .with_state(state)
}

#[derive(Clone)]
struct Service {
    settings: Arc<Settings>,
    uploads: Arc<Uploads>,
}

/// All uploads of the agent.
#[derive(Debug, Default)]
struct Uploads {
    all: Mutex<HashMap<String, Arc<Upload>>>,
}

#[derive(Debug)]
struct Upload {
    length: u64,
    progress: Mutex<Progress>,
    /// `None` when it is complete, or given up.
    receiving: tokio::sync::Mutex<Option<Receiving>>,
}

/// Progress of an upload, readable while a part of it arrives.
#[derive(Debug)]
struct Progress {
    offset: u64,
    is_complete: bool,
    expires: Instant,
    /// Ends the part that arrives now.
    part: CancellationToken,
}

#[derive(Debug)]
struct Receiving {
    target: Target,
    digest: Sha256,
    sha256: Option<Vec<u8>>,
}

#[derive(Debug, Deserialize)]
struct Offset {
    offset: u64,
}

async fn begin(
    State(service): State<Service>,
    request: Request,
) -> Result<Json<UploadState>, HttpError> {
    let user = Caller::of(request.extensions()).http_user(&service.settings)?;
    let body = axum::body::to_bytes(request.into_body(), MAX_START).await;
    let body = body.map_err(|e| HttpError::bad_request(format!("the body broke off: {e}")))?;
    let start: UploadStart = serde_json::from_slice(&body).map_err(|e| {
        HttpError::bad_request(format!("the body is not what begins an upload: {e}"))
    })?;
    let wish = Wish {
        path: path::resolve_named(&service.settings, &user, &start.path, "path")?,
        mode: start.mode.map(|mode| mode & 0o7777),
        metadata: Default::default(),
        user: user.clone(),
    };
    let sha256 = start.sha256.as_deref().map(parse_sha256).transpose()?;
    let length = start.length;
    let target = run(&user, move || {
        let target = Target::open_staged(wish)?;
        target.check_room(length)?;
        Ok(target)
    });
    let receiving = Receiving {
        target: target.await?,
        digest: Sha256::new(),
        sha256,
    };
    let id = service.uploads.insert(length, receiving)?;
    if length == 0 {
        let none: Pieces = Box::pin(futures::stream::empty());
        return service.uploads.append(&id, 0, none).await.map(Json);
    }
    service.uploads.show(&id).await.map(Json)
}

async fn show(
    State(service): State<Service>,
    Path(id): Path<String>,
) -> Result<Json<UploadState>, HttpError> {
    service.uploads.show(&id).await.map(Json)
}

async fn append(
    State(service): State<Service>,
    Path(id): Path<String>,
    Query(Offset { offset }): Query<Offset>,
    request: Request,
) -> Result<Json<UploadState>, HttpError> {
    let (head, body) = request.into_parts();
    let body = body::decode_body(body, &head.headers)?;
    // To its end also where the client hangs up: what is being written is not lost.
    let appending = async move { service.uploads.append(&id, offset, body).await };
    let appended = tokio::spawn(appending).await;
    appended.map_err(|e| FileError::task(&e))?.map(Json)
}

async fn remove(
    State(service): State<Service>,
    Path(id): Path<String>,
) -> Result<StatusCode, HttpError> {
    let upload = service.uploads.all.lock().remove(&id);
    let upload = upload.ok_or_else(|| unknown(&id))?;
    upload.give_up().await;
    Ok(StatusCode::NO_CONTENT)
}

impl Uploads {
    fn insert(self: &Arc<Self>, length: u64, receiving: Receiving) -> Result<String, HttpError> {
        let id = random_id().map_err(|e| HttpError::internal(e.to_string()))?;
        let mut all = self.all.lock();
        if all.len() >= MAX_UPLOADS {
            all.retain(|_, upload| !upload.progress.lock().is_complete);
        }
        if all.len() >= MAX_UPLOADS {
            let message = format!(
                "{MAX_UPLOADS} uploads are not complete: finish or delete some, or wait until they expire"
            );
            return Err(HttpError::new(StatusCode::TOO_MANY_REQUESTS, message));
        }
        let progress = Progress {
            offset: 0,
            is_complete: false,
            expires: Instant::now() + EXPIRY,
            part: CancellationToken::new(),
        };
        let upload = Arc::new(Upload {
            length,
            progress: Mutex::new(progress),
            receiving: tokio::sync::Mutex::new(Some(receiving)),
        });
        all.insert(id.clone(), Arc::clone(&upload));
        drop(all);
        tokio::spawn(expire(
            Arc::downgrade(self),
            Arc::downgrade(&upload),
            id.clone(),
        ));
        Ok(id)
    }

    fn get(&self, id: &str) -> Result<Arc<Upload>, HttpError> {
        let found = self.all.lock().get(id).cloned();
        found.ok_or_else(|| unknown(id))
    }

    /// Returns how far an upload is. Once all bytes are there it waits until the file is in its
    /// place, so that an offset at the end means that it is.
    async fn show(&self, id: &str) -> Result<UploadState, HttpError> {
        let upload = self.get(id)?;
        if upload.is_finishing() && !upload.is_open().await {
            return Err(unknown(id));
        }
        Ok(upload.state(id))
    }

    /// Appends a body. What arrived before a break stays.
    async fn append(
        &self,
        id: &str,
        offset: u64,
        mut body: Pieces,
    ) -> Result<UploadState, HttpError> {
        let upload = self.get(id)?;
        let appended = upload.append(offset, &mut body).await;
        if let Err(error) = appended {
            body::drain_body(&mut body).await;
            // Without a target there is nothing that could be continued.
            if !upload.is_open().await {
                self.all.lock().remove(id);
            }
            return Err(error);
        }
        Ok(upload.state(id))
    }
}

impl Upload {
    fn state(&self, id: &str) -> UploadState {
        let progress = self.progress.lock();
        UploadState {
            id: id.to_owned(),
            offset: progress.offset,
            length: self.length,
            is_complete: progress.is_complete,
        }
    }

    /// Returns true if all bytes are there, and it is not known what became of them.
    fn is_finishing(&self) -> bool {
        let progress = self.progress.lock();
        progress.offset == self.length && !progress.is_complete
    }

    /// Waits for the part that arrives now; returns false if the upload was given up.
    async fn is_open(&self) -> bool {
        self.receiving.lock().await.is_some() || self.progress.lock().is_complete
    }

    async fn give_up(&self) {
        self.progress.lock().part.cancel();
        let receiving = self.receiving.lock().await.take();
        // Removes the staged file, which may take a disk a moment.
        let _ = tokio::task::spawn_blocking(move || drop(receiving)).await;
    }

    /// Ends the part that arrives now, and returns the token of the next.
    fn begin_part(&self) -> CancellationToken {
        let mut progress = self.progress.lock();
        progress.part.cancel();
        progress.part = CancellationToken::new();
        progress.expires = Instant::now() + EXPIRY;
        progress.part.clone()
    }

    async fn append(&self, offset: u64, body: &mut Pieces) -> Result<(), HttpError> {
        let part = self.begin_part();
        let mut receiving = self.receiving.lock().await;
        let at = self.progress.lock().offset;
        if receiving.is_none() || at != offset {
            let message = format!("the upload is at offset {at}, not at {offset}: go on there");
            return Err(HttpError::new(StatusCode::CONFLICT, message));
        }
        loop {
            let gathered = tokio::select! {
                biased;
                () = part.cancelled() => {
                    let message = "another part of the upload came, or it was deleted";
                    return Err(HttpError::new(StatusCode::CONFLICT, message));
                }
                gathered = gather(body) => gathered,
            };
            let (pieces, is_last) = gathered?;
            let Some(mut open) = receiving.take() else {
                return Err(HttpError::internal("the upload has ended"));
            };
            let size: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
            if size > self.length - open.target.written() {
                let length = self.length;
                *receiving = Some(open);
                let message = format!("more bytes came than the {length} that the upload has");
                return Err(HttpError::bad_request(message));
            }
            // An error drops the target, and with it the staged file.
            let written = tokio::task::spawn_blocking(move || {
                open.write(&pieces)?;
                Ok::<_, FileError>(open)
            });
            let open = written.await.map_err(|e| FileError::task(&e))?;
            let open = open.map_err(given_up)?;
            let written = open.target.written();
            {
                let mut progress = self.progress.lock();
                progress.offset = written;
                progress.expires = Instant::now() + EXPIRY;
            }
            if written == self.length {
                return self.finish(open).await;
            }
            *receiving = Some(open);
            if is_last {
                return Ok(());
            }
        }
    }

    async fn finish(&self, open: Receiving) -> Result<(), HttpError> {
        let kept = tokio::task::spawn_blocking(move || {
            let digest = open.digest.finalize();
            if let Some(sha256) = &open.sha256
                && sha256.as_slice() != &digest[..]
            {
                let message = format!("the bytes have the SHA-256 {}", hex(&digest));
                return Err(FileError::invalid(message));
            }
            open.target.keep().map(drop)
        });
        let kept = kept.await.map_err(|e| FileError::task(&e))?;
        kept.map_err(given_up)?;
        let mut progress = self.progress.lock();
        progress.is_complete = true;
        progress.expires = Instant::now() + REMEMBERED;
        Ok(())
    }
}

impl Receiving {
    fn write(&mut self, pieces: &[Bytes]) -> Result<(), FileError> {
        for piece in pieces {
            self.digest.update(piece);
        }
        self.target.write(pieces.iter().map(|piece| &piece[..]))
    }
}

fn given_up(mut error: FileError) -> FileError {
    error
        .message
        .push_str("; the upload is given up, and the file stays as it was");
    error
}

/// Removes an upload when its time is over.
async fn expire(uploads: Weak<Uploads>, upload: Weak<Upload>, id: String) {
    loop {
        let Some(expires) = upload
            .upgrade()
            .map(|upload| upload.progress.lock().expires)
        else {
            return;
        };
        if expires > Instant::now() {
            sleep_until(expires).await;
            continue;
        }
        let (Some(uploads), Some(upload)) = (uploads.upgrade(), upload.upgrade()) else {
            return;
        };
        uploads.all.lock().remove(&id);
        upload.give_up().await;
        return;
    }
}

fn unknown(id: &str) -> HttpError {
    let id: String = id.chars().take(64).collect();
    let message = format!("upload '{id}' does not exist: it may have expired; begin another one");
    HttpError::new(StatusCode::NOT_FOUND, message)
}

fn parse_sha256(text: &str) -> Result<Vec<u8>, HttpError> {
    let is_digest = text.len() == 64 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let bytes = (0..text.len()).step_by(2);
    let bytes: Option<Vec<u8>> = bytes
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect();
    let wrong = || HttpError::bad_request("sha256 must be 64 hexadecimal digits");
    bytes.filter(|_| is_digest).ok_or_else(wrong)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn random_id() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    let random = std::fs::File::open("/dev/urandom")?;
    std::os::unix::fs::FileExt::read_exact_at(&random, &mut bytes, 0)?;
    Ok(hex(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &std::path::Path) -> Target {
        let wish = Wish {
            path: path.to_path_buf(),
            user: crate::user::lookup_user("root").expect("root"),
            mode: None,
            metadata: Default::default(),
        };
        Target::open_staged(wish).expect("opens")
    }

    fn receiving(path: &std::path::Path) -> Receiving {
        Receiving {
            target: target(path),
            digest: Sha256::new(),
            sha256: None,
        }
    }

    fn count(folder: &std::path::Path) -> usize {
        std::fs::read_dir(folder).expect("is there").count()
    }

    #[tokio::test(start_paused = true)]
    async fn idle_upload_expires_with_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let uploads = Arc::new(Uploads::default());
        let id = uploads
            .insert(10, receiving(&folder.path().join("a")))
            .expect("begins");
        assert_eq!(count(folder.path()), 1);
        tokio::time::sleep(EXPIRY - Duration::from_secs(1)).await;
        let part: Pieces = Box::pin(futures::stream::iter([Ok(Bytes::from_static(b"12345"))]));
        let state = uploads.append(&id, 0, part).await.expect("appends");
        assert_eq!(state.offset, 5);
        tokio::time::sleep(EXPIRY - Duration::from_secs(1)).await;
        assert!(
            uploads.show(&id).await.is_ok(),
            "each part begins its time anew"
        );
        let upload = Arc::downgrade(&uploads.get(&id).expect("is there"));
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(uploads.show(&id).await.is_err());
        while upload.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
        assert_eq!(count(folder.path()), 0);
    }

    #[tokio::test]
    async fn last_offset_means_file_in_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let uploads = Arc::new(Uploads::default());
        for is_kept in [true, false] {
            let receiving = receiving(&folder.path().join("a"));
            let id = uploads.insert(5, receiving).expect("begins");
            let upload = uploads.get(&id).expect("is there");
            // As while the last part is synced.
            let mut last_part = upload.receiving.lock().await;
            upload.progress.lock().offset = 5;
            let mut shown = std::pin::pin!(uploads.show(&id));
            assert!(futures::poll!(&mut shown).is_pending());
            last_part.take();
            upload.progress.lock().is_complete = is_kept;
            drop(last_part);
            let state = shown.await.ok();
            assert_eq!(state.is_some_and(|state| state.is_complete), is_kept);
        }
    }

    #[tokio::test]
    async fn number_of_uploads_is_bounded() {
        let folder = tempfile::tempdir().expect("a folder");
        let uploads = Arc::new(Uploads::default());
        for n in 0..MAX_UPLOADS {
            let receiving = receiving(&folder.path().join(n.to_string()));
            uploads.insert(1, receiving).expect("begins");
        }
        let more = receiving(&folder.path().join("more"));
        let refused = uploads.insert(1, more).expect_err("is one too many");
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(count(folder.path()), MAX_UPLOADS);
    }
}
