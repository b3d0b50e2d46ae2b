//! `wrenn fs`: files in a sandbox.

use client::types::{
    ChmodRequest, ChownRequest, FileInfo, FileKind, ListFilesRequest, MoveFileRequest, PathRequest,
};

use super::fs_path::path_of;
use super::{Session, fs_search, fs_watch};
use crate::args::{
    FsArgs, FsChmodArgs, FsChownArgs, FsCommand, FsLsArgs, FsMkdirArgs, FsMvArgs, FsRmArgs,
    FsStatArgs,
};
use crate::copy::{describe_path, name_of};
use crate::failure::usage_error;
use crate::ids;
use crate::output::{self, printable, printable_json};
use crate::values::escape_bytes;

/// Runs the command and gives the exit code.
pub async fn manage_files(session: &Session, args: FsArgs) -> anyhow::Result<u8> {
    let done = match args.command {
        FsCommand::Ls(args) => list_directory(session, args).await,
        FsCommand::Stat(args) => show_path(session, args).await,
        FsCommand::Mkdir(args) => make_directories(session, args).await,
        FsCommand::Rm(args) => remove_paths(session, args).await,
        FsCommand::Mv(args) => move_paths(session, args).await,
        FsCommand::Chmod(args) => change_modes(session, args).await,
        FsCommand::Chown(args) => change_owners(session, args).await,
        FsCommand::Find(args) => fs_search::find_files(session, args).await,
        FsCommand::Grep(args) => return fs_search::find_lines(session, args).await,
        FsCommand::Watch(args) => fs_watch::watch_directory(session, args).await,
    };
    done.map(|()| 0)
}

async fn list_directory(session: &Session, args: FsLsArgs) -> anyhow::Result<()> {
    let Session { client, json } = session;
    let id = ids::resolve_id(client, &args.target.id).await?;
    let PathRequest { path, user } = path_of(args.path, &args.target);
    let top = client
        .stat(
            &id,
            &PathRequest {
                path: path.clone(),
                user: user.clone(),
            },
        )
        .await?
        .path;
    let mut request = ListFilesRequest {
        path,
        depth: Some(args.depth),
        user,
        limit: None,
        cursor: None,
    };
    // Page by page, so that the sandbox does not decide how much memory this takes.
    let mut separator = "[\n";
    loop {
        let page = client.list_files_page(&id, &request).await?;
        let mut text = String::new();
        for entry in &page.items {
            if *json {
                text.push_str(separator);
                text.push_str(&printable_json(&serde_json::to_string(entry)?));
                separator = ",\n";
            } else {
                text.push_str(&line(&top, entry, args.long));
                text.push('\n');
            }
        }
        output::print_raw(text.as_bytes())?;
        request.cursor = page.next;
        if request.cursor.is_none() {
            break;
        }
    }
    match (json, separator) {
        (true, ",\n") => output::print_line("\n]"),
        (true, _) => output::print_line("[]"),
        _ => Ok(()),
    }
}

/// Returns an entry by its path below the listed directory.
fn line(top: &str, entry: &FileInfo, long: bool) -> String {
    let below = entry.path.strip_prefix(top);
    let name = below.map_or(entry.path.as_str(), |name| name.trim_start_matches('/'));
    let name = printable(name);
    if !long {
        return name.into_owned();
    }
    let kind = match entry.kind {
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::File => '-',
        FileKind::Other => '?',
    };
    let link = entry.symlink_target.as_deref();
    let link = link.map_or(String::new(), |target| format!(" -> {}", printable(target)));
    format!(
        "{kind}{} {:<8} {:<8} {:>10} {} {name}{link}",
        permissions(entry.mode),
        printable(&entry.owner),
        printable(&entry.group),
        entry.size,
        printable(&entry.modified_at),
    )
}

fn permissions(mode: u32) -> String {
    let bit = |n: u32| {
        if mode >> n & 1 == 1 {
            ['x', 'w', 'r'][n as usize % 3]
        } else {
            '-'
        }
    };
    (0..9).rev().map(bit).collect()
}

async fn show_path(session: &Session, args: FsStatArgs) -> anyhow::Result<()> {
    let id = ids::resolve_id(&session.client, &args.target.id).await?;
    let path = path_of(args.path, &args.target);
    let entry = session.client.stat(&id, &path).await?;
    if session.json {
        return output::print_json(&entry);
    }
    output::print_line(&line("", &entry, true))
}

async fn make_directories(session: &Session, args: FsMkdirArgs) -> anyhow::Result<()> {
    let client = &session.client;
    let id = ids::resolve_id(client, &args.target.id).await?;
    for path in args.paths {
        let path = path_of(path, &args.target);
        match client.make_dir(&id, &path).await {
            Err(error) if args.parents && error.is_conflict() => {
                let there = client.stat(&id, &path).await?;
                if there.kind != FileKind::Directory {
                    return Err(error.into());
                }
            }
            made => made?,
        }
    }
    Ok(())
}

async fn remove_paths(session: &Session, args: FsRmArgs) -> anyhow::Result<()> {
    let client = &session.client;
    let id = ids::resolve_id(client, &args.target.id).await?;
    for path in args.paths {
        let path = path_of(path, &args.target);
        let there = match client.stat(&id, &path).await {
            // Of the file, or of the sandbox?
            Err(error) if args.force && error.is_not_found() => {
                client.get(&id).await?;
                continue;
            }
            there => there?,
        };
        if there.kind == FileKind::Directory && !args.recursive {
            return Err(usage_error(format!(
                "{} is a directory: remove it with everything in it by -r",
                printable(&path.path)
            )));
        }
        client.remove_file(&id, &path).await?;
    }
    Ok(())
}

async fn move_paths(session: &Session, args: FsMvArgs) -> anyhow::Result<()> {
    let client = &session.client;
    let id = ids::resolve_id(client, &args.target.id).await?;
    let mut paths = args.paths;
    let Some(to) = paths.pop() else {
        return Err(usage_error("say what to move, and where to"));
    };
    let to = path_of(to, &args.target);
    let there = describe_path(client, &id, &to).await?;
    let into = there.is_some_and(|there| there.kind == FileKind::Directory);
    if !into && (paths.len() > 1 || to.path.ends_with('/')) {
        return Err(usage_error(format!(
            "{} is no directory to move things into",
            printable(&to.path)
        )));
    }
    let mut moved = Vec::new();
    for path in paths {
        let source = escape_bytes(path);
        let destination = match (into, name_of(&source).map(escape_bytes)) {
            (false, _) => to.path.clone(),
            (true, Some(name)) => format!("{}/{name}", to.path.trim_end_matches('/')),
            (true, None) => {
                return Err(usage_error(format!(
                    "{} has no name that it could have elsewhere",
                    printable(&source)
                )));
            }
        };
        let request = MoveFileRequest {
            source,
            destination,
            overwrite: !args.no_clobber,
            user: to.user.clone(),
        };
        moved.push(client.move_file(&id, &request).await?);
    }
    print_changed(session, &moved)
}

async fn change_modes(session: &Session, args: FsChmodArgs) -> anyhow::Result<()> {
    let id = ids::resolve_id(&session.client, &args.target.id).await?;
    let mut changed = Vec::new();
    for path in args.paths {
        let PathRequest { path, user } = path_of(path, &args.target);
        let request = ChmodRequest {
            path,
            mode: args.mode.clone(),
            recursive: args.recursive,
            user,
        };
        changed.push(session.client.change_mode(&id, &request).await?);
    }
    print_changed(session, &changed)
}

async fn change_owners(session: &Session, args: FsChownArgs) -> anyhow::Result<()> {
    let id = ids::resolve_id(&session.client, &args.target.id).await?;
    let (owner, group) = match args.owner.split_once(':') {
        Some((owner, group)) => (owner, group),
        None => (args.owner.as_str(), ""),
    };
    let named = |name: &str| (!name.is_empty()).then(|| name.to_owned());
    let mut changed = Vec::new();
    for path in args.paths {
        let PathRequest { path, user } = path_of(path, &args.target);
        let request = ChownRequest {
            path,
            owner: named(owner),
            group: named(group),
            recursive: args.recursive,
            user,
        };
        changed.push(session.client.change_owner(&id, &request).await?);
    }
    print_changed(session, &changed)
}

/// Prints what is there now, where that was asked for as JSON; the Unix tools print nothing.
fn print_changed(session: &Session, changed: &[FileInfo]) -> anyhow::Result<()> {
    match session.json {
        true => output::print_json(&changed),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_read_like_ls() {
        let mut entry = FileInfo {
            path: "/srv/dir/a\u{1b}b".to_owned(),
            kind: FileKind::File,
            size: 12,
            mode: 0o754,
            owner: "user".to_owned(),
            group: "staff".to_owned(),
            modified_at: "2026-01-01T00:00:00.000Z".to_owned(),
            symlink_target: None,
        };
        assert_eq!(line("/srv", &entry, false), "dir/a\\u{1b}b");
        assert_eq!(
            line("/srv", &entry, true),
            "-rwxr-xr-- user     staff            12 2026-01-01T00:00:00.000Z dir/a\\u{1b}b"
        );
        entry.kind = FileKind::Symlink;
        entry.symlink_target = Some("../x".to_owned());
        assert!(line("", &entry, true).ends_with("srv/dir/a\\u{1b}b -> ../x"));
    }
}
