//! Steps of the work for a request, as spans of its trace.

use std::fmt::Display;
use std::time::SystemTime;

use tracing::{Instrument, Span};

use super::parent::TraceParent;
use super::{current, spans};

/// Returns the span of a step of what this task does for a request; none if that is not recorded.
#[must_use]
pub fn step(name: &'static str) -> Span {
    child_span(name, "internal")
}

/// Returns the span of a call to another program.
#[must_use]
pub fn call_span(name: &str) -> Span {
    child_span(name, "client")
}

fn child_span(name: &str, kind: &'static str) -> Span {
    match recorded_position() {
        Some(parent) => spans::child_span(name, kind, parent),
        None => Span::none(),
    }
}

fn recorded_position() -> Option<TraceParent> {
    let context = current()?;
    context.is_recorded.then_some(context.trace)
}

/// Runs `work` as a step.
pub fn in_step<T>(name: &'static str, work: impl Future<Output = T>) -> impl Future<Output = T> {
    // Boxed: what wraps a future takes room for it twice.
    let work = Box::pin(work);
    async move {
        // In here, since the span begins with the work.
        let span = step(name);
        work.instrument(span).await
    }
}

/// Runs `work` as a step, which an error marks as failed.
pub fn try_step<T, E: Display>(
    name: &'static str,
    work: impl Future<Output = Result<T, E>>,
) -> impl Future<Output = Result<T, E>> {
    in_step(name, async {
        let outcome = Box::pin(work).await;
        if let Err(error) = &outcome {
            fail_span(&Span::current(), error);
        }
        outcome
    })
}

/// Marks a span as failed.
pub fn fail_span(span: &Span, error: &dyn Display) {
    // Most spans are not recorded, and need no text.
    if !span.is_none() {
        spans::set_error(span, &error.to_string());
    }
}

/// Names the span of the request that this task handles: its method and the template of its path.
pub fn name_request(name: impl FnOnce() -> String) {
    if spans::is_on() {
        spans::set_name(&Span::current(), name());
    }
}

/// Adds an attribute to the current span.
pub fn set_attribute(key: &'static str, value: &str) {
    if spans::is_on() {
        spans::set_attribute(&Span::current(), key, value);
    }
}

/// Call to a guest, which becomes a span of the guest when it ends. A guest exports nothing itself:
/// it has no way to a collector, and could tell anything. So there is one span for each call that
/// is made to it, with the times that are seen from here.
#[derive(Debug)]
pub struct GuestCall {
    name: String,
    parent: Option<TraceParent>,
    began_at: SystemTime,
    status: Option<u16>,
}

impl GuestCall {
    /// Begins a call, which is recorded if the request is that this task works for.
    #[must_use]
    pub fn begin(name: impl FnOnce() -> String) -> Self {
        let parent = recorded_position().filter(|_| spans::is_on());
        Self {
            name: parent.map(|_| name()).unwrap_or_default(),
            parent,
            began_at: SystemTime::now(),
            status: None,
        }
    }

    /// Ends it with the status of the answer. One that is dropped before had none.
    pub fn end(mut self, status: u16) {
        self.status = Some(status);
    }
}

impl Drop for GuestCall {
    fn drop(&mut self) {
        if let Some(parent) = self.parent {
            spans::record_guest_call(&self.name, parent, self.began_at, self.status);
        }
    }
}
