//! Images that users import.

use std::sync::Arc;

use connectrpc::{
    ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult,
    ServiceStream,
};
use futures::StreamExt;
use host_rpc as rpc;
use host_rpc::__buffa::oneof::import_image_request::Part;
use host_rpc::ImageService;
use model::TemplateName;
use stdx::error::chain;

use super::error::{from_sandbox_error, invalid_argument};
use super::pull::{pull_request, stream_pull};
use super::templates::image_with_config;
use super::{Agent, run_detached};
use crate::images::import::{ImportError, Upload};
use crate::sandbox::SandboxError;

#[expect(
    refining_impl_trait,
    reason = "the concrete messages are what the handlers make"
)]
impl ImageService for Agent {
    async fn import_image(
        &self,
        _: RequestContext,
        mut requests: InboundStream<rpc::ImportImageRequest>,
    ) -> ServiceResult<rpc::Image> {
        let name = match next_part(&mut requests).await? {
            Some(Part::Target(target)) => target.name.parse().map_err(invalid_argument)?,
            _ => {
                return Err(ConnectError::invalid_argument(
                    "the first message must be `target`",
                ));
            }
        };
        let upload = self.receive_archive(&name, requests).await?;
        let manager = Arc::clone(&self.manager);
        let import = async move {
            let image = manager.import_image(upload, &name).await?;
            stdx::task::run_blocking(move || Ok::<_, SandboxError>(image_with_config(&image))).await
        };
        Response::ok(run_detached(import).await?)
    }

    async fn pull_image(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::PullImageRequest>,
    ) -> ServiceResult<ServiceStream<rpc::PullImageResponse>> {
        let request = pull_request(request.to_owned_message())?;
        Response::stream_ok(stream_pull(Arc::clone(&self.manager), request))
    }

    async fn get_image(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::GetImageRequest>,
    ) -> ServiceResult<rpc::Image> {
        let name: TemplateName = request.name.parse().map_err(invalid_argument)?;
        let images = self.manager.host.images.clone();
        let find = move || Ok(image_with_config(&images.find_image(&name)?));
        let found: Result<_, SandboxError> = stdx::task::run_blocking(find).await;
        Response::ok(found.map_err(from_sandbox_error)?)
    }

    async fn remove_image(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::RemoveImageRequest>,
    ) -> ServiceResult<rpc::RemoveImageResponse> {
        let name: TemplateName = request.name.parse().map_err(invalid_argument)?;
        let manager = Arc::clone(&self.manager);
        run_detached(async move { manager.remove_image(&name).await }).await?;
        Response::ok(rpc::RemoveImageResponse::default())
    }
}

impl Agent {
    /// Receives an archive up to `done`. If the stream ends before, nothing is left of it.
    async fn receive_archive(
        &self,
        name: &TemplateName,
        mut requests: InboundStream<rpc::ImportImageRequest>,
    ) -> Result<Upload, ConnectError> {
        let host = &self.manager.host;
        self.manager
            .check_image_name(name)
            .await
            .map_err(from_sandbox_error)?;
        let mut upload = host.imports.begin_upload().await.map_err(from_import)?;
        loop {
            match next_part(&mut requests).await? {
                Some(Part::Data(bytes)) => {
                    upload.append_bytes(&bytes).await.map_err(from_import)?
                }
                Some(Part::Done(_)) => return Ok(upload),
                Some(Part::Target(_)) => {
                    return Err(ConnectError::invalid_argument("the target came twice"));
                }
                None => return Err(ConnectError::invalid_argument("the upload broke off")),
            }
        }
    }
}

async fn next_part(
    requests: &mut InboundStream<rpc::ImportImageRequest>,
) -> Result<Option<Part>, ConnectError> {
    let message = requests.next().await.transpose()?;
    Ok(message.and_then(|message| message.to_owned_message().part))
}

fn from_import(error: ImportError) -> ConnectError {
    let text = chain(&error);
    match error {
        ImportError::Refused(_) => ConnectError::invalid_argument(text),
        ImportError::NoRoom | ImportError::TooMany(_) => ConnectError::resource_exhausted(text),
        ImportError::Registry(_) | ImportError::Host(_) => ConnectError::internal(text),
    }
}
