//! API keys: who may call. Only their hashes are here, so a stolen database opens nothing.

use crate::db::{count, row, rows, without_nul};
use crate::{Error, Store};

/// A key to remember.
#[derive(Clone, PartialEq, Eq)]
pub struct NewKey {
    pub id: String,
    /// For people.
    pub name: String,
    pub hash: [u8; 32],
    /// Milliseconds since the Unix epoch.
    pub now: i64,
}

impl std::fmt::Debug for NewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewKey")
            .field("id", &self.id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

row! {
    /// A key as it is remembered; its hash stays inside.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Key {
        pub id: String,
        pub name: String,
        /// Milliseconds since the Unix epoch.
        pub created_at: i64,
    }
}

impl Store {
    /// # Errors
    /// [`Error::Conflict`] if a key with this hash or this id is there already, [`Error::Invalid`]
    /// for text with a NUL in it, and whatever the database says.
    pub async fn key_insert(&self, key: &NewKey) -> Result<(), Error> {
        without_nul("key id", &key.id)?;
        without_nul("key name", &key.name)?;
        let sql = "INSERT INTO keys (id, name, hash, created_at) VALUES ($1, $2, $3, $4) \
                   ON CONFLICT DO NOTHING RETURNING id";
        let db = self.write("inserting a key");
        let inserted = rows!(
            db,
            (String,),
            sql,
            &key.id,
            &key.name,
            key.hash.as_slice(),
            key.now
        )?;
        if inserted.is_empty() {
            return Err(Error::Conflict {
                what: "a key with this id or hash",
            });
        }
        Ok(())
    }

    /// # Errors
    /// The database fails.
    pub async fn key_find(&self, hash: &[u8; 32]) -> Result<Option<Key>, Error> {
        let sql = "SELECT id, name, created_at FROM keys WHERE hash = $1";
        Ok(
            rows!(self.read("looking for a key"), Key, sql, hash.as_slice())?
                .into_iter()
                .next(),
        )
    }

    /// Every key, oldest first.
    ///
    /// # Errors
    /// The database fails.
    pub async fn key_list(&self) -> Result<Vec<Key>, Error> {
        let sql = "SELECT id, name, created_at FROM keys ORDER BY created_at, id";
        rows!(self.read("listing keys"), Key, sql)
    }

    /// Forgets a key: it opens nothing from now on. False: there was none with this id.
    ///
    /// # Errors
    /// The database fails.
    pub async fn key_remove(&self, id: &str) -> Result<bool, Error> {
        if without_nul("key id", id).is_err() {
            return Ok(false);
        }
        let sql = "DELETE FROM keys WHERE id = $1 RETURNING id";
        Ok(!rows!(self.write("removing a key"), (String,), sql, id)?.is_empty())
    }

    /// # Errors
    /// The database fails.
    pub async fn key_count(&self) -> Result<u64, Error> {
        count(rows!(
            self.read("counting keys"),
            (i64,),
            "SELECT count(*) FROM keys"
        )?)
    }
}
