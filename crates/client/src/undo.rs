//! Automatic checkpoints, and going back in their history.

use api_types::{AutoCheckpoint, History, UndoSandbox, Undone};
use reqwest::Method;

use crate::connection::Client;
use crate::error::Result;

impl Client {
    /// Sets when checkpoints are made automatically; `None`: never.
    pub async fn set_auto_checkpoint(
        &self,
        id: &str,
        policy: Option<&AutoCheckpoint>,
    ) -> Result<()> {
        let url = self.route(&["v1", "sandboxes", id, "auto-checkpoint"]);
        let request = match policy {
            Some(policy) => self.request(Method::PUT, url).json(policy),
            None => self.request(Method::DELETE, url),
        };
        self.send(request).await.map(drop)
    }

    /// Returns where an undo of a sandbox goes, and the policy that makes its steps.
    pub async fn history(&self, id: &str) -> Result<History> {
        self.send_json(self.request(Method::GET, self.route(&["v1", "sandboxes", id, "undo"])))
            .await
    }

    /// Saves the state of a sandbox as a checkpoint, and rolls it back.
    pub async fn undo(&self, id: &str, undo: &UndoSandbox) -> Result<Undone> {
        let url = self.route(&["v1", "sandboxes", id, "undo"]);
        self.send_json(self.request(Method::POST, url).json(undo))
            .await
    }
}
