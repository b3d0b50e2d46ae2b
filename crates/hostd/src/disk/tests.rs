//! The backends that are files. Those that are devices are tried in `tests/devices`.

use std::os::unix::fs::FileExt;

use super::*;

fn sandbox(parent: &Path) -> (PathBuf, SandboxId) {
    let id = SandboxId::random();
    let dir = parent.join(id.as_str());
    fs::create_dir(&dir).unwrap();
    (dir, id)
}

/// 1 MiB with something in it, of 8 MiB.
fn image(dir: &Path) -> PathBuf {
    let path = dir.join("image.ext4");
    let file = fs::File::create(&path).unwrap();
    file.write_all_at(&vec![7; 1 << 20], 4 << 20).unwrap();
    file.set_len(8 << 20).unwrap();
    path
}

fn disks(root: &Path, backend: Backend) -> Disks {
    Disks::new(
        root,
        Chosen {
            backend,
            why: String::new(),
        },
    )
    .unwrap()
}

/// Not below /tmp, which can be a tmpfs.
fn dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap()
}

/// Makes a disk that is larger than its image, uses it, flattens it, and removes it.
fn life(root: &Path, backend: Backend) {
    let image = image(root);
    let (dir, id) = sandbox(root);
    let disks = disks(root, backend);
    let disk = disks.create(&id, &image, &dir, 16 << 20).unwrap();
    if disk.format == DiskFormat::Raw {
        let file = fs::File::options().write(true).open(&disk.path).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 16 << 20);
        file.write_all_at(b"written", 12 << 20).unwrap();
    }
    assert!(used_bytes(&dir) < 4 << 20, "{} bytes", used_bytes(&dir));
    assert_eq!(
        disks.restore_disk(&id, &dir, 16 << 20).unwrap().path,
        disk.path
    );
    let flat = root.join("flat.ext4");
    disks.write_flat_image(&id, &dir, 16 << 20, &flat).unwrap();
    let content = fs::read(&flat).unwrap();
    assert!(content.len() == 16 << 20 && content[4 << 20..5 << 20].iter().all(|byte| *byte == 7));
    assert!(disk.format == DiskFormat::Qcow2 || &content[12 << 20..(12 << 20) + 7] == b"written");
    assert!(linux::file::allocated_bytes(&flat).unwrap() < 2 << 20);
    // The image was not written to.
    assert_eq!(fs::read(&image).unwrap().len(), 8 << 20);
    disks.remove(&id, &dir).unwrap();
    disks.remove(&id, &dir).unwrap();
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    assert!(disks.restore_disk(&id, &dir, 16 << 20).is_err());
}

#[test]
fn copy_is_its_own_disk() {
    let root = dir();
    life(root.path(), Backend::Copy);
}

#[test]
fn overlay_is_its_own_disk() {
    let root = dir();
    life(root.path(), Backend::Qcow2);
}

#[test]
fn base_outlives_name_of_its_image() {
    let root = dir();
    let image = image(root.path());
    let (dir, id) = sandbox(root.path());
    let disks = disks(root.path(), Backend::Qcow2);
    disks.create(&id, &image, &dir, 8 << 20).unwrap();
    fs::remove_file(&image).unwrap();
    assert_eq!(fs::metadata(dir.join(BASE)).unwrap().len(), 8 << 20);
}

#[test]
fn unreadable_image_is_refused_with_advice() {
    use std::error::Error as _;
    use std::os::unix::fs::PermissionsExt;
    let root = dir();
    let image = image(root.path());
    fs::set_permissions(&image, fs::Permissions::from_mode(0o600)).unwrap();
    let (dir, id) = sandbox(root.path());
    let error = disks(root.path(), Backend::Qcow2)
        .create(&id, &image, &dir, 8 << 20)
        .unwrap_err();
    assert!(
        error
            .source()
            .unwrap()
            .to_string()
            .ends_with(&format!("type: chmod o+r {}", image.display()))
    );
}

#[test]
fn a_missing_image_is_named() {
    let root = dir();
    let (dir, id) = sandbox(root.path());
    let disks = disks(root.path(), Backend::Qcow2);
    let error = disks
        .create(&id, Path::new("/nonexistent/image.ext4"), &dir, 1 << 20)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot use the image /nonexistent/image.ext4"
    );
}

#[test]
fn disk_is_no_smaller_than_image() {
    let root = dir();
    let image = image(root.path());
    assert_eq!(size_bytes(&image, None).unwrap(), 8 << 20);
    assert_eq!(size_bytes(&image, Some(9)).unwrap(), 9 << 20);
    let refused = size_bytes(&image, Some(7)).unwrap_err().to_string();
    assert_eq!(
        refused,
        "disk_mb must be at least 8, the size of the template's file system, not 7"
    );
}

#[test]
fn unwritable_image_leaves_nothing() {
    let root = dir();
    let image = image(root.path());
    let (dir, id) = sandbox(root.path());
    let disks = disks(root.path(), Backend::Copy);
    disks.create(&id, &image, &dir, 8 << 20).unwrap();
    assert!(
        disks
            .write_flat_image(&id, &dir, 8 << 20, &root.path().join("no/such/dir/flat"))
            .is_err()
    );
    assert!(
        disks
            .write_flat_image(
                &SandboxId::random(),
                root.path(),
                8 << 20,
                &root.path().join("flat")
            )
            .is_err()
    );
    // A VMM has made its disk longer.
    fs::File::options()
        .write(true)
        .open(dir.join(RAW))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    let longer = disks
        .write_flat_image(&id, &dir, 8 << 20, &root.path().join("flat"))
        .unwrap_err();
    assert!(
        std::error::Error::source(&longer)
            .unwrap()
            .to_string()
            .contains("was made with"),
        "{longer:?}"
    );
    let names: Vec<_> = fs::read_dir(root.path())
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
}
