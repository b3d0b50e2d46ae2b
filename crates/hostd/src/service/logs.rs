//! Console and events of a sandbox, as a stream.

use std::time::Duration;

use connectrpc::{RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use futures::{StreamExt, stream};
use host_rpc as rpc;
use host_rpc::LogService;
use host_rpc::read_logs_response::Source as RpcSource;
use model::LogSource;

use super::error::from_sandbox_error;
use super::{Agent, sandbox_id};
use crate::sandbox::Handle;
use crate::sandbox::log::Entry;

/// Least time between two reads of a log that is followed, so that a guest which writes all the
/// time does not keep its readers busy all the time.
const FOLLOW_EVERY: Duration = Duration::from_millis(250);

#[expect(
    refining_impl_trait,
    reason = "the concrete messages are what the handlers make"
)]
impl LogService for Agent {
    async fn read_logs(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, rpc::ReadLogsRequest>,
    ) -> ServiceResult<ServiceStream<rpc::ReadLogsResponse>> {
        let follow = request.follow;
        let handle = self
            .manager
            .find_sandbox(&sandbox_id(request.sandbox_id)?)
            .await
            .map_err(from_sandbox_error)?;
        Response::stream_ok(read_log(handle, follow))
    }
}

/// Returns a stream of the entries of the log; with `follow` also of new ones, until the sandbox
/// has ended.
fn read_log(handle: Handle, follow: bool) -> ServiceStream<rpc::ReadLogsResponse> {
    stream::unfold(Some((handle, 0)), move |state| async move {
        let (handle, from) = state?;
        handle.drain_console().await;
        let mut changes = handle.log.watch_entries();
        changes.mark_unchanged();
        // Checked before the log is read, so that the last lines of an ending sandbox are not
        // missed.
        let over = handle.is_over();
        let (entries, next) = handle.log.entries_since(from);
        if !entries.is_empty() {
            if follow && from > 0 {
                tokio::time::sleep(FOLLOW_EVERY).await;
            }
            return Some((stream::iter(entries), follow.then_some((handle, next))));
        }
        if over || !follow {
            return None;
        }
        tokio::select! {
            changed = changes.changed() => changed.ok()?,
            () = handle.wait_until_over() => {}
        }
        Some((stream::iter(Vec::new()), Some((handle, from))))
    })
    .flatten()
    .map(|entry| Ok(message(entry)))
    .boxed()
}

fn message(entry: Entry) -> rpc::ReadLogsResponse {
    let source = match entry.source {
        LogSource::Console => RpcSource::SOURCE_CONSOLE,
        LogSource::Agent => RpcSource::SOURCE_AGENT,
    };
    rpc::ReadLogsResponse {
        source: source.into(),
        time_ms: entry.time_ms,
        line: entry.line,
        ..rpc::ReadLogsResponse::default()
    }
}
