//! `wrenn rm`. A failure to remove one sandbox does not keep the others from removal.

use anyhow::Context;
use futures::{StreamExt, stream};

use super::Session;
use crate::args::RmArgs;
use crate::failure::{self, Subject};
use crate::ids;
use crate::output;

/// Maximum number of removals at the same time.
const MAX_CONCURRENT: usize = 8;

pub async fn remove_sandboxes(session: &Session, args: RmArgs) -> anyhow::Result<u8> {
    let everything = args.all;
    let named = if everything {
        all_ids(session).await?
    } else {
        args.ids
    };
    let removals = named
        .into_iter()
        .map(|name| remove(session, name, everything));
    let outcomes: Vec<anyhow::Result<String>> = stream::iter(removals)
        .buffered(MAX_CONCURRENT)
        .collect()
        .await;
    let mut removed = Vec::new();
    let mut code = 0;
    for outcome in outcomes {
        match outcome {
            Ok(id) if session.json => removed.push(id),
            Ok(id) => output::print_line(&id)?,
            Err(error) => code = failure::report_error(&error, session.json, 1, Subject::Sandbox),
        }
    }
    if session.json {
        output::print_json(&serde_json::json!({"removed": removed}))?;
    }
    Ok(code)
}

async fn all_ids(session: &Session) -> anyhow::Result<Vec<String>> {
    Ok(session
        .client
        .list_all()
        .await?
        .into_iter()
        .map(|sandbox| sandbox.id)
        .collect())
}

/// Removes a sandbox and returns its id. With `may_be_gone`, a sandbox that does not exist any more
/// counts as removed.
async fn remove(session: &Session, name: String, may_be_gone: bool) -> anyhow::Result<String> {
    let id = ids::resolve_id(&session.client, &name).await?;
    match session.client.delete(&id).await {
        Err(error) if may_be_gone && error.is_not_found() => Ok(id),
        outcome => outcome
            .map(|()| id.clone())
            .with_context(|| format!("removing {id}")),
    }
}
