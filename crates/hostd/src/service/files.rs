//! Files of the guest.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use connectrpc::{
    ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult,
    ServiceStream,
};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use guest_rpc::filesystem as guest_fs;
use host_rpc as rpc;
use host_rpc::__buffa::oneof::{read_file_response, write_file_request};
use host_rpc::FileService;

use super::error::{from_guest, pass_on};
use super::paths::{self, check_path, info};
use super::{Agent, alive, file_search, file_watch, uploads};
use crate::guest::{FileBody, FileForm, FileQuery, as_user, prompt_as_user};
use crate::sandbox::Handle;

#[expect(
    refining_impl_trait,
    reason = "the concrete messages are what the handlers make"
)]
impl FileService for Agent {
    async fn read_file(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::ReadFileRequest>,
    ) -> ServiceResult<ServiceStream<rpc::ReadFileResponse>> {
        let request = request.to_owned_message();
        let id = request.sandbox_id.clone();
        Response::stream_ok(
            self.in_guest(&id, |handle| async move {
                read_guest_file(&handle, request).await
            })
            .await?,
        )
    }

    async fn write_file(
        &self,
        _: RequestContext,
        requests: InboundStream<rpc::WriteFileRequest>,
    ) -> ServiceResult<rpc::WriteFileResponse> {
        let (target, content) = receive_target(requests).await?;
        let id = target.sandbox_id.clone();
        let write =
            |handle: Handle| async move { write_guest_file(&handle, target, content).await };
        let bytes_written = self.in_guest(&id, write).await?;
        Response::ok(rpc::WriteFileResponse {
            bytes_written,
            ..rpc::WriteFileResponse::default()
        })
    }

    async fn stat_path(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::StatPathRequest>,
    ) -> ServiceResult<rpc::StatPathResponse> {
        let request = request.to_owned_message();
        let stat = |handle: Handle| async move {
            stat_guest_path(&handle, &request.path, request.user.as_deref()).await
        };
        let info = self.in_guest(&request.sandbox_id, stat).await?.into();
        Response::ok(rpc::StatPathResponse {
            info,
            ..rpc::StatPathResponse::default()
        })
    }

    async fn list_dir(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::ListDirRequest>,
    ) -> ServiceResult<rpc::ListDirResponse> {
        let request = request.to_owned_message();
        let id = request.sandbox_id.clone();
        Response::ok(
            self.in_guest(&id, |handle| async move {
                paths::list_guest_dir(&handle, request).await
            })
            .await?,
        )
    }

    async fn make_dir(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::MakeDirRequest>,
    ) -> ServiceResult<rpc::MakeDirResponse> {
        let request = request.to_owned_message();
        let id = request.sandbox_id.clone();
        Response::ok(
            self.in_guest(&id, |handle| async move {
                make_guest_dir(&handle, request).await
            })
            .await?,
        )
    }

    async fn remove_path(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::RemovePathRequest>,
    ) -> ServiceResult<rpc::RemovePathResponse> {
        let request = request.to_owned_message();
        let id = request.sandbox_id.clone();
        self.in_guest(&id, |handle| async move {
            remove_guest_path(&handle, request).await
        })
        .await?;
        Response::ok(rpc::RemovePathResponse::default())
    }

    async fn move_path(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::MovePathRequest>,
    ) -> ServiceResult<rpc::MovePathResponse> {
        let request = request.to_owned_message();
        let id = request.sandbox_id.clone();
        let moving = |handle: Handle| async move { paths::move_path(&handle, request).await };
        let info = self.in_guest(&id, moving).await?.into();
        Response::ok(rpc::MovePathResponse {
            info,
            ..rpc::MovePathResponse::default()
        })
    }

    async fn set_mode(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::SetModeRequest>,
    ) -> ServiceResult<rpc::SetModeResponse> {
        let request = request.to_owned_message();
        let id = request.sandbox_id.clone();
        let setting = |handle: Handle| async move { paths::set_mode(&handle, request).await };
        let info = self.in_guest(&id, setting).await?.into();
        Response::ok(rpc::SetModeResponse {
            info,
            ..rpc::SetModeResponse::default()
        })
    }

    async fn set_owner(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::SetOwnerRequest>,
    ) -> ServiceResult<rpc::SetOwnerResponse> {
        let request = request.to_owned_message();
        let id = request.sandbox_id.clone();
        let setting = |handle: Handle| async move { paths::set_owner(&handle, request).await };
        let info = self.in_guest(&id, setting).await?.into();
        Response::ok(rpc::SetOwnerResponse {
            info,
            ..rpc::SetOwnerResponse::default()
        })
    }

    async fn watch_dir(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::WatchDirRequest>,
    ) -> ServiceResult<ServiceStream<rpc::WatchDirResponse>> {
        let request = request.to_owned_message();
        let id = request.sandbox_id.clone();
        let watch = |handle| file_watch::watch_dir(handle, request);
        Response::stream_ok(self.in_guest(&id, watch).await?)
    }

    async fn search(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::SearchRequest>,
    ) -> ServiceResult<ServiceStream<rpc::SearchResponse>> {
        let request = request.to_owned_message();
        let id = request.sandbox_id.clone();
        let search = |handle| file_search::search(handle, request);
        Response::stream_ok(self.in_guest(&id, search).await?)
    }

    async fn begin_upload(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::BeginUploadRequest>,
    ) -> ServiceResult<rpc::UploadInfo> {
        let request = request.to_owned_message();
        let id = request.sandbox_id.clone();
        let begin = |handle: Handle| async move { uploads::begin(&handle, request).await };
        Response::ok(self.in_guest(&id, begin).await?)
    }

    async fn get_upload(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::GetUploadRequest>,
    ) -> ServiceResult<rpc::UploadInfo> {
        let request = request.to_owned_message();
        let upload = request.upload_id;
        let get = |handle: Handle| async move { uploads::get(&handle, &upload).await };
        Response::ok(self.in_guest(&request.sandbox_id, get).await?)
    }

    async fn write_upload(
        &self,
        _: RequestContext,
        requests: InboundStream<rpc::WriteUploadRequest>,
    ) -> ServiceResult<rpc::UploadInfo> {
        let (target, requests) = uploads::receive_target(requests).await?;
        let id = target.sandbox_id.clone();
        let write = |handle: Handle| async move { uploads::write(&handle, target, requests).await };
        Response::ok(self.in_guest(&id, write).await?)
    }

    async fn remove_upload(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::RemoveUploadRequest>,
    ) -> ServiceResult<rpc::RemoveUploadResponse> {
        let request = request.to_owned_message();
        let upload = request.upload_id;
        let remove = |handle: Handle| async move { uploads::remove(&handle, &upload).await };
        self.in_guest(&request.sandbox_id, remove).await?;
        Response::ok(rpc::RemoveUploadResponse::default())
    }
}

async fn stat_guest_path(
    handle: &Handle,
    path: &str,
    user: Option<&str>,
) -> Result<rpc::FileInfo, ConnectError> {
    check_path(path)?;
    let _active = handle.activity.begin();
    let request = guest_fs::StatRequest {
        path: path.to_owned(),
        ..Default::default()
    };
    let client = handle.guest().filesystem_client().map_err(from_guest)?;
    let answer = client
        .stat_with_options(request, prompt_as_user(user))
        .await
        .map_err(|error| pass_on(&error))?;
    Ok(info(
        answer.into_owned().entry.into_option().unwrap_or_default(),
    ))
}

async fn make_guest_dir(
    handle: &Handle,
    request: rpc::MakeDirRequest,
) -> Result<rpc::MakeDirResponse, ConnectError> {
    check_path(&request.path)?;
    let _active = handle.activity.begin();
    let options = prompt_as_user(request.user.as_deref());
    let ask = guest_fs::MakeDirRequest {
        path: request.path,
        ..Default::default()
    };
    let client = handle.guest().filesystem_client().map_err(from_guest)?;
    let answer = client
        .make_dir_with_options(ask, options)
        .await
        .map_err(|error| pass_on(&error))?;
    let made = info(answer.into_owned().entry.into_option().unwrap_or_default());
    Ok(rpc::MakeDirResponse {
        info: made.into(),
        ..Default::default()
    })
}

async fn remove_guest_path(
    handle: &Handle,
    request: rpc::RemovePathRequest,
) -> Result<(), ConnectError> {
    check_path(&request.path)?;
    let _active = handle.activity.begin();
    let options = as_user(request.user.as_deref());
    let ask = guest_fs::RemoveRequest {
        path: request.path,
        ..Default::default()
    };
    let client = handle.guest().filesystem_client().map_err(from_guest)?;
    client
        .remove_with_options(ask, options)
        .await
        .map_err(|error| pass_on(&error))
        .map(|_| ())
}

/// Returns a stream with the file's description, and then its content.
async fn read_guest_file(
    handle: &Handle,
    request: rpc::ReadFileRequest,
) -> Result<ServiceStream<rpc::ReadFileResponse>, ConnectError> {
    let active = handle.activity.begin();
    let about = stat_guest_path(handle, &request.path, request.user.as_deref()).await?;
    let query = FileQuery {
        path: request.path,
        user: request.user,
        mode: None,
        form: FileForm::from_request(request.archive, request.single_file),
    };
    let content = handle.guest().read_file(&query).await.map_err(from_guest)?;
    let part = |part| rpc::ReadFileResponse {
        part: Some(part),
        ..rpc::ReadFileResponse::default()
    };
    let first = stream::once(async move { Ok(part(read_file_response::Part::from(about))) });
    let rest = gathered(handle.clone(), content).map(move |chunk| {
        // Held by the stream: a transfer is activity as long as it lasts.
        let _ = &active;
        chunk.map(|bytes| part(read_file_response::Part::Data(bytes)))
    });
    Ok(first.chain(rest).boxed())
}

/// Gathers the content into messages of [`rpc::FILE_CHUNK_BYTES`] or little more: it comes from the
/// guest in the size of packets.
fn gathered(
    handle: Handle,
    content: FileBody,
) -> impl Stream<Item = Result<Vec<u8>, ConnectError>> + Send {
    stream::try_unfold((handle, content), |(handle, mut content)| async move {
        let message = alive::while_up(&handle, gather(&mut content)).await?;
        Ok((!message.is_empty()).then_some((message, (handle, content))))
    })
}

async fn gather(content: &mut FileBody) -> Result<Vec<u8>, ConnectError> {
    let mut message = Vec::new();
    while message.len() < rpc::FILE_CHUNK_BYTES {
        match content.next().await.transpose().map_err(from_guest)? {
            Some(piece) => message.extend_from_slice(&piece),
            None => break,
        }
    }
    Ok(message)
}

/// Returns the first message of an upload, which is its target, and the rest of the stream.
async fn receive_target(
    mut requests: InboundStream<rpc::WriteFileRequest>,
) -> Result<(rpc::WriteFileTarget, InboundStream<rpc::WriteFileRequest>), ConnectError> {
    let first = requests
        .next()
        .await
        .transpose()?
        .and_then(|message| message.to_owned_message().part);
    match first {
        Some(write_file_request::Part::Target(target)) => {
            check_path(&target.path)?;
            Ok((*target, requests))
        }
        _ => Err(ConnectError::invalid_argument(
            "the first message must be `target`",
        )),
    }
}

/// Writes the content of an upload, up to `done`; returns its bytes. A stream that ends without
/// `done` aborts the upload in the guest, too.
async fn write_guest_file(
    handle: &Handle,
    target: rpc::WriteFileTarget,
    requests: InboundStream<rpc::WriteFileRequest>,
) -> Result<u64, ConnectError> {
    let _active = handle.activity.begin();
    let query = FileQuery {
        path: target.path,
        user: target.user,
        mode: target.mode,
        form: FileForm::from_request(target.archive, target.single_file),
    };
    let written = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&written);
    let content = data(requests).inspect_ok(move |chunk| {
        counter.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    });
    handle
        .guest()
        .write_file(&query, content)
        .await
        .map_err(from_guest)?;
    Ok(written.load(Ordering::Relaxed))
}

fn data(
    requests: InboundStream<rpc::WriteFileRequest>,
) -> impl futures::Stream<Item = Result<Bytes, std::io::Error>> + Send {
    let broken =
        |text: &str| std::io::Error::new(std::io::ErrorKind::UnexpectedEof, text.to_owned());
    stream::try_unfold(Some(requests), move |requests| async move {
        let Some(mut requests) = requests else {
            return Ok(None);
        };
        let message = requests
            .next()
            .await
            .transpose()
            .map_err(|error| broken(&error.to_string()))?;
        match message.and_then(|message| message.to_owned_message().part) {
            Some(write_file_request::Part::Data(bytes)) => {
                Ok(Some((Bytes::from(bytes), Some(requests))))
            }
            // Nothing more to send, but one more turn so that the stream ends.
            Some(write_file_request::Part::Done(_)) => Ok(None),
            Some(write_file_request::Part::Target(_)) => Err(broken("the target came twice")),
            None => Err(broken("the upload broke off")),
        }
    })
}
