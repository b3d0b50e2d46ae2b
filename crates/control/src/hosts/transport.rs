//! Transport of the calls to hosts: each is a step of the request that it is made for.

use connectrpc::client::{BoxFuture, ClientBody, ClientTransport, HttpClient};
use http::{Request, Response};
use runtime::trace::{call_span, fail_span};
use tracing::Instrument;

/// Transport whose calls carry the span that they are made in.
#[derive(Debug, Clone)]
pub(super) struct TracedTransport(pub(super) HttpClient);

impl ClientTransport for TracedTransport {
    type ResponseBody = <HttpClient as ClientTransport>::ResponseBody;
    type Error = <HttpClient as ClientTransport>::Error;

    fn send(
        &self,
        mut request: Request<ClientBody>,
    ) -> BoxFuture<'static, Result<Response<Self::ResponseBody>, Self::Error>> {
        let span = call_span(request.uri().path().trim_start_matches('/'));
        for (name, value) in span.in_scope(runtime::trace::headers) {
            request.headers_mut().insert(name, value);
        }
        let sent = self.0.send(request);
        Box::pin(async move {
            let answer = sent.instrument(span.clone()).await;
            match &answer {
                Ok(answer) if answer.status().is_success() => {}
                Ok(answer) => fail_span(&span, &answer.status()),
                Err(error) => fail_span(&span, error),
            }
            answer
        })
    }
}
