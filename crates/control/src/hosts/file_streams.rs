//! Streams about files in guests: changes below a directory, and matches of a search.

use std::sync::Arc;

use host_rpc as rpc;
use host_rpc::__buffa::oneof::{search_response, watch_dir_response};
use host_rpc::__buffa::view::{SearchResponseView, WatchDirResponseView};
use model::{ErrorCode, FileKind, SandboxId};

use super::Host;
use super::calls::{Messages, next_part, streaming};
use super::files::{GuestPath, file_kind};
use crate::error::{Error, Result};

/// Changes below a directory as they come.
pub type ChangeStream = Messages<WatchDirResponseView<'static>>;

/// Matches of a search as they are found.
pub type MatchStream = Messages<SearchResponseView<'static>>;

next_part!(WatchDirResponseView, WatchDirResponse, event: watch_dir_response::Event);
next_part!(SearchResponseView, SearchResponse, event: search_response::Event);

/// Event of a watch.
#[derive(Debug, Clone)]
pub enum FileEvent {
    Changes(Vec<FileChange>),
    /// Changes are missing, for this reason.
    Lost(String),
    /// Nothing more will come, for this reason.
    Ended(String),
}

/// A change below a watched directory; paths are absolute.
#[derive(Debug, Clone)]
pub enum FileChange {
    Create {
        path: String,
        is_directory: bool,
    },
    Write {
        path: String,
    },
    Remove {
        path: String,
        is_directory: bool,
    },
    Rename {
        from: String,
        path: String,
        is_directory: bool,
    },
    Chmod {
        path: String,
        is_directory: bool,
    },
}

/// Patterns and bounds of a search.
#[derive(Debug, Clone, Default)]
pub struct SearchQuery {
    pub path: GuestPath,
    pub name: Option<String>,
    pub content: Option<String>,
    pub literal: bool,
    pub ignore_case: bool,
    /// Levels to go down; `None` for all.
    pub depth: Option<u32>,
    pub max_matches: u32,
    pub timeout_ms: u32,
}

/// A file, or a line of one, that was found.
#[derive(Debug, Clone)]
pub struct FileMatch {
    pub path: String,
    pub kind: FileKind,
    pub line: Option<(u64, Vec<u8>)>,
    pub is_cut: bool,
}

/// Summary of a search.
#[derive(Debug, Clone, Default)]
pub struct SearchSummary {
    /// Reason why there may be more matches.
    pub incomplete: Option<String>,
    pub searched: u64,
    pub binary: u64,
    pub unreadable: u64,
}

/// Event of a search.
#[derive(Debug, Clone)]
pub enum SearchEvent {
    Matches(Vec<FileMatch>),
    Done(SearchSummary),
}

impl ChangeStream {
    /// Waits for the next event; `None` at the end.
    ///
    /// # Errors
    /// The reason why the sandbox does not run any more; the host's.
    pub async fn next(&mut self) -> Result<Option<FileEvent>> {
        use watch_dir_response::Event;
        while let Some(event) = self.next_part().await? {
            return Ok(Some(match event {
                Event::Changes(changes) => {
                    let changes = changes.changes.into_iter().filter_map(file_change);
                    FileEvent::Changes(changes.collect())
                }
                Event::Lost(lost) => FileEvent::Lost(lost.reason),
                Event::Ended(ended) => FileEvent::Ended(ended.reason),
                Event::Started(_) => continue,
            }));
        }
        Ok(None)
    }
}

impl MatchStream {
    /// Waits for the next event; `None` at the end.
    ///
    /// # Errors
    /// The host's; the matches so far are not all then.
    pub async fn next(&mut self) -> Result<Option<SearchEvent>> {
        use search_response::Event;
        while let Some(event) = self.next_part().await? {
            return Ok(Some(match event {
                Event::Matches(matches) => {
                    let matches = matches.matches.into_iter().map(FileMatch::from);
                    SearchEvent::Matches(matches.collect())
                }
                Event::Done(done) => SearchEvent::Done(SearchSummary {
                    incomplete: done.incomplete,
                    searched: done.searched,
                    binary: done.binary,
                    unreadable: done.unreadable,
                }),
                Event::Started(_) => continue,
            }));
        }
        Ok(None)
    }
}

impl Host {
    /// Watches a directory, and returns when everything that changes is seen.
    ///
    /// # Errors
    /// The guest's; the host's.
    pub async fn watch_dir(
        self: &Arc<Self>,
        id: &SandboxId,
        GuestPath { path, user }: GuestPath,
        recursive: bool,
    ) -> Result<ChangeStream> {
        let request = rpc::WatchDirRequest {
            sandbox_id: id.to_string(),
            path,
            recursive,
            user,
            ..Default::default()
        };
        let mut stream = streaming!(self, files.watch_dir(request));
        match stream.next_part().await? {
            Some(watch_dir_response::Event::Started(_)) => Ok(stream),
            _ => Err(no_start("watch")),
        }
    }

    /// Begins a search.
    ///
    /// # Errors
    /// The guest's, such as for what is no pattern; the host's.
    pub async fn search(
        self: &Arc<Self>,
        id: &SandboxId,
        query: SearchQuery,
    ) -> Result<MatchStream> {
        let request = rpc::SearchRequest {
            sandbox_id: id.to_string(),
            path: query.path.path,
            user: query.path.user,
            name: query.name,
            content: query.content,
            literal: query.literal,
            ignore_case: query.ignore_case,
            depth: query.depth.unwrap_or_default(),
            max_matches: query.max_matches,
            timeout_ms: query.timeout_ms,
            ..Default::default()
        };
        let mut stream = streaming!(self, files.search(request));
        match stream.next_part().await? {
            Some(search_response::Event::Started(_)) => Ok(stream),
            _ => Err(no_start("search")),
        }
    }
}

/// Converts a change; `None` for one of a kind that this version does not know.
fn file_change(change: rpc::FileChange) -> Option<FileChange> {
    let rpc::FileChange {
        kind,
        path,
        from,
        is_directory,
        ..
    } = change;
    Some(match kind.as_known()? {
        rpc::ChangeKind::CHANGE_KIND_CREATE => FileChange::Create { path, is_directory },
        rpc::ChangeKind::CHANGE_KIND_WRITE => FileChange::Write { path },
        rpc::ChangeKind::CHANGE_KIND_REMOVE => FileChange::Remove { path, is_directory },
        rpc::ChangeKind::CHANGE_KIND_RENAME => FileChange::Rename {
            from: from?,
            path,
            is_directory,
        },
        rpc::ChangeKind::CHANGE_KIND_CHMOD => FileChange::Chmod { path, is_directory },
        rpc::ChangeKind::CHANGE_KIND_UNSPECIFIED => return None,
    })
}

fn no_start(what: &str) -> Error {
    let text = format!("the host agent did not say that the {what} has begun");
    Error::new(ErrorCode::AgentError, text)
}

impl From<rpc::SearchMatch> for FileMatch {
    fn from(found: rpc::SearchMatch) -> Self {
        Self {
            path: found.path,
            kind: file_kind(found.kind.as_known()),
            line: found.line_number.map(|number| (number, found.line)),
            is_cut: found.line_cut,
        }
    }
}
