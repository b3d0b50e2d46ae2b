//! Metrics of the control plane. [`METRICS`] is the one list; `docs/metrics.md` repeats it.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use metrics::{Gauge, counter, gauge, histogram};
use model::ErrorCode;
use runtime::metrics::{Metric, MetricKind};
use store::{Connections, STATEMENT_DURATION};

const REQUEST_DURATION: &str = "wrenn_cp_http_request_duration_seconds";
const REQUESTS_IN_FLIGHT: &str = "wrenn_cp_http_requests_in_flight";
const ERRORS: &str = "wrenn_cp_errors_total";
const RATE_LIMITED: &str = "wrenn_cp_rate_limited_total";
const CREATES_IN_FLIGHT: &str = "wrenn_cp_creates_in_flight";
const HOSTS: &str = "wrenn_cp_hosts";
const HELD_SANDBOXES: &str = "wrenn_cp_held_sandboxes";
const STORE_UP: &str = "wrenn_cp_store_up";
const STORE_CONNECTIONS: &str = "wrenn_cp_store_connections";
const STORE_CONNECTION_LIMIT: &str = "wrenn_cp_store_connection_limit";
const STORE_PING: &str = "wrenn_cp_store_ping_seconds";
const WEBHOOK_ATTEMPTS: &str = "wrenn_cp_webhook_attempts_total";
const WEBHOOK_OLDEST: &str = "wrenn_cp_webhook_oldest_pending_seconds";
const WEBHOOK_DEAD: &str = "wrenn_cp_webhook_dead_letters";
/// Values of the label `outcome`.
const WEBHOOK_OUTCOMES: [&str; 5] = [
    "delivered",
    "refused",
    "timeout",
    "unreachable",
    "forbidden",
];

/// All metrics of the control plane.
pub const METRICS: &[Metric] = &[
    Metric {
        name: REQUEST_DURATION,
        kind: MetricKind::Histogram,
        help: "Time until the answer of an API request began, by method, route and class of its status.",
    },
    Metric {
        name: REQUESTS_IN_FLIGHT,
        kind: MetricKind::Gauge,
        help: "API requests whose answer has not begun.",
    },
    Metric {
        name: ERRORS,
        kind: MetricKind::Counter,
        help: "Answers that were errors, by the code of docs/errors.md.",
    },
    Metric {
        name: RATE_LIMITED,
        kind: MetricKind::Counter,
        help: "Requests that a rate limit refused, by limit.",
    },
    Metric {
        name: CREATES_IN_FLIGHT,
        kind: MetricKind::Gauge,
        help: "Sandboxes that this control plane is creating.",
    },
    Metric {
        name: HOSTS,
        kind: MetricKind::Gauge,
        help: "Hosts by state: up if reports come from it.",
    },
    Metric {
        name: HELD_SANDBOXES,
        kind: MetricKind::Gauge,
        help: "Sandboxes of hosts that the database has no record of, held for `wrenn-cp orphans`.",
    },
    Metric {
        name: STORE_UP,
        kind: MetricKind::Gauge,
        help: "1 if the store answered this scrape, else 0.",
    },
    Metric {
        name: STORE_PING,
        kind: MetricKind::Histogram,
        help: "Time that the store took to answer a small query at a scrape.",
    },
    Metric {
        name: STORE_CONNECTIONS,
        kind: MetricKind::Gauge,
        help: "Connections to the database by state: in_use or idle.",
    },
    Metric {
        name: STORE_CONNECTION_LIMIT,
        kind: MetricKind::Gauge,
        help: "Connections to the database that there may be.",
    },
    Metric {
        name: STATEMENT_DURATION,
        kind: MetricKind::Histogram,
        help: "Time of statements of the database by outcome, that for a free connection included.",
    },
    Metric {
        name: WEBHOOK_ATTEMPTS,
        kind: MetricKind::Counter,
        help: "Attempts to send an event to a webhook, by outcome.",
    },
    Metric {
        name: WEBHOOK_OLDEST,
        kind: MetricKind::Gauge,
        help: "Age of the oldest event that an enabled webhook has not got, of all control planes; 0 if there is none.",
    },
    Metric {
        name: WEBHOOK_DEAD,
        kind: MetricKind::Gauge,
        help: "Deliveries to webhooks that were given up and are kept, of all control planes.",
    },
];

/// Declares the metrics, and shows those that only count faults as 0 from the start.
pub fn install() {
    runtime::metrics::install(METRICS);
    for limit in ["requests", "creates"] {
        counter!(RATE_LIMITED, "limit" => limit).absolute(0);
    }
    for outcome in WEBHOOK_OUTCOMES {
        counter!(WEBHOOK_ATTEMPTS, "outcome" => outcome).absolute(0);
    }
    for code in model::ErrorCode::ALL {
        counter!(ERRORS, "code" => code.as_str()).absolute(0);
    }
    gauge!(REQUESTS_IN_FLIGHT).set(0.0);
}

/// State of the control plane at a scrape.
pub(crate) struct Reading {
    pub(crate) hosts_up: usize,
    pub(crate) hosts_down: usize,
    pub(crate) creates_in_flight: usize,
    pub(crate) held_sandboxes: usize,
    pub(crate) is_store_up: bool,
    pub(crate) connections: Connections,
    /// Time that the store took to answer.
    pub(crate) store_ping: Duration,
    /// `None`: the store did not answer.
    pub(crate) webhooks: Option<WebhookReading>,
}

/// Deliveries of all webhooks that have not arrived.
pub(crate) struct WebhookReading {
    /// Age of the oldest event that waits.
    pub(crate) oldest: Duration,
    pub(crate) dead: u64,
}

/// Sets the gauges.
pub(crate) fn record_reading(reading: &Reading) {
    gauge!(HOSTS, "state" => "up").set(reading.hosts_up as f64);
    gauge!(HOSTS, "state" => "down").set(reading.hosts_down as f64);
    gauge!(CREATES_IN_FLIGHT).set(reading.creates_in_flight as f64);
    let Connections { in_use, idle, most } = reading.connections;
    gauge!(STORE_CONNECTIONS, "state" => "in_use").set(in_use as f64);
    gauge!(STORE_CONNECTIONS, "state" => "idle").set(idle as f64);
    gauge!(STORE_CONNECTION_LIMIT).set(most as f64);
    gauge!(HELD_SANDBOXES).set(reading.held_sandboxes as f64);
    gauge!(STORE_UP).set(f64::from(u8::from(reading.is_store_up)));
    histogram!(STORE_PING).record(reading.store_ping);
    if let Some(webhooks) = &reading.webhooks {
        gauge!(WEBHOOK_OLDEST).set(webhooks.oldest.as_secs_f64());
        gauge!(WEBHOOK_DEAD).set(webhooks.dead as f64);
    }
}

/// Counts a request that a rate limit refused.
pub(crate) fn count_rate_limited(limit: &'static str) {
    counter!(RATE_LIMITED, "limit" => limit).increment(1);
}

/// Counts an attempt to send an event to a webhook.
pub(crate) fn count_webhook_attempt(outcome: &'static str) {
    counter!(WEBHOOK_ATTEMPTS, "outcome" => outcome).increment(1);
}

/// Request that is being answered.
pub(crate) struct InFlight {
    method: &'static str,
    route: String,
    begin: Instant,
    in_flight: Gauge,
}

impl InFlight {
    /// Begins to measure. `route` is the template of the path; `None` where there is no route.
    pub(crate) fn begin(method: &Method, route: Option<&str>) -> Self {
        let in_flight = gauge!(REQUESTS_IN_FLIGHT);
        in_flight.increment(1.0);
        Self {
            method: method_name(method),
            route: route.unwrap_or("none").to_owned(),
            begin: Instant::now(),
            in_flight,
        }
    }

    /// Returns the name of the request: its method and the template of its path.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.method, self.route)
    }

    /// Records the answer, and the code of its error if it is one.
    pub(crate) fn record(self, status: StatusCode, code: Option<ErrorCode>) {
        let labels = [
            ("method", self.method.to_owned()),
            ("route", self.route.clone()),
            ("status", status_class(status).to_owned()),
        ];
        histogram!(REQUEST_DURATION, &labels).record(self.begin.elapsed());
        if let Some(code) = code {
            counter!(ERRORS, "code" => code.as_str()).increment(1);
        }
    }
}

/// Also for requests that are dropped, as when the client hangs up.
impl Drop for InFlight {
    fn drop(&mut self) {
        self.in_flight.decrement(1.0);
    }
}

/// Returns the name of a method; clients can make up others.
fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

fn status_class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_of_closed_sets() {
        assert_eq!(method_name(&"BREW".parse().unwrap()), "other");
        assert_eq!(method_name(&Method::PUT), "PUT");
        assert_eq!(status_class(StatusCode::SWITCHING_PROTOCOLS), "1xx");
        assert_eq!(status_class(StatusCode::from_u16(999).unwrap()), "5xx");
    }
}
