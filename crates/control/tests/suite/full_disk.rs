//! A control plane whose database has no disk space left.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::host::FakeHost;

use crate::support::{Ground, Plane, refused};

/// A file system of its own in memory, for as long as this lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Self {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "none"])
            .arg(at)
            .status()
            .unwrap();
        assert!(mounted.success(), "mounting needs root");
        Self(at.to_owned())
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Writes until nothing fits any more.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        while file.write_all(&[0; 1]).is_ok() {}
    }

    fn make_room(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

async fn with_small_disk() -> (SmallDisk, FakeHost, Ground, Plane) {
    let dir = tempfile::tempdir().unwrap();
    let host = FakeHost::start();
    let disk = SmallDisk::mount(dir.path());
    let ground = Ground::in_dir(dir).await;
    let plane = ground.start(&[&host]).await;
    (disk, host, ground, plane)
}

/// Creates sandboxes until the pages that the database has left are used up as well.
async fn use_up(disk: &SmallDisk, plane: &Plane) {
    disk.fill();
    for _ in 0..200 {
        let answer = plane.post("/v1/sandboxes", "{}").send().await.unwrap();
        if answer.status() != 201 {
            let text = answer.text().await.unwrap();
            assert!(
                text.contains("insufficient_storage") && text.contains("free some space"),
                "{text}"
            );
            return;
        }
    }
    panic!("it never gets full");
}

#[tokio::test]
async fn delete_on_full_disk_makes_room() {
    let (disk, host, _ground, plane) = with_small_disk().await;
    let id = plane.create().await.id;
    use_up(&disk, &plane).await;
    refused(
        plane.post("/v1/sandboxes", "{}"),
        507,
        "insufficient_storage",
    )
    .await;
    // Reads go on.
    assert_eq!(plane.client().get(&id).await.unwrap().id, id);
    let gate = host.hold_next("RemoveSandbox");
    let client = plane.client();
    let deleted = tokio::spawn({
        let id = id.clone();
        async move { client.delete(&id).await }
    });
    gate.wait_until_reached().await;
    // The host's part of it.
    disk.make_room();
    gate.open();
    deleted.await.unwrap().unwrap();
    refused(
        plane.request(reqwest::Method::GET, &format!("/v1/sandboxes/{id}")),
        404,
        "not_found",
    )
    .await;
    plane.create().await;
}

#[tokio::test]
async fn delete_on_full_database_reaches_host() {
    let (disk, host, _ground, plane) = with_small_disk().await;
    let id = plane.create().await.id;
    use_up(&disk, &plane).await;
    let path = format!("/v1/sandboxes/{id}");
    let message = refused(
        plane.request(reqwest::Method::DELETE, &path),
        507,
        "insufficient_storage",
    )
    .await;
    assert!(message.contains("gone from its host"), "{message}");
    assert!(!host.world().sandboxes.contains_key(&id));
    disk.make_room();
    plane.client().delete(&id).await.unwrap();
}
