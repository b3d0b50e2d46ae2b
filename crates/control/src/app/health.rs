//! Whether users can work.

use std::time::Duration;

use super::App;

/// For the store to answer.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

impl App {
    /// Everything that is not well, in words for the operator; empty when all is.
    pub async fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        match tokio::time::timeout(STORE_TIMEOUT, self.store.key_count()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => complaints.push(format!("the store fails: {error}")),
            Err(_) => complaints.push("the store does not answer".to_owned()),
        }
        let silent = self
            .hosts
            .all()
            .iter()
            .filter_map(|host| Some((host.url(), host.state().err()?)));
        complaints.extend(
            silent.map(|(url, why)| format!("no reports from the host agent at {url}: {why}")),
        );
        if self.hosts.all().is_empty() {
            complaints.push("no host is configured".to_owned());
        }
        complaints
    }
}
