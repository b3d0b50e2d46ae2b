//! Traces and metrics by OTLP over HTTP (protobuf), where the environment names a collector
//! ([`settings`]).
//!
//! ```text
//!  client ──→ control plane: request ──→ host agent: request ──→ steps: network, disk, boot, guest
//!                  └→ steps: place, …                              └→ envd: POST /init
//!
//!  a span that ends ──→ queue of bounded length ──→ thread ──→ collector
//!  every OTEL_METRIC_EXPORT_INTERVAL: what a scrape would get ──→ collector
//! ```
//! A trace goes on where the client's `traceparent` says; a request without one begins a trace
//! ([`crate::trace`]). Spans of `envd` are made by the host agent: see [`crate::trace::GuestCall`].
//!
//! Nothing waits for the collector but a thread and a task of their own. While the queue is full
//! ([`span_queue`]), spans are dropped and counted. Metrics are cumulative, so that one export that
//! fails loses nothing. At the end of the program [`flush`] sends what is left, for a bounded time.

mod failure_log;
mod metric_export;
mod prometheus_text;
mod settings;
mod span_queue;
mod transport;

#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Key, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, SdkTracer, SdkTracerProvider};
use tokio::runtime::Handle;

use crate::metrics::Gauges;
use crate::trace::spans;

use metric_export::MetricExport;
use settings::{CollectorSettings, OtlpSettings};
use span_queue::QueueExporter;
use transport::CollectorClient;

pub use settings::check_settings;

/// Name of the guest agents as a service.
const GUEST_SERVICE: &str = "envd";
/// Name of the instrumentation scope of spans and metrics.
const SCOPE: &str = "wrenn";
/// Time at the end of a program for what is still to be sent.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Exporters of this process.
struct Exporters {
    /// Spans of this process, and those of its guests.
    spans: Vec<SdkTracerProvider>,
    metrics: Option<MetricExport>,
}

static EXPORTERS: OnceLock<Exporters> = OnceLock::new();

/// Starts exporting for a program, where the environment says so. Returns the tracer of its spans.
/// Wrong settings export nothing here: [`check_settings`] reports them with the others.
pub(crate) fn start(service: &'static str) -> Option<SdkTracer> {
    let settings = OtlpSettings::from_env()?;
    let own = resource(service, true);
    let mut exporters = Exporters {
        spans: Vec::new(),
        metrics: None,
    };
    let mut tracer = None;
    if let Some(collector) = &settings.traces {
        let provider = span_provider(collector, settings.queue, own.clone())?;
        let guests = span_provider(collector, settings.queue, resource(GUEST_SERVICE, false))?;
        spans::turn_on(guests.tracer(SCOPE));
        tracer = Some(provider.tracer(SCOPE));
        exporters.spans = vec![provider, guests];
    }
    if let Some(collector) = settings.metrics {
        let client = CollectorClient::new(collector.timeout, Handle::current());
        exporters.metrics = client
            .map(|client| MetricExport::new(client, collector, settings.metric_interval, &own))
            .inspect_err(report_start)
            .ok();
    }
    // An error means that it was started before.
    EXPORTERS.set(exporters).ok().and(tracer)
}

fn span_provider(
    collector: &CollectorSettings,
    queue: usize,
    resource: Resource,
) -> Option<SdkTracerProvider> {
    let client = CollectorClient::new(collector.timeout, Handle::current())
        .inspect_err(report_start)
        .ok()?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(collector.url.to_string())
        .with_timeout(collector.timeout)
        .with_headers(collector.header_texts())
        .build()
        .inspect_err(report_start)
        .ok()?;
    let config = BatchConfigBuilder::default().with_max_queue_size(queue);
    let processor = QueueExporter::new(exporter).into_processor(queue, config.build());
    let provider = SdkTracerProvider::builder()
        .with_resource(resource)
        .with_span_processor(processor);
    Some(provider.build())
}

fn report_start(error: &impl std::fmt::Display) {
    // Logging has not started yet.
    eprintln!("nothing is exported to OTEL_EXPORTER_OTLP_ENDPOINT: {error}");
}

/// Describes a service. What the environment says (`OTEL_SERVICE_NAME`,
/// `OTEL_RESOURCE_ATTRIBUTES`) goes before it, but for the name of guests.
fn resource(service: &'static str, is_own: bool) -> Resource {
    let from_env = Resource::builder().build();
    let name = from_env.get(&Key::new("service.name"));
    let is_named = is_own && name.is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let mut builder = Resource::builder();
    if !is_named {
        builder = builder.with_service_name(service);
    }
    let defaults = [
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", stdx::random::hex::<16>()),
        KeyValue::new("host.name", host_name()),
    ];
    let missing = defaults
        .into_iter()
        .filter(|default| from_env.get(&default.key).is_none());
    builder.with_attributes(missing).build()
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// Exports metrics from now on, where the environment says so: `gauges` are measured each time.
pub fn export_metrics(gauges: Arc<dyn Gauges>) {
    if let Some(Exporters {
        metrics: Some(export),
        ..
    }) = EXPORTERS.get()
    {
        export.add_gauges(gauges);
    }
}

/// Sends what is left, for [`FLUSH_TIMEOUT`] at most. Call it at the end of a program.
pub async fn flush() {
    let Some(exporters) = EXPORTERS.get() else {
        return;
    };
    // Blocking, a thread each, since they wait for the same collector.
    let providers = exporters.spans.iter().cloned().map(|provider| {
        tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_TIMEOUT))
    });
    let providers: Vec<_> = providers.collect();
    let all = async {
        if let Some(metrics) = &exporters.metrics {
            metrics.export().await;
        }
        for provider in providers {
            // An error has been logged by the exporter.
            let _ = provider.await;
        }
    };
    let _ = tokio::time::timeout(FLUSH_TIMEOUT, all).await;
}
