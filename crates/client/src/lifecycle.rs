//! Pause, resume, fork, checkpoints and snapshots.

use api_types::{
    Checkpoint, CreateCheckpoint, CreateSnapshot, ForkSandbox, NetworkRules, Sandbox, Template,
};
use reqwest::Method;

use crate::connection::Client;
use crate::error::Result;

impl Client {
    /// Pauses a sandbox: saves memory and disk and ends the machine. A paused sandbox stays paused.
    pub async fn pause(&self, id: &str) -> Result<Sandbox> {
        self.send_json(self.request(Method::POST, self.route(&["v1", "sandboxes", id, "pause"])))
            .await
    }

    /// Resumes a paused sandbox. A running sandbox runs on.
    pub async fn resume(&self, id: &str) -> Result<Sandbox> {
        self.send_json(self.request(Method::POST, self.route(&["v1", "sandboxes", id, "resume"])))
            .await
    }

    /// Replaces all rules about where a sandbox may connect to.
    pub async fn set_network(&self, id: &str, rules: &NetworkRules) -> Result<Sandbox> {
        let url = self.route(&["v1", "sandboxes", id, "network"]);
        self.send_json(self.request(Method::PUT, url).json(rules))
            .await
    }

    /// Forks a sandbox into `count` children: all of them, or none.
    pub async fn fork(&self, id: &str, count: u32) -> Result<Vec<Sandbox>> {
        let url = self.route(&["v1", "sandboxes", id, "fork"]);
        self.send_json(
            self.request(Method::POST, url)
                .json(&ForkSandbox { count: Some(count) }),
        )
        .await
    }

    /// Creates a checkpoint of a sandbox. Without a name the server gives one.
    pub async fn create_checkpoint(&self, id: &str, name: Option<&str>) -> Result<Checkpoint> {
        let url = self.route(&["v1", "sandboxes", id, "checkpoints"]);
        let body = CreateCheckpoint {
            name: name.map(str::to_owned),
        };
        self.send_json(self.request(Method::POST, url).json(&body))
            .await
    }

    /// Lists the checkpoints of a sandbox, oldest first.
    pub async fn checkpoints(&self, id: &str) -> Result<Vec<Checkpoint>> {
        self.send_json(self.request(
            Method::GET,
            self.route(&["v1", "sandboxes", id, "checkpoints"]),
        ))
        .await
    }

    /// Deletes a checkpoint of a sandbox.
    pub async fn delete_checkpoint(&self, id: &str, name: &str) -> Result<()> {
        let url = self.route(&["v1", "sandboxes", id, "checkpoints", name]);
        self.send(self.request(Method::DELETE, url)).await.map(drop)
    }

    /// Rolls a sandbox back to a checkpoint; later changes are lost. A running sandbox runs on from
    /// there, a paused one stays paused.
    pub async fn rollback(&self, id: &str, checkpoint: &str) -> Result<Sandbox> {
        let url = self.route(&["v1", "sandboxes", id, "checkpoints", checkpoint, "rollback"]);
        self.send_json(self.request(Method::POST, url)).await
    }

    /// Makes a template of a sandbox.
    pub async fn create_snapshot(&self, snapshot: &CreateSnapshot) -> Result<Template> {
        let url = self.route(&["v1", "snapshots"]);
        self.send_json(self.request(Method::POST, url).json(snapshot))
            .await
    }

    /// Lists the templates that were made of sandboxes, by name.
    pub async fn snapshots(&self) -> Result<Vec<Template>> {
        self.send_json(self.request(Method::GET, self.route(&["v1", "snapshots"])))
            .await
    }

    /// Gets the template of that name that was made of a sandbox.
    pub async fn snapshot(&self, name: &str) -> Result<Template> {
        self.send_json(self.request(Method::GET, self.route(&["v1", "snapshots", name])))
            .await
    }

    /// Deletes a snapshot. The server refuses while sandboxes use it, with their ids.
    pub async fn delete_snapshot(&self, name: &str) -> Result<()> {
        self.send(self.request(Method::DELETE, self.route(&["v1", "snapshots", name])))
            .await
            .map(drop)
    }
}
