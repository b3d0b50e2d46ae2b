//! `wrenn image`.

use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use client::types::Template;
use futures::Stream;
use model::TemplateName;
use serde_json::json;
use tokio_util::io::ReaderStream;

use super::Session;
use super::templates::print_templates;
use crate::args::{ImageArgs, ImageCommand, ImageImportArgs};
use crate::copy::{CHUNK, Failure, counted, pack};
use crate::failure::{self, Subject, usage_error};
use crate::output::{self, Progress, format_size, printable};
use crate::stdio::Stdio;

/// Endings of archives and file systems that are no part of a name.
const ENDINGS: [&str; 11] = [
    ".gz", ".zst", ".zstd", ".xz", ".tgz", ".txz", ".tar", ".oci", ".ext4", ".img", ".docker",
];

pub async fn manage_images(session: &Session, args: ImageArgs) -> anyhow::Result<u8> {
    match args.command {
        ImageCommand::Import(args) => import_image(session, args).await.map(|()| 0),
        ImageCommand::Pull(args) => super::image_pulls::pull_image(session, args)
            .await
            .map(|()| 0),
        ImageCommand::Ls => list_images(session).await.map(|()| 0),
        ImageCommand::Inspect { names } => inspect_images(session, names).await,
        ImageCommand::Prune { dry_run } => prune_images(session, dry_run).await,
        ImageCommand::Rm { names } => remove_images(session, names).await,
    }
}

async fn import_image(session: &Session, args: ImageImportArgs) -> anyhow::Result<()> {
    let source = &args.source;
    let name = match args.name {
        Some(name) => name,
        None => name_of_file(source)?,
    };
    let template = if source.as_os_str() == "-" {
        let input = Stdio::stdin()?.into_stream();
        send_archive(session, &name, input, None).await
    } else {
        let facts = tokio::fs::metadata(source).await;
        let facts = facts.with_context(|| format!("{} cannot be read", source.display()))?;
        if facts.is_dir() {
            send_layout(session, &name, source).await
        } else {
            let file = tokio::fs::File::open(source).await;
            let file = file.with_context(|| format!("{} cannot be read", source.display()))?;
            let length = facts.is_file().then_some(facts.len());
            let archive = ReaderStream::with_capacity(file, CHUNK);
            send_archive(session, &name, archive, length).await
        }
    };
    let template = template?;
    if session.json {
        output::print_json(&template)
    } else {
        output::print_line(&printable(&template.name))
    }
}

async fn send_archive<S>(
    session: &Session,
    name: &str,
    archive: S,
    length: Option<u64>,
) -> anyhow::Result<Template>
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    let progress = Arc::new(Progress::bytes(length, session.json));
    let failure = Failure::default();
    let archive = counted(failure.watch(archive), &progress);
    let imported = session.client.import_image(name, archive).await;
    // When reading here failed, the import failed only because of that.
    failure
        .take()
        .map_or(Ok(()), |error| Err(error).context("reading the image"))?;
    Ok(imported?)
}

async fn send_layout(session: &Session, name: &str, dir: &Path) -> anyhow::Result<Template> {
    if !dir.join("oci-layout").exists() {
        return Err(usage_error(format!(
            "{} is no OCI layout; pack a root file system first, which keeps owners and attributes: tar --xattrs \
             --numeric-owner -C {0} -c . | wrenn image import - --name NAME",
            dir.display()
        )));
    }
    let progress = Arc::new(Progress::bytes(None, session.json));
    let (packing, archive) = pack(dir.to_owned());
    let imported = session
        .client
        .import_image(name, counted(archive, &progress));
    let imported = imported.await;
    match packing.await.context("reading the directory")? {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).with_context(|| format!("{} cannot be read", dir.display()))
        }
        _ => Ok(imported?),
    }
}

/// Returns the name of a template for a file that has none.
fn name_of_file(source: &Path) -> anyhow::Result<String> {
    let file = source.file_name().unwrap_or_default().to_string_lossy();
    let mut name = file.to_lowercase();
    while let Some(stem) = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)) {
        name = stem.to_owned();
    }
    if name.parse::<TemplateName>().is_ok() {
        return Ok(name);
    }
    let shown = source.display().to_string();
    let shown = printable(&shown);
    Err(usage_error(format!(
        "{shown} has no name that a template can have: choose one with --name"
    )))
}

async fn list_images(session: &Session) -> anyhow::Result<()> {
    let mut images = session.client.templates().await?;
    // A snapshot was made of a sandbox.
    images.retain(|template| template.source_sandbox_id.is_none());
    if session.json {
        return output::print_json(&images);
    }
    if images.is_empty() {
        output::print_note("There is no image. `wrenn image import FILE` makes one.");
        return Ok(());
    }
    print_templates(&images)
}

async fn inspect_images(session: &Session, names: Vec<String>) -> anyhow::Result<u8> {
    let mut images = Vec::new();
    let mut code = 0;
    for name in names {
        match session.client.image(&name).await {
            Ok(image) => images.push(image),
            Err(error) => {
                code = failure::report_error(&error.into(), session.json, 1, Subject::Image);
            }
        }
    }
    output::print_json(&images)?;
    Ok(code)
}

/// Removes images. A failure to remove one does not keep the others from removal.
async fn remove_images(session: &Session, names: Vec<String>) -> anyhow::Result<u8> {
    let mut removed = Vec::new();
    let mut code = 0;
    for name in names {
        match session.client.delete_image(&name).await {
            Ok(()) if session.json => removed.push(name),
            Ok(()) => output::print_line(&printable(&name))?,
            Err(error) => {
                code = failure::report_error(&error.into(), session.json, 1, Subject::Image);
            }
        }
    }
    if session.json {
        output::print_json(&json!({"removed": removed}))?;
    }
    Ok(code)
}

async fn prune_images(session: &Session, dry_run: bool) -> anyhow::Result<u8> {
    let pruned = session.client.prune_images(dry_run).await?;
    let code = u8::from(!pruned.failed.is_empty());
    if session.json {
        output::print_json(&pruned)?;
        return Ok(code);
    }
    for failed in &pruned.failed {
        let text = format!("{}: {}", failed.name, failed.error.message);
        output::print_note(&printable(&text));
    }
    if pruned.images.is_empty() {
        output::print_note("There is no unused image.");
        return Ok(code);
    }
    if dry_run {
        print_templates(&pruned.images)?;
    } else {
        for image in &pruned.images {
            output::print_line(&printable(&image.name))?;
        }
    }
    let freed = format_size(pruned.freed_bytes);
    let shared = match pruned.shared_bytes {
        0 => String::new(),
        bytes => format!(
            "; {} more stay, since snapshots or other images have them, too",
            format_size(bytes)
        ),
    };
    let would = if dry_run { "would free" } else { "freed" };
    output::print_note(&format!("Pruning {would} {freed}{shared}."));
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_lose_endings() {
        for (file, expected) in [
            ("dir/Busybox-1.35.tar.gz", "busybox-1.35"),
            ("alpine.oci.tar", "alpine"),
            ("disk.ext4.zst", "disk"),
            ("layout", "layout"),
        ] {
            assert_eq!(name_of_file(Path::new(file)).unwrap(), expected);
        }
        for file in ["-", ".tar", "a b.tar", "/"] {
            let error = name_of_file(Path::new(file)).unwrap_err().to_string();
            assert!(error.contains("--name"), "{file}: {error}");
        }
    }
}
