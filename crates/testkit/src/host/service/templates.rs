//! Templates.

use connectrpc::{RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use host_rpc as rpc;
use host_rpc::TemplateService;

use super::super::saved;
use super::Agent;

#[allow(
    refining_impl_trait,
    reason = "the concrete messages are what the handlers make"
)]
impl TemplateService for Agent {
    async fn list_templates(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, rpc::ListTemplatesRequest>,
    ) -> ServiceResult<ServiceStream<rpc::ListTemplatesResponse>> {
        self.shared.script.meet_barrier("ListTemplates").await?;
        let templates = saved::templates(&self.shared.world());
        Response::stream_ok(rpc::batch::stream_items(
            templates.into_iter(),
            |templates| rpc::ListTemplatesResponse {
                templates,
                ..Default::default()
            },
        ))
    }
}
