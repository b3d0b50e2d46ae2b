//! A server on loopback that speaks the real bodies, keeps its sandboxes in memory, and plays a few
//! programs. The tests of the SDK and those of the `wrenn` command share it.
#![allow(dead_code, reason = "each suite uses its part")]

mod attributes;
mod commands;
mod disk_usage;
pub mod events;
mod files;
mod images;
mod lifecycle;
mod metrics;
mod programs;
mod uploads;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::Body;
use axum::extract::{Path, Query, RawQuery, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use client::types::{
    Checkpoint, Command, CreateSandbox, ErrorBody, ErrorDetail, Event, Health, LogEntry, LogSource,
    ProcessSignal, Sandbox, SandboxStatus, Template, TemplateKind,
};
use tokio::sync::mpsc;

pub const KEY: &str = "wrn_0123456789012345678901234567890123456789";

/// Sandboxes on one page of the list, so that tests turn pages.
pub const PAGE: usize = 2;

/// What the server has and what it has seen.
#[derive(Debug, Default)]
pub struct World {
    pub sandboxes: BTreeMap<String, Sandbox>,
    pub snapshots: BTreeMap<String, Template>,
    /// The same in every sandbox.
    pub checkpoints: Vec<Checkpoint>,
    pub policy: Option<client::types::AutoCheckpoint>,
    /// Files by path, and tar archives by the path of their directory; the same in every sandbox.
    pub files: BTreeMap<String, Vec<u8>>,
    pub archives: BTreeMap<String, Vec<u8>>,
    /// Resumable uploads: path, length and what has arrived.
    pub uploads: Vec<uploads::Upload>,
    /// Watches that were begun.
    pub watches: usize,
    /// Changes of mode and owner, in their order.
    pub changes: Vec<String>,
    /// Files that went over the wire as an archive of their own.
    pub single_files: usize,
    /// Bytes of those that came.
    pub single_file_bytes: usize,
    /// Questions that get no answer.
    pub stuck: usize,
    /// Permission bits as they came with the last written file.
    pub mode: Option<String>,
    /// Signals that programs got, in their order.
    pub signals: Vec<ProcessSignal>,
    /// Where a program listens for signals.
    pub listener: Option<mpsc::UnboundedSender<ProcessSignal>>,
    /// Programs that were told to stop.
    pub stopped: usize,
    /// Bytes that `flood` has sent.
    pub flooded: u64,
    /// Background commands; the same in every sandbox.
    pub commands: Vec<Command>,
    /// Calls that counted as use, in their order: `ping` and `keep-alive`.
    pub uses: Vec<&'static str>,
    /// Queries of lists, counts and waits, in their order.
    pub queries: Vec<String>,
    pub events: Vec<Event>,
    /// Events that only streams have.
    pub later_events: Vec<Event>,
    pub event_queries: Vec<BTreeMap<String, String>>,
    pub event_streams: usize,
    /// Questions for the usage of sandboxes that are answered before one that is not.
    pub usage_reads_before_failure: Option<usize>,
    /// Offsets at which clients attached.
    pub attaches: Vec<usize>,
}

/// A running server. It ends with the runtime that it was started on.
#[derive(Debug, Clone)]
pub struct Server {
    pub url: String,
    world: Arc<Mutex<World>>,
}

pub type Shared = State<Arc<Mutex<World>>>;

impl Server {
    pub async fn start() -> Self {
        let world = Arc::new(Mutex::new(World::default()));
        let sandbox = Router::new()
            .route("/", get(info).delete(remove).patch(attributes::update))
            .merge(attributes::of_sandbox())
            .merge(lifecycle::of_sandbox())
            .route("/exec", post(programs::exec))
            .route("/exec/stream", get(programs::stream))
            .route("/exec/signal", post(programs::signal))
            .route("/commands", post(commands::start).get(commands::list))
            .route("/commands/{command}", get(commands::get))
            .route("/commands/{command}/signal", post(commands::signal))
            .route("/commands/{command}/attach", get(commands::attach))
            .route("/files/stream/write", post(files::write))
            .route("/files/read", post(files::read))
            .route("/files/stat", post(files::stat))
            .route("/files/list", post(files::list))
            .route("/files/mkdir", post(files::mkdir))
            .route("/files/remove", post(files::remove))
            .route("/files/move", post(files::rename))
            .route("/files/chmod", post(files::change_mode))
            .route("/files/chown", post(files::change_owner))
            .route("/files/search", post(files::search))
            .route("/files/uploads", post(uploads::begin))
            .route(
                "/files/uploads/{upload}",
                get(uploads::show)
                    .patch(uploads::append)
                    .delete(uploads::remove),
            )
            .route("/files/watch", get(files::watch))
            .route("/files/archive", get(files::pack).put(files::unpack))
            .route("/tunnel", get(tunnel))
            .route("/disk-usage", get(disk_usage::of_sandbox))
            .route("/logs", get(logs));
        let routes = Router::new()
            .route("/v1/sandboxes", post(create).get(list))
            .route("/v1/sandboxes/count", get(attributes::count))
            .route("/v1/sandboxes/metrics", get(metrics::usage))
            .route("/v1/hosts/metrics", get(metrics::hosts))
            .nest("/v1/sandboxes/{id}", sandbox)
            .route("/v1/templates", get(templates))
            .route("/v1/images", post(images::import_image))
            .route(
                "/v1/images/{name}",
                get(images::get_image).delete(images::delete_image),
            )
            .route("/v1/images/{name}/pull", post(images::pull_image))
            .route("/v1/events", get(events::list))
            .route("/v1/events/stream", get(events::stream))
            .route("/v1/disk-usage", get(disk_usage::of_all))
            .merge(lifecycle::snapshots())
            .layer(axum::extract::DefaultBodyLimit::disable())
            .layer(from_fn_with_state((), authorised))
            .route("/health", get(health))
            .with_state(world.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { url, world }
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no test panics while it looks")
    }

    pub fn client(&self) -> client::Client {
        client::Client::new(&self.url, KEY).expect("a client")
    }

    /// Puts a running sandbox there.
    pub fn add(&self, id: &str) {
        let sandbox = sandbox(id, CreateSandbox::default());
        self.world().sandboxes.insert(id.to_owned(), sandbox);
    }
}

/// The body of an error.
pub fn refusal(status: u16, code: &str, message: &str) -> Response {
    let error = ErrorDetail {
        code: code.to_owned(),
        message: message.to_owned(),
        exit_code: None,
    };
    (
        StatusCode::from_u16(status).expect("a status"),
        Json(ErrorBody { error }),
    )
        .into_response()
}

async fn authorised(request: Request, next: Next) -> Response {
    if request
        .headers()
        .get("x-api-key")
        .is_some_and(|key| key == KEY)
    {
        return next.run(request).await;
    }
    refusal(401, "unauthorized", "the API key is not known")
}

fn sandbox(id: &str, spec: CreateSandbox) -> Sandbox {
    let time = || "2026-01-01T00:00:00Z".to_owned();
    Sandbox {
        public_ports: false,
        id: id.to_owned(),
        status: SandboxStatus::Running,
        reason: None,
        stop_reason: None,
        name: spec.name,
        labels: spec.labels,
        ends_at: spec.ends_at,
        template: spec.template.unwrap_or_else(|| "minimal".to_owned()),
        vcpus: spec.vcpus.unwrap_or(1),
        memory_mb: spec.memory_mb.unwrap_or(512),
        timeout_sec: spec.timeout_sec.unwrap_or(300),
        on_timeout: spec.on_timeout.unwrap_or_default(),
        auto_resume: spec.auto_resume.unwrap_or(true),
        disk_mb: spec.disk_mb,
        disk: None,
        network: spec.network.unwrap_or_default(),
        auto_checkpoint: spec.auto_checkpoint,
        start_command: spec.start_command,
        guest_ip: None,
        host_ip: None,
        created_at: time(),
        started_at: Some(time()),
        last_active_at: None,
        last_updated: time(),
    }
}

async fn create(State(world): Shared, Json(spec): Json<CreateSandbox>) -> Response {
    if spec.template.as_deref() == Some("no-such-template") {
        return refusal(404, "not_found", "no template no-such-template");
    }
    let mut world = world.lock().expect("the world");
    if let Some(answer) = attributes::meet_name(&world, &spec) {
        return answer;
    }
    if let Some(start) = &spec.start_command {
        world.commands.push(commands::restarting(start));
    }
    let id = format!("sb-{:020}", world.sandboxes.len());
    let sandbox = sandbox(&id, spec);
    world.sandboxes.insert(id, sandbox.clone());
    (StatusCode::CREATED, Json(sandbox)).into_response()
}

async fn list(
    State(world): Shared,
    RawQuery(raw): RawQuery,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    attributes::note_query(&world, raw);
    let after = query.get("cursor").cloned().unwrap_or_default();
    let all: Vec<Sandbox> = world
        .lock()
        .expect("the world")
        .sandboxes
        .values()
        .cloned()
        .collect();
    let mut rest = all.into_iter().filter(|sandbox| sandbox.id > after);
    let page: Vec<Sandbox> = rest.by_ref().take(PAGE).collect();
    match (rest.next(), page.last()) {
        (Some(_), Some(last)) => ([("x-next-cursor", last.id.clone())], Json(page)).into_response(),
        _ => Json(page).into_response(),
    }
}

async fn info(State(world): Shared, Path(id): Path<String>) -> Response {
    match world.lock().expect("the world").sandboxes.get(&id) {
        Some(sandbox) => Json(sandbox).into_response(),
        None => refusal(404, "not_found", &format!("no sandbox {id}")),
    }
}

async fn remove(State(world): Shared, Path(id): Path<String>) -> Response {
    match world.lock().expect("the world").sandboxes.remove(&id) {
        Some(_) => StatusCode::NO_CONTENT.into_response(),
        None => refusal(404, "not_found", &format!("no sandbox {id}")),
    }
}

/// No sandbox has a port here.
async fn tunnel(State(world): Shared, Path(id): Path<String>) -> Response {
    match world.lock().expect("the world").sandboxes.get(&id) {
        Some(_) => refusal(502, "agent_error", "nothing listens on the port"),
        None => refusal(404, "not_found", &format!("no sandbox {id}")),
    }
}

async fn templates(State(world): Shared) -> Json<Vec<Template>> {
    let base = template("minimal", TemplateKind::Base);
    Json(
        [base]
            .into_iter()
            .chain(world.lock().expect("the world").snapshots.values().cloned())
            .collect(),
    )
}

fn template(name: &str, kind: TemplateKind) -> Template {
    Template {
        name: name.to_owned(),
        kind,
        vcpus: None,
        memory_mb: None,
        disk_mb: None,
        size_bytes: 1 << 30,
        exclusive_bytes: 1 << 20,
        shared_bytes: (1 << 30) - (1 << 20),
        source_sandbox_id: None,
        digest: None,
        format: None,
        image_config: None,
        created_at: "2026-01-01T00:00:00Z".to_owned(),
    }
}

async fn health() -> Json<Health> {
    Json(Health {
        status: "ok".to_owned(),
        version: "9.9.9".to_owned(),
    })
}

/// Two entries, torn into parts at bad places.
async fn logs(Query(query): Query<BTreeMap<String, String>>) -> Response {
    let entry = |source, line: &str| {
        let entry = LogEntry {
            time: "2026-01-01T00:00:00Z".to_owned(),
            source,
            line: line.to_owned(),
        };
        serde_json::to_string(&entry).expect("JSON") + "\n"
    };
    let mut text = entry(LogSource::Agent, "booted") + &entry(LogSource::Console, "\u{1b}[2Jhello");
    if query.get("follow").is_some_and(|follow| follow == "true") {
        text += &entry(LogSource::Agent, "followed");
    }
    let parts: Vec<_> = text
        .into_bytes()
        .chunks(7)
        .map(|part| Ok::<_, std::io::Error>(part.to_vec()))
        .collect();
    Body::from_stream(futures::stream::iter(parts)).into_response()
}
