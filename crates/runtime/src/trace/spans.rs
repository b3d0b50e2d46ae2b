//! Spans that are exported, as spans of `tracing` that the layer of OpenTelemetry sees. Before
//! [`turn_on`] there are none.

use std::sync::OnceLock;
use std::time::SystemTime;

use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, Tracer as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::trace::SdkTracer;
use stdx::trace::TARGET;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::parent::TraceParent;

/// Tracer of the spans of guests, which a guest does not export itself.
static GUESTS: OnceLock<SdkTracer> = OnceLock::new();

/// Most characters of a value that may come from a client, as a path.
const MAX_TEXT: usize = 200;

/// Says that spans are exported from now on.
pub(crate) fn turn_on(guests: SdkTracer) {
    // An error means that they are already.
    let _ = GUESTS.set(guests);
}

pub(super) fn is_on() -> bool {
    GUESTS.get().is_some()
}

/// Returns the span of a request that came in, below the caller's span or as the first of a trace.
pub(super) fn request_span(parent: Option<TraceParent>) -> Span {
    if !is_on() {
        return Span::none();
    }
    let span = tracing::debug_span!(target: TARGET, parent: None, "request", otel.kind = "server");
    if let Some(parent) = parent {
        // An error means that the span is not exported.
        let _ = span.set_parent(remote_context(parent));
    }
    span
}

/// Returns the span of a step, below the current span, or below `parent` if that is not exported.
pub(super) fn child_span(name: &str, kind: &'static str, parent: TraceParent) -> Span {
    let is_root = position(&Span::current()).is_none();
    let span = tracing::debug_span!(target: TARGET, "step", otel.name = name, otel.kind = kind);
    if is_root {
        let _ = span.set_parent(remote_context(parent));
    }
    span
}

/// Returns the position of a span; `None` if it is not exported.
pub(super) fn position(span: &Span) -> Option<TraceParent> {
    let is_exported = span
        .metadata()
        .is_some_and(|metadata| metadata.target() == TARGET);
    if !is_exported {
        return None;
    }
    let context = span.context();
    let ids = context.span().span_context().clone();
    ids.is_valid().then(|| TraceParent {
        trace_id: ids.trace_id().to_bytes(),
        span_id: ids.span_id().to_bytes(),
        flags: ids.trace_flags().to_u8(),
    })
}

pub(super) fn set_name(span: &Span, name: String) {
    if position(span).is_some() {
        span.context().span().update_name(name);
    }
}

pub(super) fn set_attribute(span: &Span, key: &'static str, value: &str) {
    if position(span).is_some() {
        span.set_attribute(key, Value::from(shortened(value)));
    }
}

/// Marks a span as failed.
pub(super) fn set_error(span: &Span, why: &str) {
    if position(span).is_some() {
        span.set_status(Status::error(shortened(why)));
    }
}

/// Ends the span of a request with the status of its answer. Tasks that go on may keep it open.
pub(super) fn end_request(span: &Span, status: u16) {
    if position(span).is_none() {
        return;
    }
    span.set_attribute("http.response.status_code", i64::from(status));
    if status >= 500 {
        span.set_status(Status::error(""));
    }
    span.context().span().end();
}

/// Records a call to a guest that has ended, as a span of the guest. `status` is that of its
/// answer, if there was one.
pub(super) fn record_guest_call(
    name: &str,
    parent: TraceParent,
    began_at: SystemTime,
    status: Option<u16>,
) {
    let Some(tracer) = GUESTS.get() else { return };
    let builder = tracer
        .span_builder(shortened(name))
        .with_kind(SpanKind::Server)
        .with_start_time(began_at);
    let mut span = tracer.build_with_context(builder, &remote_context(parent));
    match status {
        Some(status) => {
            span.set_attribute(KeyValue::new(
                "http.response.status_code",
                i64::from(status),
            ));
            if status >= 400 {
                span.set_status(Status::error(""));
            }
        }
        None => span.set_status(Status::error("the guest did not answer")),
    }
    span.end();
}

fn remote_context(parent: TraceParent) -> Context {
    Context::new().with_remote_span_context(SpanContext::new(
        TraceId::from_bytes(parent.trace_id),
        SpanId::from_bytes(parent.span_id),
        TraceFlags::new(parent.flags),
        true,
        TraceState::default(),
    ))
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}
