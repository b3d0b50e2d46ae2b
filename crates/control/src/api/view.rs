//! Conversions from our types to those of the API.

use model::TemplateKind;
use time::OffsetDateTime;
use time::format_description::StaticFormatDescription;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use crate::app::metrics::HostUsage;
use crate::hosts::{
    Checkpoint, CommandInfo, DiffStart, DiffSummary, DiskUsage, FileChanged, FileInfo, FileState,
    History, LogEntry, ResourceSizes, SandboxSpace, SandboxUsage, Sizes, Space, Supervision,
    Template, UsagePoint, UsageSeries,
};

/// RFC 3339, always with three digits for milliseconds, so that times sort as text.
const TIME: StaticFormatDescription =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// Formats milliseconds since the Unix epoch as RFC 3339; times that no calendar has become the
/// epoch.
#[must_use]
pub fn format_time(ms: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000);
    let text = time.ok().and_then(|time| time.format(TIME).ok());
    text.unwrap_or_else(|| "1970-01-01T00:00:00.000Z".to_owned())
}

/// Parses RFC 3339 to milliseconds since the Unix epoch.
#[must_use]
pub fn parse_time(text: &str) -> Option<i64> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()
}

#[must_use]
pub fn sandbox(row: store::Sandbox) -> api_types::Sandbox {
    let created_at = format_time(row.created_at);
    let asked = api_types::Sandbox::from_spec(row.id.to_string(), row.state, row.spec, created_at);
    let reported_size = row.disk.as_ref().map(|disk| disk.size_mb);
    api_types::Sandbox {
        reason: row.reason,
        stop_reason: row.stop_reason,
        name: row.attributes.name.map(|name| name.to_string()),
        labels: row.attributes.labels.into_map(),
        ends_at: row.attributes.ends_at.map(format_time),
        disk_mb: reported_size.or(asked.disk_mb),
        disk: row.disk.map(|disk| api_types::Disk {
            backend: disk.backend,
            used_bytes: u64::try_from(disk.used_bytes).unwrap_or_default(),
        }),
        guest_ip: row.guest_ip,
        host_ip: row.host_ip,
        started_at: row.started_at.map(format_time),
        last_active_at: row.last_active_at.map(format_time),
        last_updated: format_time(row.last_updated),
        ..asked
    }
}

/// Converts a sandbox for a list, of which a page may have a thousand.
#[must_use]
pub fn listed_sandbox(row: store::Sandbox) -> api_types::Sandbox {
    let mut listed = sandbox(row);
    if let Some(command) = &mut listed.start_command {
        command.truncate_args();
    }
    listed
}

#[must_use]
pub fn template(template: Template) -> api_types::Template {
    let has_sizes = template.kind == TemplateKind::Snapshot;
    let size = |size| Some(size).filter(|&size| size > 0 && has_sizes);
    api_types::Template {
        kind: template.kind,
        vcpus: size(template.vcpus),
        memory_mb: size(template.memory_mb),
        disk_mb: size(template.disk_mb),
        name: template.name.to_string(),
        size_bytes: template.size_bytes,
        exclusive_bytes: template.exclusive_bytes,
        shared_bytes: template.size_bytes.saturating_sub(template.exclusive_bytes),
        source_sandbox_id: template.source_sandbox_id,
        digest: template.digest,
        format: template.format,
        image_config: template.image_config,
        created_at: format_time(template.created_at),
    }
}

#[must_use]
pub fn checkpoint(checkpoint: Checkpoint) -> api_types::Checkpoint {
    api_types::Checkpoint {
        name: checkpoint.name,
        size_bytes: checkpoint.size_bytes,
        exclusive_bytes: checkpoint.exclusive_bytes,
        shared_bytes: checkpoint
            .size_bytes
            .saturating_sub(checkpoint.exclusive_bytes),
        automatic: checkpoint.automatic,
        created_at: format_time(checkpoint.created_at),
    }
}

#[must_use]
pub fn diff_start(start: DiffStart) -> api_types::DiffMessage {
    api_types::DiffMessage::Start {
        from: start.from,
        to: start.to,
        from_unflushed: start.from_unflushed,
        to_unflushed: start.to_unflushed,
    }
}

#[must_use]
pub fn diff_end(summary: DiffSummary) -> api_types::DiffMessage {
    api_types::DiffMessage::End {
        incomplete: summary.incomplete,
        compared: summary.compared,
        unreadable: summary.unreadable,
    }
}

#[must_use]
pub fn file_diff(change: FileChanged) -> api_types::FileDiff {
    api_types::FileDiff {
        path: change.path,
        before: change.before.map(file_state),
        after: change.after.map(file_state),
        content_changed: change.content_changed,
        attributes_changed: change.attributes_changed,
        unreadable: change.unreadable,
        patch: change.patch.map(|patch| api_types::FilePatch {
            text: patch.text,
            is_cut: patch.is_cut,
            is_binary: patch.is_binary,
        }),
    }
}

fn file_state(state: FileState) -> api_types::FileState {
    let device = state
        .device
        .map(|(major, minor)| format!("{major}:{minor}"));
    api_types::FileState {
        kind: state.kind,
        size: state.size,
        mode: state.mode,
        uid: state.uid,
        gid: state.gid,
        symlink_target: state.symlink_target,
        device,
        sha256: state.sha256,
    }
}

#[must_use]
pub fn history(history: History) -> api_types::History {
    api_types::History {
        auto_checkpoint: history.policy.map(api_types::AutoCheckpoint::from),
        steps: history.steps.into_iter().map(checkpoint).collect(),
        failure: history.failure,
    }
}

fn sizes(sizes: Sizes) -> api_types::Sizes {
    api_types::Sizes {
        size_bytes: sizes.size_bytes,
        exclusive_bytes: sizes.exclusive_bytes,
        shared_bytes: sizes.size_bytes.saturating_sub(sizes.exclusive_bytes),
    }
}

fn space(space: Space) -> api_types::Space {
    api_types::Space {
        count: space.count,
        sizes: sizes(space.sizes),
    }
}

#[must_use]
pub fn sandbox_disk_usage(space_of: SandboxSpace) -> api_types::SandboxDiskUsage {
    api_types::SandboxDiskUsage {
        id: space_of.id,
        total: sizes(space_of.total),
        own: sizes(space_of.own),
        paused: sizes(space_of.paused),
        checkpoints: space(space_of.checkpoints),
    }
}

#[must_use]
pub fn disk_usage(usage: DiskUsage) -> api_types::DiskUsage {
    api_types::DiskUsage {
        sandboxes: space(usage.sandboxes),
        paused: space(usage.paused),
        checkpoints: space(usage.checkpoints),
        snapshots: space(usage.snapshots),
        images: usage.images.map(space),
        preboot_cache: usage.preboot.map(space),
        total: sizes(usage.total),
        by_sandbox: usage
            .by_sandbox
            .into_iter()
            .map(sandbox_disk_usage)
            .collect(),
    }
}

/// Converts the size of a terminal from a request.
#[must_use]
pub fn terminal_size(size: api_types::TerminalSize) -> crate::hosts::TerminalSize {
    crate::hosts::TerminalSize {
        cols: size.cols,
        rows: size.rows,
    }
}

#[must_use]
pub fn command(command: CommandInfo) -> api_types::Command {
    let next_start = command.supervision.and_then(|it| it.next_start_at);
    let state = match (command.exit_code, next_start) {
        (Some(_), _) => api_types::CommandState::Exited,
        (None, Some(_)) => api_types::CommandState::Restarting,
        (None, None) => api_types::CommandState::Running,
    };
    api_types::Command {
        id: command.id,
        name: command.name,
        pid: command.pid,
        cmd: command.cmd,
        args: command.args,
        args_truncated: command.args_truncated,
        state,
        exit_code: command.exit_code,
        signal: command.signal,
        timed_out: command.timed_out,
        terminal: command.terminal,
        keep_alive: command.keep_alive,
        started_at: format_time(command.started_at),
        ended_at: command.ended_at.map(format_time),
        output: api_types::CommandOutput {
            start: command.output_start,
            end: command.output_end,
            // The line of offsets begins at 0.
            dropped: command.output_start,
        },
        supervision: command.supervision.map(supervision),
    }
}

fn supervision(supervision: Supervision) -> api_types::Supervision {
    let policy = supervision.policy;
    api_types::Supervision {
        restart: policy.condition,
        max_retries: policy.max_retries,
        restarts: supervision.restarts,
        last_exit_code: supervision.last_exit_code,
        next_start_at: supervision.next_start_at.map(format_time),
    }
}

#[must_use]
pub fn file(info: FileInfo) -> api_types::FileInfo {
    api_types::FileInfo {
        path: info.path,
        kind: info.kind,
        size: info.size,
        mode: info.mode,
        owner: info.owner,
        group: info.group,
        modified_at: format_time(info.modified_at),
        symlink_target: info.symlink_target,
    }
}

#[must_use]
pub fn log(entry: LogEntry) -> api_types::LogEntry {
    api_types::LogEntry {
        time: format_time(entry.time),
        source: entry.source,
        line: entry.line,
    }
}

#[must_use]
pub fn sandbox_metrics(id: String, series: UsageSeries) -> api_types::SandboxMetrics {
    api_types::SandboxMetrics {
        id,
        sizes: resource_sizes(series.sizes),
        step_sec: series.step_sec,
        points: series.points.into_iter().map(metrics_point).collect(),
    }
}

#[must_use]
pub fn sandbox_usage(status: model::SandboxState, usage: SandboxUsage) -> api_types::SandboxUsage {
    api_types::SandboxUsage {
        id: usage.id,
        status,
        sizes: resource_sizes(usage.sizes),
        latest: usage.latest.map(metrics_point),
    }
}

#[must_use]
pub fn host_metrics(host: HostUsage) -> api_types::HostMetrics {
    let series = host.series;
    api_types::HostMetrics {
        id: host.id,
        sizes: resource_sizes(series.sizes),
        sandboxes: host.sandboxes,
        step_sec: series.step_sec,
        points: series.points.into_iter().map(metrics_point).collect(),
    }
}

fn resource_sizes(sizes: ResourceSizes) -> api_types::ResourceSizes {
    api_types::ResourceSizes {
        cpu_count: sizes.cpu_count,
        memory_total_bytes: sizes.memory_bytes,
        disk_total_bytes: sizes.disk_bytes,
    }
}

fn metrics_point(point: UsagePoint) -> api_types::MetricsPoint {
    let guest = point.guest;
    api_types::MetricsPoint {
        time: format_time(point.time),
        cpu_percent: point.cpu_percent,
        memory_used_bytes: point.memory_bytes,
        disk_used_bytes: point.disk_bytes,
        network_rx_bytes_per_sec: point.rx_bytes_per_sec,
        network_tx_bytes_per_sec: point.tx_bytes_per_sec,
        guest: guest.map(|(memory, disk)| api_types::GuestUsage {
            memory_used_bytes: memory,
            disk_used_bytes: disk,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(format_time(1_767_225_600_123), "2026-01-01T00:00:00.123Z");
        assert_eq!(format_time(1_767_225_600_170), "2026-01-01T00:00:00.170Z");
        assert_eq!(format_time(1_767_225_600_000), "2026-01-01T00:00:00.000Z");
        assert_eq!(format_time(i64::MAX), "1970-01-01T00:00:00.000Z");
        assert_eq!(
            parse_time("2026-01-01T00:00:00.123Z"),
            Some(1_767_225_600_123)
        );
        assert_eq!(
            parse_time("2026-01-01T02:00:00+02:00"),
            Some(1_767_225_600_000)
        );
        assert_eq!(parse_time("tomorrow"), None);
    }
}
