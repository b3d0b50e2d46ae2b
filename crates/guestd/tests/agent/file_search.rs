//! `file.FileService/Search`: names, lines, and bounds that are said.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use connectrpc::ErrorCode;
use guest_rpc::file::__buffa::oneof::search_response::Event;
use guest_rpc::file::search_response::Done;
use guest_rpc::file::{Match, SearchRequest, SearchResponse};

use crate::support::{Agent, PATIENCE, as_user, open_folder};

async fn search(
    agent: &Agent,
    user: &str,
    request: SearchRequest,
) -> Result<(Vec<Match>, Done), ErrorCode> {
    let client = agent.file_service();
    let stream = client.search_with_options(request, as_user(user)).await;
    let mut stream = stream.map_err(|e| e.code)?;
    let mut found = Vec::new();
    let mut done = None;
    loop {
        let message = stream.message::<SearchResponse>();
        let message = tokio::time::timeout(PATIENCE, message)
            .await
            .expect("in time");
        let Some(message) = message.map_err(|e| e.code)? else {
            return Ok((found, done.expect("the search has an end")));
        };
        match message.to_owned_message().event {
            Some(Event::Matches(matches)) => found.extend(matches.matches),
            Some(Event::Done(end)) => done = Some(*end),
            _ => {}
        }
    }
}

fn asked(path: &Path, name: Option<&str>, content: Option<&str>) -> SearchRequest {
    SearchRequest {
        path: path.display().to_string(),
        name: name.map(str::to_owned),
        content: content.map(str::to_owned),
        ..Default::default()
    }
}

fn sorted(top: &Path, found: &[Match]) -> Vec<String> {
    let mut all: Vec<String> = found
        .iter()
        .map(|found| {
            let below = found
                .path
                .strip_prefix(&*top.to_string_lossy())
                .expect("below");
            let line = found.line_number.map_or(String::new(), |n| format!(":{n}"));
            format!("{}{line}", below.trim_start_matches('/'))
        })
        .collect();
    all.sort();
    all
}

#[tokio::test]
async fn names_and_lines_are_found() {
    let agent = Agent::open().await;
    let folder = open_folder();
    let top = folder.path();
    fs::create_dir_all(top.join("src/deep")).expect("made");
    fs::write(
        top.join("src/a.rs"),
        "fn one() {}\nlet x = 1;\nfn two() {}\n",
    )
    .expect("writes");
    fs::write(top.join("src/deep/b.rs"), "Fn three\n").expect("writes");
    fs::write(top.join("notes.txt"), "fn (in text\n").expect("writes");
    fs::write(top.join("binary"), b"\0fn zero\n").expect("writes");
    symlink("src", top.join("link.rs")).expect("a link");
    let (found, done) = search(&agent, "root", asked(top, Some("*.rs"), None))
        .await
        .expect("finds");
    assert_eq!(
        sorted(top, &found),
        ["link.rs", "src/a.rs", "src/deep/b.rs"]
    );
    assert_eq!(done.incomplete, None);
    let (found, done) = search(&agent, "root", asked(top, None, Some(r"fn \w+\(")))
        .await
        .expect("finds");
    assert_eq!(sorted(top, &found), ["src/a.rs:1", "src/a.rs:3"]);
    assert_eq!(found[0].line, b"fn one() {}");
    assert_eq!((done.searched, done.binary), (4, 1));
    let literal = SearchRequest {
        literal: true,
        ignore_case: true,
        ..asked(top, None, Some("FN ("))
    };
    let (found, _) = search(&agent, "root", literal).await.expect("finds");
    assert_eq!(sorted(top, &found), ["notes.txt:1"]);
    let shallow = SearchRequest {
        depth: 1,
        ..asked(top, Some("*"), None)
    };
    let (found, _) = search(&agent, "root", shallow).await.expect("finds");
    assert_eq!(
        sorted(top, &found),
        ["binary", "link.rs", "notes.txt", "src"]
    );
    let file = asked(&top.join("notes.txt"), None, Some("text"));
    let (found, _) = search(&agent, "root", file).await.expect("finds");
    assert_eq!(sorted(top, &found), ["notes.txt:1"]);
}

#[tokio::test]
async fn search_says_what_it_left_out() {
    let agent = Agent::open().await;
    let folder = open_folder();
    let top = folder.path();
    for n in 0..600 {
        fs::write(top.join(format!("{n}")), "line\n").expect("writes");
    }
    let few = SearchRequest {
        max_matches: 500,
        ..asked(top, Some("*"), None)
    };
    let (found, done) = search(&agent, "root", few).await.expect("finds");
    assert_eq!(found.len(), 500);
    assert!(done.incomplete.expect("is not all").contains("500 matches"));
    let hasty = SearchRequest {
        timeout_ms: 1,
        ..asked(Path::new("/"), None, Some("no such line anywhere"))
    };
    let (_, done) = search(&agent, "root", hasty).await.expect("ends");
    assert!(done.incomplete.expect("is not all").contains("0.001 s"));
    fs::write(top.join("long"), "x".repeat(100_000)).expect("writes");
    let (found, _) = search(&agent, "root", asked(top, None, Some("xx")))
        .await
        .expect("finds");
    assert_eq!((found[0].line.len(), found[0].line_cut), (1024, true));
    fs::create_dir(top.join("closed")).expect("made");
    fs::set_permissions(
        top.join("closed"),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .expect("chmod");
    let (_, done) = search(&agent, "nobody", asked(top, Some("closed"), None))
        .await
        .expect("ends");
    assert_eq!(done.unreadable, 1);
}

#[tokio::test]
async fn wrong_searches_are_refused() {
    let agent = Agent::open().await;
    let folder = open_folder();
    let top = folder.path();
    for (request, code) in [
        (asked(top, None, None), ErrorCode::InvalidArgument),
        (asked(top, Some("["), None), ErrorCode::InvalidArgument),
        (asked(top, None, Some("(")), ErrorCode::InvalidArgument),
        (
            asked(&top.join("none"), Some("*"), None),
            ErrorCode::NotFound,
        ),
    ] {
        let refused = search(&agent, "root", request).await.map(drop);
        assert_eq!(refused, Err(code));
    }
    // Files of the kernel that never end are passed over.
    let request = SearchRequest {
        max_matches: 10,
        ..asked(Path::new("/"), Some("proc/*/status"), None)
    };
    let (found, _) = search(
        &agent,
        "root",
        SearchRequest {
            depth: 3,
            ..request
        },
    )
    .await
    .expect("ends");
    assert!(found.is_empty(), "{found:?}");
}
