//! Owners of snapshots, by name, and locks on the names. The snapshots themselves are on hosts, which
//! know no teams.
//!
//! A row of `snapshots` is a claim on a name: it is there before a host is asked for the snapshot,
//! and goes after the host has removed it, or has refused to make it. A crash in between leaves a
//! claim on a name that no host has; its team can use it. A snapshot without a row is of before
//! there were teams, or lost its row by hand: it belongs to no team.
//!
//! A row of `snapshot_locks` is a lock on a name for one create or deletion, so that neither meets
//! the other halfway. It is a lease, which its holder renews: that of a control plane that died ends
//! by itself. Its times are those of the database, whose clock all control planes share. A lease that
//! ends later than any that begins now was set before the clock was set back, and counts as ended. A
//! holder that was too slow has lost its lock, and can release no claim any more.

use std::collections::BTreeMap;
use std::time::Duration;

use model::{TeamId, TemplateName};

use crate::db::{row, rows};
use crate::{Backend, Error, Store};

row! {
    struct OwnerRow {
        name: String,
        team_id: String,
    }
}

impl OwnerRow {
    fn team(self) -> Result<TeamId, Error> {
        self.team_id.parse().map_err(|source| Error::Corrupt {
            what: format!("snapshot {:?}", self.name),
            source: Box::new(source),
        })
    }
}

/// Longest lease of a lock.
pub const MAX_SNAPSHOT_LEASE: Duration = Duration::from_secs(60);

/// Result of a claim on a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotClaim {
    New,
    /// The team had it already.
    Kept,
    /// Another team has it.
    Taken,
}

/// Returns a statement, given as a macro of the database's present time, in milliseconds since the
/// Unix epoch.
macro_rules! with_clock {
    ($store:expr, $sql:ident) => {
        match $store.backend {
            Backend::Sqlite(_) => $sql!("CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER)"),
            Backend::Postgres(_) => {
                $sql!("CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)")
            }
        }
    };
}

macro_rules! lock_sql {
    ($now:literal) => {
        concat!(
            "INSERT INTO snapshot_locks (name, holder, expires_at) VALUES ($1, $2, ",
            $now,
            " + $3) ON CONFLICT (name) DO UPDATE",
            " SET holder = excluded.holder, expires_at = excluded.expires_at",
            " WHERE snapshot_locks.expires_at <= ",
            $now,
            // Set when the clock was ahead.
            " OR snapshot_locks.expires_at > ",
            $now,
            " + $4 RETURNING name"
        )
    };
}

macro_rules! renew_sql {
    ($now:literal) => {
        concat!(
            "UPDATE snapshot_locks SET expires_at = ",
            $now,
            " + $3 WHERE name = $1 AND holder = $2 RETURNING name"
        )
    };
}

macro_rules! release_sql {
    ($now:literal) => {
        concat!(
            "DELETE FROM snapshots WHERE name = $1 AND team_id = $2 AND EXISTS",
            " (SELECT 1 FROM snapshot_locks WHERE name = $1 AND holder = $3 AND expires_at > ",
            $now,
            ") RETURNING name"
        )
    };
}

impl Store {
    /// Locks a name for `holder`, for as long as `lease`, at most [`MAX_SNAPSHOT_LEASE`].
    /// Returns false if another holder has it.
    ///
    /// # Errors
    /// The database fails.
    pub async fn snapshot_lock(
        &self,
        name: &TemplateName,
        holder: &str,
        lease: Duration,
    ) -> Result<bool, Error> {
        let sql = with_clock!(self, lock_sql);
        let db = self.write("locking the name of a snapshot");
        let lease = stored_lease(lease);
        let max = stored_lease(MAX_SNAPSHOT_LEASE);
        let locked = rows!(db, (String,), sql, name.as_str(), holder, lease, max)?;
        Ok(!locked.is_empty())
    }

    /// Renews a lock, as [`Store::snapshot_lock`]. Returns false if `holder` has lost it.
    ///
    /// # Errors
    /// The database fails.
    pub async fn snapshot_lock_renew(
        &self,
        name: &TemplateName,
        holder: &str,
        lease: Duration,
    ) -> Result<bool, Error> {
        let sql = with_clock!(self, renew_sql);
        let db = self.write("renewing the lock on the name of a snapshot");
        let lease = stored_lease(lease);
        let renewed = rows!(db, (String,), sql, name.as_str(), holder, lease)?;
        Ok(!renewed.is_empty())
    }

    /// Unlocks a name, unless `holder` has lost it.
    ///
    /// # Errors
    /// The database fails.
    pub async fn snapshot_unlock(&self, name: &TemplateName, holder: &str) -> Result<(), Error> {
        let sql = "DELETE FROM snapshot_locks WHERE name = $1 AND holder = $2 RETURNING name";
        let db = self.write("unlocking the name of a snapshot");
        rows!(db, (String,), sql, name.as_str(), holder).map(drop)
    }

    /// Claims a name for a team, unless it is claimed already.
    ///
    /// # Errors
    /// The database fails, or holds a row that this program cannot read.
    pub async fn snapshot_claim(
        &self,
        team: &TeamId,
        name: &TemplateName,
        now: i64,
    ) -> Result<SnapshotClaim, Error> {
        let sql = "INSERT INTO snapshots (name, team_id, created_at) VALUES ($1, $2, $3) \
                   ON CONFLICT (name) DO NOTHING RETURNING name";
        let db = self.write("claiming the name of a snapshot");
        let inserted = rows!(db, (String,), sql, name.as_str(), team.as_str(), now)?;
        if !inserted.is_empty() {
            return Ok(SnapshotClaim::New);
        }
        Ok(match self.snapshot_owner(name).await? {
            Some(owner) if owner == *team => SnapshotClaim::Kept,
            // A name that was released just now can be claimed with the next try.
            Some(_) | None => SnapshotClaim::Taken,
        })
    }

    /// Returns the team that a snapshot belongs to, if any.
    ///
    /// # Errors
    /// As [`Store::snapshot_claim`].
    pub async fn snapshot_owner(&self, name: &TemplateName) -> Result<Option<TeamId>, Error> {
        let sql = "SELECT name, team_id FROM snapshots WHERE name = $1";
        let db = self.read("looking for the owner of a snapshot");
        let found = rows!(db, OwnerRow, sql, name.as_str())?;
        found.into_iter().next().map(OwnerRow::team).transpose()
    }

    /// Returns the team of each name that has a row.
    ///
    /// # Errors
    /// As [`Store::snapshot_claim`].
    pub async fn snapshot_owners(&self) -> Result<BTreeMap<String, TeamId>, Error> {
        let sql = "SELECT name, team_id FROM snapshots";
        let found = rows!(self.read("listing owners of snapshots"), OwnerRow, sql)?;
        let owner = |row: OwnerRow| Ok((row.name.clone(), row.team()?));
        found.into_iter().map(owner).collect()
    }

    /// Releases a team's claim on a name that `holder` has locked. Returns false if the lock is
    /// lost, or there is no such claim.
    ///
    /// # Errors
    /// The database fails.
    pub async fn snapshot_release(
        &self,
        team: &TeamId,
        name: &TemplateName,
        holder: &str,
    ) -> Result<bool, Error> {
        let sql = with_clock!(self, release_sql);
        let db = self.write("releasing the name of a snapshot");
        let released = rows!(db, (String,), sql, name.as_str(), team.as_str(), holder)?;
        Ok(!released.is_empty())
    }
}

fn stored_lease(lease: Duration) -> i64 {
    let lease = lease.min(MAX_SNAPSHOT_LEASE);
    i64::try_from(lease.as_millis()).unwrap_or(i64::MAX)
}
