//! The OpenAPI document: what utoipa collects from the handlers, and what holds for all of them,
//! said once.

use api_types::{
    AttachServerMessage, ErrorBody, ErrorDetail, ExecClientMessage, ExecServerMessage, LogEntry,
    WatchServerMessage,
};
use model::{
    DeliveryId, ErrorCode, ExecLimits, Labels, Limits, SandboxName, TemplateName, WebhookId,
};
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use super::extract::{MAX_COMMAND_REF, UPLOAD_ID_LENGTH};
use super::rate_limit;
use super::sandboxes::MAX_IDEMPOTENCY_KEY;
use crate::app::exec::{MAX_CWD, MAX_USER};

/// Operations whose body says nothing that has no default.
const OPTIONAL_BODIES: [&str; 4] = [
    "fork_sandbox",
    "create_checkpoint",
    "undo_sandbox",
    "rotate_webhook_secret",
];
/// Name of a background command, which is no pid.
const COMMAND_NAME: &str = "^[A-Za-z][A-Za-z0-9._-]{0,62}$";
/// Text that the kernel takes as a whole.
const NO_NUL: &str = "^[^\\u0000]*$";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Wrenn Sandbox",
        description = "Runs untrusted code in microVMs. Every route but those of the tag `server` needs an API key. \
            [/test](/test) is a console to try it with.\n\n\
            Everything below `/v1/sandboxes` is also there below `/v1/capsules`; what the original's later API has of \
            it has that one's forms and defaults there.\n\n\
            HTTP, WebSocket included, to a port of a sandbox: any method at `http://{port}-{id}.{domain}/`, at \
            `/v1/sandboxes/{id}/ports/{port}/` on this server, or anywhere on it with the headers `E2b-Sandbox-Id` and \
            `E2b-Sandbox-Port`. It needs an API key or a signed URL (`POST /v1/sandboxes/{id}/port-links`), \
            unless the sandbox has `public_ports`.\n\n\
            A key belongs to a team and has scopes; what belongs to another team is answered with 404.",
    ),
    tags(
        (name = "sandboxes", description = "Create, get, list, pause, resume, fork and delete them"),
        (name = "checkpoints", description = "Saved states that a sandbox can be rolled back to"),
        (name = "commands", description = "Run commands in them"),
        (name = "files", description = "Move files in and out"),
        (name = "ports", description = "Reach what listens in them"),
        (name = "events", description = "What changed, in order, as history and as it happens"),
        (name = "webhooks", description = "Receivers that events are sent to"),
        (name = "templates", description = "What sandboxes are created from, and snapshots"),
        (name = "hosts", description = "The machines that they run on"),
        (name = "disk usage", description = "What they take on the hosts' disks"),
        (name = "server", description = "Health and this document; no key needed"),
    ),
    components(schemas(
        AttachServerMessage, ErrorBody, ErrorDetail, ExecClientMessage, ExecServerMessage, LogEntry, WatchServerMessage
    )),
)]
struct Head;

/// Returns the title, the tags, and the schemas that no handler names.
#[must_use]
pub fn head() -> utoipa::openapi::OpenApi {
    Head::openapi()
}

/// Completes the handlers' document with keys, ids, common errors and limits.
#[must_use]
pub fn complete_document(document: utoipa::openapi::OpenApi, limits: &Limits) -> Value {
    let mut document = serde_json::to_value(document).unwrap_or_default();
    document["servers"] = json!([{ "url": "/", "description": "This server" }]);
    document["security"] = json!([{ "key": [] }, { "bearer": [] }]);
    document["components"]["securitySchemes"] = json!({
        "key": { "type": "apiKey", "in": "header", "name": "X-API-Key", "description": "wrn_ and 40 hex digits" },
        "bearer": { "type": "http", "scheme": "bearer", "description": "The same key" },
    });
    for (path, item) in document["paths"].as_object_mut().into_iter().flatten() {
        for operation in item.as_object_mut().into_iter().flat_map(Map::values_mut) {
            complete_operation(path, operation);
        }
    }
    limit_schemas(&mut document["components"]["schemas"], limits);
    document
}

fn complete_operation(path: &str, operation: &mut Value) {
    let needs_key = operation.get("security").is_none();
    if !needs_key {
        operation["security"] = json!([]);
    }
    let reads_json = !operation["requestBody"]["content"]["application/json"].is_null();
    let mut errors = vec![
        (400, "The request is wrong"),
        (500, "A fault of the server"),
    ];
    if needs_key {
        errors.push((401, "The key is missing or not known"));
        errors.push((403, "The key does not have the scope that this needs"));
        errors.push((429, "The key has used up a rate limit"));
        errors.push((503, "A host or the store cannot be reached, or has no room"));
    }
    if reads_json {
        errors.push((413, "The body is too large"));
        errors.push((415, "The body is not JSON by its content type"));
    }
    if path.contains('{') {
        errors.push((
            404,
            "There is no such sandbox, snapshot or webhook, or it has nothing of that path or name",
        ));
        complete_path(path, operation);
    }
    if OPTIONAL_BODIES
        .iter()
        .any(|id| operation["operationId"] == *id)
    {
        operation["requestBody"]["required"] = json!(false);
    }
    for parameter in operation
        .get_mut("parameters")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if parameter["name"] == "Idempotency-Key" {
            parameter["schema"] = json!({ "type": "string", "minLength": 1, "maxLength": MAX_IDEMPOTENCY_KEY, "pattern": "^[ -~]+$" });
        }
    }
    let Some(responses) = operation["responses"].as_object_mut() else {
        return;
    };
    for (status, description) in errors {
        responses
            .entry(status.to_string())
            .or_insert_with(|| json!({ "description": description }));
    }
    for (status, response) in responses {
        complete_error(status, response);
    }
}

/// Completes an error response with the parts that all errors of its status have in common.
fn complete_error(status: &str, response: &mut Value) {
    if status < "400" {
        return;
    }
    response["content"] =
        json!({ "application/json": { "schema": { "$ref": "#/components/schemas/ErrorBody" } } });
    if status == "401" {
        response["headers"] = json!({ "WWW-Authenticate": { "schema": { "type": "string" } } });
    }
    if status == "429" {
        response["headers"] = rate_limit::documented_headers();
    }
}

/// Adds patterns and descriptions of the path's parameters to an operation.
fn complete_path(path: &str, operation: &mut Value) {
    // The pattern of names, which ids have, too.
    let id = format!(
        "^[a-z0-9]([a-z0-9-]{{0,{}}}[a-z0-9])?$",
        SandboxName::MAX_LEN - 2
    );
    let name = format!("^[a-z0-9][a-z0-9._-]{{0,{}}}$", TemplateName::MAX_LEN - 1);
    let of_name = if path.contains("checkpoints") {
        "Name of the checkpoint"
    } else {
        "Name of the snapshot"
    };
    let command = format!("^[A-Za-z0-9][A-Za-z0-9._-]{{0,{}}}$", MAX_COMMAND_REF - 1);
    let upload = format!("^[0-9a-f]{{{UPLOAD_ID_LENGTH}}}$");
    let webhook = format!("^{}[0-9a-f]{{{}}}$", WebhookId::PREFIX, WebhookId::DIGITS);
    let delivery = format!("^[a-z0-9-]{{1,{}}}$", DeliveryId::MAX_LEN);
    let all = [
        (
            "id",
            "Id of the sandbox, or its name while it is not stopped",
            id,
        ),
        ("name", of_name, name),
        ("command", "Id, name or pid of the command", command),
        ("upload", "Id of the upload", upload),
        ("webhook", "Id of the webhook", webhook),
        (
            "delivery",
            "Id of the delivery, as in `webhook-id`",
            delivery,
        ),
    ];
    let parts = all
        .into_iter()
        .filter(|(part, ..)| path.contains(&format!("{{{part}}}")));
    let parameters = operation
        .as_object_mut()
        .map(|operation| operation.entry("parameters").or_insert(json!([])));
    if let Some(Value::Array(parameters)) = parameters {
        let described = parts.map(|(part, description, pattern)| {
            json!({
                "name": part, "in": "path", "required": true, "description": description,
                "schema": { "type": "string", "pattern": pattern },
            })
        });
        parameters.splice(0..0, described);
    }
}

/// Adds the bounds that are constants or settings, which attributes on types cannot name.
fn limit_schemas(schemas: &mut Value, limits: &Limits) {
    let codes = json!({ "enum": ErrorCode::ALL.map(ErrorCode::as_str) });
    set_bounds(schemas, "ErrorDetail", "code", codes);
    let statuses = json!({ "enum": ["ok", "degraded"] });
    set_bounds(schemas, "Health", "status", statuses);
    limit_create_schema(schemas, limits);
    limit_exec_schema(schemas);
    limit_names(schemas);
}

/// Adds `bounds` to a property of a schema, if there is one of that name.
fn set_bounds(schemas: &mut Value, schema: &str, property: &str, bounds: Value) {
    let property = schemas[schema]["properties"][property].as_object_mut();
    if let (Some(property), Value::Object(bounds)) = (property, bounds) {
        property.extend(bounds);
    }
}

fn limit_create_schema(schemas: &mut Value, limits: &Limits) {
    let maximums = [
        ("vcpus", limits.max_vcpus),
        ("memory_mb", limits.max_memory_mb),
        ("disk_mb", limits.max_disk_mb),
        ("timeout_sec", limits.max_timeout_sec),
    ];
    for (property, maximum) in maximums {
        let bounds = json!({ "maximum": maximum });
        set_bounds(schemas, "CreateSandbox", property, bounds);
    }
    let timeout = json!({ "maximum": limits.max_timeout_sec });
    set_bounds(schemas, "UpdateSandbox", "timeout_sec", timeout);
    for schema in ["CreateSandbox", "UpdateSandbox"] {
        let last = SandboxName::MAX_LEN - 2;
        let name =
            json!({ "pattern": format!("^(?!sb-)[a-z0-9]([a-z0-9-]{{0,{last}}}[a-z0-9])?$") });
        set_bounds(schemas, schema, "name", name);
        let last = Labels::MAX_KEY - 2;
        let keys =
            json!({ "pattern": format!("^[A-Za-z0-9]([A-Za-z0-9._/-]{{0,{last}}}[A-Za-z0-9])?$") });
        let count = json!({ "maxProperties": Labels::MAX_COUNT, "propertyNames": keys });
        set_bounds(schemas, schema, "labels", count);
    }
    let count = json!({ "maxProperties": Limits::MAX_ENVS });
    set_bounds(schemas, "CreateSandbox", "envs", count);
}

fn limit_exec_schema(schemas: &mut Value) {
    let most = ExecLimits::MAX_STRING_BYTES;
    let command = json!({ "minLength": 1, "maxLength": most, "pattern": NO_NUL });
    let argument = json!({ "type": "string", "maxLength": most, "pattern": NO_NUL });
    let arguments = json!({ "items": argument });
    let directory = json!({ "minLength": 1, "maxLength": MAX_CWD, "pattern": NO_NUL });
    for schema in ["ExecRequest", "StartCommand", "SupervisedCommand"] {
        set_bounds(schemas, schema, "cmd", command.clone());
        set_bounds(schemas, schema, "args", arguments.clone());
        set_bounds(schemas, schema, "cwd", directory.clone());
    }
    let name = json!({ "pattern": COMMAND_NAME });
    set_bounds(schemas, "StartCommand", "name", name.clone());
    set_bounds(schemas, "ExecRequest", "tag", name);
}

/// Adds the bounds of environment variables, users and paths, which stand in several schemas.
fn limit_names(schemas: &mut Value) {
    for schema in [
        "CreateSandbox",
        "ExecRequest",
        "StartCommand",
        "SupervisedCommand",
    ] {
        let names = json!({ "pattern": "^[^=\\u0000]+$" });
        let values = json!({ "type": "string", "pattern": NO_NUL });
        let bounds = json!({ "propertyNames": names, "additionalProperties": values });
        set_bounds(schemas, schema, "envs", bounds);
    }
    let user = json!({ "minLength": 1, "maxLength": MAX_USER, "pattern": "^[^:/\\n\\u0000]*$" });
    for schema in [
        "ExecRequest",
        "StartCommand",
        "SupervisedCommand",
        "PathRequest",
        "ListFilesRequest",
        "UploadForm",
    ] {
        set_bounds(schemas, schema, "user", user.clone());
    }
    for schema in ["PathRequest", "ListFilesRequest", "UploadForm"] {
        let path = json!({ "pattern": NO_NUL });
        set_bounds(schemas, schema, "path", path);
    }
}
