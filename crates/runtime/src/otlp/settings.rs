//! Settings of the export: the standard variables of OpenTelemetry
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>). The SDK
//! reads those of the sampler, the resource and the batches itself; the sampler's are checked here.

use std::collections::HashMap;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};

use crate::config::Variables;

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// The one protocol that is spoken.
const PROTOCOL: &str = "http/protobuf";
/// Samplers that the SDK has, with those whose argument is a ratio.
const SAMPLERS: [(&str, bool); 6] = [
    ("always_on", false),
    ("always_off", false),
    ("traceidratio", true),
    ("parentbased_always_on", false),
    ("parentbased_always_off", false),
    ("parentbased_traceidratio", true),
];
/// Defaults and largest values of the specification; milliseconds.
const TIMEOUT_MS: u64 = 10_000;
const MAX_TIMEOUT_MS: u64 = 600_000;
const INTERVAL_MS: u64 = 60_000;
const MAX_INTERVAL_MS: u64 = 86_400_000;
/// Number of spans that wait for the collector at most, the specification's default, and the largest
/// number: a span takes about a KiB.
const QUEUE: usize = 2048;
const MAX_QUEUE: usize = 1 << 20;

/// Settings of the export of this process.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OtlpSettings {
    pub(super) traces: Option<CollectorSettings>,
    pub(super) metrics: Option<CollectorSettings>,
    pub(super) metric_interval: Duration,
    /// Number of spans that wait at most.
    pub(super) queue: usize,
}

/// Collector of one signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CollectorSettings {
    pub(super) url: Uri,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) timeout: Duration,
}

impl CollectorSettings {
    /// Returns the header fields as the exporter of spans takes them.
    pub(super) fn header_texts(&self) -> HashMap<String, String> {
        let fields = self.headers.iter();
        fields
            .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
            .collect()
    }
}

/// A signal, and the parts of the names of its variables.
#[derive(Clone, Copy)]
struct Signal {
    name: &'static str,
    path: &'static str,
}

const TRACES: Signal = Signal {
    name: "TRACES",
    path: "v1/traces",
};
const METRICS: Signal = Signal {
    name: "METRICS",
    path: "v1/metrics",
};

/// Adds the mistakes in the variables of OpenTelemetry to those in others.
pub fn check_settings(variables: &mut Variables<'_>) {
    OtlpSettings::from_variables(variables);
}

impl OtlpSettings {
    /// Reads the environment; `None` if nothing is to be exported, or a variable is wrong.
    pub(super) fn from_env() -> Option<Self> {
        let mut variables = Variables::new(&crate::environment::variable);
        let settings = Self::from_variables(&mut variables);
        let settings = variables.finish(settings).ok()?;
        let is_on = settings.traces.is_some() || settings.metrics.is_some();
        is_on.then_some(settings)
    }

    fn from_variables(variables: &mut Variables<'_>) -> Self {
        let is_off = variables.text("OTEL_SDK_DISABLED");
        let is_off = is_off.is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let mut signal = |signal| match is_off {
            true => None,
            false => read_collector(variables, signal),
        };
        let traces = signal(TRACES);
        let metrics = signal(METRICS);
        if traces.is_some() {
            check_sampler(variables);
        }
        let interval = match metrics {
            Some(_) => {
                let range = 100..=MAX_INTERVAL_MS;
                variables.parse_within("OTEL_METRIC_EXPORT_INTERVAL", &range, INTERVAL_MS)
            }
            None => INTERVAL_MS,
        };
        let queue = match traces {
            Some(_) => variables.parse_within("OTEL_BSP_MAX_QUEUE_SIZE", &(1..=MAX_QUEUE), QUEUE),
            None => QUEUE,
        };
        Self {
            traces,
            metrics,
            metric_interval: Duration::from_millis(interval),
            queue,
        }
    }
}

/// Reads where a signal is sent; `None` if nowhere.
fn read_collector(variables: &mut Variables<'_>, signal: Signal) -> Option<CollectorSettings> {
    let exporter = format!("OTEL_{}_EXPORTER", signal.name);
    match variables.text(&exporter).as_deref() {
        None | Some("otlp") => {}
        Some("none") => return None,
        Some(other) => variables.add_error(format!(
            "{exporter} must be otlp or none, not {other:?}; Prometheus reads CP_METRICS_ADDR and AGENT_METRICS_ADDR"
        )),
    }
    let (name, text, path) = match specific(variables, signal, "ENDPOINT") {
        Some((name, text)) => (name, text, ""),
        None => (ENDPOINT.to_owned(), variables.text(ENDPOINT)?, signal.path),
    };
    let url = parse_url(&text, path);
    if url.is_none() {
        variables.add_error(format!(
            "{name} must be a URL like http://127.0.0.1:4318, not {text:?}"
        ));
    }
    check_protocol(variables, signal);
    let headers = read_headers(variables, signal);
    let (name, _) = specific_or_general(variables, signal, "TIMEOUT").unwrap_or_default();
    let timeout = variables.parse_within(&name, &(1..=MAX_TIMEOUT_MS), TIMEOUT_MS);
    Some(CollectorSettings {
        url: url?,
        headers,
        timeout: Duration::from_millis(timeout),
    })
}

/// Returns the name and the value of a signal's own variable.
fn specific(variables: &Variables<'_>, signal: Signal, what: &str) -> Option<(String, String)> {
    let name = format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.name);
    let value = variables.text(&name)?;
    Some((name, value))
}

fn specific_or_general(
    variables: &Variables<'_>,
    signal: Signal,
    what: &str,
) -> Option<(String, String)> {
    specific(variables, signal, what).or_else(|| {
        let name = format!("OTEL_EXPORTER_OTLP_{what}");
        let value = variables.text(&name)?;
        Some((name, value))
    })
}

fn parse_url(text: &str, path: &str) -> Option<Uri> {
    let text = match path {
        "" => text.to_owned(),
        path => format!("{}/{path}", text.trim_end_matches('/')),
    };
    let url: Uri = text.parse().ok()?;
    let is_http = matches!(url.scheme_str(), Some("http" | "https"));
    (is_http && url.host().is_some_and(|host| !host.is_empty())).then_some(url)
}

fn check_protocol(variables: &mut Variables<'_>, signal: Signal) {
    let Some((name, protocol)) = specific_or_general(variables, signal, "PROTOCOL") else {
        return;
    };
    if protocol != PROTOCOL {
        variables.add_error(format!(
            "{name} must be {PROTOCOL}, not {protocol:?}: Wrenn speaks OTLP over HTTP alone, which collectors take on port 4318"
        ));
    }
}

/// Reads `name=value,name=value` with percent-encoded values. They may be secrets, and are not told.
fn read_headers(variables: &mut Variables<'_>, signal: Signal) -> Vec<(HeaderName, HeaderValue)> {
    let Some((name, text)) = specific_or_general(variables, signal, "HEADERS") else {
        return Vec::new();
    };
    let entries = text.split(',').filter(|entry| !entry.trim().is_empty());
    let headers: Option<Vec<_>> = entries.map(parse_header).collect();
    headers.unwrap_or_else(|| {
        variables.add_error(format!(
            "{name} must be header fields like api-key=secret,x-other=value, with spaces and commas percent-encoded"
        ));
        Vec::new()
    })
}

fn parse_header(entry: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = entry.split_once('=')?;
    let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8();
    Some((
        name.trim().parse().ok()?,
        HeaderValue::from_str(&value.ok()?).ok()?,
    ))
}

fn check_sampler(variables: &mut Variables<'_>) {
    let Some(sampler) = variables.text("OTEL_TRACES_SAMPLER") else {
        return;
    };
    let known = SAMPLERS.iter().find(|(name, _)| *name == sampler);
    let Some((_, has_ratio)) = known else {
        let names: Vec<&str> = SAMPLERS.iter().map(|(name, _)| *name).collect();
        variables.add_error(format!(
            "OTEL_TRACES_SAMPLER must be one of {}, not {sampler:?}",
            names.join(", ")
        ));
        return;
    };
    if *has_ratio {
        variables.parse_within("OTEL_TRACES_SAMPLER_ARG", &(0.0..=1.0), 1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[(&str, &str)]) -> Result<OtlpSettings, String> {
        let values: HashMap<&str, &str> = values.iter().copied().collect();
        let lookup = |name: &str| values.get(name).map(|value| (*value).to_owned());
        let mut variables = Variables::new(&lookup);
        let settings = OtlpSettings::from_variables(&mut variables);
        variables
            .finish(settings)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn standard_variables_are_read() {
        let nothing = read(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).unwrap();
        assert!(nothing.traces.is_none() && nothing.metrics.is_none());
        let settings = read(&[
            (ENDPOINT, "http://collector:4318/"),
            (
                "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
                "https://other/as-it-is",
            ),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, x-team = 1 "),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "500"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
        ])
        .unwrap();
        let traces = settings.traces.unwrap();
        assert_eq!(traces.url, "http://collector:4318/v1/traces");
        assert_eq!(traces.timeout, Duration::from_millis(500));
        let headers = traces.header_texts();
        assert_eq!(headers["api-key"], "a b");
        assert_eq!(headers["x-team"], "1");
        let metrics = settings.metrics.unwrap();
        assert_eq!(metrics.url, "https://other/as-it-is");
        assert_eq!(metrics.timeout, Duration::from_secs(10));
        assert_eq!(settings.metric_interval, Duration::from_secs(1));
    }

    #[test]
    fn disabled_sdk_exports_nothing() {
        let off = ("OTEL_SDK_DISABLED", "TRUE");
        let settings = read(&[(ENDPOINT, "nonsense"), off]).unwrap();
        assert!(settings.traces.is_none() && settings.metrics.is_none());
        let none = ("OTEL_METRICS_EXPORTER", "none");
        let settings = read(&[(ENDPOINT, "http://c:1"), none]).unwrap();
        assert!(settings.traces.is_some() && settings.metrics.is_none());
    }

    #[test]
    fn mistakes_name_variable_and_remedy() {
        let secret = "api-key: secret";
        let error = read(&[
            (ENDPOINT, "collector:4318"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_HEADERS", secret),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
            ("OTEL_TRACES_SAMPLER", "xray"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
        ])
        .unwrap_err();
        for part in [
            "OTEL_EXPORTER_OTLP_ENDPOINT must be a URL",
            "OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf, not \"grpc\"",
            "port 4318",
            "OTEL_EXPORTER_OTLP_HEADERS must be",
            "OTEL_EXPORTER_OTLP_TIMEOUT must be a number",
            "OTEL_TRACES_SAMPLER must be one of always_on",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(!error.contains(secret), "{error}");
    }
}
