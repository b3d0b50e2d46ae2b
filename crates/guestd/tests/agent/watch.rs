//! Watching directories, by stream and by polling.

use std::fs;
use std::path::Path;

use connectrpc::ErrorCode;
use connectrpc::client::ServerStream;
use guest_rpc::filesystem::__buffa::oneof::watch_dir_response::Event;
use guest_rpc::filesystem::__buffa::view::WatchDirResponseView;
use guest_rpc::filesystem::{
    CreateWatcherRequest, FilesystemEvent, GetWatcherEventsRequest, RemoveWatcherRequest,
    WatchDirRequest,
};

use crate::support::{Agent, Files, PATIENCE, open_folder};

const KINDS: [&str; 6] = ["?", "create", "write", "remove", "rename", "chmod"];

fn short(event: &FilesystemEvent) -> String {
    format!("{} {}", KINDS[event.r#type.to_i32() as usize], event.name)
}

fn wish(path: &Path, recursive: bool) -> CreateWatcherRequest {
    CreateWatcherRequest {
        path: path.display().to_string(),
        recursive,
        ..Default::default()
    }
}

async fn watch(files: &Files, path: &Path, recursive: bool) -> String {
    files
        .create_watcher(wish(path, recursive))
        .await
        .expect("watches")
        .into_owned()
        .watcher_id
}

async fn poll(files: &Files, watcher_id: &str) -> Result<Vec<FilesystemEvent>, ErrorCode> {
    let request = GetWatcherEventsRequest {
        watcher_id: watcher_id.to_owned(),
        ..Default::default()
    };
    Ok(files
        .get_watcher_events(request)
        .await
        .map_err(|e| e.code)?
        .into_owned()
        .events)
}

async fn events(files: &Files, watcher_id: &str) -> Vec<String> {
    poll(files, watcher_id)
        .await
        .expect("events")
        .iter()
        .map(short)
        .collect()
}

#[tokio::test]
async fn new_file_makes_three_events() {
    let agent = Agent::open().await;
    let files = agent.files();
    let folder = open_folder();
    fs::create_dir(folder.path().join("nested")).expect("made");
    let watcher = watch(&files, folder.path(), true).await;
    for name in ["a", "nested/b"] {
        agent.put(&folder.path().join(name), "content").await;
        let right = ["create", "chmod", "write"].map(|kind| format!("{kind} {name}"));
        assert_eq!(events(&files, &watcher).await, right);
    }
    assert!(
        events(&files, &watcher).await.is_empty(),
        "a poll takes what it answers with"
    );
    agent.put(&folder.path().join("a"), "other").await;
    let again = events(&files, &watcher).await;
    assert!(
        !again.is_empty() && again.iter().all(|event| event == "write a"),
        "{again:?}"
    );
}

#[tokio::test]
async fn every_change_has_its_kind() {
    let agent = Agent::open().await;
    let files = agent.files();
    let folder = open_folder();
    let other = open_folder();
    fs::create_dir(folder.path().join("dir")).expect("made");
    let at = |name: &str| folder.path().join(name);
    let watcher = watch(&files, folder.path(), false).await;
    fs::write(at("a"), "x").expect("writes");
    assert_eq!(events(&files, &watcher).await, ["create a", "write a"]);
    fs::set_permissions(at("a"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("chmod");
    fs::rename(at("a"), at("b")).expect("renames");
    assert_eq!(
        events(&files, &watcher).await,
        ["chmod a", "rename a", "create b"]
    );
    fs::rename(at("b"), other.path().join("b")).expect("moves out");
    fs::rename(other.path().join("b"), at("c")).expect("moves in");
    fs::remove_file(at("c")).expect("removes");
    assert_eq!(
        events(&files, &watcher).await,
        ["rename b", "create c", "remove c"]
    );
    fs::write(at("dir/below"), "x").expect("writes");
    assert!(
        events(&files, &watcher).await.is_empty(),
        "below is not watched unless asked for"
    );
}

#[tokio::test]
async fn recursive_watch_covers_later_directories() {
    let agent = Agent::open().await;
    let files = agent.files();
    let folder = open_folder();
    let at = |name: &str| folder.path().join(name);
    let watcher = watch(&files, folder.path(), true).await;
    fs::create_dir_all(at("a/b/c"))
        .and_then(|()| fs::write(at("a/b/c/early"), ""))
        .expect("made");
    let made = events(&files, &watcher).await;
    for name in ["a", "a/b", "a/b/c", "a/b/c/early"] {
        let told = made
            .iter()
            .filter(|event| **event == format!("create {name}"))
            .count();
        assert_eq!(told, 1, "{name} in {made:?}");
    }
    fs::write(at("a/b/c/late"), "").expect("made");
    assert_eq!(events(&files, &watcher).await, ["create a/b/c/late"]);
    fs::rename(at("a/b"), at("moved")).expect("renames");
    fs::write(at("moved/c/new"), "").expect("made");
    let moved = events(&files, &watcher).await;
    assert_eq!(moved, ["rename a/b", "create moved", "create moved/c/new"]);
    fs::remove_dir_all(at("moved")).expect("removes");
    let removed = events(&files, &watcher).await;
    assert_eq!(
        removed.last().map(String::as_str),
        Some("remove moved"),
        "{removed:?}"
    );
    assert!(
        removed.contains(&"remove moved/c/new".to_owned()),
        "{removed:?}"
    );
}

#[tokio::test]
async fn removing_watched_directory_is_reported() {
    let agent = Agent::open().await;
    let files = agent.files();
    let folder = open_folder();
    let path = folder.path().join("watched");
    for recursive in [false, true] {
        fs::create_dir(&path).expect("made");
        let watcher = watch(&files, &path, recursive).await;
        fs::remove_dir(&path).expect("removes");
        let told = events(&files, &watcher).await;
        assert_eq!(
            told.last().map(String::as_str),
            Some("remove ."),
            "{told:?}"
        );
        assert!(events(&files, &watcher).await.is_empty());
        let request = RemoveWatcherRequest {
            watcher_id: watcher,
            ..Default::default()
        };
        files.remove_watcher(request).await.expect("is removed");
    }
}

#[tokio::test]
async fn events_carry_entries_if_requested() {
    let agent = Agent::open().await;
    let files = agent.files();
    let folder = open_folder();
    let request = CreateWatcherRequest {
        include_entry: true,
        ..wish(folder.path(), false)
    };
    let watcher = files
        .create_watcher(request)
        .await
        .expect("watches")
        .into_owned()
        .watcher_id;
    agent.put(&folder.path().join("a"), "12345").await;
    let told = poll(&files, &watcher).await.expect("events");
    let entries: Vec<_> = told
        .iter()
        .filter_map(|event| event.entry.as_option())
        .collect();
    assert_eq!(entries.len(), 3, "{told:?}");
    for entry in &entries {
        assert_eq!((entry.name.as_str(), entry.mode), ("a", 0o644));
        assert_eq!(entry.path, folder.path().join("a").display().to_string());
    }
    assert_eq!(entries[2].size, 5);
    fs::rename(folder.path().join("a"), folder.path().join("b")).expect("renames");
    fs::remove_file(folder.path().join("b")).expect("removes");
    let after = poll(&files, &watcher).await.expect("events");
    // Of what came and went, the agent may have seen what it was meanwhile.
    let mut gone = after
        .iter()
        .filter(|event| !short(event).starts_with("create"));
    assert!(
        gone.all(|event| event.entry.is_unset()),
        "what is gone has none: {after:?}"
    );
}

#[tokio::test]
async fn lost_events_are_told_once() {
    let agent = Agent::open().await;
    let files = agent.files();
    let folder = open_folder();
    let watcher = watch(&files, folder.path(), false).await;
    let path = folder.path().join("a");
    // More than the agent keeps and the kernel's queue together.
    let queued = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("a number");
    let surplus = 65_536 + queued.trim().parse::<usize>().expect("a number");
    for _ in 0..=surplus.div_ceil(2) + 1000 {
        fs::File::create(&path)
            .and_then(|_| fs::remove_file(&path))
            .expect("made and removed");
    }
    // First what came before the loss.
    let mut kept = 0;
    let lost = loop {
        match poll(&files, &watcher).await {
            Ok(events) => kept += events.len(),
            Err(code) => break code,
        }
        assert!(kept < surplus, "nothing was lost");
    };
    assert_eq!(lost, ErrorCode::DataLoss);
    fs::write(folder.path().join("b"), "").expect("made");
    let mut seen = Vec::new();
    while !seen.contains(&"create b".to_owned()) {
        seen = events(&files, &watcher).await;
    }
}

#[tokio::test]
async fn what_cannot_be_watched_says_why() {
    let agent = Agent::open().await;
    let root = agent.files();
    let nobody = agent.files_as("nobody");
    let folder = open_folder();
    fs::write(folder.path().join("file"), "").expect("made");
    fs::create_dir(folder.path().join("closed")).expect("made");
    fs::set_permissions(
        folder.path().join("closed"),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .expect("chmod");
    let of_both = async |files: &Files, name: &str| {
        let path = folder.path().join(name);
        let polled = files
            .create_watcher(wish(&path, false))
            .await
            .expect_err("is refused")
            .code;
        let request = WatchDirRequest {
            path: path.display().to_string(),
            ..Default::default()
        };
        let streamed = match files.watch_dir(request).await {
            Ok(mut stream) => stream.message().await.expect_err("is refused").code,
            Err(error) => error.code,
        };
        assert_eq!(polled, streamed);
        polled
    };
    assert_eq!(of_both(&root, "none").await, ErrorCode::NotFound);
    assert_eq!(of_both(&root, "file").await, ErrorCode::InvalidArgument);
    assert_eq!(
        of_both(&nobody, "closed").await,
        ErrorCode::PermissionDenied
    );
    assert_eq!(
        poll(&root, "w999").await.expect_err("is unknown"),
        ErrorCode::NotFound
    );
    let watcher = watch(&root, folder.path(), false).await;
    let request = RemoveWatcherRequest {
        watcher_id: watcher.clone(),
        ..Default::default()
    };
    root.remove_watcher(request.clone())
        .await
        .expect("is removed");
    assert_eq!(
        root.remove_watcher(request)
            .await
            .expect_err("is gone")
            .code,
        ErrorCode::NotFound
    );
    assert_eq!(
        poll(&root, &watcher).await.expect_err("is gone"),
        ErrorCode::NotFound
    );
}

type Stream = ServerStream<hyper::body::Incoming, WatchDirResponseView<'static>>;

async fn next(stream: &mut Stream) -> String {
    let message = tokio::time::timeout(PATIENCE, stream.message())
        .await
        .expect("in time")
        .expect("no error");
    match message
        .expect("the stream goes on")
        .to_owned_message()
        .event
        .expect("an event")
    {
        Event::Start(_) => "start".to_owned(),
        Event::Keepalive(_) => "keepalive".to_owned(),
        Event::Filesystem(event) => short(&event),
    }
}

#[tokio::test]
async fn stream_starts_reports_keeps_alive() {
    let agent = Agent::open().await;
    let files = agent.files();
    let folder = open_folder();
    let request = WatchDirRequest {
        path: folder.path().display().to_string(),
        recursive: true,
        ..Default::default()
    };
    let options =
        connectrpc::client::CallOptions::default().with_header("keepalive-ping-interval", "1");
    let mut stream = files
        .watch_dir_with_options(request, options)
        .await
        .expect("watches");
    assert_eq!(next(&mut stream).await, "start");
    agent.put(&folder.path().join("a"), "x").await;
    for kind in ["create a", "chmod a", "write a", "keepalive", "keepalive"] {
        assert_eq!(next(&mut stream).await, kind);
    }
    fs::create_dir(folder.path().join("dir")).expect("made");
    assert_eq!(next(&mut stream).await, "create dir");
    agent.put(&folder.path().join("dir/b"), "x").await;
    assert_eq!(next(&mut stream).await, "create dir/b");
}

#[tokio::test]
async fn abandoned_stream_frees_its_watch() {
    let agent = Agent::open().await;
    let files = agent.files();
    let folder = open_folder();
    // More than the kernel gives to one user at once (fs.inotify.max_user_instances is 128).
    for _ in 0..200 {
        let request = WatchDirRequest {
            path: folder.path().display().to_string(),
            ..Default::default()
        };
        let mut stream = files.watch_dir(request).await.expect("watches");
        assert_eq!(next(&mut stream).await, "start");
    }
}
