//! Changes of a sandbox by its users, and its end when its time has come. Both are one statement with
//! a condition, so that of a renewal and an expiry at once one is first and the other sees it.

use model::{
    EventKind, SandboxAttributes, SandboxId, SandboxName, SandboxSpec, SandboxState, StopReason,
};

use super::Sandbox;
use super::events::{sandbox_event, update_event};
use super::insert::{labels_text, spec_text};
use super::row::{SandboxRow, columns, is_alive};
use crate::db::{one, row, rows};
use crate::transaction::rows_in;
use crate::{Error, Store};

row! {
    struct DueRow {
        id: String,
        ends_at: i64,
    }
}

/// A living sandbox, and when it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueSandbox {
    pub id: SandboxId,
    /// Milliseconds since the Unix epoch.
    pub ends_at: i64,
}

impl Store {
    /// Replaces spec and attributes of a living sandbox. `None` if it does not live, or was changed
    /// since `before` was read.
    ///
    /// # Errors
    /// [`Error::Conflict`] if another living sandbox of the team has the name; as
    /// [`Store::sandbox_get`].
    pub async fn sandbox_update(
        &self,
        before: &Sandbox,
        spec: &SandboxSpec,
        attributes: &SandboxAttributes,
        now: i64,
    ) -> Result<Option<Sandbox>, Error> {
        let sql = concat!(
            "UPDATE sandboxes SET spec = $3, name = $4, labels = $5, ends_at = $6, last_updated = $7,",
            " revision = revision + 1 WHERE id = $1 AND revision = $2 AND ",
            is_alive!(),
            " RETURNING ",
            columns!()
        );
        let mut transaction = self.begin("changing a sandbox").await?;
        let updated = rows_in!(
            &mut transaction,
            SandboxRow,
            sql,
            before.id.as_str(),
            before.revision,
            spec_text(spec)?,
            attributes.name.as_ref().map(SandboxName::as_str),
            labels_text(&attributes.labels)?,
            attributes.ends_at,
            now
        );
        let Some(updated) = one(updated.map_err(name_taken)?)? else {
            transaction.rollback().await?;
            return Ok(None);
        };
        let event = update_event(before, &updated, now);
        transaction.record(&event).await?;
        transaction.commit().await?;
        self.changes.publish(&before.id);
        self.changes.publish_end();
        Ok(Some(updated))
    }

    /// Lists the living sandboxes of all teams that end first, at most `limit`.
    ///
    /// # Errors
    /// As [`Store::sandbox_get`].
    pub async fn sandbox_list_due(&self, limit: u32) -> Result<Vec<DueSandbox>, Error> {
        let sql = concat!(
            "SELECT id, ends_at FROM sandboxes WHERE ends_at IS NOT NULL AND ",
            is_alive!(),
            " ORDER BY ends_at LIMIT $1"
        );
        let db = self.read("looking for sandboxes that end");
        let due = rows!(db, DueRow, sql, i64::from(limit))?;
        let parse = |row: DueRow| {
            let id = row.id.parse().map_err(|source| Error::Corrupt {
                what: format!("sandbox {:?}", row.id),
                source: Box::<model::InvalidValue>::new(source),
            })?;
            let ends_at = row.ends_at;
            Ok(DueSandbox { id, ends_at })
        };
        due.into_iter().map(parse).collect()
    }

    /// Marks a sandbox as stopped if its end has come by `now`. `None` if it does not live, or its
    /// end is later by now. Its host is told afterwards; what it reports before that is stale.
    ///
    /// # Errors
    /// As [`Store::sandbox_get`].
    pub async fn sandbox_expire(
        &self,
        id: &SandboxId,
        reason: &str,
        now: i64,
    ) -> Result<Option<Sandbox>, Error> {
        let sql = concat!(
            "UPDATE sandboxes SET state = $3, stop_reason = $4, reason = $5, last_updated = $2,",
            " revision = revision + 1 WHERE id = $1 AND ends_at <= $2 AND ",
            is_alive!(),
            " RETURNING ",
            columns!()
        );
        let mut transaction = self.begin("ending a sandbox").await?;
        let expired = one(rows_in!(
            &mut transaction,
            SandboxRow,
            sql,
            id.as_str(),
            now,
            SandboxState::Stopped.as_str(),
            StopReason::EndTime.as_str(),
            reason
        )?)?;
        let Some(expired) = expired else {
            transaction.rollback().await?;
            return Ok(None);
        };
        let event = sandbox_event(EventKind::SandboxStopped, &expired, now);
        transaction.record(&event).await?;
        transaction.commit().await?;
        self.changes.publish(id);
        Ok(Some(expired))
    }
}

/// Names the index of names, which is the only one that an update can violate.
fn name_taken(error: Error) -> Error {
    let is_violation = match &error {
        Error::Query { source, .. } => source
            .downcast_ref::<sqlx::Error>()
            .and_then(sqlx::Error::as_database_error)
            .is_some_and(|said| said.is_unique_violation()),
        _ => false,
    };
    if is_violation {
        Error::Conflict {
            what: "a living sandbox with this name",
        }
    } else {
        error
    }
}
