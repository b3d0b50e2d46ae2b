//! Files and logs of sandboxes as resources: `sandbox://ID/path` and `sandbox-log://ID`.

use client::types::PathRequest;
use rmcp::ErrorData;
use rmcp::model::{
    ListResourceTemplatesResult, ListResourcesResult, ReadResourceResult, Resource,
    ResourceContents, ResourceTemplate,
};

use crate::failure::{Answer, Failure};
use crate::session::Session;
use crate::text::{Excerpt, MAX_TEXT};
use crate::whole_file::read_whole;

const FILE: &str = "sandbox://";
const LOG: &str = "sandbox-log://";

/// What a resource's address names.
#[derive(Debug, PartialEq, Eq)]
enum Address {
    File { sandbox: String, path: String },
    Log { sandbox: String },
}

/// Lists the logs of the session's sandboxes. Their files are named by a template: there are too
/// many to list.
pub fn list(session: &Session) -> ListResourcesResult {
    let log = |id: String| {
        Resource::new(format!("{LOG}{id}"), format!("log of {id}"))
            .with_description("Console of the sandbox, and what its host did with it")
            .with_mime_type("text/plain")
    };
    ListResourcesResult::with_all_items(session.ids().into_iter().map(log).collect())
}

pub fn templates() -> ListResourceTemplatesResult {
    let file = ResourceTemplate::new(format!("{FILE}{{sandbox}}{{+path}}"), "file")
        .with_description("A text file of a sandbox; the path is absolute");
    let log = ResourceTemplate::new(format!("{LOG}{{sandbox}}"), "log")
        .with_description("Console of a sandbox, and what its host did with it");
    ListResourceTemplatesResult::with_all_items(vec![file, log])
}

/// Reads a resource.
///
/// # Errors
/// The address names none; the server's.
pub async fn read(session: &Session, uri: &str) -> Result<ReadResourceResult, ErrorData> {
    let not_found = |failure: Failure| ErrorData::resource_not_found(failure.0, None);
    let text = read_text(session, uri).await.map_err(not_found)?;
    let contents = ResourceContents::text(text, uri);
    Ok(ReadResourceResult::new(vec![contents]))
}

async fn read_text(session: &Session, uri: &str) -> Answer<String> {
    match parse(uri)? {
        Address::File { sandbox, path } => {
            let id = session.resolve(Some(&sandbox)).await?;
            let path = PathRequest { path, user: None };
            let content = read_whole(session.client()?, &id, &path).await?;
            let mut excerpt = Excerpt::new(MAX_TEXT);
            excerpt.push(content.as_bytes());
            Ok(excerpt.into_text())
        }
        Address::Log { sandbox } => {
            let id = session.resolve(Some(&sandbox)).await?;
            let mut entries = session.client()?.logs(&id, false).await?;
            let mut excerpt = Excerpt::new(MAX_TEXT);
            while let Some(entry) = entries.next().await? {
                excerpt.push(format!("{} {}\n", entry.time, entry.line).as_bytes());
            }
            Ok(excerpt.into_text())
        }
    }
}

fn parse(uri: &str) -> Answer<Address> {
    let unknown = || {
        Failure::new(format!(
            "{uri} is no resource here; files are {FILE}ID/path and logs {LOG}ID"
        ))
    };
    if let Some(sandbox) = uri.strip_prefix(LOG) {
        let sandbox = sandbox.trim_end_matches('/').to_owned();
        return Ok(Address::Log { sandbox });
    }
    let rest = uri.strip_prefix(FILE).ok_or_else(unknown)?;
    let (sandbox, path) = rest.split_once('/').ok_or_else(unknown)?;
    let path = percent_decoded(path).ok_or_else(unknown)?;
    Ok(Address::File {
        sandbox: sandbox.to_owned(),
        path: format!("/{path}"),
    })
}

/// Decodes `%20` and the like (RFC 3986, 2.1).
fn percent_decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_files_and_logs() {
        let file = |sandbox: &str, path: &str| Address::File {
            sandbox: sandbox.to_owned(),
            path: path.to_owned(),
        };
        assert_eq!(
            parse("sandbox://sb-1/etc/motd").unwrap(),
            file("sb-1", "/etc/motd")
        );
        assert_eq!(
            parse("sandbox://sb-1//srv/a%20b").unwrap(),
            file("sb-1", "//srv/a b")
        );
        let log = Address::Log {
            sandbox: "web".to_owned(),
        };
        assert_eq!(parse("sandbox-log://web").unwrap(), log);
        for wrong in [
            "file:///etc/passwd",
            "sandbox://sb-1",
            "sandbox://sb-1/%f",
            "sandbox://a/%ff",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
