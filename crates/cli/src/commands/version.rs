//! `wrenn version`: this command's, and the server's where one answers.

use std::time::Duration;

use super::Session;
use crate::output;

/// A version is not worth a longer wait.
const PATIENCE: Duration = Duration::from_secs(2);

pub async fn print_versions(session: Option<Session>, json: bool) -> anyhow::Result<()> {
    let client = env!("CARGO_PKG_VERSION");
    let server = match session {
        Some(session) => tokio::time::timeout(PATIENCE, session.client.health())
            .await
            .ok()
            .and_then(Result::ok),
        None => None,
    };
    let server = server.map(|health| health.version);
    if json {
        return output::print_json(&serde_json::json!({"client": client, "server": server}));
    }
    let server = server.unwrap_or_else(|| "none answers; start one with `wrenn up`".to_owned());
    output::print_line(&format!(
        "client  {client}\nserver  {}",
        output::printable(&server)
    ))
}
