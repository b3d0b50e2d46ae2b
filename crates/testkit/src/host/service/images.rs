//! Images. Every archive but an empty one, and one that begins with `bad`, is an image.

use connectrpc::{ConnectError, InboundStream, RequestContext, ServiceResult};
use futures::StreamExt;
use host_rpc as rpc;
use host_rpc::__buffa::oneof::import_image_request::Part;
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
