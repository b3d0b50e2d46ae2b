//! Logs of sandboxes.

use connectrpc::{RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use futures::StreamExt;
use host_rpc as rpc;
use host_rpc::LogService;

use super::Agent;

#[allow(
    refining_impl_trait,
    reason = "the concrete messages are what the handlers make"
)]
impl LogService for Agent {
    async fn read_logs(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::ReadLogsRequest>,
    ) -> ServiceResult<ServiceStream<rpc::ReadLogsResponse>> {
        let request = request.to_owned_message();
        self.shared.script.meet_barrier("ReadLogs").await?;
        let more = tokio_stream::wrappers::BroadcastStream::new(self.shared.logs.subscribe());
        let logs = self.find(&request.sandbox_id, |sandbox| sandbox.logs.clone())?;
        let logs = futures::stream::iter(logs).map(Ok);
        if !request.follow {
            return Response::stream_ok(logs.boxed());
        }
        let id = request.sandbox_id;
        let more = more.filter_map(move |entry| {
            let entry = entry
                .ok()
                .filter(|(of, _)| *of == id)
                .map(|(_, entry)| Ok(entry));
            async move { entry }
        });
        Response::stream_ok(logs.chain(more).boxed())
    }
}
