//! Makes a sandbox: row, place, host, report.
//!
//! The row comes first, so that whatever a host makes is known. From the moment a host is asked it owns the state.
//! If we die in between, the row is `pending`: either the host then reports what became of it, or
//! `tasks::converge` removes the row after a while. If a step fails while the user waits, row and remains go: nobody
//! was ever told the id.

use std::sync::Arc;

use host_rpc as rpc;
use model::{ErrorCode, SandboxId, SandboxSpec, SandboxState};
use store::{Applied, Idempotency, Inserted, NewSandbox, Sandbox};

use super::report::{self, Reported};
use super::{App, now_ms, sandbox_delete};
use crate::error::{Error, Result};
use crate::hosts::{self, Host};
use crate::place::{NoPlace, Seen, place};

/// A checked request.
#[derive(Debug)]
pub struct Create {
    pub spec: SandboxSpec,
    pub key_id: String,
    pub idempotency: Option<Idempotency>,
}

/// Answers when it runs.
///
/// # Errors
/// What refused it; nothing is left of it then.
pub async fn create(app: Arc<App>, create: Create) -> Result<Sandbox> {
    let Create { spec, key_id, idempotency } = create;
    let new = NewSandbox { id: SandboxId::random(), spec, key_id, idempotency, now: now_ms() };
    let guard = app.creating.begin(&new.id);
    let sandbox = match app.store.sandbox_insert(&new).await? {
        Inserted::New(sandbox) => sandbox,
        Inserted::Mismatch => return Err(mismatch()),
        Inserted::Existing(sandbox) if sandbox.deleting => return Err(deleted_meanwhile(&sandbox.id)),
        Inserted::Existing(sandbox) if sandbox.state != SandboxState::Pending => return Ok(sandbox),
        // The first request for it may have died with its process; hosts take the same wish twice.
        Inserted::Existing(sandbox) => sandbox,
    };
    let other = (sandbox.id != new.id).then(|| app.creating.begin(&sandbox.id));
    let made = make(&app, &sandbox).await;
    if let Err(error) = &made {
        tracing::info!(sandbox = %sandbox.id, error = error.chain(), "not created");
        sandbox_delete::give_up(&app, &sandbox.id, "its create failed").await?;
    }
    drop((guard, other));
    made
}

fn mismatch() -> Error {
    let text = "this Idempotency-Key came before with another body; use a new key for a new sandbox";
    Error::new(ErrorCode::IdempotencyMismatch, text)
}

fn deleted_meanwhile(id: &SandboxId) -> Error {
    Error::new(ErrorCode::Conflict, format!("sandbox {id} was deleted while it was being made"))
}

async fn make(app: &App, sandbox: &Sandbox) -> Result<Sandbox> {
    let candidates = match app.hosts.of(sandbox.host_id.as_deref()) {
        // A host has begun it already.
        begun if sandbox.host_id.is_some() => begun,
        all => candidates(&all, sandbox).await?,
    };
    let mut refusal = Error::new(ErrorCode::HostUnavailable, "no host can take a sandbox now; try again later");
    for host in candidates {
        match ensure(&host, sandbox).await {
            Ok(reported) => return settle(app, &host, &sandbox.id, reported).await,
            // Another one may have room.
            Err(error) if error.code == ErrorCode::HostUnavailable && hosts::is_refusal(&error) => refusal = error,
            Err(error) => return Err(error),
        }
    }
    Err(refusal)
}

/// The hosts to try, best first.
async fn candidates(hosts: &[Arc<Host>], sandbox: &Sandbox) -> Result<Vec<Arc<Host>>> {
    let answers = futures::future::join_all(hosts.iter().map(|host| see(host))).await;
    let mut silent = None;
    let mut seen = Vec::with_capacity(answers.len());
    for answer in answers {
        seen.push(answer.map_err(|error| silent = Some(error)).ok());
    }
    match place(&sandbox.spec.template, &seen) {
        Ok(order) => Ok(order.into_iter().map(|index| Arc::clone(&hosts[index])).collect()),
        Err(NoPlace::NoHost) => Err(silent.unwrap_or_else(|| {
            Error::new(ErrorCode::HostUnavailable, "no host is configured; set CP_HOST_AGENT_ADDR")
        })),
        Err(NoPlace::NoTemplate(known)) => Err(no_template(sandbox.spec.template.as_str(), &known)),
    }
}

fn no_template(wanted: &str, known: &[String]) -> Error {
    let known =
        if known.is_empty() { "none is installed".to_owned() } else { format!("there is {}", known.join(", ")) };
    Error::new(ErrorCode::NotFound, format!("there is no template {wanted}; {known}"))
}

async fn see(host: &Host) -> Result<Seen> {
    let (about, templates) = tokio::join!(host.connect(), host.list_templates(rpc::ListTemplatesRequest::default()));
    let (about, templates) = (about?, templates?);
    Ok(Seen {
        templates: templates.templates.into_iter().map(|template| template.name).collect(),
        sandboxes: about.sandboxes,
        memory_bytes: about.memory_bytes,
    })
}

async fn ensure(host: &Host, sandbox: &Sandbox) -> Result<rpc::SandboxReport> {
    let spec = rpc::SandboxSpec {
        template: sandbox.spec.template.to_string(),
        vcpus: sandbox.spec.vcpus,
        memory_mb: sandbox.spec.memory_mb,
        timeout_sec: sandbox.spec.timeout_sec,
        disk_mb: sandbox.spec.disk_mb,
        envs: sandbox.spec.envs.clone().into_iter().collect(),
        ..Default::default()
    };
    let sandbox_id = sandbox.id.to_string();
    let request = rpc::EnsureSandboxRequest { sandbox_id, spec: spec.into(), ..Default::default() };
    Ok(host.ensure_sandbox(request).await?.sandbox.into_option().unwrap_or_default())
}

/// The host has answered: the row gets its report, unless somebody deleted it meanwhile.
async fn settle(app: &App, host: &Host, id: &SandboxId, answer: rpc::SandboxReport) -> Result<Sandbox> {
    let nonsense = |cause| Error::new(ErrorCode::AgentError, "the host agent's answer makes no sense").because(cause);
    let report = match report::check(&host.id().unwrap_or_default(), answer).map_err(nonsense)? {
        Reported::State(report) => report,
        Reported::Removed(_) => return Err(deleted_meanwhile(id)),
    };
    let applied = app.store.sandbox_apply_report(&report, now_ms()).await?;
    let row = match applied {
        Applied::Changed(sandbox) => Some(sandbox),
        // The same report came over the watch before.
        Applied::Stale => app.store.sandbox_get(id).await?,
        Applied::Unknown => None,
    };
    let Some(sandbox) = row.filter(|sandbox| !sandbox.deleting) else {
        // The deletion may have passed by the host before it had begun.
        host.remove_sandbox(id).await?;
        return Err(deleted_meanwhile(id));
    };
    match sandbox.state {
        SandboxState::Running | SandboxState::Paused => Ok(sandbox),
        state => {
            let reason = sandbox.reason.unwrap_or_else(|| format!("it is {state}"));
            Err(Error::new(ErrorCode::AgentError, format!("the sandbox did not start: {reason}")))
        }
    }
}
