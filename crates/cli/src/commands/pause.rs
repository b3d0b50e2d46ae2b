//! `wrenn pause`, `wrenn resume`, `wrenn fork`.

use super::Session;
use crate::args::{ForkArgs, IdArgs};
use crate::ids;
use crate::output::{self, Progress};

pub async fn pause(session: &Session, args: &IdArgs) -> anyhow::Result<()> {
    let id = ids::resolve(&session.client, &args.id).await?;
    let progress = Progress::spinner("saving memory and disk", session.json);
    let sandbox = session.client.pause(&id).await;
    drop(progress);
    let sandbox = sandbox?;
    if session.json {
        output::json(&sandbox)
    } else {
        output::line(&sandbox.id)
    }
}

pub async fn resume(session: &Session, args: &IdArgs) -> anyhow::Result<()> {
    let id = ids::resolve(&session.client, &args.id).await?;
    let progress = Progress::spinner("resuming", session.json);
    let sandbox = session.client.resume(&id).await;
    drop(progress);
    let sandbox = sandbox?;
    if session.json {
        output::json(&sandbox)
    } else {
        output::line(&sandbox.id)
    }
}

pub async fn fork(session: &Session, args: &ForkArgs) -> anyhow::Result<()> {
    let id = ids::resolve(&session.client, &args.id).await?;
    let progress = Progress::spinner("forking", session.json);
    let children = session.client.fork(&id, args.count).await;
    drop(progress);
    let children = children?;
    if session.json {
        return output::json(&children);
    }
    children
        .iter()
        .try_for_each(|child| output::line(&child.id))
}
