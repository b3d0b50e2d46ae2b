//! Searches for files: the guest searches, this passes on what it finds and checks it.

use connectrpc::{ConnectError, ServiceStream};
use futures::{StreamExt, stream};
use guest_rpc::file as guest;
use guest_rpc::file::__buffa::oneof::search_response::Event as GuestEvent;
use guest_rpc::filesystem::FileType;
use host_rpc as rpc;
use host_rpc::__buffa::oneof::search_response::Event;

use super::alive;
use super::error::pass_on;
use super::paths::{MAX_PATH_TEXT, bounded, check_path};
use crate::guest::{SearchStream, explain_old_files};
use crate::sandbox::Handle;

/// Most matches in one message; a guest of ours sends 256.
const MAX_MATCHES: usize = 1024;
/// Most bytes of a line; a guest of ours sends 1024.
const MAX_LINE: usize = 4096;
/// Most bytes of a reason.
const MAX_REASON: usize = 1000;

/// Streams what is found, which counts as use of the sandbox until the end.
pub(super) async fn search(
    handle: Handle,
    request: rpc::SearchRequest,
) -> Result<ServiceStream<rpc::SearchResponse>, ConnectError> {
    check_path(&request.path)?;
    let active = handle.activity.begin();
    let ask = guest::SearchRequest {
        path: request.path,
        name: request.name,
        content: request.content,
        literal: request.literal,
        ignore_case: request.ignore_case,
        depth: request.depth,
        max_matches: request.max_matches,
        timeout_ms: request.timeout_ms,
        ..Default::default()
    };
    let client = handle.guest();
    let found = client.search(ask, request.user.as_deref()).await;
    let mut found = found.map_err(|error| pass_on(&error))?;
    // Refusals come with the first message.
    let Some(GuestEvent::Started(_)) = next(&mut found).await? else {
        return Err(ConnectError::internal(
            "the guest agent began a search with something else than its start",
        ));
    };
    let started = rpc::search_response::SearchStarted::default();
    let first = stream::once(async move { Ok(message(Event::from(started))) });
    let state = (handle, found, active, request.max_matches);
    let rest = stream::try_unfold(Some(state), |state| async move {
        let Some((handle, mut found, active, left)) = state else {
            return Ok(None);
        };
        let event = loop {
            let event = alive::while_up(&handle, next(&mut found)).await?;
            let Some(event) = event else { return Ok(None) };
            if let Some(event) = checked(event)? {
                break event;
            }
        };
        let count = match &event {
            Event::Matches(matches) => u32::try_from(matches.matches.len()).unwrap_or(u32::MAX),
            _ => 0,
        };
        let Some(left) = left.checked_sub(count) else {
            return Err(ConnectError::internal(
                "the guest agent found more than was asked for",
            ));
        };
        let is_last = matches!(event, Event::Done(_));
        let state = (!is_last).then_some((handle, found, active, left));
        Ok(Some((message(event), state)))
    });
    Ok(first.chain(rest).boxed())
}

async fn next(found: &mut SearchStream) -> Result<Option<GuestEvent>, ConnectError> {
    loop {
        let received = found.message::<guest::SearchResponse>().await;
        let received = received.map_err(|error| pass_on(&explain_old_files(error)))?;
        match received {
            // An event that this version does not know.
            Some(message) => match message.to_owned_message().event {
                Some(event) => return Ok(Some(event)),
                None => continue,
            },
            None => return Ok(None),
        }
    }
}

fn message(event: Event) -> rpc::SearchResponse {
    rpc::SearchResponse {
        event: Some(event),
        ..Default::default()
    }
}

/// Converts an event of the guest; `None` for one that says nothing.
pub(super) fn checked(event: GuestEvent) -> Result<Option<Event>, ConnectError> {
    Ok(Some(match event {
        GuestEvent::Matches(matches) if matches.matches.len() > MAX_MATCHES => {
            return Err(ConnectError::internal(
                "the guest agent sent more matches at once than it may",
            ));
        }
        GuestEvent::Matches(matches) => Event::from(rpc::search_response::SearchMatches {
            matches: matches.matches.into_iter().map(found).collect(),
            ..Default::default()
        }),
        GuestEvent::Done(done) => Event::from(rpc::search_response::SearchDone {
            incomplete: done.incomplete.map(|reason| bounded(reason, MAX_REASON)),
            searched: done.searched,
            binary: done.binary,
            unreadable: done.unreadable,
            ..Default::default()
        }),
        GuestEvent::Started(_) | GuestEvent::Keepalive(_) => return Ok(None),
    }))
}

fn found(found: guest::Match) -> rpc::SearchMatch {
    let kind = match found.r#type.as_known() {
        _ if found.is_symlink => rpc::FileKind::FILE_KIND_SYMLINK,
        Some(FileType::FILE_TYPE_FILE) => rpc::FileKind::FILE_KIND_FILE,
        Some(FileType::FILE_TYPE_DIRECTORY) => rpc::FileKind::FILE_KIND_DIRECTORY,
        Some(FileType::FILE_TYPE_SYMLINK) => rpc::FileKind::FILE_KIND_SYMLINK,
        _ => rpc::FileKind::FILE_KIND_UNSPECIFIED,
    };
    let mut line = found.line;
    let line_cut = found.line_cut || line.len() > MAX_LINE;
    line.truncate(MAX_LINE);
    rpc::SearchMatch {
        path: bounded(found.path, MAX_PATH_TEXT),
        kind: kind.into(),
        line_number: found.line_number,
        line,
        line_cut,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use guest_rpc::file::search_response::{Done, Matches};

    use super::*;

    #[test]
    fn matches_of_guest_are_bounded() {
        let found = guest::Match {
            path: "x".repeat(100_000),
            line: vec![b'y'; 100_000],
            ..Default::default()
        };
        let matches = |count| Matches {
            matches: vec![found.clone(); count],
            ..Default::default()
        };
        checked(matches(MAX_MATCHES + 1).into()).unwrap_err();
        let Some(Event::Matches(passed)) = checked(matches(1).into()).unwrap() else {
            panic!("matches");
        };
        let passed = &passed.matches[0];
        assert_eq!(
            (passed.path.len(), passed.line.len()),
            (MAX_PATH_TEXT, MAX_LINE)
        );
        assert!(passed.line_cut);
        let done = Done {
            incomplete: Some("x".repeat(100_000)),
            ..Default::default()
        };
        let Some(Event::Done(done)) = checked(done.into()).unwrap() else {
            panic!("done");
        };
        assert_eq!(done.incomplete.unwrap().len(), MAX_REASON);
    }
}
