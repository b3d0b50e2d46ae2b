//! Random values that all control planes of one installation share, such as the one that signs links
//! to ports. Who reads the database can forge such links.

use crate::Error;
use crate::Store;
use crate::db::rows;

impl Store {
    /// Returns the secret of that name. The first call stores `fresh` as the secret; of any number
    /// of racing calls, all get the same one.
    ///
    /// # Errors
    /// The database fails, or holds a secret of another length.
    pub async fn secret(
        &self,
        name: &'static str,
        fresh: &[u8; 32],
        now: i64,
    ) -> Result<[u8; 32], Error> {
        let sql = "INSERT INTO secrets (name, value, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING \
                   RETURNING name";
        rows!(
            self.write("making a secret"),
            (String,),
            sql,
            name,
            fresh.as_slice(),
            now
        )?;
        let sql = "SELECT value FROM secrets WHERE name = $1";
        let found = rows!(self.write("reading a secret"), (Vec<u8>,), sql, name)?;
        let value = found.into_iter().next().unwrap_or_default().0;
        let corrupt = |value: Vec<u8>| format!("it has {} bytes instead of 32", value.len()).into();
        value.try_into().map_err(|value| Error::Corrupt {
            what: format!("secret {name:?}"),
            source: corrupt(value),
        })
    }
}
