//! Tools about files.

use client::types::{FileInfo, ListFilesRequest, PathRequest, SearchFilesRequest, SearchMessage};
use client::{Client, FileTarget};
use futures::StreamExt;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::CallToolResult;
use rmcp::{tool, tool_router};
use serde_json::{Value, json};

use crate::arguments as args;
use crate::failure::{Answer, Failure, text};
use crate::file_text::{LineRange, replace};
use crate::server::SandboxServer;
use crate::text::{MAX_TEXT, drop_excess};
use crate::whole_file::read_whole;

/// Lines of an answer where it is not said.
const LINES: u64 = 1000;
/// Entries of a page of a list.
const ENTRIES: u32 = 200;
/// Matches of a search where it is not said, and at most.
const MATCHES: u32 = 100;
const MAX_MATCHES: u32 = 1000;

#[tool_router(router = file_tools, vis = "pub(crate)")]
impl SandboxServer {
    /// Read a text file of a sandbox, or some lines of it.
    #[tool(annotations(title = "Read a file", read_only_hint = true))]
    async fn read_file(&self, Parameters(args): Parameters<args::ReadFile>) -> Answer {
        let id = self.session.resolve(args.sandbox.as_deref()).await?;
        let path = path_request(&args.path, args.user);
        let mut content = self.session.client()?.read_file(&id, &path).await?;
        let first = args.line.unwrap_or(1).max(1);
        let mut range = LineRange::new(first, args.lines.unwrap_or(LINES).max(1));
        while let Some(bytes) = content.next().await {
            if !range.push(&bytes?) {
                break;
            }
        }
        let Some(lines) = range.finish() else {
            return Err(Failure::new(format!(
                "{} is not text; look at it with run_command (file, xxd, strings)",
                args.path
            )));
        };
        Ok(text(match lines.next_line {
            Some(next) if lines.is_cut => format!(
                "{}\n[… the rest of this long line is left out: see run_command with cut -c; more from line {next} on …]",
                lines.text
            ),
            Some(next) => format!("{}\n[… more from line {next} on …]", lines.text),
            None if lines.text.is_empty() && first > 1 => {
                format!("[the file ends before line {first}]")
            }
            None if lines.text.is_empty() => "[the file is empty]".to_owned(),
            None => lines.text,
        }))
    }

    /// Write a text file of a sandbox. The old file stays until the new one is complete.
    #[tool(annotations(
        title = "Write a file",
        destructive_hint = true,
        idempotent_hint = true
    ))]
    async fn write_file(&self, Parameters(args): Parameters<args::WriteFile>) -> Answer {
        let id = self.session.resolve(args.sandbox.as_deref()).await?;
        let mode = args.mode.as_deref().map(parse_mode).transpose()?;
        let length = args.content.len();
        let target = FileTarget {
            path: args.path.clone(),
            user: args.user,
            mode,
        };
        write(self.session.client()?, &id, &target, args.content).await?;
        Ok(text(format!("{length} bytes are in {}", args.path)))
    }

    /// Replace text in a file of a sandbox.
    #[tool(annotations(title = "Edit a file", destructive_hint = true))]
    async fn edit_file(&self, Parameters(args): Parameters<args::EditFile>) -> Answer {
        let id = self.session.resolve(args.sandbox.as_deref()).await?;
        let client = self.session.client()?;
        let path = path_request(&args.path, args.user.clone());
        // Models send several edits at once, and each writes the whole file.
        let _turn = self.session.edits.lock().await;
        let mode = client.stat(&id, &path).await?.mode;
        let content = read_whole(client, &id, &path).await?;
        let (changed, count) = replace(&content, &args.old_text, &args.new_text, args.replace_all)
            .map_err(Failure::new)?;
        let target = FileTarget {
            path: args.path.clone(),
            user: args.user,
            mode: Some(mode & 0o7777),
        };
        write(client, &id, &target, changed).await?;
        Ok(text(format!("{count} places are changed in {}", args.path)))
    }

    /// List a directory of a sandbox.
    #[tool(annotations(title = "List files", read_only_hint = true))]
    async fn list_files(&self, Parameters(args): Parameters<args::ListFiles>) -> Answer {
        let id = self.session.resolve(args.sandbox.as_deref()).await?;
        let mut request = ListFilesRequest {
            path: args.path,
            depth: args.depth,
            user: args.user,
            limit: Some(ENTRIES),
            cursor: args.cursor,
        };
        let client = self.session.client()?;
        let mut page = client.list_files_page(&id, &request).await?;
        let mut entries: Vec<_> = page.items.iter().map(describe).collect();
        if drop_excess(&mut entries) > 0 {
            // The server's cursor is behind the last entry of its page, so that has to end here.
            request.limit = u32::try_from(entries.len()).ok();
            page = client.list_files_page(&id, &request).await?;
            entries = page.items.iter().map(describe).collect();
        }
        let mut shown = json!({ "entries": entries });
        if let Some(next) = page.next {
            shown["next_cursor"] = json!(next);
        }
        Ok(CallToolResult::structured(shown))
    }

    /// Search files of a sandbox by name, content or both. Answers as grep -rn does.
    #[tool(annotations(title = "Search files", read_only_hint = true))]
    async fn search_files(&self, Parameters(args): Parameters<args::SearchFiles>) -> Answer {
        let id = self.session.resolve(args.sandbox.as_deref()).await?;
        let request = SearchFilesRequest {
            path: args.path,
            name: args.name,
            content: args.content,
            ignore_case: args.ignore_case,
            limit: Some(args.limit.unwrap_or(MATCHES).clamp(1, MAX_MATCHES)),
            user: args.user,
            ..SearchFilesRequest::default()
        };
        let client = self.session.client()?;
        let mut messages = client.search_files(&id, &request).await?;
        let mut found = String::new();
        while let Some(message) = messages.next().await? {
            match message {
                SearchMessage::Match {
                    path, line, text, ..
                } if found.len() < MAX_TEXT => {
                    let line = line.map(|line| format!(":{line}:")).unwrap_or_default();
                    found += &format!("{path}{line}{}\n", text.unwrap_or_default());
                }
                SearchMessage::Match { .. } => {
                    found += "[… more matches; search below a narrower path …]\n";
                    return Ok(text(found));
                }
                SearchMessage::End { incomplete, .. } => {
                    if found.is_empty() {
                        found += "no match\n";
                    }
                    if let Some(reason) = incomplete {
                        found += &format!("[… there may be more: {reason} …]\n");
                    }
                    return Ok(text(found));
                }
            }
        }
        Err(client::Error::Truncated.into())
    }
}

fn path_request(path: &str, user: Option<String>) -> PathRequest {
    PathRequest {
        path: path.to_owned(),
        user,
    }
}

fn parse_mode(text: &str) -> Answer<u32> {
    let mode = u32::from_str_radix(text, 8).ok();
    mode.filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| Failure::new(format!("mode {text:?} is not octal digits such as 755")))
}

async fn write(client: &Client, id: &str, target: &FileTarget, content: String) -> Answer<()> {
    let length = content.len() as u64;
    let data = futures::stream::once(async move { Ok(content.into()) });
    Ok(client.write_file(id, target, data, Some(length)).await?)
}

fn describe(file: &FileInfo) -> Value {
    let mut shown = json!({
        "path": file.path,
        "kind": file.kind,
        "size": file.size,
        "mode": format!("{:o}", file.mode & 0o7777),
        "owner": file.owner,
        "modified_at": file.modified_at,
    });
    if let Some(target) = &file.symlink_target {
        shown["symlink_target"] = json!(target);
    }
    shown
}
