//! Images. Every archive but an empty one, and one that begins with `bad`, is an image; every
//! reference but those with `missing`, `broken` and `endless` is one, of as many bytes as it has.

use connectrpc::{
    ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult,
    ServiceStream,
};
use futures::{StreamExt, stream};
use host_rpc as rpc;
use host_rpc::__buffa::oneof::import_image_request::Part;
use host_rpc::__buffa::oneof::pull_image_response::Event;
use host_rpc::ImageService;

use super::super::saved;
use super::{Agent, answer, unary};

/// Configuration of all images that are imported.
const CONFIG: &str = r#"{"User":"app"}"#;

#[allow(
    refining_impl_trait,
    reason = "the concrete messages are what the handlers make"
)]
impl ImageService for Agent {
    async fn import_image(
        &self,
        _: RequestContext,
        mut requests: InboundStream<rpc::ImportImageRequest>,
    ) -> ServiceResult<rpc::Image> {
        let mut name = None;
        let mut archive = Vec::new();
        let mut is_done = false;
        while let Some(message) = requests.next().await.transpose()? {
            match message.to_owned_message().part {
                Some(Part::Target(target)) => name = Some(target.name),
                Some(Part::Data(data)) => archive.extend_from_slice(&data),
                Some(Part::Done(_)) => is_done = true,
                None => {}
            }
        }
        self.shared.script.meet_barrier("ImportImage").await?;
        let name = name.filter(|_| is_done);
        let name = name.ok_or_else(|| ConnectError::invalid_argument("the upload broke off"))?;
        if archive.is_empty() || archive.starts_with(b"bad") {
            return Err(ConnectError::invalid_argument("it is no image"));
        }
        let template = saved::import_image(&mut self.shared.world(), &name, archive.len())?;
        answer!(Image {
            template: template.into(),
            config: CONFIG.to_owned()
        })
    }

    async fn pull_image(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::PullImageRequest>,
    ) -> ServiceResult<ServiceStream<rpc::PullImageResponse>> {
        let request = request.to_owned_message();
        self.shared.script.meet_barrier("PullImage").await?;
        let reference = &request.reference;
        if reference.contains("missing") {
            return Err(ConnectError::not_found("the registry has no such image"));
        }
        let progress = rpc::PullProgress {
            phase: rpc::PullPhase::PULL_PHASE_DOWNLOADING.into(),
            bytes: 1,
            total_bytes: 2,
            layers: 1,
            ..Default::default()
        };
        let first = stream::iter([Ok(pull_message(Event::from(progress)))]);
        if reference.contains("endless") {
            return Response::stream_ok(first.chain(stream::pending()).boxed());
        }
        let last = if reference.contains("broken") {
            Err(ConnectError::internal("the registry ended a layer early"))
        } else {
            self.pulled(&request)
        };
        Response::stream_ok(first.chain(stream::iter([last])).boxed())
    }

    unary!(get_image(self, request: GetImageRequest) -> Image, "GetImage", {
        let world = self.shared.world();
        match world.snapshots.get(&request.name) {
            Some(snapshot) => rpc::Image {
                template: snapshot.template.clone().into(),
                config: CONFIG.to_owned(),
                ..Default::default()
            },
            None => {
                let template = rpc::Template { name: request.name, ..Default::default() };
                rpc::Image { template: template.into(), ..Default::default() }
            }
        }
    });

    unary!(remove_image(self, request: RemoveImageRequest) -> RemoveImageResponse, "RemoveImage", {
        self.shared.world().snapshots.remove(&request.name);
        rpc::RemoveImageResponse::default()
    });
}

impl Agent {
    fn pulled(
        &self,
        request: &rpc::PullImageRequest,
    ) -> Result<rpc::PullImageResponse, ConnectError> {
        let mut world = self.shared.world();
        if request.replace {
            world.snapshots.remove(&request.name);
        }
        // Whose credentials came is seen by the size.
        let credentials = request.credentials.as_option();
        let secret = credentials.map_or(0, |it| it.password.len() + it.identity_token.len());
        let bytes = request.reference.len() + secret;
        let digest = format!("sha256:{bytes:064x}");
        let known = world.snapshots.get(&request.name);
        let known = known.filter(|known| known.template.digest == digest);
        let template = match known {
            Some(known) => known.template.clone(),
            None => saved::import_image(&mut world, &request.name, bytes)?,
        };
        Ok(pull_message(Event::from(rpc::Image {
            template: template.into(),
            config: CONFIG.to_owned(),
            ..Default::default()
        })))
    }
}

fn pull_message(event: Event) -> rpc::PullImageResponse {
    rpc::PullImageResponse {
        event: Some(event),
        ..Default::default()
    }
}
