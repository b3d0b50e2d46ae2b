//! The first write of a sandbox's life, made once however often the request comes.

use model::{
    EventKind, Generation, Labels, SandboxAttributes, SandboxId, SandboxName, SandboxSpec,
    SandboxState, TeamId,
};
use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};

use super::Sandbox;
use super::events::sandbox_event;
use super::row::{SandboxRow, columns};
use crate::db::{one, rows, stored_generation, without_nul};
use crate::transaction::change;
use crate::{Error, Store};

/// A sandbox to promise: it becomes a row in state pending, at [`Generation::FIRST`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSandbox {
    pub id: SandboxId,
    pub spec: SandboxSpec,
    pub attributes: SandboxAttributes,
    /// Team of that key.
    pub team_id: TeamId,
    /// Id of the key that asks.
    pub key_id: String,
    pub idempotency: Option<Idempotency>,
    /// Milliseconds since the Unix epoch.
    pub now: i64,
}

impl NewSandbox {
    /// Returns the row that an insert makes.
    fn row(&self) -> Sandbox {
        Sandbox {
            id: self.id.clone(),
            team_id: self.team_id.clone(),
            state: SandboxState::Pending,
            generation: Generation::FIRST,
            reason: None,
            stop_reason: None,
            spec: self.spec.clone(),
            attributes: self.attributes.clone(),
            revision: 0,
            key_id: self.key_id.clone(),
            host_id: None,
            guest_ip: None,
            host_ip: None,
            created_at: self.now,
            started_at: None,
            last_active_at: None,
            last_updated: self.now,
            disk: None,
            pausing_until: None,
            deleting: false,
        }
    }
}

/// Identity of a request, by which a retry is recognised. Scoped to the API key, and kept as long
/// as the row lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    pub key: String,
    /// Hash of the request.
    pub fingerprint: [u8; 32],
}

/// Result of an insert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inserted {
    New(Sandbox),
    /// The same idempotency key and fingerprint came before; this is the row that they made. It may
    /// be being deleted.
    Existing(Sandbox),
    /// The same idempotency key came before, with another fingerprint.
    Mismatch,
    /// A living sandbox of the team has the name.
    NameTaken(Sandbox),
}

struct FingerprintedRow {
    row: SandboxRow,
    idempotency_fingerprint: Vec<u8>,
}

impl<'r, R> FromRow<'r, R> for FingerprintedRow
where
    R: Row,
    &'static str: ColumnIndex<R>,
    SandboxRow: FromRow<'r, R>,
    Vec<u8>: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        let idempotency_fingerprint = row.try_get("idempotency_fingerprint")?;
        Ok(Self {
            row: SandboxRow::from_row(row)?,
            idempotency_fingerprint,
        })
    }
}

impl Store {
    /// Inserts a row. Of any number of racing inserts with one idempotency key, exactly one is
    /// `New`.
    ///
    /// # Errors
    /// [`Error::Conflict`] if another row has the id, [`Error::Invalid`] for text with a NUL in it,
    /// and any error of the database.
    pub async fn sandbox_insert(&self, new: &NewSandbox) -> Result<Inserted, Error> {
        check(new)?;
        loop {
            if let Some(row) = self.insert_row(new).await? {
                self.changes.publish(&row.id);
                if row.attributes.ends_at.is_some() {
                    self.changes.publish_end();
                }
                return Ok(Inserted::New(row));
            }
            if let Some(idempotency) = &new.idempotency
                && let Some(met) = self.sandbox_find(&new.key_id, idempotency).await?
            {
                return Ok(met);
            }
            if let Some(name) = &new.attributes.name
                && let Some(row) = self.sandbox_get_by_name(&new.team_id, name).await?
            {
                return Ok(Inserted::NameTaken(row));
            }
            if self.sandbox_get_any_team(&new.id).await?.is_some() {
                return Err(Error::Conflict {
                    what: "a sandbox with this id",
                });
            }
            // What was in the way has been removed since, so the next try finds the place free.
        }
    }

    /// Inserts a row; `None` if there is a row with this id, this name or this idempotency key.
    async fn insert_row(&self, new: &NewSandbox) -> Result<Option<Sandbox>, Error> {
        let sql = concat!(
            "INSERT INTO sandboxes (id, state, generation, spec, key_id, idempotency_key, idempotency_fingerprint,",
            " created_at, last_updated, team_id, template, name, labels, ends_at, end_policy, run_ms)",
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, $9, $10, $11, $12, $13, $14, $15)",
            " ON CONFLICT DO NOTHING RETURNING ",
            columns!()
        );
        let event = sandbox_event(EventKind::SandboxCreated, &new.row(), new.now);
        one(change!(
            self,
            "inserting a sandbox",
            SandboxRow,
            &[event],
            sql,
            new.id.as_str(),
            SandboxState::Pending.as_str(),
            stored_generation(Generation::FIRST)?,
            spec_text(&new.spec)?,
            &new.key_id,
            new.idempotency.as_ref().map(|idempotency| &idempotency.key),
            new.idempotency
                .as_ref()
                .map(|idempotency| idempotency.fingerprint.as_slice()),
            new.now,
            new.team_id.as_str(),
            new.spec.template_name(),
            new.attributes.name.as_ref().map(SandboxName::as_str),
            labels_text(&new.attributes.labels)?,
            new.attributes.ends_at,
            new.attributes.end_policy.as_str(),
            new.attributes.run_ms,
        )?)
    }

    /// Returns the result that an insert with this idempotency key would have: never
    /// [`Inserted::New`], and `None` if no row has the key.
    ///
    /// # Errors
    /// [`Error::Invalid`] for text with a NUL in it, and any error of the database.
    pub async fn sandbox_find(
        &self,
        key_id: &str,
        idempotency: &Idempotency,
    ) -> Result<Option<Inserted>, Error> {
        without_nul("key id", key_id)?;
        without_nul("idempotency key", &idempotency.key)?;
        let sql = concat!(
            "SELECT idempotency_fingerprint, ",
            columns!(),
            " FROM sandboxes WHERE key_id = $1 AND idempotency_key = $2"
        );
        let db = self.read("looking for an idempotency key");
        let found = rows!(db, FingerprintedRow, sql, key_id, &idempotency.key)?;
        let Some(FingerprintedRow {
            row,
            idempotency_fingerprint,
        }) = found.into_iter().next()
        else {
            return Ok(None);
        };
        if idempotency_fingerprint != idempotency.fingerprint {
            return Ok(Some(Inserted::Mismatch));
        }
        Ok(Some(Inserted::Existing(row.try_into()?)))
    }
}

fn check(new: &NewSandbox) -> Result<(), Error> {
    without_nul("key id", &new.key_id)?;
    new.idempotency.as_ref().map_or(Ok(()), |idempotency| {
        without_nul("idempotency key", &idempotency.key)
    })
}

pub(super) fn spec_text(spec: &SandboxSpec) -> Result<String, Error> {
    serde_json::to_string(spec).map_err(|source| unwritable("spec of a sandbox", source))
}

pub(super) fn labels_text(labels: &Labels) -> Result<String, Error> {
    serde_json::to_string(labels).map_err(|source| unwritable("labels of a sandbox", source))
}

fn unwritable(what: &str, source: serde_json::Error) -> Error {
    Error::Corrupt {
        what: what.to_owned(),
        source: source.into(),
    }
}
