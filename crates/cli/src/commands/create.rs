//! `wrenn create`.

use std::io::IsTerminal;

use client::types::{CreateSandbox, IfExists, SandboxStatus, SupervisedCommand, UpdateSandbox};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::{Session, network};
use crate::args::{CreateArgs, ShapeArgs, StartArgs, UpdateArgs};
use crate::output::{self, Progress};
use crate::values::{AutoCheckpointTime, escape_bytes, resolve_environment};

pub async fn create_sandbox(session: &Session, args: CreateArgs) -> anyhow::Result<()> {
    let envs = resolve_environment(&args.envs, |name| std::env::var_os(name));
    let public_ports = args.public_ports.then_some(true);
    let attributes = args.attributes;
    let spec = CreateSandbox {
        timeout_sec: args.timeout,
        envs,
        public_ports,
        name: attributes.name,
        labels: attributes.labels.into_iter().collect(),
        ends_at: end_from(attributes.ends_at, attributes.ttl),
        if_exists: args.or_existing.then_some(IfExists::Return),
        auto_checkpoint: args
            .auto_checkpoint
            .and_then(AutoCheckpointTime::into_policy),
        start_command: start_command_from(args.start),
        ..request_from(args.shape)
    };
    let progress = Progress::spinner("creating a sandbox", session.json);
    let sandbox = session.client.create(&spec).await;
    drop(progress);
    let sandbox = sandbox?;
    if session.json {
        return output::print_json(&sandbox);
    }
    output::print_line(&sandbox.id)?;
    if std::io::stderr().is_terminal() && sandbox.status == SandboxStatus::Running {
        output::print_note(&format!(
            "It runs. Try: wrenn exec -it {} -- bash",
            sandbox.id
        ));
    }
    Ok(())
}

/// Returns the start command that the flags ask for.
fn start_command_from(args: StartArgs) -> Option<SupervisedCommand> {
    let restart = args.restart.unwrap_or_default();
    let mut words = args.command.into_iter().map(escape_bytes);
    Some(SupervisedCommand {
        cmd: words.next()?,
        args: words.collect(),
        cwd: args.workdir.map(escape_bytes),
        user: args.user,
        restart: restart.condition,
        max_retries: restart.max_retries,
        ..SupervisedCommand::default()
    })
}

/// Returns the end of a sandbox that `--ends-at` or `--ttl` ask for.
fn end_from(ends_at: Option<String>, ttl: Option<u32>) -> Option<String> {
    let after_ttl = |seconds: u32| {
        let end = OffsetDateTime::now_utc() + Duration::seconds(seconds.into());
        end.format(&Rfc3339).ok()
    };
    ends_at.or_else(|| ttl.and_then(after_ttl))
}

/// Converts the flags of `update` to a request.
pub fn change_from(args: UpdateArgs) -> UpdateSandbox {
    let attributes = args.attributes;
    let set = attributes.labels.into_iter();
    let set = set.map(|(key, value)| (key, Some(value)));
    let removed = args.removed.into_iter().map(|key| (key, None));
    let ends_at = end_from(attributes.ends_at, attributes.ttl);
    UpdateSandbox {
        name: attributes.name.map(Some).or(args.no_name.then_some(None)),
        labels: set.chain(removed).collect(),
        ends_at: ends_at.map(Some).or(args.no_end.then_some(None)),
        timeout_sec: args.timeout,
        on_timeout: args.action,
        auto_resume: args.resumes,
    }
}

/// Converts the flags that `create` and `run` share to a request.
pub fn request_from(args: ShapeArgs) -> CreateSandbox {
    CreateSandbox {
        template: args.template,
        vcpus: args.vcpus,
        memory_mb: args.memory,
        disk_mb: args.disk,
        on_timeout: args.on_timeout,
        auto_resume: args.no_auto_resume.then_some(false),
        network: network::rules_from(args.rules),
        ..CreateSandbox::default()
    }
}
