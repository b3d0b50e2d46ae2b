//! API keys: who may call. Only their hashes are here, so a stolen database opens nothing.

use model::{EventKind, Scopes, TeamId};
use serde_json::json;

use crate::db::{all, one, row, rows, single_count, without_nul};
use crate::transaction::rows_in;
use crate::{Error, NewEvent, Store};

/// A key to remember.
#[derive(Clone, PartialEq, Eq)]
pub struct NewKey {
    pub id: String,
    pub team_id: TeamId,
    pub scopes: Scopes,
    /// Name for people.
    pub name: String,
    pub hash: [u8; 32],
    /// Milliseconds since the Unix epoch.
    pub now: i64,
}

impl std::fmt::Debug for NewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewKey")
            .field("id", &self.id)
            .field("team_id", &self.team_id)
            .field("scopes", &self.scopes)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A key as it is remembered; its hash stays inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub id: String,
    pub team_id: TeamId,
    pub scopes: Scopes,
    pub name: String,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
}

row! {
    struct KeyRow {
        id: String,
        team_id: String,
        scopes: String,
        name: String,
        created_at: i64,
    }
}

impl TryFrom<KeyRow> for Key {
    type Error = Error;

    fn try_from(row: KeyRow) -> Result<Self, Error> {
        let unreadable = |source: model::InvalidValue| Error::Corrupt {
            what: format!("key {:?}", row.id),
            source: source.into(),
        };
        Ok(Self {
            team_id: row.team_id.parse().map_err(unreadable)?,
            scopes: row.scopes.parse().map_err(unreadable)?,
            id: row.id,
            name: row.name,
            created_at: row.created_at,
        })
    }
}

impl Store {
    /// Inserts a key.
    ///
    /// # Errors
    /// [`Error::Conflict`] if a key with this hash or this id is there already, [`Error::Invalid`]
    /// for text with a NUL in it, and any error of the database.
    pub async fn key_insert(&self, key: &NewKey) -> Result<(), Error> {
        without_nul("key id", &key.id)?;
        without_nul("key name", &key.name)?;
        let sql = "INSERT INTO keys (id, name, hash, created_at, team_id, scopes) \
                   VALUES ($1, $2, $3, $4, $5, $6) \
                   ON CONFLICT DO NOTHING RETURNING id";
        let mut transaction = self.begin("inserting a key").await?;
        let inserted = rows_in!(
            &mut transaction,
            (String,),
            sql,
            &key.id,
            &key.name,
            key.hash.as_slice(),
            key.now,
            key.team_id.as_str(),
            key.scopes.to_string()
        )?;
        if inserted.is_empty() {
            transaction.rollback().await?;
            return Err(Error::Conflict {
                what: "a key with this id or hash",
            });
        }
        let event = key_event(
            EventKind::KeyCreated,
            Key {
                id: key.id.clone(),
                team_id: key.team_id.clone(),
                scopes: key.scopes.clone(),
                name: key.name.clone(),
                created_at: key.now,
            },
            key.now,
        );
        transaction.record(&event).await?;
        transaction.commit().await
    }

    /// Finds a key by the hash of its digits.
    ///
    /// # Errors
    /// The database fails, or holds a row that this program cannot read.
    pub async fn key_find(&self, hash: &[u8; 32]) -> Result<Option<Key>, Error> {
        let sql = "SELECT id, team_id, scopes, name, created_at FROM keys WHERE hash = $1";
        let db = self.read("looking for a key");
        one(rows!(db, KeyRow, sql, hash.as_slice())?)
    }

    /// Returns true if there is a key with this id.
    ///
    /// # Errors
    /// The database fails.
    pub async fn key_exists(&self, id: &str) -> Result<bool, Error> {
        let sql = "SELECT id FROM keys WHERE id = $1";
        Ok(!rows!(self.read("looking for a key"), (String,), sql, id)?.is_empty())
    }

    /// Lists the keys of all teams, oldest first: for the operator.
    ///
    /// # Errors
    /// As [`Store::key_find`].
    pub async fn key_list(&self) -> Result<Vec<Key>, Error> {
        let sql = "SELECT id, team_id, scopes, name, created_at FROM keys ORDER BY created_at, id";
        all(rows!(self.read("listing keys"), KeyRow, sql)?)
    }

    /// Forgets a key: it opens nothing from now on. False: there was none with this id.
    ///
    /// # Errors
    /// The database fails.
    pub async fn key_remove(&self, id: &str, now: i64) -> Result<bool, Error> {
        if without_nul("key id", id).is_err() {
            return Ok(false);
        }
        let mut transaction = self.begin("removing a key").await?;
        let sql = "DELETE FROM keys WHERE id = $1 RETURNING id, team_id, scopes, name, created_at";
        let removed = rows_in!(&mut transaction, KeyRow, sql, id)?;
        let Some(row) = removed.into_iter().next() else {
            transaction.rollback().await?;
            return Ok(false);
        };
        // A row that cannot be read goes all the same.
        if let Ok(key) = Key::try_from(row) {
            let event = key_event(EventKind::KeyDeleted, key, now);
            transaction.record(&event).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// Counts the keys of all teams.
    ///
    /// # Errors
    /// The database fails.
    pub async fn key_count(&self) -> Result<u64, Error> {
        single_count(rows!(
            self.read("counting keys"),
            (i64,),
            "SELECT count(*) FROM keys"
        )?)
    }
}

fn key_event(kind: EventKind, key: Key, now: i64) -> NewEvent {
    NewEvent {
        kind,
        team_id: Some(key.team_id),
        subject: key.id,
        sandbox_id: None,
        generation: None,
        data: json!({ "name": key.name, "scopes": key.scopes.to_string() }),
        now,
    }
}
