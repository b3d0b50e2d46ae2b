//! Uploads that go on after a break: the guest has them, this passes parts on.

use std::time::Duration;

use bytes::Bytes;
use connectrpc::{ConnectError, InboundStream};
use futures::{Stream, StreamExt, stream};
use guest_rpc::http::{UploadStart, UploadState};
use host_rpc as rpc;
use host_rpc::__buffa::oneof::write_upload_request;
use tokio::time::timeout;

use super::alive;
use super::error::from_guest;
use super::paths::check_path;
use crate::guest::{Error as GuestError, Guest, is_upload_id, old_guest_error};
use crate::sandbox::Handle;

/// Time for answers that take the guest no time of its own.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Digits of a SHA-256.
const SHA256_DIGITS: usize = 64;

/// Begins an upload.
pub(super) async fn begin(
    handle: &Handle,
    request: rpc::BeginUploadRequest,
) -> Result<rpc::UploadInfo, ConnectError> {
    check_path(&request.path)?;
    let is_digest = |text: &String| {
        text.len() == SHA256_DIGITS && text.bytes().all(|digit| digit.is_ascii_hexdigit())
    };
    if !request.sha256.as_ref().is_none_or(is_digest) {
        let problem = format!("sha256 must be {SHA256_DIGITS} hexadecimal digits");
        return Err(ConnectError::invalid_argument(problem));
    }
    let start = UploadStart {
        path: request.path,
        length: request.length,
        mode: request.mode,
        sha256: request.sha256,
    };
    let begun = in_time(handle.guest().begin_upload(&start, request.user.as_deref())).await;
    match begun? {
        // The route itself: a path that is missing is made.
        Err(GuestError::Refused { status: 404, .. }) => Err(old_guest_error()),
        begun => begun.map(info).map_err(refused),
    }
}

/// Returns the state of an upload.
pub(super) async fn get(handle: &Handle, id: &str) -> Result<rpc::UploadInfo, ConnectError> {
    check_id(id)?;
    let found = in_time(handle.guest().get_upload(id)).await?;
    found.map(info).map_err(refused)
}

/// Appends to an upload, which is use of the sandbox for as long as it takes.
pub(super) async fn write(
    handle: &Handle,
    target: rpc::write_upload_request::UploadTarget,
    requests: InboundStream<rpc::WriteUploadRequest>,
) -> Result<rpc::UploadInfo, ConnectError> {
    check_id(&target.upload_id)?;
    let _active = handle.activity.begin();
    let guest: Guest = handle.guest();
    let written = guest.write_upload(&target.upload_id, target.offset, data(requests));
    let written = alive::while_up(handle, async { written.await.map_err(refused) });
    written.await.map(info)
}

/// Deletes an upload.
pub(super) async fn remove(handle: &Handle, id: &str) -> Result<(), ConnectError> {
    check_id(id)?;
    let removed = in_time(handle.guest().remove_upload(id)).await?;
    removed.map_err(refused)
}

async fn in_time<T>(call: impl Future<Output = T>) -> Result<T, ConnectError> {
    let late = |_| ConnectError::deadline_exceeded("the guest agent does not answer");
    timeout(ANSWER_TIMEOUT, call).await.map_err(late)
}

fn check_id(id: &str) -> Result<(), ConnectError> {
    match is_upload_id(id) {
        true => Ok(()),
        false => Err(ConnectError::not_found("there is no such upload")),
    }
}

/// Converts an error of the guest, in which a conflict is one of offsets.
fn refused(error: GuestError) -> ConnectError {
    match error {
        GuestError::Refused {
            status: 429,
            message,
        } => ConnectError::resource_exhausted(message),
        other => from_guest(other),
    }
}

fn info(state: UploadState) -> rpc::UploadInfo {
    rpc::UploadInfo {
        upload_id: state.id,
        offset: state.offset,
        length: state.length,
        is_complete: state.is_complete,
        ..Default::default()
    }
}

/// Returns the first message of a part, which is its target, and the rest of the stream.
pub(super) async fn receive_target(
    mut requests: InboundStream<rpc::WriteUploadRequest>,
) -> Result<
    (
        rpc::write_upload_request::UploadTarget,
        InboundStream<rpc::WriteUploadRequest>,
    ),
    ConnectError,
> {
    let first = requests.next().await.transpose()?;
    match first.and_then(|message| message.to_owned_message().part) {
        Some(write_upload_request::Part::Target(target)) => Ok((*target, requests)),
        _ => Err(ConnectError::invalid_argument(
            "the first message must be `target`",
        )),
    }
}

fn data(
    requests: InboundStream<rpc::WriteUploadRequest>,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send {
    let broken =
        |text: &str| std::io::Error::new(std::io::ErrorKind::UnexpectedEof, text.to_owned());
    stream::try_unfold(requests, move |mut requests| async move {
        let message = requests.next().await.transpose();
        let message = message.map_err(|error| broken(&error.to_string()))?;
        match message.and_then(|message| message.to_owned_message().part) {
            Some(write_upload_request::Part::Data(bytes)) => {
                Ok(Some((Bytes::from(bytes), requests)))
            }
            Some(write_upload_request::Part::Done(_)) => Ok(None),
            Some(write_upload_request::Part::Target(_)) => Err(broken("the target came twice")),
            None => Err(broken("the part broke off")),
        }
    })
}
