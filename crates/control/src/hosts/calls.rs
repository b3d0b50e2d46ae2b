//! Calls to hosts: time limits, and streams of messages.

use std::sync::Arc;
use std::time::Duration;

use connectrpc::client::{ClientTransport, HttpClient, ServerStream};

use super::Host;

/// Time for calls that a host answers at once.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a sandbox to run. A guest without hardware virtualisation boots slowly, the more so
/// beside others.
pub(super) const ENSURE_TIMEOUT: Duration = Duration::from_secs(300);
/// Time for everything of a sandbox to be gone.
pub(super) const REMOVE_TIMEOUT: Duration = Duration::from_secs(120);
/// Time for calls that a guest answers from its disk. A paused one is resumed first.
pub(crate) const GUEST_TIMEOUT: Duration = Duration::from_secs(180);
/// Time for the memory of a sandbox to be on the host's disk: 64 GiB, which is the most that one
/// may have, at 100 MB/s take 11 minutes. If the host takes longer it goes on, and its reports tell
/// the end.
pub(super) const SAVE_TIMEOUT: Duration = Duration::from_secs(900);
/// Time for a change of rules or settings, or an end, which waits until the command that is being
/// carried out has ended.
pub(super) const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for calls that only work on files of the host, some of which may be large.
pub(super) const FILES_TIMEOUT: Duration = Duration::from_secs(120);
/// Time for a paused sandbox to run: the guest has to answer, which is slow without hardware
/// virtualisation.
pub(crate) const RESUME_TIMEOUT: Duration = Duration::from_secs(300);

type Stream<View> = ServerStream<<HttpClient as ClientTransport>::ResponseBody, View>;

/// Messages of one host as they come. Dropping it hangs up.
pub struct Messages<View> {
    pub(super) host: Arc<Host>,
    pub(super) stream: Stream<View>,
}

impl<View> std::fmt::Debug for Messages<View> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Messages")
            .field("host", &self.host.url())
            .finish_non_exhaustive()
    }
}

/// Declares how the next part of a stream is read; `None` at the end. Cancel-safe.
macro_rules! next_part {
    ($view:ident, $message:ident, $part:ident: $parts:path) => {
        impl Messages<::host_rpc::__buffa::view::$view<'static>> {
            async fn next_part(&mut self) -> $crate::error::Result<Option<$parts>> {
                loop {
                    let message = self.stream.message::<::host_rpc::$message>().await;
                    match message.map_err(|error| self.host.failed_query(&error))? {
                        // A part that this version does not know.
                        Some(message) => match message.to_owned_message().$part {
                            Some(part) => return Ok(Some(part)),
                            None => continue,
                        },
                        None => return Ok(None),
                    }
                }
            }
        }
    };
}
pub(super) use next_part;

/// A call with one answer, under a time limit:
/// `unary!(host, service.call_with_options(request), limit)`.
macro_rules! unary {
    ($host:expr, $service:ident.$call:ident($request:expr), $limit:expr) => {
        $crate::hosts::calls::call!($host, $service.$call($request), $limit, failed)
    };
}
pub(super) use unary;

/// The same for a call that changes nothing, so that it may be asked again whenever the host cannot
/// be reached.
macro_rules! query {
    ($host:expr, $service:ident.$call:ident($request:expr), $limit:expr) => {
        $crate::hosts::calls::call!($host, $service.$call($request), $limit, failed_query)
    };
}
pub(super) use query;

macro_rules! call {
    ($host:expr, $service:ident.$call:ident($request:expr), $limit:expr, $failed:ident) => {{
        let options = ::connectrpc::client::CallOptions::default().with_timeout($limit);
        let answer = $host.client()?.$service().$call($request, options).await;
        answer
            .map(|answer| answer.into_owned())
            .map_err(|error| $host.$failed(&error))
    }};
}
pub(super) use call;

/// A call whose answer is a list in several messages, under a time limit for all of them. An answer
/// that breaks off is an error.
macro_rules! listed {
    ($host:expr, $service:ident.$call:ident($request:expr) -> $message:ident.$items:ident, $limit:expr) => {{
        let options = ::connectrpc::client::CallOptions::default().with_timeout($limit);
        let listed = async {
            let mut items = ::std::vec::Vec::new();
            let mut stream = $host
                .client()?
                .$service()
                .$call($request, options)
                .await
                .map_err(|error| $host.failed_query(&error))?;
            loop {
                let message = stream.message::<::host_rpc::$message>().await;
                match message.map_err(|error| $host.failed_query(&error))? {
                    Some(message) => items.extend(message.to_owned_message().$items),
                    None => break $crate::error::Result::Ok(items),
                }
            }
        };
        listed.await
    }};
}
pub(super) use listed;

/// A call that changes nothing and whose answers come one by one, for as long as they do.
macro_rules! streaming {
    ($host:expr, $service:ident.$call:ident($request:expr)) => {
        $crate::hosts::calls::streaming!($host, $service.$call($request), failed_query)
    };
    ($host:expr, $service:ident.$call:ident($request:expr), $failed:ident) => {{
        let stream = $host
            .client()?
            .$service()
            .$call($request)
            .await
            .map_err(|error| $host.$failed(&error))?;
        $crate::hosts::calls::Messages {
            host: ::std::sync::Arc::clone($host),
            stream,
        }
    }};
}
pub(super) use streaming;
