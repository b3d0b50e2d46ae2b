//! Watches of directories, and searches.

use model::{Resource, SandboxId};

use super::App;
use super::files::{check_path, check_path_text};
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{ChangeStream, GuestPath, MatchStream, SearchQuery};

/// Most matches of one search, and those of one that names no number.
pub const MAX_MATCHES: u32 = 10_000;
pub const DEFAULT_MATCHES: u32 = 1000;
/// Longest time of one search, seconds, and that of one that names none.
pub const MAX_SEARCH_SEC: u32 = 300;
pub const DEFAULT_SEARCH_SEC: u32 = 30;
/// Most levels that a search goes down, where it names a number: a path has no more.
pub const MAX_SEARCH_DEPTH: u32 = 10_000;

impl App {
    /// Watches a directory.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`; `InvalidRequest` if it is no directory; `ResourceExhausted` where
    /// the guest allows no more watches.
    pub async fn watch_dir(
        &self,
        principal: &Principal,
        id: &SandboxId,
        path: GuestPath,
        recursive: bool,
    ) -> Result<ChangeStream> {
        principal.require_read(Resource::Sandboxes)?;
        check_path(&path)?;
        let host = self.find_usable(principal, id).await?.host;
        host.watch_dir(id, path, recursive).await
    }

    /// Searches below a directory.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`; `InvalidRequest` for what is no pattern.
    pub async fn search_files(
        &self,
        principal: &Principal,
        id: &SandboxId,
        query: SearchQuery,
    ) -> Result<MatchStream> {
        principal.require_read(Resource::Sandboxes)?;
        check_path(&query.path)?;
        if query.name.is_none() && query.content.is_none() {
            return Err(Error::invalid("name or content must be there, or both"));
        }
        for (field, pattern) in [("name", &query.name), ("content", &query.content)] {
            if let Some(pattern) = pattern {
                check_path_text(field, pattern)?;
            }
        }
        let host = self.find_usable(principal, id).await?.host;
        host.search(id, query).await
    }
}
