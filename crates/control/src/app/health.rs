//! Health of the control plane, its store and its hosts.

use std::time::Duration;

use super::App;

/// Time for the store to answer.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

impl App {
    /// Returns all problems, in words for the operator; empty if all is well. Needs no key.
    pub async fn find_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        match tokio::time::timeout(STORE_TIMEOUT, self.store.key_count()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => problems.push(format!("the store fails: {error}")),
            Err(_) => problems.push("the store does not answer".to_owned()),
        }
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
