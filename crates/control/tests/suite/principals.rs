//! What a key may do: nothing of another team, and nothing without the scope.

use control::auth;
use model::{Resource, Scope, Scopes, TeamId};
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use crate::guest_server::{PORT, with_server};
use crate::support::{Plane, one, refused};

/// The scope that each operation needs.
const SCOPES: &[(&str, &str)] = &[
    ("create_sandbox", "sandboxes:write"),
    ("list_sandboxes", "sandboxes:read"),
    ("get_sandbox", "sandboxes:read"),
    ("delete_sandbox", "sandboxes:write"),
    ("pause_sandbox", "sandboxes:write"),
    ("resume_sandbox", "sandboxes:write"),
    ("fork_sandbox", "sandboxes:write"),
    ("set_network", "network:write"),
    ("create_checkpoint", "sandboxes:write"),
    ("list_checkpoints", "sandboxes:read"),
    ("delete_checkpoint", "sandboxes:write"),
    ("rollback_sandbox", "sandboxes:write"),
    ("get_disk_usage", "sandboxes:read"),
    ("get_sandbox_disk_usage", "sandboxes:read"),
    ("set_auto_checkpoint", "sandboxes:write"),
    ("remove_auto_checkpoint", "sandboxes:write"),
    ("undo_sandbox", "sandboxes:write"),
    ("get_history", "sandboxes:read"),
    ("diff_sandbox", "sandboxes:read"),
    ("exec", "sandboxes:write"),
    ("signal_exec", "sandboxes:write"),
    ("exec_stream", "sandboxes:write"),
    ("start_command", "sandboxes:write"),
    ("list_commands", "sandboxes:read"),
    ("get_command", "sandboxes:read"),
    ("signal_command", "sandboxes:write"),
    ("write_command_stdin", "sandboxes:write"),
    ("resize_command", "sandboxes:write"),
    ("read_command_output", "sandboxes:read"),
    ("attach_command", "sandboxes:write"),
    ("list_processes", "sandboxes:read"),
    ("kill_process", "sandboxes:write"),
    ("stream_process", "sandboxes:write"),
    ("read_file", "sandboxes:read"),
    ("stream_read_file", "sandboxes:read"),
    ("write_file", "sandboxes:write"),
    ("stream_write_file", "sandboxes:write"),
    ("stat_file", "sandboxes:read"),
    ("list_files", "sandboxes:read"),
    ("make_directory", "sandboxes:write"),
    ("remove_file", "sandboxes:write"),
    ("move_file", "sandboxes:write"),
    ("change_mode", "sandboxes:write"),
    ("change_owner", "sandboxes:write"),
    ("watch_files", "sandboxes:read"),
    ("search_files", "sandboxes:read"),
    ("begin_upload", "sandboxes:write"),
    ("get_upload", "sandboxes:read"),
    ("write_upload", "sandboxes:write"),
    ("delete_upload", "sandboxes:write"),
    ("read_archive", "sandboxes:read"),
    ("write_archive", "sandboxes:write"),
    ("logs", "sandboxes:read"),
    ("get_usage", "sandboxes:read"),
    ("get_sandbox_metrics", "sandboxes:read"),
    ("get_host_metrics", "usage:read"),
    ("count_sandboxes", "sandboxes:read"),
    ("update_sandbox", "sandboxes:write"),
    ("wait_for_sandbox", "sandboxes:read"),
    ("ping_sandbox", "sandboxes:write"),
    ("keep_sandbox_alive", "sandboxes:write"),
    ("create_port_link", "sandboxes:write"),
    ("tunnel", "sandboxes:write"),
    ("list_events", "events:read"),
    ("stream_events", "events:read"),
    ("list_templates", "templates:read"),
    ("import_image", "templates:write"),
    ("get_image", "templates:read"),
    ("delete_image", "templates:write"),
    ("pull_image", "templates:write"),
    ("prune_images", "templates:write"),
    ("create_snapshot", "snapshots:write"),
    ("list_snapshots", "snapshots:read"),
    ("get_snapshot", "snapshots:read"),
    ("delete_snapshot", "snapshots:write"),
    ("create_webhook", "webhooks:write"),
    ("list_webhooks", "webhooks:read"),
    ("get_webhook", "webhooks:read"),
    ("update_webhook", "webhooks:write"),
    ("delete_webhook", "webhooks:write"),
    ("rotate_webhook_secret", "webhooks:write"),
    ("test_webhook", "webhooks:write"),
    ("list_webhook_deliveries", "webhooks:read"),
    ("get_webhook_delivery", "webhooks:read"),
    ("redeliver_webhook_delivery", "webhooks:write"),
    ("redeliver_dead_letters", "webhooks:write"),
];
/// Scopes that operations need besides.
const MORE_SCOPES: &[(&str, &str)] = &[
    ("create_webhook", "events:read"),
    ("update_webhook", "events:read"),
    ("get_webhook_delivery", "events:read"),
    ("redeliver_webhook_delivery", "events:read"),
    ("redeliver_dead_letters", "events:read"),
];
/// Operations that answer a stranger with a list of its own.
const LISTS: &[&str] = &[
    "get_disk_usage",
    "list_sandboxes",
    "count_sandboxes",
    "list_events",
    "list_templates",
    "list_snapshots",
    "get_usage",
    "get_host_metrics",
    "list_webhooks",
    "prune_images",
];
/// Operations that make something of the stranger's own.
const CREATES: [&str; 3] = ["create_webhook", "import_image", "pull_image"];
/// Operations that do not end by themselves: `events.rs` looks at what a stranger gets of them.
const STREAMS: [&str; 1] = ["stream_events"];
const SNAPSHOT: &str = "saved";
const WEBHOOK: &str = "wh-0123456789abcdef";

/// Operation of the API document that needs a key.
struct Operation {
    id: String,
    method: Method,
    path: String,
}

impl Operation {
    async fn all(plane: &Plane) -> Vec<Self> {
        let document = plane.bare(Method::GET, "/openapi.json").send().await;
        let document: Value = document.unwrap().json().await.unwrap();
        let mut operations = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                if operation["security"] != serde_json::json!([]) {
                    operations.push(Self {
                        id: operation["operationId"].as_str().unwrap().to_owned(),
                        method: method.to_uppercase().parse().unwrap(),
                        path: path.clone(),
                    });
                }
            }
        }
        assert!(operations.len() > 30, "{}", operations.len());
        operations
    }

    fn scope(&self) -> Scope {
        let found = SCOPES.iter().find(|(id, _)| *id == self.id);
        let (_, scope) = found.unwrap_or_else(|| panic!("{}: name its scope here", self.id));
        scope.parse().unwrap()
    }

    /// A request that is right but for its key.
    fn request(&self, plane: &Plane, key: &str, sandbox: &str) -> RequestBuilder {
        let path = self.path.replace("{id}", sandbox);
        let name = if self.id == "pull_image" {
            "pulled"
        } else {
            SNAPSHOT
        };
        let path = path.replace("{name}", name).replace("{command}", "web");
        let path = path.replace("{upload}", &"0".repeat(32));
        let path = path
            .replace("{webhook}", WEBHOOK)
            .replace("{delivery}", "evt-0");
        let query = match self.id.as_str() {
            "read_archive" | "write_archive" | "watch_files" => "?path=/tmp",
            "tunnel" => "?port=3000",
            "import_image" => "?name=imported",
            "wait_for_sandbox" => "?status=running",
            _ => "",
        };
        let request = plane.bare(self.method.clone(), &format!("{path}{query}"));
        let request = request.header("x-api-key", key);
        let body = match self.id.as_str() {
            "exec_stream" | "tunnel" | "attach_command" | "stream_process" | "watch_files" => {
                return request
                    .header("connection", "Upgrade")
                    .header("upgrade", "websocket")
                    .header("sec-websocket-version", "13")
                    .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
            }
            "begin_upload" => {
                return request
                    .header("tus-resumable", "1.0.0")
                    .header("upload-length", "5")
                    .header("upload-metadata", "path L3RtcC9h");
            }
            "get_upload" | "delete_upload" => return request.header("tus-resumable", "1.0.0"),
            "write_upload" => {
                return request
                    .header("tus-resumable", "1.0.0")
                    .header("upload-offset", "0")
                    .header("content-type", "application/offset+octet-stream");
            }
            "write_archive" => return request.header("content-type", "application/x-tar"),
            "import_image" => return request.body("an archive"),
            "write_file" | "stream_write_file" => return request_with_form(request),
            "create_sandbox" => format!(r#"{{"template": "{SNAPSHOT}"}}"#),
            "create_snapshot" => format!(r#"{{"sandbox_id": "{sandbox}"}}"#),
            "exec" | "start_command" => r#"{"cmd": "echo"}"#.to_owned(),
            "signal_command" => r#"{"signal": "SIGTERM"}"#.to_owned(),
            "resize_command" => r#"{"cols": 80, "rows": 24}"#.to_owned(),
            "write_command_stdin" => {
                return request.header("content-type", "application/octet-stream");
            }
            "signal_exec" => r#"{"pid": 1, "signal": "SIGTERM"}"#.to_owned(),
            "move_file" => r#"{"source": "/tmp/a", "destination": "/tmp/b"}"#.to_owned(),
            "change_mode" => r#"{"path": "/tmp", "mode": "0755"}"#.to_owned(),
            "search_files" => r#"{"path": "/tmp", "name": "*"}"#.to_owned(),
            "change_owner" => r#"{"path": "/tmp", "owner": "root"}"#.to_owned(),
            "pull_image" => r#"{"reference": "alpine"}"#.to_owned(),
            "create_port_link" => r#"{"port": 3000}"#.to_owned(),
            "set_network" | "update_sandbox" | "fork_sandbox" | "create_checkpoint"
            | "undo_sandbox" => "{}".to_owned(),
            "create_webhook" => r#"{"url": "https://example.com/"}"#.to_owned(),
            "update_webhook" => "{}".to_owned(),
            "set_auto_checkpoint" => r#"{"before_each_command": true}"#.to_owned(),
            _ if self.path.contains("/files/") && self.method == Method::POST => {
                r#"{"path": "/tmp"}"#.to_owned()
            }
            _ => return request,
        };
        request
            .header("content-type", "application/json")
            .body(body)
    }
}

fn request_with_form(request: RequestBuilder) -> RequestBuilder {
    let part = |name: &str, text: &str| {
        format!("--x\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n")
    };
    let form = format!("{}{}--x--\r\n", part("path", "/tmp/a"), part("file", "a"));
    request
        .header("content-type", "multipart/form-data; boundary=x")
        .body(form)
}

async fn key(plane: &Plane, team: &str, scopes: Scopes) -> String {
    let team: TeamId = team.parse().unwrap();
    let created = auth::create_team_key(&plane.store, team, scopes, "of a test").await;
    created.unwrap().1.expose()
}

/// All scopes but `missing`, and what includes it.
fn scopes_without(missing: Scope) -> Scopes {
    let all = Resource::ALL.map(|resource| [Scope::Read(resource), Scope::Write(resource)]);
    let includes = |scope: Scope| Scopes::Only([scope].into()).allows(missing);
    Scopes::Only(
        all.into_iter()
            .flatten()
            .filter(|scope| !includes(*scope))
            .collect(),
    )
}

async fn with_snapshot(plane: &Plane) -> String {
    let webhook = store::NewWebhook {
        id: WEBHOOK.parse().unwrap(),
        team_id: TeamId::default(),
        with_installation: false,
        url: "https://webhooks.invalid/".to_owned(),
        description: String::new(),
        kinds: Vec::new(),
        secret: "whsec_c2VjcmV0".to_owned(),
        now: 1,
    };
    assert!(plane.store.webhook_insert(&webhook, 1).await.unwrap());
    let id = plane.create().await.id;
    let body = format!(r#"{{"sandbox_id": "{id}", "name": "{SNAPSHOT}"}}"#);
    let made = plane.post("/v1/snapshots", body).send().await.unwrap();
    assert_eq!(made.status(), 201);
    id
}

#[tokio::test]
async fn every_operation_hides_other_teams() {
    let (_host, _ground, plane) = one().await;
    let id = with_snapshot(&plane).await;
    let stranger = key(&plane, "strangers", Scopes::Admin).await;
    for operation in Operation::all(&plane).await {
        let request = operation.request(&plane, &stranger, &id);
        let name = &operation.id;
        if STREAMS.contains(&name.as_str()) {
            continue;
        }
        if CREATES.contains(&name.as_str()) {
            // The answer of a pull begins before there is an image.
            let made = if name == "pull_image" { 200 } else { 201 };
            assert_eq!(request.send().await.unwrap().status(), made, "{name}");
            continue;
        }
        if LISTS.contains(&name.as_str()) {
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 200, "{name}");
            let listed = answer.text().await.unwrap();
            assert!(
                !listed.contains(&id) && !listed.contains(SNAPSHOT) && !listed.contains(WEBHOOK),
                "{name}: {listed}"
            );
            continue;
        }
        if operation.method == Method::HEAD {
            // Has no body.
            assert_eq!(request.send().await.unwrap().status(), 404, "{name}");
            continue;
        }
        let message = refused(request, 404, "not_found").await;
        let is_unknown = [
            format!("there is no sandbox {id}"),
            format!("there is no snapshot {SNAPSHOT}"),
            format!("there is no template {SNAPSHOT}"),
            format!("there is no image {SNAPSHOT}"),
            format!("there is no webhook {WEBHOOK}"),
        ];
        assert!(
            is_unknown.iter().any(|text| message.starts_with(text)),
            "{name}: {message}"
        );
    }
    // The owner has everything as it was.
    let webhook = plane.client().webhook(WEBHOOK).await.unwrap();
    assert!(webhook.enabled && webhook.previous_secret_expires_at.is_none());
    let sandbox = plane.client().get(&id).await.unwrap();
    assert_eq!(sandbox.status, api_types::SandboxStatus::Running);
    let path = format!("/v1/snapshots/{SNAPSHOT}");
    let snapshot = plane.request(Method::GET, &path).send().await.unwrap();
    assert_eq!(snapshot.status(), 200);
}

#[tokio::test]
async fn every_operation_needs_its_scope() {
    let (_host, _ground, plane) = one().await;
    let id = with_snapshot(&plane).await;
    for operation in Operation::all(&plane).await {
        let scope = operation.scope();
        let without = key(&plane, TeamId::DEFAULT, scopes_without(scope)).await;
        let request = operation.request(&plane, &without, &id);
        if operation.method == Method::HEAD {
            assert_eq!(request.send().await.unwrap().status(), 403);
        } else {
            let message = refused(request, 403, "forbidden").await;
            assert!(message.contains(&scope.to_string()), "{message}");
        }
        let more = MORE_SCOPES.iter().filter(|(id, _)| *id == operation.id);
        let more: Vec<Scope> = more.map(|(_, scope)| scope.parse().unwrap()).collect();
        for scope in &more {
            let without = key(&plane, TeamId::DEFAULT, scopes_without(*scope)).await;
            let request = operation.request(&plane, &without, &id);
            let message = refused(request, 403, "forbidden").await;
            assert!(message.contains(&scope.to_string()), "{message}");
        }
        let scopes = std::iter::once(scope).chain(more).collect();
        let with = key(&plane, TeamId::DEFAULT, Scopes::Only(scopes)).await;
        let request = operation.request(&plane, &with, &id);
        let status = request.send().await.unwrap().status();
        assert!(
            ![400, 401, 403].contains(&status.as_u16()),
            "{}: {status}",
            operation.id
        );
    }
}

#[tokio::test]
async fn create_with_rules_needs_network_scope() {
    let (_host, _ground, plane) = one().await;
    let scopes = "sandboxes:write".parse().unwrap();
    let key = key(&plane, TeamId::DEFAULT, scopes).await;
    let create = |body: &'static str| {
        plane
            .bare(Method::POST, "/v1/sandboxes")
            .header("x-api-key", &key)
            .header("content-type", "application/json")
            .body(body)
    };
    let rules = r#"{"network": {"allow_internet": false}}"#;
    let message = refused(create(rules), 403, "forbidden").await;
    assert!(message.contains("network:write"), "{message}");
    assert_eq!(create("{}").send().await.unwrap().status(), 201);
}

#[tokio::test]
async fn port_hides_from_keys_of_strangers() {
    let (_host, _ground, plane, id) = with_server().await;
    let get = |key: String| {
        let path = format!("/v1/sandboxes/{id}/ports/{PORT}/");
        plane.bare(Method::GET, &path).header("x-api-key", key)
    };
    let stranger = key(&plane, "strangers", Scopes::Admin).await;
    let answer = get(stranger).send().await.unwrap();
    assert_eq!(answer.status(), 502);
    let text = answer.text().await.unwrap();
    assert!(text.contains("there is no sandbox"), "{text}");
    let reader = key(&plane, TeamId::DEFAULT, "sandboxes:read".parse().unwrap()).await;
    assert_eq!(get(reader).send().await.unwrap().status(), 403);
    assert_eq!(get(plane.key.clone()).send().await.unwrap().status(), 200);
}
