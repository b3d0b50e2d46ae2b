//! `wrenn create`.

use std::io::IsTerminal;

use client::types::{CreateSandbox, SandboxStatus};

use super::{Session, network};
use crate::args::{CreateArgs, ShapeArgs};
use crate::output::{self, Progress};
use crate::values::resolve_environment;

pub async fn create_sandbox(session: &Session, args: CreateArgs) -> anyhow::Result<()> {
    let envs = resolve_environment(&args.envs, |name| std::env::var_os(name));
    let public_ports = args.public_ports.then_some(true);
    let spec = CreateSandbox {
        timeout_sec: args.timeout,
        envs,
        public_ports,
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
