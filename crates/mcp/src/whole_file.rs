//! Files that are in memory as a whole.

use client::Client;
use client::types::PathRequest;
use futures::StreamExt;

use crate::failure::{Answer, Failure};
use crate::file_text::MAX_FILE;

/// Reads a file as text.
pub(crate) async fn read_whole(client: &Client, id: &str, path: &PathRequest) -> Answer<String> {
    let mut content = client.read_file(id, path).await?;
    let mut bytes = Vec::new();
    while let Some(part) = content.next().await {
        bytes.extend_from_slice(&part?);
        if bytes.len() > MAX_FILE {
            return Err(Failure::new(format!(
                "{} is larger than {} MiB; change it with run_command (sed, a script)",
                path.path,
                MAX_FILE >> 20
            )));
        }
    }
    String::from_utf8(bytes).map_err(|_| {
        Failure::new(format!(
            "{} is not UTF-8 text; change it with run_command",
            path.path
        ))
    })
}
