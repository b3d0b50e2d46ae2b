//! Files that guests of this host are made from, of which checksums are kept.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::host::Host;
use crate::images::checksums::{self, WatchedFile};

/// Keeps checksums of the files in the background. Returns after `shutdown`.
pub(crate) async fn keep_checksums(host: Arc<Host>, shutdown: CancellationToken) {
    let sums = host.images.checksums();
    checksums::verify_periodically(sums, move || list_files(&host), shutdown).await;
}

/// Lists the files. Memory of snapshots carries its own checksum.
fn list_files(host: &Host) -> Vec<WatchedFile> {
    let images = host.images.list_images().unwrap_or_default().into_iter();
    let images = images.map(|image| WatchedFile {
        path: image.path,
        is_immutable: false,
    });
    let templates = host.templates.list_templates().into_iter();
    let made = templates.map(|template| template.image()).chain([
        host.resources.vm.boot.kernel.clone(),
        host.resources.vm.boot.initramfs.clone(),
    ]);
    let made = made.map(|path| WatchedFile {
        path,
        is_immutable: true,
    });
    // Made again it has the same name and other bytes: `mke2fs` writes the time and a random id.
    let modules = host
        .resources
        .vm
        .boot
        .modules
        .clone()
        .map(|path| WatchedFile {
            path,
            is_immutable: false,
        });
    images.chain(made).chain(modules).collect()
}
