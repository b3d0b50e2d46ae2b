//! Queue of spans for the collector: bounded, and with a count of what became of them.
//!
//! The batch processor of the SDK sends spans in a thread of its own, and drops what does not fit
//! into its queue, but says nothing of it. So what waits is counted in front of it, up to the same
//! number; a span counts until its export has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use metrics::counter;
use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfig, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor,
};

use super::failure_log::FAILURES;
use crate::metrics::OTLP_SPANS;

/// Exporter that counts spans and logs failures.
#[derive(Debug)]
pub(super) struct QueueExporter<E> {
    exporter: E,
    /// Number of spans that wait or are being sent.
    waiting: Arc<AtomicUsize>,
}

impl<E: SpanExporter + 'static> QueueExporter<E> {
    pub(super) fn new(exporter: E) -> Self {
        Self {
            exporter,
            waiting: Arc::default(),
        }
    }

    /// Returns the processor that puts spans into the queue, of which at most `limit` wait.
    pub(super) fn into_processor(self, limit: usize, config: BatchConfig) -> SpanQueue {
        SpanQueue {
            waiting: Arc::clone(&self.waiting),
            limit,
            batches: BatchSpanProcessor::new(self, config),
        }
    }
}

impl<E: SpanExporter> SpanExporter for QueueExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        let exported = self.exporter.export(batch).await;
        self.waiting.fetch_sub(count, Ordering::Relaxed);
        match &exported {
            Ok(()) => {
                FAILURES.worked();
                count_spans("exported", count);
            }
            Err(error) => {
                FAILURES.failed("spans", error);
                count_spans("failed", count);
            }
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

fn count_spans(outcome: &'static str, count: usize) {
    counter!(OTLP_SPANS, "outcome" => outcome).increment(count as u64);
}

/// Processor that puts spans into the queue, and drops them while it is full. Never waits.
#[derive(Debug)]
pub(super) struct SpanQueue {
    waiting: Arc<AtomicUsize>,
    limit: usize,
    batches: BatchSpanProcessor,
}

impl SpanProcessor for SpanQueue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        let add = |waiting| (waiting < self.limit).then_some(waiting + 1);
        let added = self
            .waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        match added {
            Ok(_) => self.batches.on_end(span),
            Err(_) => count_spans("dropped", 1),
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc;

    use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::trace::{BatchConfigBuilder, SdkTracerProvider};

    use super::*;

    /// Collector that takes a batch only when told so.
    #[derive(Debug)]
    struct Stalled {
        go_on: Mutex<mpsc::Receiver<()>>,
        taken: Arc<AtomicUsize>,
    }

    impl SpanExporter for Stalled {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            // An error means that the test is over.
            let _ = self.go_on.lock().unwrap().recv();
            self.taken.fetch_add(batch.len(), Ordering::Relaxed);
            Ok(())
        }
    }

    #[test]
    fn stalled_collector_bounds_queue() {
        let (go_on, stalled) = mpsc::channel();
        let taken = Arc::new(AtomicUsize::new(0));
        let exporter = QueueExporter::new(Stalled {
            go_on: Mutex::new(stalled),
            taken: Arc::clone(&taken),
        });
        let waiting = Arc::clone(&exporter.waiting);
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(100)
            .with_max_export_batch_size(10);
        let processor = exporter.into_processor(100, config.build());
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .build();
        let tracer = provider.tracer("test");
        // Returns although nothing is taken: no span waits for the collector.
        for _ in 0..10_000 {
            tracer.start("span").end();
        }
        assert_eq!(waiting.load(Ordering::Relaxed), 100);
        assert_eq!(taken.load(Ordering::Relaxed), 0);
        drop(go_on);
        provider.shutdown().unwrap();
        assert_eq!(
            taken.load(Ordering::Relaxed),
            100,
            "what was queued is sent"
        );
        assert_eq!(waiting.load(Ordering::Relaxed), 0);
    }
}
