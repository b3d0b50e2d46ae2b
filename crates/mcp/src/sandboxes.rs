//! Tools about sandboxes as a whole.

use client::SandboxFilter;
use client::types::{CreateSandbox, Sandbox};
use futures::future::join_all;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::CallToolResult;
use rmcp::{tool, tool_router};
use serde_json::{Value, json};

use crate::arguments as args;
use crate::failure::{Answer, text};
use crate::server::SandboxServer;
use crate::session::{LABEL, Session, TEMPORARY};
use crate::text::bounded_list;

#[tool_router(router = sandbox_tools, vis = "pub(crate)")]
impl SandboxServer {
    /// Create a sandbox: a Linux virtual machine of its own. Answers with its id when it runs.
    #[tool(annotations(title = "Create a sandbox", destructive_hint = false))]
    async fn create_sandbox(&self, Parameters(args): Parameters<args::Create>) -> Answer {
        let spec = CreateSandbox {
            template: args.template,
            name: args.name,
            vcpus: args.vcpus,
            memory_mb: args.memory_mb,
            disk_mb: args.disk_mb,
            envs: args.env,
            timeout_sec: args.idle_timeout_sec,
            ..CreateSandbox::default()
        };
        let sandbox = self.session.create(spec, args.keep).await?;
        Ok(CallToolResult::structured(describe(
            &self.session,
            &sandbox,
        )))
    }

    /// List the sandboxes of this session with their states.
    #[tool(annotations(title = "List sandboxes", read_only_hint = true))]
    async fn list_sandboxes(&self) -> Answer {
        let client = self.session.client()?;
        if !self.session.has_memory() {
            let all = client.list_matching(&of_tools()).await?;
            let shown = all.iter().map(|one| describe(&self.session, one));
            let shown = bounded_list("sandboxes", shown.collect());
            return Ok(CallToolResult::structured(shown));
        }
        let ids = self.session.ids();
        let found = join_all(ids.iter().map(|id| client.get(id))).await;
        let mut sandboxes = Vec::new();
        for (id, found) in ids.iter().zip(found) {
            sandboxes.push(match found {
                Ok(sandbox) => describe(&self.session, &sandbox),
                Err(error) if error.is_not_found() => json!({ "id": id, "status": "deleted" }),
                Err(error) => return Err(error.into()),
            });
        }
        Ok(CallToolResult::structured(bounded_list(
            "sandboxes",
            sandboxes,
        )))
    }

    /// List the templates that sandboxes can be created from.
    #[tool(annotations(title = "List templates", read_only_hint = true))]
    async fn list_templates(&self) -> Answer {
        let templates = self.session.client()?.templates().await?;
        let shown = templates
            .iter()
            .map(|template| json!({ "name": template.name, "type": template.kind }));
        let shown = bounded_list("templates", shown.collect());
        Ok(CallToolResult::structured(shown))
    }

    /// Use a sandbox that exists already in this session. Only for one that the user named. It is
    /// not deleted at the end.
    #[tool(annotations(title = "Use an existing sandbox", destructive_hint = false))]
    async fn attach_sandbox(&self, Parameters(args): Parameters<args::Attach>) -> Answer {
        let sandbox = self.session.attach(&args.sandbox).await?;
        Ok(CallToolResult::structured(describe(
            &self.session,
            &sandbox,
        )))
    }

    /// Keep a sandbox when this session ends. It is paused when it is idle, and resumed by its next
    /// use.
    #[tool(annotations(
        title = "Keep a sandbox",
        destructive_hint = false,
        idempotent_hint = true
    ))]
    async fn keep_sandbox(&self, Parameters(args): Parameters<args::Sandbox>) -> Answer {
        let id = self.session.resolve(args.sandbox.as_deref()).await?;
        let sandbox = self.session.keep(&id).await?;
        Ok(CallToolResult::structured(describe(
            &self.session,
            &sandbox,
        )))
    }

    /// Delete a sandbox with everything in it.
    #[tool(annotations(title = "Delete a sandbox", destructive_hint = true))]
    async fn delete_sandbox(&self, Parameters(args): Parameters<args::Sandbox>) -> Answer {
        let id = self.session.resolve(args.sandbox.as_deref()).await?;
        self.session.delete(&id).await?;
        Ok(text(format!("{id} is deleted")))
    }
}

/// Returns the filter of sandboxes that tools made and that are not kept.
fn of_tools() -> SandboxFilter {
    SandboxFilter {
        labels: vec![format!("{LABEL}={TEMPORARY}")],
        ..SandboxFilter::default()
    }
}

/// Returns what a model needs to know of a sandbox.
pub(crate) fn describe(session: &Session, sandbox: &Sandbox) -> Value {
    let mut shown = json!({
        "id": sandbox.id,
        "status": sandbox.status,
        "template": sandbox.template,
        "vcpus": sandbox.vcpus,
        "memory_mb": sandbox.memory_mb,
    });
    if session.has_memory() {
        shown["deleted_at_end_of_session"] = json!(session.is_temporary(&sandbox.id));
    }
    let more = [
        ("name", &sandbox.name),
        ("reason", &sandbox.reason),
        ("ends_at", &sandbox.ends_at),
    ];
    for (key, value) in more {
        if let Some(value) = value {
            shown[key] = json!(value);
        }
    }
    shown
}
