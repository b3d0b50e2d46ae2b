//! Errors of the store.

use std::path::PathBuf;

use model::InvalidValue;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Error of the store. No text ever holds the password of `DATABASE_URL`; causes are in `source()`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(
        "DATABASE_URL {problem}; it looks like sqlite:///var/lib/wrenn/wrenn.db or postgres://user@host/database"
    )]
    InvalidUrl { problem: String },

    /// The file of an SQLite database cannot be made or used.
    #[error(
        "cannot use the database file {path:?}; check that its directory exists, is writable and has space"
    )]
    File {
        path: PathBuf,
        #[source]
        source: Cause,
    },

    /// The file that a database is to be restored from is no backup of ours.
    #[error("cannot restore {path:?}: {problem}; the database is as it was")]
    NotABackup { path: PathBuf, problem: String },

    /// A restore by the programs of PostgreSQL went wrong.
    #[error(
        "the database was restored in part: {problem}; restore it again, into an empty database (docs/operations.md)"
    )]
    NotWhole { problem: String },

    /// The database that is to be replaced is open in another process.
    #[error(
        "the database {place} is in use; stop wrenn-cp or `wrenn up` first: sandboxes run on without it"
    )]
    InUse { place: String },

    /// `wrenn-cp restore` is finishing a restore of the database.
    #[error(
        "a restore of the database {place} is being finished; start again when `wrenn-cp restore` has ended"
    )]
    BeingRestored { place: String },

    /// PostgreSQL is backed up and restored by its own programs.
    #[error("PostgreSQL has its own programs for that: {advice} (docs/operations.md)")]
    NotForPostgres { advice: &'static str },

    /// No connection, or it broke: whether a write happened is not known.
    #[error(
        "cannot reach the database at {place}; check DATABASE_URL and that PostgreSQL runs there"
    )]
    Unreachable {
        place: String,
        #[source]
        source: Cause,
    },

    /// The server answered, and does not let us in.
    #[error(
        "the database at {place} refuses the connection; check user, password and database name in DATABASE_URL"
    )]
    Refused {
        place: String,
        #[source]
        source: Cause,
    },

    /// The tables are not those that this program was made for.
    #[error("the database has schema {found} and this program needs schema {needed}; {}", schema_advice(*found, *needed))]
    NotMigrated {
        /// 0: no tables at all.
        found: i64,
        needed: i64,
    },

    /// A migration failed and was undone: the database is as it was.
    #[error("cannot bring the database to schema {needed}; it was left as it was")]
    Migrate {
        needed: i64,
        #[source]
        source: Cause,
    },

    #[error("{what} is there already")]
    Conflict { what: &'static str },

    /// A value that no backend can hold.
    #[error(transparent)]
    Invalid(#[from] InvalidValue),

    #[error("{doing}: the database is out of disk space; free some and try again")]
    Full {
        doing: &'static str,
        #[source]
        source: Cause,
    },

    /// No answer in time: whether a write happened is not known.
    #[error(
        "{doing}: the database did not answer within {limit_sec} s; check its load and its disk"
    )]
    Timeout { doing: &'static str, limit_sec: u64 },

    /// A row that this program cannot have written.
    #[error(
        "the row of {what} cannot be read; was it edited by hand, or written by a newer version?"
    )]
    Corrupt {
        what: String,
        #[source]
        source: Cause,
    },

    #[error("{doing} failed in the database")]
    Query {
        doing: &'static str,
        #[source]
        source: Cause,
    },
}

impl Error {
    /// Returns true if the same call may succeed later by itself: the database cannot be reached or
    /// is overloaded.
    #[must_use]
    pub const fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Timeout { .. })
    }

    /// Returns true if the database has no disk space left. Nothing was written, and reads still
    /// work.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }
}

fn schema_advice(found: i64, needed: i64) -> &'static str {
    if found > needed {
        "it was migrated by a newer version: install that version here too"
    } else {
        "run `wrenn-cp migrate` (or `make migrate-up`)"
    }
}
