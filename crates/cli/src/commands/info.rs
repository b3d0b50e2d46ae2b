//! `wrenn info`.

use time::OffsetDateTime;

use super::{Session, description};
use crate::args::IdArgs;
use crate::ids;
use crate::output;

pub async fn show_sandbox(session: &Session, args: &IdArgs) -> anyhow::Result<()> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    let sandbox = session.client.get(&id).await?;
    if session.json {
        return output::print_json(&sandbox);
    }
    output::print_line(&description::describe_sandbox(
        &sandbox,
        OffsetDateTime::now_utc(),
    ))
}
