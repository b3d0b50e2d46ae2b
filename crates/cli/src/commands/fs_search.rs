//! `wrenn fs find` and `wrenn fs grep`.

use client::types::{PathRequest, SearchFilesRequest, SearchMessage};

use super::Session;
use super::fs_path::path_of;
use crate::args::{FsFindArgs, FsGrepArgs, FsSearchArgs, FsTarget};
use crate::ids;
use crate::output::{self, printable, printable_json};
use crate::values::escape_bytes;

/// Prints the paths of files whose name matches.
pub async fn find_files(session: &Session, args: FsFindArgs) -> anyhow::Result<()> {
    let path = path_of(args.path, &args.target);
    let request = SearchFilesRequest {
        name: Some(escape_bytes(args.name)),
        ..request(path, &args.search)
    };
    print_matches(session, &args.target, &request)
        .await
        .map(drop)
}

/// Prints lines that match. Exits as grep(1) does.
pub async fn find_lines(session: &Session, args: FsGrepArgs) -> anyhow::Result<u8> {
    let path = path_of(args.path, &args.target);
    let request = SearchFilesRequest {
        name: args.name.map(escape_bytes),
        content: Some(args.pattern),
        literal: args.fixed_strings,
        ..request(path, &args.search)
    };
    let found = print_matches(session, &args.target, &request).await?;
    Ok(u8::from(found == 0))
}

fn request(path: PathRequest, search: &FsSearchArgs) -> SearchFilesRequest {
    SearchFilesRequest {
        path: path.path,
        ignore_case: search.ignore_case,
        depth: search.depth,
        limit: Some(search.limit),
        timeout_sec: Some(search.timeout),
        user: path.user,
        ..SearchFilesRequest::default()
    }
}

/// Prints what is found, as it is, and returns the number of matches.
async fn print_matches(
    session: &Session,
    target: &FsTarget,
    request: &SearchFilesRequest,
) -> anyhow::Result<u64> {
    let id = ids::resolve_id(&session.client, &target.id).await?;
    let mut messages = session.client.search_files(&id, request).await?;
    let mut found = 0;
    while let Some(message) = messages.next().await? {
        if session.json {
            output::print_line(&printable_json(&serde_json::to_string(&message)?))?;
        }
        match message {
            SearchMessage::Match {
                path, line, text, ..
            } => {
                found += 1;
                if !session.json {
                    output::print_line(&matched(&path, line, text.as_deref()))?;
                }
            }
            SearchMessage::End {
                incomplete,
                unreadable,
                ..
            } => {
                if let Some(reason) = incomplete {
                    let reason = printable(&reason).into_owned();
                    output::print_note(&format!("There may be more: {reason}."));
                }
                if unreadable > 0 {
                    output::print_note(&format!(
                        "{unreadable} files or directories could not be read."
                    ));
                }
                return Ok(found);
            }
        }
    }
    anyhow::bail!("the search broke off: the sandbox stopped, or the server did")
}

fn matched(path: &str, line: Option<u64>, text: Option<&str>) -> String {
    let path = printable(path);
    match (line, text) {
        (Some(line), Some(text)) => {
            format!("{path}:{line}:{}", printable(text.trim_end_matches('\r')))
        }
        _ => path.into_owned(),
    }
}
