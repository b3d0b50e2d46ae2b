//! Tools about states that can be gone back to, copies, and ports.

use client::types::{CreateSnapshot, PortLinkRequest};
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::CallToolResult;
use rmcp::{tool, tool_router};
use serde_json::json;

use crate::arguments as args;
use crate::failure::{Answer, Failure, text};
use crate::sandboxes::describe;
use crate::server::SandboxServer;

/// Most copies of one call.
const MAX_FORKS: u32 = 8;

#[tool_router(router = state_tools, vis = "pub(crate)")]
impl SandboxServer {
    /// Save the present state of a sandbox, memory and files, to which roll_back returns.
    #[tool(annotations(title = "Create a checkpoint", destructive_hint = false))]
    async fn create_checkpoint(
        &self,
        Parameters(args): Parameters<args::CreateCheckpoint>,
    ) -> Answer {
        let id = self.session.resolve(args.sandbox.as_deref()).await?;
        let client = self.session.client()?;
        let made = client.create_checkpoint(&id, args.name.as_deref()).await?;
        Ok(CallToolResult::structured(
            json!({ "checkpoint": made.name }),
        ))
    }

    /// List the checkpoints of a sandbox, oldest first.
    #[tool(annotations(title = "List checkpoints", read_only_hint = true))]
    async fn list_checkpoints(&self, Parameters(args): Parameters<args::Sandbox>) -> Answer {
        let id = self.session.resolve(args.sandbox.as_deref()).await?;
        let checkpoints = self.session.client()?.checkpoints(&id).await?;
        let shown: Vec<_> = checkpoints
            .iter()
            .map(|point| json!({ "name": point.name, "created_at": point.created_at }))
            .collect();
        Ok(CallToolResult::structured(json!({ "checkpoints": shown })))
    }

    /// Roll a sandbox back to a checkpoint: processes and files are as they were then; what was
    /// done since is lost.
    #[tool(annotations(title = "Roll back to a checkpoint", destructive_hint = true))]
    async fn roll_back(&self, Parameters(args): Parameters<args::RollBack>) -> Answer {
        let id = self.session.resolve(args.sandbox.as_deref()).await?;
        let client = self.session.client()?;
        client.rollback(&id, &args.checkpoint).await?;
        Ok(text(format!("{id} is as it was at {}", args.checkpoint)))
    }

    /// Copy a running sandbox with its memory and files, to try several things from one state.
    #[tool(annotations(title = "Fork a sandbox", destructive_hint = false))]
    async fn fork_sandbox(&self, Parameters(args): Parameters<args::Fork>) -> Answer {
        let id = self.session.resolve(args.sandbox.as_deref()).await?;
        let count = args.count.unwrap_or(1);
        if !(1..=MAX_FORKS).contains(&count) {
            return Err(Failure::new(format!("count must be 1 to {MAX_FORKS}")));
        }
        let keep = args.keep || self.session.keeps_all();
        let children = self.session.client()?.fork(&id, count).await?;
        children
            .iter()
            .for_each(|child| self.session.note(&child.id, keep));
        let mut shown = Vec::new();
        for child in children {
            let child = match keep {
                true => self.session.keep(&child.id).await?,
                false => self.session.limit_life(&child.id).await?,
            };
            shown.push(describe(&self.session, &child));
        }
        Ok(CallToolResult::structured(json!({ "sandboxes": shown })))
    }

    /// Make a template of a sandbox, from which create_sandbox makes new ones. Templates stay when
    /// the session ends.
    #[tool(annotations(title = "Create a template", destructive_hint = false))]
    async fn create_template(&self, Parameters(args): Parameters<args::CreateTemplate>) -> Answer {
        let sandbox_id = self.session.resolve(args.sandbox.as_deref()).await?;
        let request = CreateSnapshot {
            sandbox_id,
            name: Some(args.name),
            memory: args.memory,
            overwrite: None,
        };
        let template = self.session.client()?.create_snapshot(&request).await?;
        Ok(CallToolResult::structured(
            json!({ "template": template.name }),
        ))
    }

    /// Get an address under which a server in the sandbox is reached from outside, for the user's
    /// browser.
    #[tool(annotations(title = "Expose a port", destructive_hint = false))]
    async fn expose_port(&self, Parameters(args): Parameters<args::ExposePort>) -> Answer {
        let id = self.session.resolve(args.sandbox.as_deref()).await?;
        let request = PortLinkRequest {
            port: args.port,
            expires_in_sec: args.expires_in_sec,
        };
        let link = self.session.client()?.port_link(&id, &request).await?;
        Ok(CallToolResult::structured(
            json!({ "url": link.url, "expires_at": link.expires_at }),
        ))
    }
}
