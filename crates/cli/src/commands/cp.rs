//! `wrenn cp`.

use super::Session;
use crate::args::CpArgs;
use crate::copy::{Direction, Remote, download, upload};
use crate::failure::Quiet;
use crate::interrupt::Interrupt;
use crate::{ids, output};

pub async fn cp(session: &Session, args: CpArgs) -> anyhow::Result<()> {
    let direction = Direction::of(&args.source, &args.target)?;
    // Dropping the copy removes its temporary file, which a signal alone would leave.
    let mut interrupt = Interrupt::listen()?;
    let bytes = tokio::select! {
        copied = copy(session, direction, args.user.as_deref()) => copied?,
        number = interrupt.recv() => return Err(Quiet::Signal(number).into()),
    };
    // With the bytes themselves on standard output there is no place for a report.
    if session.json && args.target.as_os_str() != "-" {
        return output::json(&serde_json::json!({"source": args.source, "target": args.target, "bytes": bytes}));
    }
    Ok(())
}

async fn copy(session: &Session, direction: Direction, user: Option<&str>) -> anyhow::Result<u64> {
    let Session { client, json } = session;
    match direction {
        Direction::Up(from, to) => {
            let to = Remote { id: ids::resolve(client, &to.id).await?, ..to };
            upload(client, &from, &to, user, *json).await
        }
        Direction::Down(from, to) => {
            let from = Remote { id: ids::resolve(client, &from.id).await?, ..from };
            download(client, &from, &to, user, *json).await
        }
    }
}
