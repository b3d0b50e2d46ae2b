//! A create as one trace, as a collector of OpenTelemetry gets it: from the client's request over
//! control plane and host agent to the guest agent. The metrics that it gets are those of a scrape.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use e2e::{Leftovers, Program, Programs, eventually};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use reqwest::Method;
use reqwest::blocking::Client;
use serde_json::{Value, json};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT_SPAN: &str = "00f067aa0ba902b7";
/// For a boot beside others without hardware virtualisation.
const PATIENCE: Duration = Duration::from_secs(150);

/// A span, with ids as hexadecimal digits.
#[derive(Debug, Clone)]
struct Span {
    service: String,
    name: String,
    trace: String,
    id: String,
    parent: String,
    begin: u64,
    end: u64,
}

#[derive(Debug, Default)]
struct Received {
    spans: Vec<Span>,
    /// Names of metrics by service, of the last export of each.
    metrics: BTreeMap<String, BTreeSet<String>>,
}

/// Receiver of OTLP over HTTP in protobuf, which decodes with the types of the specification.
struct Collector {
    url: String,
    received: Arc<Mutex<Received>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let received: Arc<Mutex<Received>> = Arc::default();
        let shared = Arc::clone(&received);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || while serve(&stream, &shared).is_some() {});
            }
        });
        Self { url, received }
    }

    fn spans_of(&self, trace: &str) -> Vec<Span> {
        let received = self.received.lock().unwrap();
        let spans = received.spans.iter().filter(|span| span.trace == trace);
        spans.cloned().collect()
    }
}

/// Takes one request of a connection; `None` at its end.
fn serve(mut stream: &TcpStream, received: &Mutex<Received>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let head = head.to_lowercase();
    assert!(head.contains("application/x-protobuf"), "{head}");
    assert!(head.contains("x-team: of the test"), "{head}");
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length?.trim().parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    let mut received = received.lock().unwrap();
    if head.starts_with("post /v1/traces ") {
        let request = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
        received.spans.extend(read_spans(request));
    } else {
        assert!(head.starts_with("post /v1/metrics "), "{head}");
        let request = ExportMetricsServiceRequest::decode(body.as_slice()).unwrap();
        received.metrics.extend(read_metrics(request));
    }
    let answer =
        "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
    stream.write_all(answer.as_bytes()).ok()
}

fn service_name(resource: Option<Resource>) -> String {
    let attributes = resource.unwrap_or_default().attributes;
    let name = attributes.iter().find(|entry| entry.key == "service.name");
    let name = format!("{:?}", name.and_then(|entry| entry.value.clone()));
    let known = ["wrenn-cp", "wrenn-agent", "envd"];
    let known = known.into_iter().find(|known| name.contains(known));
    known.expect("a service of ours").to_owned()
}

fn read_spans(request: ExportTraceServiceRequest) -> Vec<Span> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut spans = Vec::new();
    for of_service in request.resource_spans {
        let service = service_name(of_service.resource);
        let scopes = of_service.scope_spans.into_iter();
        spans.extend(scopes.flat_map(|scope| scope.spans).map(|span| Span {
            service: service.clone(),
            name: span.name,
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            begin: span.start_time_unix_nano,
            end: span.end_time_unix_nano,
        }));
    }
    spans
}

fn read_metrics(request: ExportMetricsServiceRequest) -> Vec<(String, BTreeSet<String>)> {
    let services = request.resource_metrics.into_iter();
    services
        .map(|of_service| {
            let scopes = of_service.scope_metrics.into_iter();
            let metrics = scopes.flat_map(|scope| scope.metrics);
            let names = metrics.map(|metric| metric.name).collect();
            (service_name(of_service.resource), names)
        })
        .collect()
}

/// Creates a sandbox; returns its id and that of the request.
fn create(programs: &Programs, trace: Option<&str>) -> (String, String) {
    let client = Client::builder().timeout(PATIENCE).build().unwrap();
    let mut request = client
        .request(Method::POST, format!("{}/v1/sandboxes", programs.url()))
        .header("x-api-key", programs.key())
        .json(&json!({ "memory_mb": 256 }));
    if let Some(trace) = trace {
        request = request.header("traceparent", trace);
    }
    let answer = request.send().unwrap();
    assert_eq!(answer.status(), 201);
    let request_id = answer.headers()["x-request-id"]
        .to_str()
        .unwrap()
        .to_owned();
    let created: Value = answer.json().unwrap();
    (created["id"].as_str().unwrap().to_owned(), request_id)
}

/// Spans of one trace, by what they are below.
struct Tree(Vec<Span>);

impl Tree {
    /// Returns the names from a span of that name up to the client's.
    fn path(&self, name: &str) -> Vec<String> {
        let mut span = self.0.iter().find(|span| span.name == name).unwrap();
        let mut path = vec![format!("{}: {}", span.service, span.name)];
        while span.parent != CLIENT_SPAN {
            let above = self.0.iter().find(|other| other.id == span.parent);
            let above = above.unwrap_or_else(|| panic!("the parent of {span:?} in {:?}", self.0));
            assert!(above.begin <= span.begin, "{above:?} before {span:?}");
            assert!(span.begin <= span.end, "{span:?}");
            path.push(format!("{}: {}", above.service, above.name));
            span = above;
        }
        path
    }
}

fn names_of_scrape(address: &str) -> BTreeSet<String> {
    let url = format!("http://{address}/metrics");
    let text = Client::new().get(url).send().unwrap().text().unwrap();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names = types.filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn collector_gets_create_as_one_trace() {
    let before = Leftovers::list();
    let collector = Collector::start();
    let (plane, agent) = (free_address(), free_address());
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-team=of%20the%20test"),
        ("OTEL_BSP_SCHEDULE_DELAY", "200"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "500"),
        ("CP_METRICS_ADDR", plane.as_str()),
        ("AGENT_METRICS_ADDR", agent.as_str()),
        ("AGENT_WARM", "off"),
    ];
    let programs = Programs::start("otlp", None, &env);
    let (id, _) = create(&programs, Some(&format!("00-{TRACE}-{CLIENT_SPAN}-01")));
    let last = ["POST /init", "POST /v1/sandboxes", "create"];
    let spans = eventually("all spans of the create", PATIENCE, || {
        let spans = collector.spans_of(TRACE);
        let is_there = |name: &&str| spans.iter().any(|span| span.name == **name);
        // Spans come in the order of their ends, from each program when it likes.
        let has_parent = |span: &Span| {
            span.parent == CLIENT_SPAN || spans.iter().any(|other| other.id == span.parent)
        };
        let is_whole = last.iter().all(is_there) && spans.iter().all(has_parent);
        is_whole.then_some(spans)
    });
    let tree = Tree(spans);
    let request = "wrenn-cp: POST /v1/sandboxes";
    let call = "hostagent.v1.SandboxService/EnsureSandbox";
    let call = [format!("wrenn-agent: {call}"), format!("wrenn-cp: {call}")];
    for step in ["authenticate", "place", "insert row", "apply report"] {
        assert_eq!(tree.path(step)[1..], [request], "{step}");
    }
    let in_call = |path: &[&str]| {
        let path = path.iter().map(|step| format!("wrenn-agent: {step}"));
        let path = path.chain(call.clone()).chain([request.to_owned()]);
        path.collect::<Vec<String>>()
    };
    assert_eq!(tree.path("claim"), in_call(&["claim"]));
    for step in ["network", "disk", "boot", "guest ready"] {
        assert_eq!(tree.path(step), in_call(&[step, "create"]));
    }
    for step in ["jail", "start process"] {
        assert_eq!(tree.path(step), in_call(&[step, "boot", "create"]));
    }
    let init = tree.path("POST /init");
    assert_eq!(init[0], "envd: POST /init");
    assert_eq!(init[1..], in_call(&["guest ready", "create"]));

    // A request without a trace begins one, whose id is in the log.
    let (other, request_id) = create(&programs, None);
    let log = programs.log(Program::ControlPlane);
    let (_, rest) = log
        .split_once(&format!("request{{id=\"{request_id}\" trace=\""))
        .expect("a line of the request");
    let trace = rest.split('"').next().unwrap();
    eventually("the spans of the other create", PATIENCE, || {
        let spans = collector.spans_of(trace);
        let mut services: Vec<&str> = spans.iter().map(|span| span.service.as_str()).collect();
        services.sort_unstable();
        services.dedup();
        (services == ["envd", "wrenn-agent", "wrenn-cp"]).then_some(())
    });
    // Recording alone puts no lines into logs: the client did not ask for them.
    let log = programs.log(Program::HostAgent);
    let is_call = |line: &&str| line.contains(&request_id) && line.contains("request method=");
    assert_eq!(log.lines().find(is_call), None);

    for (service, address) in [("wrenn-cp", &plane), ("wrenn-agent", &agent)] {
        let scraped = names_of_scrape(address);
        eventually("the metrics of a scrape", PATIENCE, || {
            let received = collector.received.lock().unwrap();
            (received.metrics.get(service) == Some(&scraped)).then_some(())
        });
    }
    for id in [id, other] {
        assert_eq!(programs.cli().run(["rm", &id]).code, 0);
    }
    programs.stop();
    // What the last requests left in the queues is sent at the end.
    let received = collector.received.lock().unwrap();
    let is_removal = |span: &&Span| span.name == "DELETE /v1/sandboxes/{id}";
    assert_eq!(received.spans.iter().filter(is_removal).count(), 2);
    drop(received);
    before.assert_nothing_new();
}
