//! Templates.

use connectrpc::{RequestContext, ServiceRequest, ServiceResult};
use host_rpc as rpc;
use host_rpc::TemplateService;

use super::super::saved;
use super::{Agent, answer};

#[allow(
    refining_impl_trait,
    reason = "the concrete messages are what the handlers make"
)]
impl TemplateService for Agent {
    async fn list_templates(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, rpc::ListTemplatesRequest>,
    ) -> ServiceResult<rpc::ListTemplatesResponse> {
        self.shared.script.meet_barrier("ListTemplates").await?;
        let templates = saved::templates(&self.shared.world());
        answer!(ListTemplatesResponse {
            templates: templates
        })
    }
}
