//! `wrenn doctor`: what this host can do, what is missing, and what to type.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use console::style;
use hostd::Config;
use hostd::doctor::{Check, Report, Status, examine_host};
use model::{LimitOrigin, SharedLimit};
use serde::Serialize;

use crate::args::DoctorArgs;
use crate::output::{self, Progress, printable};
use crate::settings;

/// Column at which the text of a check begins.
const COLUMN: usize = 16;

/// Column at which the setting of a limit begins.
const SETTING_COLUMN: usize = 72;

/// Findings, and the limits in force.
#[derive(Debug, Serialize)]
struct Examination {
    #[serde(flatten)]
    report: Report,
    limits: Vec<SharedLimit>,
}

/// Checks whether this machine can run sandboxes. Returns exit code 0 only if it can.
pub async fn examine_machine(args: DoctorArgs, json: bool) -> anyhow::Result<u8> {
    let dir: PathBuf = args.dir.unwrap_or_else(settings::dir_of_this_user);
    let config = Config::for_dir(&dir)?;
    let limits = shared_limits(&config, &control::Config::for_dir(&dir)?);
    let ports: [SocketAddr; 1] = [args.listen];
    let progress = Progress::spinner("examining this host", json);
    let report = tokio::task::spawn_blocking(move || examine_host(&config, &ports)).await;
    drop(progress);
    let report = report.context("examining this host")?;
    let examination = Examination { report, limits };
    if json {
        output::print_json(&examination)?;
    } else {
        output::print_line(&text(&examination.report))?;
        output::print_line(&limits_text(&examination.limits))?;
    }
    Ok(u8::from(!examination.report.can_run))
}

/// Lists the limits of the host and of the control plane.
fn shared_limits(host: &Config, control: &control::Config) -> Vec<SharedLimit> {
    let mut limits = hostd::doctor::shared_limits(host);
    limits.extend(control::shared_limits(control));
    limits
}

fn limits_text(limits: &[SharedLimit]) -> String {
    let mut lines = vec!["\nLimits of what sandboxes and clients share, as set here:".to_owned()];
    lines.extend(limits.iter().map(|limit| {
        let value = format!("{}: {}", limit.of, printable(&limit.value));
        let origin = match (limit.setting, limit.origin) {
            (Some(name), LimitOrigin::Environment) => {
                format!("{name}, default {}", limit.default)
            }
            (Some(name), _) => format!("{name}, not set"),
            (None, _) => "built in".to_owned(),
        };
        format!("  {value:<SETTING_COLUMN$}  {}", style(origin).dim())
    }));
    lines.join("\n")
}

fn text(report: &Report) -> String {
    let mut lines: Vec<String> = report.checks.iter().map(check).collect();
    lines.push(String::new());
    lines.push(summary(report));
    lines.join("\n")
}

fn check(check: &Check) -> String {
    let mark = match check.status {
        Status::Ok => style("✓").green(),
        Status::Warning => style("!").yellow(),
        Status::Missing => style("✗").red(),
    };
    let line = format!(
        "{mark} {:<COLUMN$}{}",
        title(check.name),
        printable(&check.found)
    );
    match &check.fix {
        Some(fix) => format!("{line}\n  {:<COLUMN$}→ {}", "", printable(fix)),
        None => line,
    }
}

/// Returns a check's name as people write it.
fn title(name: &str) -> String {
    match name {
        "kvm" | "tun" => name.to_uppercase(),
        "engine" => "VMM".to_owned(),
        other => other.to_owned(),
    }
}

fn summary(report: &Report) -> String {
    let used = |name: Option<&'static str>| name.unwrap_or("none");
    let vmm = used(report.vmm);
    let accelerator = used(report.accelerator);
    let disk = used(report.disk_backend);
    let used = format!("VMM {vmm}, accelerator {accelerator}, disks {disk}");
    if report.can_run {
        return format!(
            "{} Used are: {used}.",
            style("Sandboxes can run here.").green().bold()
        );
    }
    let verdict = style("No sandbox can run here").red().bold();
    format!("{verdict} until what is marked ✗ is there. Used would be: {used}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Limits without any setting, as SECURITY.md has them.
    fn security_table() -> String {
        let dir = tempfile::tempdir().unwrap();
        let host = Config::for_dir(dir.path()).unwrap();
        let limits = shared_limits(&host, &control::Config::for_dir(dir.path()).unwrap());
        let row = |limit: &SharedLimit| {
            let setting = limit
                .setting
                .map_or("–".to_owned(), |name| format!("`{name}`"));
            format!(
                "| {} | {setting} | {} | {} |",
                limit.of, limit.default, limit.reached
            )
        };
        let head = "| limit | setting | default | when it is reached |\n|---|---|---|---|\n";
        format!(
            "{head}{}\n",
            limits.iter().map(row).collect::<Vec<_>>().join("\n")
        )
    }

    #[test]
    fn security_document_lists_all_limits() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../SECURITY.md");
        let document = std::fs::read_to_string(path).unwrap();
        let table = security_table();
        let rows = |text: &str| text.lines().filter(|line| line.starts_with("| ")).count();
        assert!(rows(&table) > 30, "{table}");
        assert!(
            document.contains(&table),
            "the table of limits in SECURITY.md is not what the code says; it should be:\n{table}"
        );
    }

    #[test]
    fn limits_text_names_settings_and_origins() {
        let limit = SharedLimit::set_by("A", "things", "2", "wait");
        let set = SharedLimit {
            origin: LimitOrigin::Environment,
            default: "1".to_owned(),
            ..limit.clone()
        };
        let text = limits_text(&[limit, set, SharedLimit::built_in("others", "3", "end")]);
        let text = console::strip_ansi_codes(&text).into_owned();
        let lines: Vec<Vec<&str>> = text
            .lines()
            .skip(2)
            .map(|line| {
                line.split("  ")
                    .map(str::trim)
                    .filter(|part| !part.is_empty())
                    .collect()
            })
            .collect();
        assert_eq!(
            lines,
            [
                vec!["things: 2", "A, not set"],
                vec!["things: 2", "A, default 1"],
                vec!["others: 3", "built in"],
            ]
        );
    }

    #[test]
    fn the_text_says_what_to_type() {
        let missing = Check {
            name: "tun",
            status: Status::Missing,
            found: "no device".into(),
            fix: Some("x".into()),
        };
        let found = Check {
            name: "kernel",
            status: Status::Ok,
            found: "Linux 6.1".into(),
            fix: None,
        };
        let checks = vec![found, missing];
        let report = Report {
            can_run: false,
            vmm: Some("qemu"),
            accelerator: Some("tcg"),
            disk_backend: None,
            checks,
        };
        let text = console::strip_ansi_codes(&text(&report)).into_owned();
        let expected = "✓ kernel          Linux 6.1\n✗ TUN             no device\n                  → x\n\nNo sandbox can run \
                        here until what is marked ✗ is there. Used would be: VMM qemu, accelerator tcg, disks none.";
        assert_eq!(text, expected);
    }
}
