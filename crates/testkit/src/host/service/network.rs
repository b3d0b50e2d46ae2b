//! Network rules of sandboxes.

use host_rpc as rpc;
use host_rpc::NetworkService;

use super::super::lifecycle;
use super::{Agent, unary};

#[allow(
    refining_impl_trait,
    reason = "the concrete messages are what the handlers make"
)]
impl NetworkService for Agent {
    unary!(update_network(self, request: UpdateNetworkRequest) -> UpdateNetworkResponse, "UpdateNetwork", {
        let sandbox = lifecycle::set_network(&self.shared, &request.sandbox_id, request.network.into_option())?.into();
        rpc::UpdateNetworkResponse { sandbox, ..Default::default() }
    });
}
