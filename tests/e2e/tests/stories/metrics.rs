//! Both programs scraped by Prometheus, with a sandbox that was created, paused and resumed.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use e2e::{Leftovers, Programs, eventually};
use reqwest::Method;
use reqwest::blocking::Client;
use serde_json::{Value, json};

/// For a boot beside others without hardware virtualisation.
const PATIENCE: Duration = Duration::from_secs(150);

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Calls the API; the answer must have this status.
fn call(programs: &Programs, method: Method, path: &str, status: u16) -> Value {
    let client = Client::builder().timeout(PATIENCE).build().unwrap();
    let request = client
        .request(method.clone(), format!("{}/v1/{path}", programs.url()))
        .header("x-api-key", programs.key());
    let request = match method {
        Method::POST => request.json(&json!({})),
        _ => request,
    };
    let answer = request.send().unwrap();
    assert_eq!(answer.status(), status, "{path}");
    answer.json().unwrap_or_default()
}

/// Prometheus itself, which ends with the test.
struct Prometheus {
    child: Child,
    url: String,
}

impl Prometheus {
    /// Starts it with the example configuration, whose targets are replaced.
    fn start(dir: &Path, targets: [&str; 2]) -> Self {
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/prometheus");
        let config = std::fs::read_to_string(deploy.join("prometheus.yml")).unwrap();
        let config = config
            .replace("127.0.0.1:8001", targets[0])
            .replace("127.0.0.1:50052", targets[1])
            .replace("15s", "1s");
        std::fs::write(dir.join("prometheus.yml"), config).unwrap();
        std::fs::copy(deploy.join("alerts.yml"), dir.join("alerts.yml")).unwrap();
        let address = free_address();
        let child = Command::new("prometheus")
            .arg(format!(
                "--config.file={}",
                dir.join("prometheus.yml").display()
            ))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.join("tsdb").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus: scripts/deps.sh test");
        let url = format!("http://{address}/api/v1/query");
        Self { child, url }
    }

    /// The values of a query, by the label `job`.
    fn query(&self, query: &str) -> Option<Vec<(String, String)>> {
        let url = reqwest::Url::parse_with_params(&self.url, [("query", query)]).ok()?;
        let asked = Client::new().get(url).send();
        let answer: Value = asked.ok()?.json().ok()?;
        let results = answer["data"]["result"].as_array()?.iter();
        let value = |result: &Value| {
            let job = result["metric"]["job"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            Some((job, result["value"][1].as_str()?.to_owned()))
        };
        results.map(value).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn scrape(address: &str) -> String {
    let answer = Client::new()
        .get(format!("http://{address}/metrics"))
        .send()
        .unwrap();
    assert_eq!(answer.status(), 200);
    let kind = answer.headers()["content-type"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    answer.text().unwrap()
}

fn assert_linted(text: &str) {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool: scripts/deps.sh test");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

/// Names of the metrics of a program that a text declares, or that the documentation lists.
fn names(text: &str, prefix: &str) -> BTreeSet<String> {
    let is_inner = |c: char| c.is_ascii_lowercase() || c == '_';
    let words = text
        .lines()
        .filter(|line| line.starts_with("# TYPE") || line.starts_with("| `"));
    words
        .flat_map(|line| line.split(move |c| !is_inner(c)))
        .filter(|word| word.starts_with(prefix))
        .map(str::to_owned)
        .collect()
}

#[test]
fn prometheus_scrapes_both_programs() {
    let before = Leftovers::list();
    let (plane, agent) = (free_address(), free_address());
    let env = [
        ("CP_METRICS_ADDR", plane.as_str()),
        ("AGENT_METRICS_ADDR", agent.as_str()),
    ];
    let programs = Programs::start("metrics", None, &env);
    let created = call(&programs, Method::POST, "sandboxes", 201);
    let id = created["id"].as_str().unwrap().to_owned();
    call(
        &programs,
        Method::POST,
        &format!("sandboxes/{id}/pause"),
        200,
    );
    call(
        &programs,
        Method::POST,
        &format!("sandboxes/{id}/resume"),
        200,
    );
    let unknown = "sandboxes/sb-00000000000000000009";
    call(&programs, Method::GET, unknown, 404);

    let documented = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    let documented = std::fs::read_to_string(documented).unwrap();
    for (address, prefix) in [(&plane, "wrenn_cp_"), (&agent, "wrenn_agent_")] {
        let text = scrape(address);
        assert_linted(&text);
        assert!(!text.contains(&id), "no ids of sandboxes");
        for prefix in [prefix, "wrenn_otlp_", "process_"] {
            assert_eq!(names(&text, prefix), names(&documented, prefix), "{prefix}");
        }
        let ready = Client::new().get(format!("http://{address}/ready")).send();
        assert_eq!(ready.unwrap().status(), 200);
    }

    let dir = tempfile::tempdir().unwrap();
    let prometheus = Prometheus::start(dir.path(), [&plane, &agent]);
    eventually("both programs scraped", PATIENCE, || {
        let up = prometheus.query("up == 1")?;
        let jobs: BTreeSet<String> = up.into_iter().map(|(job, _)| job).collect();
        (jobs == BTreeSet::from(["wrenn-agent".to_owned(), "wrenn-cp".to_owned()])).then_some(())
    });
    for (query, expected) in [
        (r#"wrenn_agent_sandboxes{state="running"}"#, "1"),
        (r#"wrenn_cp_hosts{state="up"}"#, "1"),
        (r#"wrenn_cp_errors_total{code="not_found"}"#, "1"),
        (
            r#"sum by (job) (wrenn_agent_sandbox_operations_total{outcome="ok"})"#,
            "3",
        ),
        (
            r#"sum by (job) (wrenn_cp_http_request_duration_seconds_count{route="/v1/sandboxes/{id}/pause",status="2xx"})"#,
            "1",
        ),
    ] {
        let values = prometheus.query(query).unwrap();
        assert_eq!(
            values.first().map(|(_, value)| value.as_str()),
            Some(expected),
            "{query}"
        );
    }
    drop(prometheus);
    call(&programs, Method::DELETE, &format!("sandboxes/{id}"), 204);
    programs.stop();
    before.assert_nothing_new();
}
