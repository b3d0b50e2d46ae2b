//! Network rules of sandboxes.

use connectrpc::{RequestContext, Response, ServiceRequest, ServiceResult};
use host_rpc as rpc;
use host_rpc::NetworkService;

use super::error::{from_sandbox_error, invalid_argument};
use super::{Agent, report_of, sandbox_id};

#[expect(
    refining_impl_trait,
    reason = "the concrete messages are what the handlers make"
)]
impl NetworkService for Agent {
    async fn update_network(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::UpdateNetworkRequest>,
    ) -> ServiceResult<rpc::UpdateNetworkResponse> {
        let request = request.to_owned_message();
        let rules =
            rpc::network::from_message(request.network.as_option()).map_err(invalid_argument)?;
        let handle = self
            .manager
            .set_network(&sandbox_id(&request.sandbox_id)?, rules)
            .await
            .map_err(from_sandbox_error)?;
        let sandbox = report_of(&self.manager.host, &handle).into();
        Response::ok(rpc::UpdateNetworkResponse {
            sandbox,
            ..Default::default()
        })
    }
}
