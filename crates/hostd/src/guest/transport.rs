//! Transport of the calls to services of a guest: each is told to the trace that it is made for.

use connectrpc::client::{BoxFuture, ClientBody, ClientTransport, HttpClient};
use http::{Request, Response};
use runtime::trace::GuestCall;

/// Transport whose calls become spans of the guest.
#[derive(Debug, Clone)]
pub struct RecordedTransport(pub(super) HttpClient);

impl ClientTransport for RecordedTransport {
    type ResponseBody = <HttpClient as ClientTransport>::ResponseBody;
    type Error = <HttpClient as ClientTransport>::Error;

    fn send(
        &self,
        request: Request<ClientBody>,
    ) -> BoxFuture<'static, Result<Response<Self::ResponseBody>, Self::Error>> {
        let call = GuestCall::begin(|| request.uri().path().trim_start_matches('/').to_owned());
        let sent = self.0.send(request);
        Box::pin(async move {
            let answer = sent.await?;
            call.end(answer.status().as_u16());
            Ok(answer)
        })
    }
}
