//! `wrenn doctor`: what this host can do, what is missing, and what to type.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use console::style;
use hostd::Config;
use hostd::doctor::{Check, Report, Status, examine};

use crate::args::DoctorArgs;
use crate::output::{self, Progress, printable};
use crate::settings;

/// Where the text of a check begins.
const COLUMN: usize = 16;

/// Exit code 0 only where a sandbox can run.
pub async fn doctor(args: DoctorArgs, json: bool) -> anyhow::Result<u8> {
    let dir: PathBuf = args.dir.unwrap_or_else(settings::dir_of_this_user);
    let config = Config::for_dir(&dir)?;
    let ports: [SocketAddr; 1] = [args.listen];
    let progress = Progress::spinner("examining this host", json);
    let report = tokio::task::spawn_blocking(move || examine(&config, &ports)).await;
    drop(progress);
    let report = report.context("examining this host")?;
    if json {
        output::json(&report)?;
    } else {
        output::line(&text(&report))?;
    }
    Ok(u8::from(!report.can_run))
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

/// Names as people write them.
fn title(name: &str) -> String {
    match name {
        "kvm" | "tun" => name.to_uppercase(),
        "engine" => "VMM".to_owned(),
        other => other.to_owned(),
    }
}

fn summary(report: &Report) -> String {
    let used = |name: Option<&'static str>| name.unwrap_or("none");
    let (vmm, accelerator, disk) = (
        used(report.vmm),
        used(report.accelerator),
        used(report.disk_backend),
    );
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
