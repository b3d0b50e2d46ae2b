//! Good answers, as the real agent gives them.

use buffa::Message;
use guest_rpc::command;
use guest_rpc::command::__buffa::oneof::attach_response::Event as AttachEvent;
use guest_rpc::file::__buffa::oneof::search_response::Event as SearchEvent;
use guest_rpc::file::__buffa::oneof::watch_response::Event as WatchEvent;
use guest_rpc::file::{
    Change, ChangeKind, ListPageResponse, Match, SearchResponse, WatchResponse, search_response,
    watch_response,
};
use guest_rpc::filesystem::{
    EntryInfo, FileType, ListDirResponse, MakeDirResponse, RemoveResponse, StatResponse,
};
use guest_rpc::http::TUNNEL_PROTOCOL;
use guest_rpc::process::__buffa::oneof::process_event::Event;
use guest_rpc::process::__buffa::oneof::process_event::data_event::Output;
use guest_rpc::process::process_event::{DataEvent, EndEvent, StartEvent};
use guest_rpc::process::{ProcessEvent, StartResponse};

use super::Call;

/// Flag of the envelope that ends a stream (Connect protocol, "Streaming RPCs").
const END_STREAM: u8 = 2;

/// Output of programs, and content of files.
pub const HELLO: &[u8] = b"hello from the guest\n";

/// Status line, content type and body.
pub struct Answer {
    pub status: &'static str,
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

impl Answer {
    /// Returns the head with a given body header, such as `content-length: 3`.
    pub fn head(&self, framing: &str) -> Vec<u8> {
        format!(
            "HTTP/1.1 {}\r\ncontent-type: {}\r\n{framing}\r\n\r\n",
            self.status, self.content_type
        )
        .into_bytes()
    }

    /// Returns the whole answer, of a connection that is kept.
    pub fn to_bytes(&self) -> Vec<u8> {
        let framing = match self.status.starts_with("101") {
            true => format!("connection: upgrade\r\nupgrade: {TUNNEL_PROTOCOL}"),
            false => format!("content-length: {}", self.body.len()),
        };
        [self.head(&framing), self.body.clone()].concat()
    }

    /// Returns the whole answer, the last of its connection.
    pub fn to_last_bytes(&self) -> Vec<u8> {
        if self.status.starts_with("101") {
            return self.to_bytes();
        }
        let framing = format!("connection: close\r\ncontent-length: {}", self.body.len());
        [self.head(&framing), self.body.clone()].concat()
    }
}

/// Returns the good answer to a call.
pub fn for_call(call: Call) -> Answer {
    let json = "application/json";
    let (status, content_type, body) = match call {
        Call::Health | Call::Init | Call::Thaw => ("200 OK", json, Vec::new()),
        Call::Freeze => ("200 OK", json, br#"{"frozen":true}"#.to_vec()),
        Call::ReadFile => ("200 OK", "application/octet-stream", HELLO.to_vec()),
        Call::WriteFile => ("200 OK", json, b"[]".to_vec()),
        Call::BeginUpload | Call::GetUpload | Call::WriteUpload => {
            let state = br#"{"id":"1f","offset":5,"length":10,"is_complete":false}"#;
            ("200 OK", json, state.to_vec())
        }
        Call::RemoveUpload => ("204 No Content", json, Vec::new()),
        Call::Tunnel => ("101 Switching Protocols", json, HELLO.to_vec()),
        Call::Start => ("200 OK", "application/connect+proto", program()),
        Call::Watch => ("200 OK", "application/connect+proto", watch()),
        Call::Search => ("200 OK", "application/connect+proto", search()),
        Call::SendInput
        | Call::CloseStdin
        | Call::Update
        | Call::SendSignal
        | Call::SendCommandInput
        | Call::SignalCommand
        | Call::Supervise => ("200 OK", "application/proto", Vec::new()),
        Call::AttachCommand => ("200 OK", "application/connect+proto", attached()),
        Call::StartCommand | Call::ListCommands | Call::GetCommand => {
            ("200 OK", "application/proto", commands(call))
        }
        Call::Stat
        | Call::ListDir
        | Call::MakeDir
        | Call::Remove
        | Call::Move
        | Call::SetMode
        | Call::SetOwner
        | Call::ListPage => ("200 OK", "application/proto", files(call)),
    };
    Answer {
        status,
        content_type,
        body,
    }
}

fn commands(call: Call) -> Vec<u8> {
    match call {
        Call::StartCommand => command::StartResponse {
            command: command().into(),
            ..Default::default()
        }
        .encode_to_vec(),
        Call::ListCommands => command::ListResponse {
            commands: vec![command(), command()],
            ..Default::default()
        }
        .encode_to_vec(),
        _ => command::GetResponse {
            command: command().into(),
            ..Default::default()
        }
        .encode_to_vec(),
    }
}

pub fn command() -> command::Command {
    command::Command {
        id: "cmd-00000001".to_owned(),
        pid: 1,
        cmd: "make".to_owned(),
        output_end: HELLO.len() as u64,
        ..Default::default()
    }
}

/// Returns the output of a background command that has ended.
fn attached() -> Vec<u8> {
    [
        attach_event(AttachEvent::Attached(Box::new(command()))),
        attach_event(command_output(0, HELLO)),
        attach_event(AttachEvent::Ended(Box::new(command()))),
        envelope(END_STREAM, b"{}"),
    ]
    .concat()
}

pub fn command_output(offset: u64, bytes: &[u8]) -> AttachEvent {
    AttachEvent::from(command::attach_response::Output {
        offset,
        data: bytes.to_vec(),
        ..Default::default()
    })
}

/// Returns an event of a background command as a message of a stream.
pub fn attach_event(event: AttachEvent) -> Vec<u8> {
    let response = command::AttachResponse {
        event: Some(event),
        ..Default::default()
    };
    envelope(0, &response.encode_to_vec())
}

fn files(call: Call) -> Vec<u8> {
    match call {
        Call::ListDir => ListDirResponse {
            entries: vec![entry(), entry()],
            ..Default::default()
        }
        .encode_to_vec(),
        Call::ListPage => ListPageResponse {
            entries: vec![entry(), entry()],
            ..Default::default()
        }
        .encode_to_vec(),
        Call::MakeDir => MakeDirResponse {
            entry: entry().into(),
            ..Default::default()
        }
        .encode_to_vec(),
        Call::Remove => RemoveResponse::default().encode_to_vec(),
        // Those of the other calls have the same form.
        _ => StatResponse {
            entry: entry().into(),
            ..Default::default()
        }
        .encode_to_vec(),
    }
}

pub fn entry() -> EntryInfo {
    EntryInfo {
        name: "file".to_owned(),
        r#type: FileType::FILE_TYPE_FILE.into(),
        path: "/home/user/file".to_owned(),
        size: i64::try_from(HELLO.len()).unwrap_or_default(),
        mode: 0o644,
        owner: "user".to_owned(),
        group: "user".to_owned(),
        ..EntryInfo::default()
    }
}

/// Returns the events of a program that starts, writes and ends.
fn program() -> Vec<u8> {
    let end = EndEvent {
        exited: true,
        status: "exit status 0".to_owned(),
        ..EndEvent::default()
    };
    [
        event(start(1)),
        event(output(HELLO)),
        event(Event::from(end)),
        envelope(END_STREAM, b"{}"),
    ]
    .concat()
}

/// Returns the events of a watch that sees a change, and ends.
fn watch() -> Vec<u8> {
    let started = watch_response::Started::default();
    let ended = watch_response::Ended::default();
    [
        watch_event(started),
        watch_event(changes(1)),
        watch_event(ended),
        envelope(END_STREAM, b"{}"),
    ]
    .concat()
}

/// Returns the events of a search that finds something.
fn search() -> Vec<u8> {
    [
        search_event(search_response::SearchStarted::default()),
        search_event(matches(1)),
        search_event(search_response::Done::default()),
        envelope(END_STREAM, b"{}"),
    ]
    .concat()
}

/// Returns so many matches.
pub fn matches(count: usize) -> search_response::Matches {
    let found = Match {
        path: "/home/user/file".to_owned(),
        line_number: Some(1),
        line: HELLO.to_vec(),
        ..Match::default()
    };
    search_response::Matches {
        matches: vec![found; count],
        ..Default::default()
    }
}

/// Returns an event of a search as a message of its stream.
pub fn search_event(event: impl Into<SearchEvent>) -> Vec<u8> {
    let message = SearchResponse {
        event: Some(event.into()),
        ..SearchResponse::default()
    };
    envelope(0, &message.encode_to_vec())
}

/// Returns so many changes.
pub fn changes(count: usize) -> watch_response::Changes {
    let change = Change {
        kind: ChangeKind::CHANGE_KIND_CREATE.into(),
        path: "/home/user/file".to_owned(),
        ..Change::default()
    };
    watch_response::Changes {
        changes: vec![change; count],
        ..Default::default()
    }
}

/// Returns an event of a watch as a message of its stream.
pub fn watch_event(event: impl Into<WatchEvent>) -> Vec<u8> {
    let message = WatchResponse {
        event: Some(event.into()),
        ..WatchResponse::default()
    };
    envelope(0, &message.encode_to_vec())
}

pub fn start(pid: u32) -> Event {
    Event::from(StartEvent {
        pid,
        ..StartEvent::default()
    })
}

pub fn output(bytes: &[u8]) -> Event {
    Event::from(DataEvent {
        output: Some(Output::Stdout(bytes.to_vec())),
        ..DataEvent::default()
    })
}

/// Returns an event as a message of a stream.
pub fn event(event: Event) -> Vec<u8> {
    let event = ProcessEvent {
        event: Some(event),
        ..ProcessEvent::default()
    };
    envelope(
        0,
        &StartResponse {
            event: event.into(),
            ..StartResponse::default()
        }
        .encode_to_vec(),
    )
}

/// Returns a message of a stream, with flags and length before it.
pub fn envelope(flags: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[flags], length.to_be_bytes().as_slice(), message].concat()
}
