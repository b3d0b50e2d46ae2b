//! Searches of fake sandboxes: lines that have the text, in the order of their files.

use connectrpc::{ConnectError, ServiceStream};
use futures::{StreamExt, stream};
use host_rpc as rpc;
use host_rpc::__buffa::oneof::search_response::Event;
use host_rpc::search_response::{SearchDone, SearchMatches, SearchStarted};

use super::files;
use super::world::Sandbox;

pub(super) fn search(
    sandbox: &Sandbox,
    request: &rpc::SearchRequest,
) -> Result<ServiceStream<rpc::SearchResponse>, ConnectError> {
    if request.name.as_deref() == Some("[") {
        return Err(ConnectError::invalid_argument("the glob is none"));
    }
    let top = files::stat(sandbox, &request.path)?.path;
    let content = request.content.as_deref().unwrap_or_default();
    let mut found = Vec::new();
    for (path, data) in &sandbox.content.files {
        let text = String::from_utf8_lossy(data);
        let lines = text
            .lines()
            .enumerate()
            .filter(|(_, line)| line.contains(content));
        if !path.starts_with(&top) {
            continue;
        }
        found.extend(lines.map(|(n, line)| rpc::SearchMatch {
            path: path.clone(),
            kind: rpc::FileKind::FILE_KIND_FILE.into(),
            line_number: Some(n as u64 + 1),
            line: line.as_bytes().to_vec(),
            ..Default::default()
        }));
    }
    let is_cut = found.len() > request.max_matches as usize;
    found.truncate(request.max_matches as usize);
    let done = SearchDone {
        incomplete: is_cut.then(|| "more matches than were asked for".to_owned()),
        ..Default::default()
    };
    let matches = SearchMatches {
        matches: found,
        ..Default::default()
    };
    let events = [
        Event::from(SearchStarted::default()),
        Event::from(matches),
        Event::from(done),
    ];
    let message = |event| {
        Ok(rpc::SearchResponse {
            event: Some(event),
            ..Default::default()
        })
    };
    Ok(stream::iter(events).map(message).boxed())
}
