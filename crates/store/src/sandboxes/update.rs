//! Changes of a sandbox by its users, and its end when its time has come. Both are one statement with
//! a condition, so that of a renewal and an expiry at once one is first and the other sees it.

use model::{
    EndPolicy, EventKind, SandboxAttributes, SandboxId, SandboxName, SandboxSpec, SandboxState,
    StopReason,
};

use super::Sandbox;
use super::events::{sandbox_event, update_event};
use super::insert::{labels_text, spec_text};
use super::row::{SandboxRow, columns, is_alive};
use crate::db::{all, one, row, rows};
use crate::transaction::rows_in;
use crate::{Error, Store};

row! {
    struct DueRow {
        id: String,
        ends_at: i64,
        end_policy: String,
    }
}

/// A living sandbox, and when it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueSandbox {
    pub id: SandboxId,
    /// Milliseconds since the Unix epoch.
    pub ends_at: i64,
    pub end_policy: EndPolicy,
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
            " end_policy = $8, run_ms = $9, revision = revision + 1",
            " WHERE id = $1 AND revision = $2 AND state = $10 AND ",
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
            now,
            attributes.end_policy.as_str(),
            attributes.run_ms,
            before.state.as_str()
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

    /// Lists the living sandboxes of all teams that end first, at most `limit`, without those that are
    /// being paused.
    ///
    /// # Errors
    /// As [`Store::sandbox_get`].
    pub async fn sandbox_list_due(&self, limit: u32) -> Result<Vec<DueSandbox>, Error> {
        let sql = concat!(
            "SELECT id, ends_at, end_policy FROM sandboxes WHERE ends_at IS NOT NULL",
            " AND (end_policy = 'stop' OR state = 'running' AND pausing_until IS NULL) AND ",
            is_alive!(),
            " ORDER BY ends_at LIMIT $1"
        );
        let db = self.read("looking for sandboxes that end");
        let due = rows!(db, DueRow, sql, i64::from(limit))?;
        let parse = |row: DueRow| {
            let corrupt = |source: model::InvalidValue| Error::Corrupt {
                what: format!("sandbox {:?}", row.id),
                source: source.into(),
            };
            Ok(DueSandbox {
                id: row.id.parse().map_err(corrupt)?,
                ends_at: row.ends_at,
                end_policy: row.end_policy.parse().map_err(corrupt)?,
            })
        };
        due.into_iter().map(parse).collect()
    }

    /// Marks a sandbox as stopped if its end has come by `now`. `None` if it does not live, its end
    /// is later by now or means something else, or it is being paused. Its host is told afterwards; what it reports before that is stale.
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
            " revision = revision + 1 WHERE id = $1 AND ends_at <= $2",
            " AND (end_policy = 'stop'",
            " OR end_policy = 'stop_running' AND state = 'running' AND pausing_until IS NULL) AND ",
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

    /// Claims a running sandbox for a pause: its end neither comes nor moves until a report that it
    /// does not run any more, or [`Store::sandbox_release_pause`]. After `until` it is listed as due to be
    /// taken over. `None` if it was changed since `before` was read.
    ///
    /// # Errors
    /// As [`Store::sandbox_get`].
    pub async fn sandbox_claim_pause(
        &self,
        before: &Sandbox,
        until: i64,
    ) -> Result<Option<Sandbox>, Error> {
        // Renewals that have read the row before are stale by the revision. No two claims are the same.
        let sql = concat!(
            "UPDATE sandboxes SET revision = revision + 1,",
            " pausing_until = CASE WHEN pausing_until >= $3 THEN pausing_until + 1 ELSE $3 END",
            " WHERE id = $1 AND revision = $2 AND state = 'running' AND NOT deleting RETURNING ",
            columns!()
        );
        let call = self.write("claiming a sandbox for a pause");
        let id = before.id.as_str();
        one(rows!(call, SandboxRow, sql, id, before.revision, until)?)
    }

    /// Lists the sandboxes of all teams whose pause is due to be taken over at `now`, at most `limit`.
    ///
    /// # Errors
    /// As [`Store::sandbox_get`].
    pub async fn sandbox_list_claimed(&self, now: i64, limit: u32) -> Result<Vec<Sandbox>, Error> {
        let sql = concat!(
            "SELECT ",
            columns!(),
            " FROM sandboxes WHERE pausing_until <= $1 AND state = 'running' AND NOT deleting",
            " ORDER BY pausing_until LIMIT $2"
        );
        let db = self.read("looking for pauses to take over");
        all(rows!(db, SandboxRow, sql, now, i64::from(limit))?)
    }

    /// Sets until when a claim is kept. Returns false if it is decided, or another control plane has it.
    ///
    /// # Errors
    /// As [`Store::sandbox_get`].
    pub async fn sandbox_renew_pause(
        &self,
        claimed: &mut Sandbox,
        until: i64,
    ) -> Result<bool, Error> {
        let sql = "UPDATE sandboxes SET pausing_until = $3, revision = revision + 1 \
                   WHERE id = $1 AND pausing_until = $2 AND state = 'running' RETURNING id";
        let call = self.write("keeping the claim of a pause");
        let (id, held) = (claimed.id.as_str(), claimed.pausing_until);
        let renewed = rows!(call, (String,), sql, id, held, until)?;
        let is_held = !renewed.is_empty();
        if is_held {
            claimed.pausing_until = Some(until);
        }
        Ok(is_held)
    }

    /// Gives a claim up that ended without a pause. An end at which it was to be paused, and which has
    /// come by `now`, comes again at `again`.
    ///
    /// # Errors
    /// As [`Store::sandbox_get`].
    pub async fn sandbox_release_pause(
        &self,
        claimed: &Sandbox,
        now: i64,
        again: i64,
    ) -> Result<(), Error> {
        let sql = "UPDATE sandboxes SET pausing_until = NULL, revision = revision + 1, ends_at = \
                   CASE WHEN end_policy = 'pause_running' AND ends_at <= $3 THEN $4 ELSE ends_at END \
                   WHERE id = $1 AND pausing_until = $2 AND state = 'running' RETURNING id";
        let call = self.write("releasing the claim of a pause");
        let (id, held) = (claimed.id.as_str(), claimed.pausing_until);
        rows!(call, (String,), sql, id, held, now, again)?;
        self.changes.publish(&claimed.id);
        self.changes.publish_end();
        Ok(())
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
