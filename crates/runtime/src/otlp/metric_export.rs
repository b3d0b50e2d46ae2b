//! Sends the metrics of this process at an interval: what a scrape would get at that time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::Request;
use http::header::CONTENT_TYPE;
use opentelemetry_http::HttpClient;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::metrics::v1::{ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource as ProtoResource;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_sdk::Resource;
use prost::Message;
use tokio::time::MissedTickBehavior;

use super::SCOPE;
use super::failure_log::FAILURES;
use super::prometheus_text::{Times, read_metrics};
use super::settings::CollectorSettings;
use super::transport::CollectorClient;
use crate::metrics::{Gauges, render};

/// Export of the metrics of this process.
#[derive(Clone)]
pub(super) struct MetricExport(Arc<Inner>);

struct Inner {
    client: CollectorClient,
    collector: CollectorSettings,
    interval: Duration,
    resource: ProtoResource,
    started_at: SystemTime,
    /// Sources that are measured before each export; `wrenn up` has two. The first starts the task.
    gauges: Mutex<Vec<Arc<dyn Gauges>>>,
}

impl MetricExport {
    pub(super) fn new(
        client: CollectorClient,
        collector: CollectorSettings,
        interval: Duration,
        resource: &Resource,
    ) -> Self {
        Self(Arc::new(Inner {
            client,
            collector,
            interval,
            resource: ProtoResource {
                attributes: ResourceAttributesWithSchema::from(resource).attributes.0,
                ..ProtoResource::default()
            },
            started_at: SystemTime::now(),
            gauges: Mutex::default(),
        }))
    }

    /// Adds a source, and starts to export with the first one.
    pub(super) fn add_gauges(&self, gauges: Arc<dyn Gauges>) {
        let mut sources = self.0.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        sources.push(gauges);
        if sources.len() == 1 {
            let export = self.clone();
            tokio::spawn(async move { export.keep_exporting().await });
        }
    }

    async fn keep_exporting(&self) {
        let first = tokio::time::Instant::now() + self.0.interval;
        let mut ticks = tokio::time::interval_at(first, self.0.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.export().await;
        }
    }

    /// Sends all metrics once. A failure is logged.
    pub(super) async fn export(&self) {
        let sources = self.0.gauges.lock();
        let sources = sources.unwrap_or_else(PoisonError::into_inner).clone();
        for gauges in sources {
            gauges.measure().await;
        }
        match self.send(self.request()).await {
            Ok(()) => FAILURES.worked(),
            Err(error) => FAILURES.failed("metrics", &error),
        }
    }

    fn request(&self) -> ExportMetricsServiceRequest {
        let scope = InstrumentationScope {
            name: SCOPE.to_owned(),
            ..InstrumentationScope::default()
        };
        let metrics = read_metrics(&render(), Times::since(self.0.started_at));
        ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(self.0.resource.clone()),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(scope),
                    metrics,
                    ..ScopeMetrics::default()
                }],
                ..ResourceMetrics::default()
            }],
        }
    }

    async fn send(&self, request: ExportMetricsServiceRequest) -> Result<(), String> {
        let mut http = Request::post(self.0.collector.url.clone())
            .header(CONTENT_TYPE, "application/x-protobuf")
            .body(Bytes::from(request.encode_to_vec()))
            .map_err(|error| error.to_string())?;
        http.headers_mut()
            .extend(self.0.collector.headers.iter().cloned());
        let answer = self.0.client.send_bytes(http).await;
        let status = answer.map_err(|error| error.to_string())?.status();
        match status.is_success() {
            true => Ok(()),
            false => Err(format!("it answered {status}")),
        }
    }
}
