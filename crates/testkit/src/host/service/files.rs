//! Files in sandboxes.

use std::sync::Arc;

use connectrpc::{
    InboundStream, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use host_rpc as rpc;
use host_rpc::FileService;

use super::super::world::Sandbox;
use super::super::{files, lifecycle, searching, uploads, watching};
use super::{Agent, answer, unary};

#[allow(
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
        self.shared.script.meet_barrier("ReadFile").await?;
        lifecycle::usable(&self.shared, &request.sandbox_id)?;
        Response::stream_ok(files::read(Arc::clone(&self.shared), &request)?)
    }

    async fn write_file(
        &self,
        _: RequestContext,
        mut requests: InboundStream<rpc::WriteFileRequest>,
    ) -> ServiceResult<rpc::WriteFileResponse> {
        let target = files::target(&mut requests).await?;
        self.shared.script.meet_barrier("WriteFile").await?;
        lifecycle::usable(&self.shared, &target.sandbox_id)?;
        let bytes_written = files::write(&self.shared, target, requests).await?;
        answer!(WriteFileResponse {
            bytes_written: bytes_written
        })
    }

    unary!(stat_path(self, request: StatPathRequest) -> StatPathResponse, "StatPath", {
        lifecycle::usable(&self.shared, &request.sandbox_id)?;
        let info = self.find(&request.sandbox_id, |sandbox| files::stat(sandbox, &request.path))??.into();
        rpc::StatPathResponse { info, ..Default::default() }
    });

    unary!(list_dir(self, request: ListDirRequest) -> ListDirResponse, "ListDir", {
        lifecycle::usable(&self.shared, &request.sandbox_id)?;
        self.find(&request.sandbox_id, |sandbox| files::list(sandbox, &request))??
    });

    unary!(make_dir(self, request: MakeDirRequest) -> MakeDirResponse, "MakeDir", {
        lifecycle::usable(&self.shared, &request.sandbox_id)?;
        let info = self.find(&request.sandbox_id, |sandbox| files::make_dir(sandbox, &request.path))??.into();
        rpc::MakeDirResponse { info, ..Default::default() }
    });

    unary!(remove_path(self, request: RemovePathRequest) -> RemovePathResponse, "RemovePath", {
        lifecycle::usable(&self.shared, &request.sandbox_id)?;
        self.find(&request.sandbox_id, |sandbox| files::remove(sandbox, &request.path))??;
        rpc::RemovePathResponse::default()
    });

    unary!(move_path(self, request: MovePathRequest) -> MovePathResponse, "MovePath", {
        lifecycle::usable(&self.shared, &request.sandbox_id)?;
        let info = self.find(&request.sandbox_id, |sandbox| files::move_path(sandbox, &request))??.into();
        rpc::MovePathResponse { info, ..Default::default() }
    });

    unary!(set_mode(self, request: SetModeRequest) -> SetModeResponse, "SetMode", {
        lifecycle::usable(&self.shared, &request.sandbox_id)?;
        let info = self.find(&request.sandbox_id, |sandbox| files::set_mode(sandbox, &request))??.into();
        rpc::SetModeResponse { info, ..Default::default() }
    });

    unary!(set_owner(self, request: SetOwnerRequest) -> SetOwnerResponse, "SetOwner", {
        lifecycle::usable(&self.shared, &request.sandbox_id)?;
        let info = self.find(&request.sandbox_id, |sandbox| files::set_owner(sandbox, &request))??.into();
        rpc::SetOwnerResponse { info, ..Default::default() }
    });

    async fn watch_dir(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::WatchDirRequest>,
    ) -> ServiceResult<ServiceStream<rpc::WatchDirResponse>> {
        let request = request.to_owned_message();
        self.shared.script.meet_barrier("WatchDir").await?;
        lifecycle::usable(&self.shared, &request.sandbox_id)?;
        Response::stream_ok(watching::watch(Arc::clone(&self.shared), &request)?)
    }

    async fn search(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::SearchRequest>,
    ) -> ServiceResult<ServiceStream<rpc::SearchResponse>> {
        let request = request.to_owned_message();
        self.shared.script.meet_barrier("Search").await?;
        lifecycle::usable(&self.shared, &request.sandbox_id)?;
        let search = |sandbox: &mut Sandbox| searching::search(sandbox, &request);
        Response::stream_ok(self.find(&request.sandbox_id, search)??)
    }

    unary!(begin_upload(self, request: BeginUploadRequest) -> UploadInfo, "BeginUpload", {
        lifecycle::usable(&self.shared, &request.sandbox_id)?;
        uploads::begin(&self.shared, &request)?
    });

    unary!(get_upload(self, request: GetUploadRequest) -> UploadInfo, "GetUpload", {
        lifecycle::usable(&self.shared, &request.sandbox_id)?;
        uploads::get(&self.shared, &request.upload_id)?
    });

    unary!(remove_upload(self, request: RemoveUploadRequest) -> RemoveUploadResponse, "RemoveUpload", {
        lifecycle::usable(&self.shared, &request.sandbox_id)?;
        uploads::remove(&self.shared, &request.upload_id)?;
        rpc::RemoveUploadResponse::default()
    });

    async fn write_upload(
        &self,
        _: RequestContext,
        requests: InboundStream<rpc::WriteUploadRequest>,
    ) -> ServiceResult<rpc::UploadInfo> {
        self.shared.script.meet_barrier("WriteUpload").await?;
        Response::ok(uploads::write(&self.shared, requests).await?)
    }
}
