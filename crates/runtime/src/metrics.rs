//! Metrics for Prometheus: one recorder in a process, and the text that a scrape gets.
//!
//! A program declares all its metrics in one list ([`Metric`]), which `docs/metrics.md` repeats, and
//! records them through the macros of the crate `metrics`, which do nothing before [`install`].
//! Labels have few values that are known beforehand: no ids of sandboxes, teams or keys.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;
use tokio::net::TcpListener;

use crate::config::Variables;

/// Media type of Prometheus' text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Upper bounds of histograms of durations, seconds: from calls that only read memory to the boot of
/// a large guest without hardware virtualisation.
const DURATION_BUCKETS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0,
];
/// Interval at which what histograms have recorded is put into their buckets, so that it takes no
/// memory where nothing scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// Counter of spans that were to be exported, by what became of them.
pub const OTLP_SPANS: &str = "wrenn_otlp_spans_total";
/// Outcomes of spans.
const SPAN_OUTCOMES: [&str; 3] = ["exported", "failed", "dropped"];

/// Metrics of every program.
pub const COMMON_METRICS: &[Metric] = &[Metric {
    name: OTLP_SPANS,
    kind: MetricKind::Counter,
    help: "Spans for the collector (OTEL_EXPORTER_OTLP_ENDPOINT) by outcome: exported, failed, dropped for a full queue.",
}];

/// Metrics of the process itself, by the names that all programs have.
pub const PROCESS_METRICS: [&str; 8] = [
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_threads",
    "process_virtual_memory_bytes",
    "process_virtual_memory_max_bytes",
];

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Declaration of a metric: name, kind, and help for its reader.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub name: &'static str,
    pub kind: MetricKind,
    pub help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

/// Address of the metrics, from a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsAddr {
    /// The address was not set: it is not served where another program has it.
    Default(SocketAddr),
    Set(SocketAddr),
    Off,
}

impl MetricsAddr {
    /// Reads the address from a variable; by default it is `port` of loopback.
    pub fn from_variable(variables: &mut Variables<'_>, name: &str, port: u16) -> Self {
        let default = SocketAddr::from(([127, 0, 0, 1], port));
        let Some(text) = variables.text(name) else {
            return Self::Default(default);
        };
        if text == "off" {
            return Self::Off;
        }
        let address = match text.strip_prefix(':') {
            Some(port) => format!("0.0.0.0:{port}").parse(),
            None => text.replace("localhost", "127.0.0.1").parse(),
        };
        address.map_or_else(
            |_| {
                variables.add_error(format!(
                    "{name} must be an address and port like {default}, or off, not {text:?}"
                ));
                Self::Off
            },
            Self::Set,
        )
    }

    /// Listens there. `None` if it is off, or the default address is in use.
    ///
    /// # Errors
    /// When an address that was set cannot be listened on.
    pub async fn bind(self) -> io::Result<Option<TcpListener>> {
        match self {
            Self::Off => Ok(None),
            Self::Set(address) => TcpListener::bind(address).await.map(Some),
            Self::Default(address) => match TcpListener::bind(address).await {
                Ok(listener) => Ok(Some(listener)),
                Err(error) => {
                    tracing::warn!(%address, %error, "no metrics are served: set an address for them, or off");
                    Ok(None)
                }
            },
        }
    }
}

/// Installs the recorder of this process, unless it is installed, and declares `metrics` and those
/// of the process.
pub fn install(metrics: &[Metric]) {
    RECORDER.get_or_init(|| {
        let seconds = Matcher::Suffix("_seconds".to_owned());
        let builder = PrometheusBuilder::new();
        // An error means that there are no buckets.
        let recorder = match builder.set_buckets_for_metric(seconds, &DURATION_BUCKETS) {
            Ok(builder) => builder.build_recorder(),
            Err(_) => PrometheusBuilder::new().build_recorder(),
        };
        let handle = recorder.handle();
        // An error means that another recorder was installed before, which no program of ours does.
        let _ = ::metrics::set_global_recorder(recorder);
        keep_up(handle.clone());
        handle
    });
    for outcome in SPAN_OUTCOMES {
        ::metrics::counter!(OTLP_SPANS, "outcome" => outcome).absolute(0);
    }
    for metric in COMMON_METRICS.iter().chain(metrics) {
        let Metric { name, kind, help } = *metric;
        match kind {
            MetricKind::Counter => ::metrics::describe_counter!(name, help),
            MetricKind::Gauge => ::metrics::describe_gauge!(name, help),
            MetricKind::Histogram => ::metrics::describe_histogram!(name, help),
        }
    }
    Collector::default().describe();
}

/// Returns the metrics in Prometheus' text format; empty before [`install`].
#[must_use]
pub fn render() -> String {
    Collector::default().collect();
    RECORDER.get().map_or_else(String::new, |handle| {
        handle.run_upkeep();
        handle.render()
    })
}

/// Keeps histograms small where nothing scrapes, for as long as the process lives. In a thread, which
/// needs no runtime.
fn keep_up(handle: PrometheusHandle) {
    let thread = std::thread::Builder::new().name("metrics".to_owned());
    let started = thread.spawn(move || {
        loop {
            std::thread::sleep(UPKEEP);
            handle.run_upkeep();
        }
    });
    if let Err(error) = started {
        tracing::warn!(%error, "histograms are emptied by scrapes alone: no thread can be started");
    }
}

/// Source of what is measured when a scrape asks.
#[async_trait::async_trait]
pub trait Gauges: Send + Sync + 'static {
    /// Sets the gauges to what is so now.
    async fn measure(&self);

    /// Returns true if the program takes requests: it is not about to end, and has what it needs.
    async fn is_ready(&self) -> bool;
}

/// Returns the router of `/metrics`, which measures `gauges` at each scrape, and of `/ready`.
pub fn router(gauges: Arc<dyn Gauges>) -> Router {
    Router::new()
        .route("/metrics", get(scrape))
        .route("/ready", get(ready))
        .with_state(gauges)
}

async fn scrape(State(gauges): State<Arc<dyn Gauges>>) -> impl IntoResponse {
    gauges.measure().await;
    ([(CONTENT_TYPE, TEXT_FORMAT)], render())
}

async fn ready(State(gauges): State<Arc<dyn Gauges>>) -> (StatusCode, &'static str) {
    if gauges.is_ready().await {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Option<&'static str>) -> Result<MetricsAddr, String> {
        let lookup = |_: &str| value.map(str::to_owned);
        let mut variables = Variables::new(&lookup);
        let address = MetricsAddr::from_variable(&mut variables, "X_METRICS_ADDR", 8001);
        variables.finish(address).map_err(|error| error.to_string())
    }

    #[test]
    fn address_is_loopback_unless_set() {
        let default = "127.0.0.1:8001".parse().unwrap();
        assert_eq!(read(None), Ok(MetricsAddr::Default(default)));
        assert_eq!(read(Some("off")), Ok(MetricsAddr::Off));
        let every = "0.0.0.0:9".parse().unwrap();
        assert_eq!(read(Some(":9")), Ok(MetricsAddr::Set(every)));
        let error = read(Some("here")).unwrap_err();
        assert!(
            error.contains("X_METRICS_ADDR") && error.contains("off"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn taken_default_address_is_no_error() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        assert!(
            MetricsAddr::Default(address)
                .bind()
                .await
                .unwrap()
                .is_none()
        );
        assert!(MetricsAddr::Set(address).bind().await.is_err());
    }

    #[test]
    fn recorded_values_are_rendered() {
        let name = "wrenn_test_duration_seconds";
        install(&[Metric {
            name,
            kind: MetricKind::Histogram,
            help: "Duration of a test.",
        }]);
        ::metrics::histogram!(name).record(0.2);
        let text = render();
        assert!(
            text.contains("# HELP wrenn_test_duration_seconds Duration of a test."),
            "{text}"
        );
        assert!(
            text.contains("wrenn_test_duration_seconds_bucket{le=\"0.25\"} 1"),
            "{text}"
        );
        assert!(text.contains("process_open_fds"), "{text}");
    }

    struct Draining;

    #[async_trait::async_trait]
    impl Gauges for Draining {
        async fn measure(&self) {}

        async fn is_ready(&self) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn draining_program_is_not_ready() {
        let (status, _) = ready(State(Arc::new(Draining))).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    }
}
