//! `wrenn pause`, `wrenn resume`, `wrenn fork`.

use super::Session;
use crate::args::{ForkArgs, IdArgs};
use crate::ids;
use crate::output::{self, Progress};

pub async fn pause_sandbox(session: &Session, args: &IdArgs) -> anyhow::Result<()> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    let progress = Progress::spinner("saving memory and disk", session.json);
    let sandbox = session.client.pause(&id).await;
    drop(progress);
    let sandbox = sandbox?;
    if session.json {
        output::print_json(&sandbox)
    } else {
        output::print_line(&sandbox.id)
    }
}

pub async fn resume_sandbox(session: &Session, args: &IdArgs) -> anyhow::Result<()> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    let progress = Progress::spinner("resuming", session.json);
    let sandbox = session.client.resume(&id).await;
    drop(progress);
    let sandbox = sandbox?;
    if session.json {
        output::print_json(&sandbox)
    } else {
        output::print_line(&sandbox.id)
    }
}

pub async fn fork_sandbox(session: &Session, args: &ForkArgs) -> anyhow::Result<()> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    let progress = Progress::spinner("forking", session.json);
    let children = session.client.fork(&id, args.count).await;
    drop(progress);
    let children = children?;
    if session.json {
        return output::print_json(&children);
    }
    children
        .iter()
        .try_for_each(|child| output::print_line(&child.id))
}
