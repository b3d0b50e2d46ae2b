//! Reads the text that a scrape gets into metrics of OTLP, so that both tell the same: names, labels
//! and values. The text comes from our own recorder; what is not understood is left out.

use std::collections::BTreeMap;
use std::time::SystemTime;

use opentelemetry_proto::tonic::common::v1::any_value::Value as Text;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum,
};

/// Labels of a sample, sorted.
type Labels = BTreeMap<String, String>;

/// Times of the samples, nanoseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) start: u64,
    pub(super) now: u64,
}

impl Times {
    /// Returns the times of samples that are taken now, and count from `start` on.
    pub(super) fn since(start: SystemTime) -> Self {
        Self {
            start: nanoseconds(start),
            now: nanoseconds(SystemTime::now()),
        }
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    let elapsed = time.duration_since(SystemTime::UNIX_EPOCH);
    elapsed.map_or(0, |elapsed| u64::try_from(elapsed.as_nanos()).unwrap_or(0))
}

/// One metric of the text.
#[derive(Debug, Default)]
struct Family {
    help: String,
    kind: String,
    /// Samples of counters and gauges.
    numbers: Vec<(Labels, f64)>,
    histograms: BTreeMap<Labels, Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    /// Upper bound and number of all values up to it.
    cumulative: Vec<(f64, f64)>,
    sum: f64,
    count: f64,
}

/// Reads a text in Prometheus' format.
pub(super) fn read_metrics(text: &str, times: Times) -> Vec<Metric> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            read_comment(comment, &mut families);
        } else if let Some((name, labels, value)) = read_sample(line) {
            add_sample(name, labels, value, &mut families);
        }
    }
    let families = families.into_iter();
    families
        .filter_map(|(name, family)| metric(name, family, times))
        .collect()
}

fn read_comment(comment: &str, families: &mut BTreeMap<String, Family>) {
    let mut words = comment.splitn(3, ' ');
    let (Some(keyword), Some(name)) = (words.next(), words.next()) else {
        return;
    };
    let rest = words.next().unwrap_or_default().to_owned();
    match keyword {
        "HELP" => families.entry(name.to_owned()).or_default().help = rest,
        "TYPE" => families.entry(name.to_owned()).or_default().kind = rest,
        _ => {}
    }
}

/// Reads `name{label="value",…} number`.
fn read_sample(line: &str) -> Option<(&str, Labels, f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, labels)) = series.split_once('{') else {
        return Some((series, Labels::new(), value));
    };
    Some((name, read_labels(labels.strip_suffix('}')?)?, value))
}

fn read_labels(mut text: &str) -> Option<Labels> {
    let mut labels = Labels::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next()? {
                (end, '"') => break end,
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.insert(name.to_owned(), value);
        text = rest[end + 1..].trim_start_matches(',');
    }
    Some(labels)
}

fn add_sample(name: &str, mut labels: Labels, value: f64, families: &mut BTreeMap<String, Family>) {
    for (suffix, set) in PARTS {
        let family = name
            .strip_suffix(suffix)
            .and_then(|base| families.get_mut(base))
            .filter(|family| family.kind == "histogram");
        if let Some(family) = family {
            let bound = labels.remove("le").and_then(|bound| bound.parse().ok());
            set(family.histograms.entry(labels).or_default(), bound, value);
            return;
        }
    }
    if let Some(family) = families.get_mut(name) {
        family.numbers.push((labels, value));
    }
}

/// Sets a part of a histogram from a sample.
type SetPart = fn(&mut Buckets, Option<f64>, f64);

/// Suffixes of the samples of a histogram.
const PARTS: [(&str, SetPart); 3] = [
    ("_bucket", |buckets, bound, value| {
        // Those above the last bound are told by the count.
        if let Some(bound) = bound.filter(|bound| bound.is_finite()) {
            buckets.cumulative.push((bound, value));
        }
    }),
    ("_sum", |buckets, _, value| buckets.sum = value),
    ("_count", |buckets, _, value| buckets.count = value),
];

fn metric(name: String, family: Family, times: Times) -> Option<Metric> {
    let cumulative = AggregationTemporality::Cumulative.into();
    let numbers = family.numbers.into_iter();
    let data = match family.kind.as_str() {
        "counter" => Data::Sum(Sum {
            data_points: numbers.map(|number| number_point(number, times)).collect(),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        "gauge" => Data::Gauge(Gauge {
            data_points: numbers.map(|number| number_point(number, times)).collect(),
        }),
        "histogram" => Data::Histogram(Histogram {
            data_points: family
                .histograms
                .into_iter()
                .map(|(labels, buckets)| histogram_point(labels, buckets, times))
                .collect(),
            aggregation_temporality: cumulative,
        }),
        _ => return None,
    };
    Some(Metric {
        unit: unit(&name).to_owned(),
        name,
        description: family.help,
        data: Some(data),
        ..Metric::default()
    })
}

/// Returns the unit that a name ends with, by UCUM.
fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    match name.rsplit('_').next() {
        Some("seconds") => "s",
        Some("bytes") => "By",
        _ => "",
    }
}

fn number_point((labels, value): (Labels, f64), times: Times) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: times.start,
        time_unix_nano: times.now,
        value: Some(Value::AsDouble(value)),
        ..NumberDataPoint::default()
    }
}

fn histogram_point(labels: Labels, buckets: Buckets, times: Times) -> HistogramDataPoint {
    let mut below = 0.0;
    let cumulative = buckets.cumulative.iter().map(|(_, number)| *number);
    let counts = cumulative.chain([buckets.count]).map(|number| {
        let own = number - below;
        below = number;
        own as u64
    });
    HistogramDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: times.start,
        time_unix_nano: times.now,
        count: buckets.count as u64,
        sum: Some(buckets.sum),
        bucket_counts: counts.collect(),
        explicit_bounds: buckets.cumulative.iter().map(|(bound, _)| *bound).collect(),
        ..HistogramDataPoint::default()
    }
}

fn attributes(labels: Labels) -> Vec<KeyValue> {
    let labels = labels.into_iter();
    labels
        .map(|(key, value)| KeyValue {
            key,
            value: Some(AnyValue {
                value: Some(Text::StringValue(value)),
            }),
            ..KeyValue::default()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use metrics::{Key, Label, Level, Metadata, Recorder};
    use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

    use super::*;

    const TIMES: Times = Times { start: 1, now: 2 };
    const METADATA: Metadata<'static> = Metadata::new("", Level::INFO, None);

    fn label(point: &[KeyValue], name: &str) -> String {
        let found = point.iter().find(|attribute| attribute.key == name);
        match found.and_then(|attribute| attribute.value.clone()?.value) {
            Some(Text::StringValue(text)) => text,
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn recorded_metrics_come_through() {
        let seconds = Matcher::Suffix("_seconds".to_owned());
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(seconds, &[0.1, 1.0])
            .unwrap()
            .build_recorder();
        let odd = "a \"b\\c\n,d=\"";
        let key = |name: &'static str| Key::from_parts(name, vec![Label::new("l", odd)]);
        recorder.describe_counter("c_total".into(), None, "Help of it.".into());
        recorder
            .register_counter(&key("c_total"), &METADATA)
            .increment(3);
        recorder
            .register_gauge(&key("g_bytes"), &METADATA)
            .set(-0.5);
        let histogram = recorder.register_histogram(&key("h_seconds"), &METADATA);
        for value in [0.05, 0.5, 0.6, 7.0] {
            histogram.record(value);
        }
        let metrics = read_metrics(&recorder.handle().render(), TIMES);
        let names: Vec<&str> = metrics.iter().map(|metric| metric.name.as_str()).collect();
        assert_eq!(names, ["c_total", "g_bytes", "h_seconds"]);
        let units: Vec<&str> = metrics.iter().map(|metric| metric.unit.as_str()).collect();
        assert_eq!(units, ["", "By", "s"]);
        assert_eq!(metrics[0].description, "Help of it.");
        let [
            Some(Data::Sum(sum)),
            Some(Data::Gauge(gauge)),
            Some(Data::Histogram(histogram)),
        ] = [0, 1, 2].map(|index: usize| metrics[index].data.clone())
        else {
            panic!("{metrics:?}");
        };
        assert!(sum.is_monotonic);
        assert_eq!(sum.data_points[0].value, Some(Value::AsDouble(3.0)));
        assert_eq!(label(&sum.data_points[0].attributes, "l"), odd);
        assert_eq!(gauge.data_points[0].value, Some(Value::AsDouble(-0.5)));
        let point = &histogram.data_points[0];
        assert_eq!(point.explicit_bounds, [0.1, 1.0]);
        assert_eq!(point.bucket_counts, [1, 2, 1]);
        assert_eq!((point.count, point.sum), (4, Some(8.15)));
        assert_eq!(label(&point.attributes, "l"), odd);
    }

    #[test]
    fn damaged_lines_are_left_out() {
        let text = "# TYPE a gauge\na{x=\"1} 2\na{x} 3\na\na x\na 4\nb 5\n";
        let metrics = read_metrics(text, TIMES);
        let [
            Metric {
                data: Some(Data::Gauge(gauge)),
                ..
            },
        ] = metrics.as_slice()
        else {
            panic!("{metrics:?}");
        };
        assert_eq!(gauge.data_points.len(), 1);
    }
}
