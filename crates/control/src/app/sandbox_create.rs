//! Makes a sandbox: template, row, host, report.
//!
//! What the hosts have decides on sizes and places. The row comes before a host is asked, so that
//! whatever a host makes is known. From the moment a host is asked it owns the state. If we die in
//! between, the row is `pending`: either the host then reports what became of it, or
//! `tasks::converge` removes the row after a while. If a step fails while the user waits, row and
//! remains go: nobody was ever told the id.

use std::slice;
use std::sync::Arc;

use host_rpc as rpc;
use model::{ErrorCode, SandboxId, SandboxSpec, SandboxState, TemplateName};
use stdx::time::now_ms;
use store::{Idempotency, Inserted, NewSandbox, Sandbox};

use super::sizes::{Sizes, fit};
use super::templates::lack;
use super::{App, sandbox_delete};
use crate::error::{Error, Result};
use crate::hosts::{self, Host};
use crate::place::{NoPlace, Seen, place};

/// A checked request.
#[derive(Debug)]
pub struct Create {
    /// With the defaults for sizes that it does not name.
    pub spec: SandboxSpec,
    pub named: Sizes,
    pub key_id: String,
    pub idempotency: Option<Idempotency>,
}

/// Answers when it runs.
///
/// # Errors
/// What refused it; nothing is left of it then.
pub async fn create(app: Arc<App>, create: Create) -> Result<Sandbox> {
    let _turn = app
        .keys
        .turn(&create.key_id, create.idempotency.as_ref())
        .await;
    // What came before is answered from its row, whatever became of the template meanwhile.
    if let Some(idempotency) = &create.idempotency
        && let Some(met) = app.store.sandbox_find(&create.key_id, idempotency).await?
    {
        return proceed(&app, met, Vec::new()).await;
    }
    app.rate_limits.count_creates(&create.key_id, 1)?;
    let Create {
        spec,
        named,
        key_id,
        idempotency,
    } = create;
    let (spec, candidates) = candidates(&app, spec, &named).await?;
    let new = NewSandbox {
        id: SandboxId::random(),
        team_id: model::TeamId::default(),
        spec,
        key_id,
        idempotency,
        now: now_ms(),
    };
    let guard = app.creating.begin(&new.id);
    let made = proceed(&app, app.store.sandbox_insert(&new).await?, candidates).await;
    drop(guard);
    made
}

/// Goes on with what the insert met.
async fn proceed(app: &Arc<App>, met: Inserted, candidates: Vec<Arc<Host>>) -> Result<Sandbox> {
    let sandbox = match met {
        Inserted::New(sandbox) => sandbox,
        Inserted::Mismatch => return Err(mismatch()),
        Inserted::Existing(sandbox) if sandbox.deleting => {
            return Err(deleted_meanwhile(&sandbox.id));
        }
        // It never ran, and the first request for it died with its process.
        Inserted::Existing(sandbox)
            if sandbox.state.is_terminal() && sandbox.started_at.is_none() =>
        {
            return failed(app, &sandbox.id.clone(), did_not_start(sandbox)).await;
        }
        Inserted::Existing(sandbox) if sandbox.state != SandboxState::Pending => {
            return Ok(sandbox);
        }
        // The first request for it may have died with its process; hosts take the same wish twice.
        Inserted::Existing(sandbox) => sandbox,
    };
    let guard = app.creating.begin(&sandbox.id);
    let made = match make(app, &sandbox, candidates).await {
        Ok(made) => Ok(made),
        Err(error) => failed(app, &sandbox.id, error).await,
    };
    drop(guard);
    made
}

/// Its create failed for us. It may run all the same: the answer was lost, or it was asked for in
/// another place, too.
async fn failed(app: &App, id: &SandboxId, error: Error) -> Result<Sandbox> {
    tracing::info!(sandbox = %id, error = error.chain(), "not created");
    if sandbox_delete::give_up(app, slice::from_ref(id), "its create failed").await? {
        return Err(error);
    }
    app.store
        .sandbox_get_any_team(id)
        .await?
        .filter(|sandbox| !sandbox.deleting)
        .ok_or(error)
}

fn mismatch() -> Error {
    let text =
        "this Idempotency-Key came before with another body; use a new key for a new sandbox";
    Error::new(ErrorCode::IdempotencyMismatch, text)
}

fn deleted_meanwhile(id: &SandboxId) -> Error {
    Error::new(
        ErrorCode::Conflict,
        format!("sandbox {id} was deleted while it was being made"),
    )
}

/// `candidates` are the hosts to try, where they are known already.
async fn make(app: &App, sandbox: &Sandbox, candidates: Vec<Arc<Host>>) -> Result<Sandbox> {
    let candidates = match app.hosts.of(sandbox.host_id.as_deref()) {
        // A host has begun it already.
        begun if sandbox.host_id.is_some() => begun,
        _ if !candidates.is_empty() => candidates,
        _ => {
            self::candidates(app, sandbox.spec.clone(), &Sizes::of(&sandbox.spec))
                .await?
                .1
        }
    };
    let mut refusal = Error::new(
        ErrorCode::HostUnavailable,
        "no host can take a sandbox now; try again later",
    );
    for host in candidates {
        match ensure(&host, sandbox).await {
            Ok(reported) => return settle(app, &host, &sandbox.id, reported).await,
            // Another one may have room.
            Err(error) if error.code == ErrorCode::HostUnavailable && hosts::is_refusal(&error) => {
                refusal = error
            }
            Err(error) => return Err(error),
        }
    }
    Err(refusal)
}

/// The spec with the sizes that the template asks for, and the hosts to try, best first.
async fn candidates(
    app: &App,
    spec: SandboxSpec,
    named: &Sizes,
) -> Result<(SandboxSpec, Vec<Arc<Host>>)> {
    let hosts = app.hosts.all();
    let answers =
        futures::future::join_all(hosts.iter().map(|host| see(host, &spec.template))).await;
    let mut silent = None;
    let (mut seen, mut templates) = (
        Vec::with_capacity(hosts.len()),
        Vec::with_capacity(hosts.len()),
    );
    for answer in answers {
        let (one, template) = answer.map_err(|error| silent = Some(error)).ok().unzip();
        seen.push(one);
        templates.push(template.flatten());
    }
    let order = place(&spec.template, &seen).map_err(|no_place| match no_place {
        NoPlace::NoHost => silent.unwrap_or_else(|| {
            Error::new(
                ErrorCode::HostUnavailable,
                "no host is configured; set CP_HOST_AGENT_ADDR",
            )
        }),
        NoPlace::NoTemplate(known) => lack(silent, no_template(spec.template.as_str(), &known)),
    })?;
    let fitted = |index: usize| fit(spec.clone(), named, templates[index].as_ref());
    let best = fitted(order[0])?;
    best.check(&app.limits)?;
    // Snapshots of one name on two hosts need not be the same.
    let same = order
        .into_iter()
        .filter(|&index| fitted(index).is_ok_and(|spec| spec == best));
    let hosts = same.map(|index| Arc::clone(&hosts[index])).collect();
    Ok((best, hosts))
}

fn no_template(wanted: &str, known: &[String]) -> Error {
    let known = if known.is_empty() {
        "none is installed".to_owned()
    } else {
        format!("there is {}", known.join(", "))
    };
    Error::new(
        ErrorCode::NotFound,
        format!("there is no template {wanted}; {known}"),
    )
}

/// What the host has, and the template `wanted` of it.
async fn see(host: &Host, wanted: &TemplateName) -> Result<(Seen, Option<rpc::Template>)> {
    let (about, templates) = tokio::join!(
        host.connect(),
        host.list_templates(rpc::ListTemplatesRequest::default())
    );
    let (about, templates) = (about?, templates?.templates);
    let template = templates
        .iter()
        .find(|template| template.name == wanted.as_str())
        .cloned();
    let seen = Seen {
        templates: templates
            .into_iter()
            .map(|template| template.name)
            .collect(),
        sandboxes: about.sandboxes,
        memory_bytes: about.memory_bytes,
    };
    Ok((seen, template))
}

async fn ensure(host: &Host, sandbox: &Sandbox) -> Result<rpc::SandboxReport> {
    let sandbox_id = sandbox.id.to_string();
    let request = rpc::EnsureSandboxRequest {
        sandbox_id,
        spec: rpc::spec::to_message(&sandbox.spec).into(),
        ..Default::default()
    };
    Ok(host
        .ensure_sandbox(request)
        .await?
        .sandbox
        .into_option()
        .unwrap_or_default())
}

/// The host has answered: the row gets its report, unless somebody deleted it meanwhile.
async fn settle(
    app: &App,
    host: &Host,
    id: &SandboxId,
    answer: rpc::SandboxReport,
) -> Result<Sandbox> {
    let Some(sandbox) = app.settle(host, answer).await? else {
        // The deletion may have passed by the host before it had begun.
        host.remove_sandbox(id).await?;
        return Err(deleted_meanwhile(id));
    };
    started(sandbox)
}

/// # Errors
/// `AgentError` with the reason when a sandbox that was made does not run.
pub(super) fn started(sandbox: Sandbox) -> Result<Sandbox> {
    match sandbox.state {
        SandboxState::Running | SandboxState::Paused => Ok(sandbox),
        _ => Err(did_not_start(sandbox)),
    }
}

fn did_not_start(sandbox: Sandbox) -> Error {
    let reason = sandbox
        .reason
        .unwrap_or_else(|| format!("it is {}", sandbox.state));
    Error::new(
        ErrorCode::AgentError,
        format!("the sandbox did not start: {reason}"),
    )
}
