//! Metrics of both programs, their list, and what is built on it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn workspace(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(workspace(path)).unwrap()
}

/// Names of all metrics that a text has in it, without the suffixes of histograms.
fn names(text: &str) -> BTreeSet<String> {
    let is_inner = |c: char| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit();
    text.split(|c| !is_inner(c))
        .filter(|word| {
            ["wrenn_cp_", "wrenn_agent_", "wrenn_otlp_", "process_"]
                .iter()
                .any(|prefix| word.starts_with(prefix) && word.len() > prefix.len())
        })
        .map(|word| {
            let base = ["_bucket", "_count", "_sum"]
                .iter()
                .find_map(|suffix| word.strip_suffix(suffix));
            base.unwrap_or(word).to_owned()
        })
        .collect()
}

fn declared() -> BTreeSet<String> {
    let all = control::metrics::METRICS
        .iter()
        .chain(hostd::metrics::METRICS)
        .chain(runtime::metrics::COMMON_METRICS);
    all.map(|metric| metric.name.to_owned()).collect()
}

#[test]
fn documented_metrics_are_those_declared() {
    let declared = declared()
        .into_iter()
        .chain(runtime::metrics::PROCESS_METRICS.map(str::to_owned));
    assert_eq!(
        names(&read("docs/metrics.md")),
        declared.collect::<BTreeSet<String>>()
    );
    for metric in control::metrics::METRICS
        .iter()
        .chain(hostd::metrics::METRICS)
        .chain(runtime::metrics::COMMON_METRICS)
    {
        assert!(metric.help.ends_with('.'), "{}", metric.name);
    }
}

#[test]
fn alerts_and_dashboard_name_real_metrics() {
    let documented = names(&read("docs/metrics.md"));
    for path in [
        "deploy/prometheus/alerts.yml",
        "deploy/prometheus/alerts_test.yml",
        "deploy/grafana/wrenn.json",
    ] {
        let used = names(&read(path));
        assert!(used.len() > 5, "{path}");
        let unknown: Vec<&String> = used.difference(&documented).collect();
        assert!(unknown.is_empty(), "{path}: {unknown:?}");
    }
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("deploy/grafana/wrenn.json")).unwrap();
    let ids: BTreeSet<u64> = dashboard["panels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|panel| panel["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids.len(), dashboard["panels"].as_array().unwrap().len());
}

#[test]
fn alerts_pass_their_unit_tests() {
    for arguments in [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ] {
        let run = Command::new("promtool")
            .args(arguments)
            .current_dir(workspace("deploy/prometheus"))
            .output()
            .expect("promtool of the package prometheus: scripts/deps.sh test");
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(run.status.success(), "{arguments:?}: {said}");
    }
}
