//! `wrenn run`: create, run, remove.
//!
//! The sandbox is removed on every orderly end: the command's exit, an error, a signal, also one
//! that comes while the sandbox is still being made (then its id is not known yet, so the create is
//! waited for). Only a second signal, or a kill that nothing can catch, leaves it; it then stops by
//! its timeout.

use anyhow::Context;
use client::types::{CreateSandbox, OnTimeout, ProcessSignal, Sandbox};

use super::Session;
use super::create::request_from;
use super::exec::run_in;
use crate::args::RunArgs;
use crate::interrupt::Interrupt;
use crate::output::{self, Progress};
use crate::quiet::Quiet;

pub async fn run_in_new_sandbox(session: &Session, args: RunArgs) -> anyhow::Result<u8> {
    let mut interrupt = Interrupt::listen()?;
    // If this process dies, nothing else removes the sandbox: its timeout has to.
    let shape = request_from(args.shape);
    let spec = CreateSandbox {
        on_timeout: shape.on_timeout.or(Some(OnTimeout::Kill)),
        ..shape
    };
    let created = create(session, &spec, &mut interrupt).await?;
    let id = match &created {
        Created::Wanted(sandbox) | Created::Interrupted(sandbox, _) => sandbox.id.clone(),
    };
    let outcome = match created {
        Created::Wanted(_) => {
            run_in(session, &id, args.process, args.command, &mut interrupt).await
        }
        Created::Interrupted(_, signal) => Err(Quiet::Signal(signal).into()),
    };
    match (outcome, remove(session, &id, &mut interrupt).await) {
        (Ok(0), Err(error)) => Err(error),
        (outcome, Ok(())) => outcome,
        // The first failure is the answer; that something stayed behind has to be said all the
        // same.
        (outcome, Err(error)) => {
            output::print_note(&format!(
                "warning: {}",
                output::printable(&format!("{error:#}"))
            ));
            outcome
        }
    }
}

enum Created {
    Wanted(Sandbox),
    /// A signal came before the command had ended.
    Interrupted(Sandbox, ProcessSignal),
}

async fn create(
    session: &Session,
    spec: &CreateSandbox,
    interrupt: &mut Interrupt,
) -> anyhow::Result<Created> {
    let progress = Progress::spinner("creating a sandbox", session.json);
    let mut creating = std::pin::pin!(session.client.create(spec));
    let signal = tokio::select! {
        created = &mut creating => return Ok(Created::Wanted(created?)),
        signal = interrupt.recv() => signal,
    };
    drop(progress);
    output::print_note("Waiting for the sandbox, to remove it. Once more to leave it.");
    tokio::select! {
        created = creating => Ok(Created::Interrupted(created?, signal)),
        signal = interrupt.recv() => {
            output::print_note("A sandbox may stay behind: `wrenn ls --all` shows it, and it stops by its timeout.");
            Err(Quiet::Signal(signal).into())
        }
    }
}

async fn remove(session: &Session, id: &str, interrupt: &mut Interrupt) -> anyhow::Result<()> {
    let removed = tokio::select! {
        removed = session.client.delete(id) => removed,
        _ = interrupt.recv() => {
            anyhow::bail!("interrupted while {id} was being removed; remove it with `wrenn rm {id}`");
        }
    };
    match removed {
        Err(error) if error.is_not_found() => Ok(()),
        removed => removed
            .with_context(|| format!("the sandbox stayed behind; remove it with `wrenn rm {id}`")),
    }
}
