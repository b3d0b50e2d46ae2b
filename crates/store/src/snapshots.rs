//! Owners of snapshots, by name. The snapshots themselves are on hosts, which know no teams; a name
//! without a row belongs to the team `default`, as those of before there were teams.
//!
//! A row is a claim on a name: it is there before a host is asked for the snapshot, and goes after
//! the host has removed it. A crash in between leaves a claim on a name that no host has; its team
//! can use or remove it.

use std::collections::BTreeMap;

use model::{TeamId, TemplateName};

use crate::db::{row, rows};
use crate::{Error, Store};

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

impl Store {
    /// Claims a name for a team, unless it is claimed already. Returns the team that has it.
    ///
    /// # Errors
    /// The database fails, or holds a row that this program cannot read.
    pub async fn snapshot_claim(
        &self,
        team: &TeamId,
        name: &TemplateName,
        now: i64,
    ) -> Result<TeamId, Error> {
        let sql = "INSERT INTO snapshots (name, team_id, created_at) VALUES ($1, $2, $3) \
                   ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING name, team_id";
        let db = self.write("claiming the name of a snapshot");
        let claimed = rows!(db, OwnerRow, sql, name.as_str(), team.as_str(), now)?;
        claimed
            .into_iter()
            .next()
            .map_or_else(|| Ok(team.clone()), OwnerRow::team)
    }

    /// Returns the team that a snapshot belongs to.
    ///
    /// # Errors
    /// As [`Store::snapshot_claim`].
    pub async fn snapshot_owner(&self, name: &TemplateName) -> Result<TeamId, Error> {
        let sql = "SELECT name, team_id FROM snapshots WHERE name = $1";
        let db = self.read("looking for the owner of a snapshot");
        let found = rows!(db, OwnerRow, sql, name.as_str())?;
        found
            .into_iter()
            .next()
            .map_or_else(|| Ok(TeamId::default()), OwnerRow::team)
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

    /// Gives a name free again.
    ///
    /// # Errors
    /// The database fails.
    pub async fn snapshot_release(&self, team: &TeamId, name: &TemplateName) -> Result<(), Error> {
        let sql = "DELETE FROM snapshots WHERE name = $1 AND team_id = $2 RETURNING name";
        let db = self.write("giving the name of a snapshot free");
        rows!(db, (String,), sql, name.as_str(), team.as_str()).map(drop)
    }
}
