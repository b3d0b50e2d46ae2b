//! Health of the control plane, its store and its hosts.

use std::time::Duration;

use super::App;

/// Time for the store to answer.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

impl App {
    /// Asks the store for something small. Returns what is wrong with it.
    pub(crate) async fn ping_store(&self) -> Result<(), String> {
        match tokio::time::timeout(STORE_TIMEOUT, self.store.key_count()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("the store fails: {error}")),
            Err(_) => Err("the store does not answer".to_owned()),
        }
    }

    /// Returns true if requests are to be sent here: it is not about to end, and the store answers.
    pub async fn is_ready(&self) -> bool {
        !self.draining.is_cancelled() && self.ping_store().await.is_ok()
    }

    /// Returns all problems, in words for the operator; empty if all is well. Needs no key.
    pub async fn find_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        problems.extend(self.ping_store().await.err());
        let silent = self
            .hosts
            .all()
            .iter()
            .filter_map(|host| Some((host.url(), host.check_up().err()?)));
        problems.extend(
            silent.map(|(url, why)| format!("no reports from the host agent at {url}: {why}")),
        );
        if self.hosts.all().is_empty() {
            problems.push("no host is configured".to_owned());
        }
        problems
    }
}
