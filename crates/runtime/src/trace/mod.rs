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
//!
//! With the feature `otlp`, and once exporting has started, requests and steps ([`step()`]) are spans
//! as well, and the trace's flag tells the next program whether they are recorded. Whether the
//! client wants lines is then told apart from it, in `tracestate`.

mod parent;
#[cfg_attr(not(feature = "otlp"), path = "no_spans.rs")]
pub(crate) mod spans;
mod step;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tracing::{Instrument, Span};

pub use step::{
    GuestCall, call_span, fail_span, in_step, name_request, set_attribute, step, try_step,
};

use parent::TraceParent;

/// Header field with the request's id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Header field of the W3C trace context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Header field with a list of what vendors add to a trace: ours is whether its client wants lines
/// in the logs, and comes first.
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Maximum length of the list of others: what W3C asks each program to pass on.
const MAX_TRACESTATE: usize = 512;
const WANTS_LINES: &str = "wrenn=lines";
const WANTS_NO_LINES: &str = "wrenn=quiet";

/// Maximum number of characters of an id that a client has chosen.
const MAX_REQUEST_ID: usize = 64;

tokio::task_local! {
    static CURRENT: RequestContext;
}

/// The context of one request in one program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestContext {
    request_id: String,
    /// The span that calls are made in. Its flag is that of the client where no spans are exported.
    trace: TraceParent,
    /// True if that span is exported.
    is_recorded: bool,
    wants_lines: bool,
    /// What others have added to the trace, as a list; may be empty.
    other_state: String,
}

impl RequestContext {
    /// Takes over the id and the trace of a request, each if it is fit for a log, and makes what is
    /// missing. The span is a new one.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let request_id = text(headers, &REQUEST_ID).filter(|id| is_request_id(id));
        let parent = parent_of(headers);
        let (lines, other_state) = match parent {
            Some(_) => read_state(headers),
            // It is of no trace.
            None => (None, String::new()),
        };
        let trace = TraceParent {
            span_id: rand::random(),
            ..parent.unwrap_or_else(TraceParent::random)
        };
        Self {
            request_id: request_id.map_or_else(stdx::random::hex::<8>, str::to_owned),
            trace,
            is_recorded: false,
            wants_lines: lines.unwrap_or_else(|| trace.is_sampled()),
            other_state,
        }
    }

    /// Does the same, and begins the span of the request. One that came without a trace begins one.
    #[must_use]
    pub fn begin(headers: &HeaderMap) -> (Self, Span) {
        Self::from_headers(headers).with_span(parent_of(headers))
    }

    /// Does the same as [`Self::begin`] for a request of the control plane. Those that it makes on
    /// its own have no trace, and begin none.
    #[must_use]
    fn begin_call(headers: &HeaderMap) -> (Self, Span) {
        let context = Self::from_headers(headers);
        match parent_of(headers) {
            Some(parent) => context.with_span(Some(parent)),
            None => (context, Span::none()),
        }
    }

    fn with_span(self, parent: Option<TraceParent>) -> (Self, Span) {
        let span = spans::request_span(parent);
        let context = match spans::position(&span) {
            Some(trace) => Self {
                trace,
                is_recorded: trace.is_sampled(),
                ..self
            },
            None => self,
        };
        spans::set_attribute(&span, "wrenn.request_id", &context.request_id);
        (context, span)
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

    /// Returns true if the client records the trace, and so wants to find it in logs.
    #[must_use]
    pub fn wants_lines(&self) -> bool {
        self.wants_lines
    }

    /// Returns the header fields for calls that are made for this request.
    #[must_use]
    pub fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let ours = match self.wants_lines {
            wants if wants == self.trace.is_sampled() => None,
            true => Some(WANTS_LINES),
            false => Some(WANTS_NO_LINES),
        };
        let others = Some(self.other_state.as_str()).filter(|others| !others.is_empty());
        let members: Vec<&str> = ours.into_iter().chain(others).collect();
        let state = (!members.is_empty()).then(|| (TRACESTATE, members.join(",")));
        self.fields(self.trace, state)
    }

    /// Does the same for calls to a guest, which exports no spans: the flag is for its lines.
    #[must_use]
    fn guest_headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        self.fields(self.trace.with_sampled(self.wants_lines), None)
    }

    fn fields(
        &self,
        trace: TraceParent,
        state: Option<(HeaderName, String)>,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let fields = [
            (REQUEST_ID, self.request_id.clone()),
            (TRACEPARENT, trace.to_string()),
        ];
        fields
            .into_iter()
            .chain(state)
            .filter_map(|(name, value)| Some((name, HeaderValue::try_from(value).ok()?)))
            .collect()
    }

    /// Returns the context of what is done in the current span.
    fn in_current_span(self) -> Self {
        match spans::position(&Span::current()) {
            Some(trace) if self.is_recorded && trace.trace_id == self.trace.trace_id => {
                Self { trace, ..self }
            }
            _ => self,
        }
    }

    /// Returns the span in which the request is handled.
    #[must_use]
    pub fn span(&self) -> Span {
        tracing::info_span!("request", id = self.request_id, trace = self.trace_id())
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn parent_of(headers: &HeaderMap) -> Option<TraceParent> {
    TraceParent::parse(text(headers, &TRACEPARENT)?)
}

/// Returns what our member of `tracestate` says, and the members of others, as far as they are passed
/// on.
fn read_state(headers: &HeaderMap) -> (Option<bool>, String) {
    let fields = headers.get_all(&TRACESTATE).iter();
    let members = fields
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(','))
        .map(str::trim);
    let mut lines = None;
    let mut others = String::new();
    for member in members.filter(|member| !member.is_empty()) {
        match member {
            WANTS_LINES => lines = Some(true),
            WANTS_NO_LINES => lines = Some(false),
            _ if others.len() + 1 + member.len() > MAX_TRACESTATE => break,
            _ if others.is_empty() => others.push_str(member),
            _ => {
                others.push(',');
                others.push_str(member);
            }
        }
    }
    (lines, others)
}

/// Returns true for an id that can neither forge a line of the log nor fill it.
fn is_request_id(id: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=MAX_REQUEST_ID).contains(&id.len()) && id.bytes().all(is_fit)
}

/// Returns the context of the request that this task works for.
#[must_use]
pub fn current() -> Option<RequestContext> {
    let context = CURRENT.try_with(Clone::clone).ok()?;
    Some(context.in_current_span())
}

/// Returns the header fields for a call that this task makes for a request; none outside of one.
#[must_use]
pub fn headers() -> Vec<(HeaderName, HeaderValue)> {
    current().map_or_else(Vec::new, |context| context.headers())
}

/// Returns the header fields for a call to a guest.
#[must_use]
pub fn guest_headers() -> Vec<(HeaderName, HeaderValue)> {
    current().map_or_else(Vec::new, |context| context.guest_headers())
}

/// Ends the span of a request with the status of its answer.
pub fn end_request(span: &Span, status: StatusCode) {
    spans::end_request(span, status.as_u16());
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

/// Handles a call of the control plane in its context and its span, and logs it if it was refused or
/// its client wants lines: middleware of axum.
pub async fn trace_request(request: Request, next: Next) -> Response {
    let begun = RequestContext::begin_call(request.headers());
    spans::set_name(&begun.1, call_name(request.method(), request.uri().path()));
    trace_with(begun, request, next, || Some(0)).await
}

/// Returns the name of a call: service and method, or the first part of the path, which has ids
/// behind it.
fn call_name(method: &Method, path: &str) -> String {
    let path = path.trim_start_matches('/');
    match path.split_once('/') {
        Some((service, _)) if service.contains('.') => path.to_owned(),
        Some((first, _)) => format!("{method} /{first}"),
        None => format!("{method} /{path}"),
    }
}

/// Does the same as [`trace_request`], with a rate of lines: a guest writes them to its console,
/// and whoever may call it can ask for a line with each request.
pub async fn trace_guest_request(request: Request, next: Next) -> Response {
    let context = RequestContext::from_headers(request.headers());
    let begun = (context, Span::none());
    trace_with(begun, request, next, || GUEST_LINES.take(Instant::now())).await
}

/// Handles a request. `take_line` returns the number of lines left out since the last one, or
/// `None` if this one is to be left out, too.
async fn trace_with(
    (context, span): (RequestContext, Span),
    request: Request,
    next: Next,
    take_line: impl Fn() -> Option<u64> + Send,
) -> Response {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let wants_lines = context.wants_lines();
    let begin = Instant::now();
    let work = async {
        let response = next.run(request).instrument(span.clone()).await;
        let status = response.status();
        end_request(&span, status);
        let ms = begin.elapsed().as_millis();
        let is_refused = status.is_client_error() || status.is_server_error();
        let status = status.as_u16();
        let line = (is_refused || wants_lines).then(take_line).flatten();
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
        assert!(second.wants_lines() && !context(&[]).wants_lines());
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
    fn recording_alone_asks_no_lines() {
        let mut recorded = context(&[]);
        recorded.trace = recorded.trace.with_sampled(true);
        let fields: HeaderMap = recorded.headers().into_iter().collect();
        assert!(parent_of(&fields).unwrap().is_sampled());
        assert!(!RequestContext::from_headers(&fields).wants_lines());
        let fields: HeaderMap = recorded.guest_headers().into_iter().collect();
        assert!(!RequestContext::from_headers(&fields).wants_lines());

        let mut unrecorded = context(&[(TRACEPARENT, PARENT)]);
        unrecorded.trace = unrecorded.trace.with_sampled(false);
        let fields: HeaderMap = unrecorded.headers().into_iter().collect();
        assert!(!parent_of(&fields).unwrap().is_sampled());
        assert!(RequestContext::from_headers(&fields).wants_lines());
        let fields: HeaderMap = unrecorded.guest_headers().into_iter().collect();
        assert!(RequestContext::from_headers(&fields).wants_lines());
    }

    #[test]
    fn state_of_others_is_passed_on() {
        let lines = |state: &str| context(&[(TRACEPARENT, PARENT), (TRACESTATE, state)]);
        let quiet = lines("congo=t61rcWkgMzE, wrenn=quiet,rojo=00f067aa0ba902b7");
        assert!(!quiet.wants_lines());
        let fields: HeaderMap = quiet.headers().into_iter().collect();
        let state = "wrenn=quiet,congo=t61rcWkgMzE,rojo=00f067aa0ba902b7";
        assert_eq!(fields[TRACESTATE], state);
        let second = RequestContext::from_headers(&fields);
        assert!(!second.wants_lines());
        let fields: HeaderMap = lines("congo=1").headers().into_iter().collect();
        assert_eq!(fields[TRACESTATE], "congo=1");
        // Whole members, and no more than must be.
        let long = format!("a={},b={}", "x".repeat(400), "y".repeat(200));
        let fields: HeaderMap = lines(&long).headers().into_iter().collect();
        assert_eq!(fields[TRACESTATE].len(), 402);
        let of_no_trace = context(&[(TRACESTATE, "congo=1")]);
        assert!(
            of_no_trace
                .headers()
                .iter()
                .all(|(name, _)| name != TRACESTATE)
        );
    }

    #[test]
    fn names_of_calls_have_no_ids() {
        let call = "/hostagent.v1.SandboxService/EnsureSandbox";
        assert_eq!(call_name(&Method::POST, call), call[1..]);
        assert_eq!(call_name(&Method::GET, "/tunnel/sb-1/80"), "GET /tunnel");
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
