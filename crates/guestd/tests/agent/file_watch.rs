//! `file.FileService/Watch`: both names of a rename, losses, and the end.

use std::fs;
use std::path::Path;

use connectrpc::ErrorCode;
use connectrpc::client::ServerStream;
use guest_rpc::file::__buffa::oneof::watch_response::Event;
use guest_rpc::file::__buffa::view::WatchResponseView;
use guest_rpc::file::{Change, WatchRequest, WatchResponse};

use crate::support::{Agent, PATIENCE, open_folder};

const KINDS: [&str; 6] = ["?", "create", "write", "remove", "rename", "chmod"];

/// A watch, and what of it was not looked at yet.
struct Watching {
    stream: ServerStream<hyper::body::Incoming, WatchResponseView<'static>>,
    top: String,
    seen: Vec<String>,
}

impl Watching {
    async fn start(agent: &Agent, path: &Path, recursive: bool) -> Result<Self, ErrorCode> {
        let request = WatchRequest {
            path: path.display().to_string(),
            recursive,
            ..Default::default()
        };
        let stream = agent.file_service().watch(request).await;
        let mut watching = Self {
            stream: stream.map_err(|e| e.code)?,
            top: path.display().to_string(),
            seen: Vec::new(),
        };
        match watching.next().await? {
            Some(Event::Started(_)) => Ok(watching),
            other => panic!("the first event must be started: {other:?}"),
        }
    }

    async fn next(&mut self) -> Result<Option<Event>, ErrorCode> {
        let message = self.stream.message::<WatchResponse>();
        let message = tokio::time::timeout(PATIENCE, message).await;
        let message = message.expect("in time").map_err(|e| e.code)?;
        Ok(message.and_then(|message| message.to_owned_message().event))
    }

    fn short(&self, change: &Change) -> String {
        let kind = KINDS[change.kind.to_i32() as usize];
        let below = |path: &str| {
            let below = path.strip_prefix(&self.top).expect("below");
            below.trim_start_matches('/').to_owned()
        };
        match &change.from {
            Some(from) => format!("{kind} {} {}", below(from), below(&change.path)),
            None => format!("{kind} {}", below(&change.path)),
        }
    }

    /// Reads until `last` is the last that was seen, and returns what was seen with it.
    async fn until(&mut self, last: &str) -> Vec<String> {
        while self.seen.last().is_none_or(|seen| seen != last) {
            self.read().await;
        }
        std::mem::take(&mut self.seen)
    }

    /// Reads until one of `wanted` is seen, and returns what was seen with it, and behind it: a
    /// file that left is told as removed only when the second half of its rename does not come.
    async fn until_any(&mut self, wanted: &[&str]) -> Vec<String> {
        while !self.seen.iter().any(|seen| wanted.contains(&&**seen)) {
            self.read().await;
        }
        std::mem::take(&mut self.seen)
    }

    async fn read(&mut self) {
        match self.next().await.expect("an event") {
            Some(Event::Changes(changes)) => {
                let changes: Vec<_> = changes.changes.iter().map(|c| self.short(c)).collect();
                self.seen.extend(changes);
            }
            Some(Event::Lost(_)) => self.seen.push("lost".to_owned()),
            Some(Event::Ended(ended)) => self.seen.push(format!("ended: {}", ended.reason)),
            other => panic!("{other:?} after {:?}", self.seen),
        }
    }
}

#[tokio::test]
async fn rename_has_both_names() {
    let agent = Agent::open().await;
    let folder = open_folder();
    let other = open_folder();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("dir/inner")).expect("made");
    let mut watching = Watching::start(&agent, folder.path(), true)
        .await
        .expect("watches");
    fs::write(at("a"), "x").expect("writes");
    fs::rename(at("a"), at("dir/b")).expect("renames");
    fs::rename(at("dir"), at("moved")).expect("renames");
    fs::write(at("moved/inner/c"), "").expect("writes");
    let seen = watching.until("create moved/inner/c").await;
    assert_eq!(
        seen,
        [
            "create a",
            "write a",
            "rename a dir/b",
            "rename dir moved",
            "create moved/inner/c"
        ]
    );
    fs::rename(at("moved/b"), other.path().join("b")).expect("moves out");
    assert_eq!(watching.until("remove moved/b").await, ["remove moved/b"]);
    fs::rename(other.path().join("b"), at("c")).expect("moves in");
    fs::remove_file(at("c")).expect("removes");
    assert_eq!(watching.until("remove c").await, ["create c", "remove c"]);
    // An upload writes beside the old file and renames: for those who watch it is written.
    agent.put(&at("moved/inner/c"), "content").await;
    assert_eq!(
        watching.until("write moved/inner/c").await,
        ["write moved/inner/c"]
    );
}

#[tokio::test]
async fn new_directories_are_watched_without_gap() {
    let agent = Agent::open().await;
    let folder = open_folder();
    let mut watching = Watching::start(&agent, folder.path(), true)
        .await
        .expect("watches");
    // Faster than the agent can add watches.
    for n in 0..200 {
        let deep = folder.path().join(format!("{n}/a/b"));
        fs::create_dir_all(&deep).expect("made");
        fs::write(deep.join("file"), "").expect("writes");
    }
    fs::write(folder.path().join("last"), "").expect("writes");
    let seen = watching.until("create last").await;
    for n in 0..200 {
        for name in [format!("{n}"), format!("{n}/a/b"), format!("{n}/a/b/file")] {
            let created = format!("create {name}");
            let count = seen.iter().filter(|seen| **seen == created).count();
            assert_eq!(count, 1, "{name}");
        }
    }
}

#[tokio::test]
async fn overflow_is_said_and_watch_goes_on() {
    let agent = Agent::open().await;
    let folder = open_folder();
    let mut watching = Watching::start(&agent, folder.path(), true)
        .await
        .expect("watches");
    let queue = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("a limit");
    let queue: usize = queue.trim().parse().expect("a number");
    // Without a reader the agent takes over what its queues hold, and no more.
    // Long names, of which few fit into the buffers of a connection.
    let at = |name: &str| folder.path().join(name.repeat(250));
    fs::write(at("a"), "").expect("writes");
    for _ in 0..2 * queue {
        fs::rename(at("a"), at("b"))
            .and_then(|()| fs::rename(at("b"), at("a")))
            .expect("renames");
    }
    watching.until("lost").await;
    // The queue may have filled again behind the first loss: a file that is seen is its end.
    let mut count = 0;
    loop {
        count += 1;
        fs::write(folder.path().join(format!("mark-{count}")), "").expect("writes");
        let mark = format!("create mark-{count}");
        if watching.until_any(&["lost", &mark]).await.contains(&mark) {
            break;
        }
    }
    fs::create_dir(folder.path().join("dir")).expect("made");
    fs::write(folder.path().join("dir/after"), "").expect("writes");
    watching.until_any(&["create dir/after"]).await;
}

#[tokio::test]
async fn watch_ends_with_its_directory() {
    let agent = Agent::open().await;
    let folder = open_folder();
    let path = folder.path().join("watched");
    fs::create_dir(&path).expect("made");
    let mut watching = Watching::start(&agent, &path, true).await.expect("watches");
    fs::remove_dir(&path).expect("removes");
    let seen = watching
        .until("ended: the watched directory was removed")
        .await;
    assert!(seen.contains(&"remove ".to_owned()), "{seen:?}");
    assert!(matches!(watching.next().await, Ok(None)));
    fs::create_dir(&path).expect("made");
    let mut watching = Watching::start(&agent, &path, false)
        .await
        .expect("watches");
    fs::rename(&path, folder.path().join("elsewhere")).expect("renames");
    watching
        .until("ended: the watched directory was moved")
        .await;
    let missing = Watching::start(&agent, &path, false).await.map(drop);
    assert_eq!(missing, Err(ErrorCode::NotFound));
    fs::write(&path, "").expect("writes");
    let file = Watching::start(&agent, &path, false).await.map(drop);
    assert_eq!(file, Err(ErrorCode::InvalidArgument));
}
