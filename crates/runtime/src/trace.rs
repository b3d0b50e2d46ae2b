//! The context of a request: its id, and the W3C trace context
//! (<https://www.w3.org/TR/trace-context/>).
//!
//! ```text
//!  client ─ x-request-id, traceparent ─→ control plane ─→ host agent ─→ guest agent
//!                                        id made if none    same id, same trace; a span of its own
//! ```
//! [`trace_request`] takes the context from the header fields of a request, and keeps it for the
//! task that handles it; [`headers`] gives it to the calls that this task makes. A task that works
//! on behalf of another one is wrapped in [`in_current_context`]. Agents of earlier versions, which
//! live on in snapshots, ignore the two header fields.
//!
//! A client that sets the trace's flag `sampled` gets a line at `info` for its request in the log of
//! each program. Guests write it to their console, which is too slow to do so for every request:
//! there lines have a rate ([`trace_guest_request`]).

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};
use tracing::{Instrument, Span};

/// Header field with the request's id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Header field of the W3C trace context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Maximum number of characters of an id that a client has chosen.
const MAX_REQUEST_ID: usize = 64;

tokio::task_local! {
    static CURRENT: RequestContext;
}

/// The context of one request in one program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestContext {
    request_id: String,
    trace: TraceParent,
}

/// Flag of a trace whose caller records it.
const SAMPLED: u8 = 1;

/// Position in a trace: `00-TRACE-SPAN-FLAGS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TraceParent {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    flags: u8,
}

impl RequestContext {
    /// Takes over the id and the trace of a request, each if it is fit for a log, and makes what is
    /// missing. The span is a new one.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let request_id = text(REQUEST_ID).filter(|id| is_request_id(id));
        let trace = text(TRACEPARENT).and_then(TraceParent::parse);
        Self {
            request_id: request_id.map_or_else(stdx::random::hex::<8>, str::to_owned),
            trace: TraceParent {
                span_id: rand::random(),
                ..trace.unwrap_or_else(TraceParent::random)
            },
        }
    }

    /// Returns the request's id.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Returns the trace's id as 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> String {
        hex::encode(self.trace.trace_id)
    }

    /// Returns true if the caller records the trace, and so wants to find it in logs.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.trace.flags & SAMPLED != 0
    }

    /// Returns the header fields for calls that are made for this request.
    #[must_use]
    pub fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let fields = [
            (REQUEST_ID, self.request_id.clone()),
            (TRACEPARENT, self.trace.to_string()),
        ];
        fields
            .into_iter()
            .filter_map(|(name, value)| Some((name, HeaderValue::try_from(value).ok()?)))
            .collect()
    }

    /// Returns the span in which the request is handled.
    #[must_use]
    pub fn span(&self) -> Span {
        tracing::info_span!("request", id = self.request_id, trace = self.trace_id())
    }
}

/// Returns true for an id that can neither forge a line of the log nor fill it.
fn is_request_id(id: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=MAX_REQUEST_ID).contains(&id.len()) && id.bytes().all(is_fit)
}

impl TraceParent {
    /// Returns a new trace that is not to be recorded.
    fn random() -> Self {
        Self {
            trace_id: rand::random(),
            span_id: rand::random(),
            flags: 0,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split('-');
        let mut next = || fields.next().filter(|field| is_lower_hex(field));
        let version = next()?;
        let trace_id = next()?;
        let span_id = next()?;
        let flags = next()?;
        // Later versions may have more fields, this one has not.
        let is_known = version != "00" || fields.next().is_none();
        if version.len() != 2 || version == "ff" || flags.len() != 2 || !is_known {
            return None;
        }
        let mut parsed = Self {
            trace_id: [0; 16],
            span_id: [0; 8],
            flags: u8::from_str_radix(flags, 16).ok()?,
        };
        hex::decode_to_slice(trace_id, &mut parsed.trace_id).ok()?;
        hex::decode_to_slice(span_id, &mut parsed.span_id).ok()?;
        let is_valid = parsed.trace_id != [0; 16] && parsed.span_id != [0; 8];
        is_valid.then_some(parsed)
    }
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trace_id = hex::encode(self.trace_id);
        let span_id = hex::encode(self.span_id);
        write!(f, "00-{trace_id}-{span_id}-{:02x}", self.flags)
    }
}

/// Returns the context of the request that this task works for.
#[must_use]
pub fn current() -> Option<RequestContext> {
    CURRENT.try_with(Clone::clone).ok()
}

/// Returns the header fields for a call that this task makes for a request; none outside of one.
#[must_use]
pub fn headers() -> Vec<(HeaderName, HeaderValue)> {
    current().map_or_else(Vec::new, |context| context.headers())
}

/// Runs `work` for the request of `context`, if there is one.
pub async fn in_context<T>(context: Option<RequestContext>, work: impl Future<Output = T>) -> T {
    match context {
        Some(context) => {
            let span = context.span();
            CURRENT.scope(context, work).instrument(span).await
        }
        None => work.await,
    }
}

/// Makes `work` run for the request that the calling task works for, in whichever task it is run.
pub fn in_current_context<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let context = current();
    let work = work.instrument(Span::current());
    async move {
        match context {
            Some(context) => CURRENT.scope(context, work).await,
            None => work.await,
        }
    }
}

/// Handles a request in its context and its span, and logs it if it was refused or is sampled:
/// middleware of axum.
pub async fn trace_request(request: Request, next: Next) -> Response {
    trace_with(request, next, || Some(0)).await
}

/// Does the same as [`trace_request`], with a rate of lines: a guest writes them to its console,
/// and whoever may call it can ask for a line with each request.
pub async fn trace_guest_request(request: Request, next: Next) -> Response {
    trace_with(request, next, || GUEST_LINES.take(Instant::now())).await
}

/// Handles a request. `take_line` returns the number of lines left out since the last one, or
/// `None` if this one is to be left out, too.
async fn trace_with(
    request: Request,
    next: Next,
    take_line: impl Fn() -> Option<u64> + Send,
) -> Response {
    let context = RequestContext::from_headers(request.headers());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let is_sampled = context.is_sampled();
    let begin = Instant::now();
    let work = async {
        let response = next.run(request).await;
        let status = response.status();
        let ms = begin.elapsed().as_millis();
        let is_refused = status.is_client_error() || status.is_server_error();
        let status = status.as_u16();
        let line = (is_refused || is_sampled).then(take_line).flatten();
        if let Some(left_out) = line.filter(|&left_out| left_out > 0) {
            tracing::info!(
                left_out,
                "lines of requests were left out: there were too many"
            );
        }
        match line {
            Some(_) if is_refused => tracing::info!(%method, path, status, ms, "request refused"),
            Some(_) => tracing::info!(%method, path, status, ms, "request"),
            None => tracing::debug!(%method, path, status, ms, "request"),
        }
        response
    };
    in_context(Some(context), work).await
}

/// Lines that a guest may log at once, and the time after which there is one more.
const GUEST_BURST: u64 = 32;
const GUEST_LINE_EVERY: Duration = Duration::from_secs(1);

static GUEST_LINES: LineBudget = LineBudget(Mutex::new(Budget {
    left: GUEST_BURST,
    filled_at: None,
    left_out: 0,
}));

/// Lines of the log that may be written.
#[derive(Debug)]
struct LineBudget(Mutex<Budget>);

#[derive(Debug)]
struct Budget {
    left: u64,
    filled_at: Option<Instant>,
    left_out: u64,
}

impl LineBudget {
    /// Takes a line. Returns the number of lines left out since the last one; `None` if none is
    /// left.
    fn take(&self, now: Instant) -> Option<u64> {
        let mut budget = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let filled_at = *budget.filled_at.get_or_insert(now);
        let elapsed = now.saturating_duration_since(filled_at);
        let more = elapsed.as_secs() / GUEST_LINE_EVERY.as_secs();
        if more > 0 {
            budget.filled_at =
                Some(filled_at + GUEST_LINE_EVERY * u32::try_from(more).unwrap_or(0));
            budget.left = budget.left.saturating_add(more).min(GUEST_BURST);
        }
        if budget.left == 0 {
            budget.left_out += 1;
            return None;
        }
        budget.left -= 1;
        Some(std::mem::take(&mut budget.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn context(fields: &[(HeaderName, &str)]) -> RequestContext {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(name, value.parse().unwrap());
        }
        RequestContext::from_headers(&headers)
    }

    #[test]
    fn context_is_handed_on() {
        let first = context(&[(REQUEST_ID, "a-B_9.z"), (TRACEPARENT, PARENT)]);
        assert_eq!(first.request_id(), "a-B_9.z");
        assert_eq!(first.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let headers: HeaderMap = first.headers().into_iter().collect();
        let parent = headers[TRACEPARENT].to_str().unwrap();
        assert!(parent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"));
        assert!(parent.ends_with("-01") && parent != PARENT);
        let second = RequestContext::from_headers(&headers);
        assert_eq!(second.request_id(), first.request_id());
        assert_eq!(second.trace_id(), first.trace_id());
        assert_ne!(second, first, "each program has a span of its own");
        assert!(second.is_sampled() && !context(&[]).is_sampled());
    }

    #[test]
    fn ids_cannot_forge_log_lines() {
        for wrong in ["", "a b", "a\tb", &"a".repeat(65)] {
            assert_ne!(context(&[(REQUEST_ID, wrong)]).request_id(), wrong);
        }
    }

    #[test]
    fn invalid_trace_is_replaced() {
        for wrong in [
            "",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            let made = context(&[(TRACEPARENT, wrong)]).trace_id();
            assert!(made != "4bf92f3577b34da6a3ce929d0e0e4736" && made.len() == 32);
        }
        let later = PARENT.replacen("00-", "01-", 1) + "-more";
        let taken = context(&[(TRACEPARENT, &later)]);
        assert_eq!(taken.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
    }

    #[test]
    fn guest_lines_have_a_rate() {
        let lines = LineBudget(Mutex::new(Budget {
            left: GUEST_BURST,
            filled_at: None,
            left_out: 0,
        }));
        let start = Instant::now();
        let written = (0..1000).filter(|_| lines.take(start).is_some()).count();
        assert_eq!(written, 32);
        let later = start + Duration::from_millis(2500);
        assert_eq!(lines.take(later), Some(968), "what was left out is told");
        assert_eq!(lines.take(later), Some(0));
        assert_eq!(lines.take(later), None);
        assert_eq!(lines.take(start + Duration::from_millis(3000)), Some(1));
    }

    #[tokio::test]
    async fn task_of_a_request_has_its_context() {
        assert!(headers().is_empty());
        let context = context(&[(REQUEST_ID, "outer")]);
        let spawned = in_context(Some(context), async {
            tokio::spawn(in_current_context(async { current() })).await
        });
        let found = spawned.await.unwrap().unwrap();
        assert_eq!(found.request_id(), "outer");
    }
}
