//! Images that were imported: each is a directory of its own, beside those of the administrator.
//!
//! ```text
//!   images/NAME.ext4, NAME.json       images of the administrator, which all teams see
//!   images/imported/                  of root alone, since these are the teams' own
//!     NAME/image.ext4, image.json       an image with its configuration
//!          import.json                  what it is ([`ImportRecord`])
//!     .import-HEX/lock, archive, …      an import or a removal that is under way
//!                 image/                what becomes NAME
//! ```
//! An import gets its name by one rename of a whole and durable directory, and loses it by one, so
//! the image, its configuration and its record are always those of one import. Where an image lies
//! tells whose it is: nothing below `imported` is ever taken for an image of the administrator,
//! also if its record cannot be read, and agents of versions before this one do not see it. If we
//! die in between, a directory `.import-HEX` without an owner is left, which the next start
//! removes.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use linux::file::Lock;
use linux::untrusted_dir;
use model::{ImageConfig, TemplateName};
use serde::{Deserialize, Serialize};
use stdx::io::OptionalExt;

use super::{Error, Image, Images, NotAnImage, PassedOver, config};

/// Directory of all imports, in that of images.
const IMPORTED: &str = "imported";
/// Prefix of directories of imports that are under way.
const STAGING_PREFIX: &str = ".import-";
/// File in such a directory that is locked while the import is under way.
const LOCK: &str = "lock";
/// Directory in it that gets the name of the image.
const STAGED: &str = "image";
const IMAGE: &str = "image.ext4";
const RECORD: &str = "import.json";

/// Record of an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportRecord {
    /// Content address of the image (`sha256:…`).
    pub digest: String,
    /// Form that it had: `docker`, `oci`, `tar` or `ext4`.
    pub format: String,
    /// Milliseconds since the Unix epoch.
    pub imported_at_ms: i64,
}

fn read_record(dir: &Path) -> Result<ImportRecord, NotAnImage> {
    let text = fs::read(dir.join(RECORD)).map_err(NotAnImage::Record)?;
    serde_json::from_slice(&text).map_err(|error| NotAnImage::Record(error.into()))
}

/// Reads the image in a directory. `None` if it was removed in between.
fn read_import(name: TemplateName, dir: &Path) -> Result<Option<Image>, NotAnImage> {
    let path = dir.join(IMAGE);
    let read = || {
        let record = read_record(dir)?;
        Ok(Image {
            name,
            size_bytes: linux::file::allocated_bytes(&path)?,
            created_at_ms: record.imported_at_ms,
            path,
            import: Some(record),
        })
    };
    match read() {
        Err(_) if !dir.try_exists()? => Ok(None),
        read => read.map(Some),
    }
}

/// Directory of an import that is under way. It goes with this, unless the agent dies, or removal
/// fails; then the next start removes it.
#[derive(Debug)]
pub(super) struct Staging {
    dir: PathBuf,
    /// Held as long as it is in use: another agent may have the same images.
    lock: Option<Lock>,
}

impl Staging {
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Drop for Staging {
    /// Removes the directory, in the background where there is a runtime: tens of GiB take seconds.
    fn drop(&mut self) {
        let dir = std::mem::take(&mut self.dir);
        let lock = self.lock.take();
        let remove = move || {
            if let Err(error) = untrusted_dir::remove_tree(&dir) {
                tracing::warn!(dir = %dir.display(), %error, "an import was not cleaned up; the next start does it");
            }
            drop(lock);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

impl Images {
    fn imported_dir(&self) -> PathBuf {
        self.dir.join(IMPORTED)
    }

    /// Returns the path of the image of an import, also of one whose record cannot be read.
    ///
    /// # Errors
    /// When the directory of imports cannot be read.
    pub(crate) fn find_import(&self, name: &TemplateName) -> Result<Option<PathBuf>, Error> {
        let imported = self.imported_dir();
        let dir = imported.join(name.as_str());
        match dir.try_exists() {
            Ok(exists) => Ok(exists.then(|| dir.join(IMAGE))),
            Err(source) => Err(Error::Io {
                dir: imported,
                source,
            }),
        }
    }

    /// Lists imports, and those that cannot be read. Blocking.
    pub(super) fn scan_imports(&self) -> io::Result<(Vec<Image>, Vec<PassedOver>)> {
        let mut images = Vec::new();
        let mut passed_over = Vec::new();
        let Some(entries) = fs::read_dir(self.imported_dir()).optional()? else {
            return Ok((images, passed_over));
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            // Hidden ones are under way; no import has another name.
            let Some(name) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let path = entry.path();
            match read_import(name, &path) {
                Ok(image) => images.extend(image),
                Err(why) => passed_over.push(PassedOver { path, why }),
            }
        }
        Ok((images, passed_over))
    }

    /// Counts imports, also those that cannot be read. Blocking.
    pub(super) fn count_imports(&self) -> io::Result<usize> {
        let Some(entries) = fs::read_dir(self.imported_dir()).optional()? else {
            return Ok(0);
        };
        let names = entries.flatten().map(|entry| entry.file_name());
        let is_import = |name: &OsString| !name.as_encoded_bytes().starts_with(b".");
        Ok(names.filter(is_import).count())
    }

    /// Creates a directory for an import. Blocking.
    pub(super) fn stage_import(&self) -> io::Result<Staging> {
        fs::create_dir_all(&self.dir)?;
        let imported = self.imported_dir();
        match stdx::fs::create_private_dir(&imported) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let name = format!("{STAGING_PREFIX}{}", stdx::random::hex::<8>());
        let dir = imported.join(name);
        stdx::fs::create_private_dir(&dir)?;
        let lock = Lock::try_take(&dir.join(LOCK))?;
        let lock = lock.ok_or(io::ErrorKind::ResourceBusy)?;
        Ok(Staging {
            dir,
            lock: Some(lock),
        })
    }

    /// Makes a finished image a whole and durable directory that has no name yet. Blocking.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn stage_image(
        &self,
        staging: &Staging,
        image: &Path,
        record: &ImportRecord,
        config: Option<&ImageConfig>,
    ) -> io::Result<()> {
        let staged = staging.path(STAGED);
        stdx::fs::create_private_dir(&staged)?;
        let path = staged.join(IMAGE);
        fs::rename(image, &path)?;
        // VMMs read it by a link in the directory of their sandbox.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        File::open(&path)?.sync_all()?;
        let record = serde_json::to_vec_pretty(record)?;
        linux::file::write_atomic(&staged.join(RECORD), &record, 0o600)?;
        if let Some(config) = config {
            let config = serde_json::to_vec_pretty(config)?;
            linux::file::write_atomic(&config::config_path(&path), &config, 0o600)?;
        }
        linux::file::sync_dir(&staged)
    }

    /// Gives a staged image its name. Blocking.
    ///
    /// # Errors
    /// `AlreadyExists` if there is an import of that name; the file system's.
    pub(super) fn publish_import(&self, staging: &Staging, name: &TemplateName) -> io::Result<()> {
        let imported = self.imported_dir();
        linux::file::rename_new(&staging.path(STAGED), &imported.join(name.as_str()))?;
        linux::file::sync_dir(&imported)
    }

    /// Gives a staged image the name of an import, which goes with the directory of the new one. A
    /// crash leaves the old or the new one. Blocking.
    ///
    /// # Errors
    /// `NotFound` if there is no such import; the file system's.
    pub(super) fn replace_import(&self, staging: &Staging, name: &TemplateName) -> io::Result<()> {
        let imported = self.imported_dir();
        linux::file::exchange_names(&staging.path(STAGED), &imported.join(name.as_str()))?;
        linux::file::sync_dir(&imported)
    }

    /// Removes an image that was imported. Idempotent. Blocking.
    ///
    /// # Errors
    /// When it keeps its name.
    pub(crate) fn remove_import(&self, name: &TemplateName) -> io::Result<()> {
        let staging = self.stage_import()?;
        let imported = self.imported_dir();
        fs::rename(imported.join(name.as_str()), staging.path(STAGED)).optional()?;
        linux::file::sync_dir(&imported)
    }

    /// Removes what imports and removals that were cut off have left. What stays is logged: it
    /// takes room, and keeps nothing else from working. Blocking.
    pub(crate) fn remove_unfinished_imports(&self) {
        let entries = match fs::read_dir(self.imported_dir()).optional() {
            Ok(entries) => entries.into_iter().flatten(),
            Err(error) => {
                tracing::warn!(dir = %self.imported_dir().display(), %error, "imports that were cut off stay: their directory cannot be read");
                return;
            }
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if !entry
                .file_name()
                .to_string_lossy()
                .starts_with(STAGING_PREFIX)
            {
                continue;
            }
            // Another agent of the same images may have just removed it, or be at work in it.
            match remove_unowned(&path).optional() {
                Ok(None | Some(false)) => {}
                Ok(Some(true)) => {
                    tracing::warn!(dir = %path.display(), "removed an import that was never finished");
                }
                Err(error) => {
                    tracing::warn!(dir = %path.display(), %error, "an import that was never finished cannot be removed");
                }
            }
        }
    }
}

/// Removes the directory of an import unless an agent has locked it. Returns true if it is gone.
fn remove_unowned(dir: &Path) -> io::Result<bool> {
    let Some(_lock) = Lock::try_take(&dir.join(LOCK))? else {
        return Ok(false);
    };
    untrusted_dir::remove_tree(dir)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ImportRecord {
        ImportRecord {
            digest: "sha256:00".to_owned(),
            format: "oci".to_owned(),
            imported_at_ms: 1,
        }
    }

    fn publish(images: &Images, name: &str, config: Option<&ImageConfig>) -> io::Result<()> {
        let staging = stage(images, name, config)?;
        images.publish_import(&staging, &name.parse().unwrap())
    }

    fn stage(images: &Images, text: &str, config: Option<&ImageConfig>) -> io::Result<Staging> {
        let staging = images.stage_import()?;
        let file = staging.path("spool");
        fs::write(&file, text)?;
        images.stage_image(&staging, &file, &record(), config)?;
        Ok(staging)
    }

    fn names(images: &Images) -> Vec<(String, bool)> {
        let images = images.list_images().unwrap().into_iter();
        images
            .map(|image| (image.name.to_string(), image.import.is_some()))
            .collect()
    }

    #[test]
    fn published_import_is_whole_image() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::new(dir.path());
        let name: TemplateName = "a.b".parse().unwrap();
        let config = ImageConfig::default();
        publish(&images, "a.b", Some(&config)).unwrap();
        let image = images.find_image(&name).unwrap();
        assert_eq!((&image.import, image.created_at_ms), (&Some(record()), 1));
        assert_eq!(fs::read(&image.path).unwrap(), b"a.b");
        assert_eq!(image.read_config().unwrap(), Some(config));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&images.imported_dir()), 0o700);
        let again = publish(&images, "a.b", None).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        images.remove_unfinished_imports();
        assert_eq!(names(&images), [("a.b".to_owned(), true)]);
        assert_eq!(images.count_imports().unwrap(), 1);
        images.remove_import(&name).unwrap();
        images.remove_import(&name).unwrap();
        assert_eq!(fs::read_dir(images.imported_dir()).unwrap().count(), 0);
    }

    #[test]
    fn replaced_import_is_new_one_whole() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::new(dir.path());
        let name: TemplateName = "app".parse().unwrap();
        publish(&images, "app", Some(&ImageConfig::default())).unwrap();
        let staging = stage(&images, "new", None).unwrap();
        images.replace_import(&staging, &name).unwrap();
        drop(staging);
        let image = images.find_image(&name).unwrap();
        assert_eq!(fs::read(&image.path).unwrap(), b"new");
        assert_eq!(image.read_config().unwrap(), None);
        assert_eq!(fs::read_dir(images.imported_dir()).unwrap().count(), 1);
        let staging = stage(&images, "none", None).unwrap();
        let missing = images.replace_import(&staging, &"missing".parse().unwrap());
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    /// No name of an import is that of a file of another one, or of the administrator.
    #[test]
    fn similar_names_share_no_files() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::new(dir.path());
        fs::write(dir.path().join("own.import.ext4"), b"").unwrap();
        fs::write(dir.path().join("own.import.json"), r#"{"User": "app"}"#).unwrap();
        let import = "own.import".parse().unwrap();
        for name in ["foo", "foo.import", "foo.import.json", "own"] {
            publish(&images, name, None).unwrap();
        }
        images.remove_unfinished_imports();
        images
            .remove_import(&"foo.import".parse().unwrap())
            .unwrap();
        let expected = [
            ("foo", true),
            ("foo.import.json", true),
            ("own", true),
            ("own.import", false),
        ];
        assert_eq!(
            names(&images),
            expected.map(|(name, is_import)| (name.to_owned(), is_import))
        );
        let config = images.find_image(&import).unwrap().read_config().unwrap();
        assert_eq!(config.unwrap().user, "app");
    }

    #[test]
    fn unreadable_record_hides_import() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::new(dir.path());
        for name in ["cut", "lost"] {
            publish(&images, name, None).unwrap();
        }
        fs::write(images.imported_dir().join("cut").join(RECORD), b"{\"dig").unwrap();
        fs::remove_file(images.imported_dir().join("lost").join(RECORD)).unwrap();
        assert!(names(&images).is_empty());
        let passed_over = images.passed_over().unwrap();
        assert_eq!(passed_over.len(), 2, "{passed_over:?}");
        // Their names are not free.
        let again = publish(&images, "lost", None).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert!(
            images
                .find_import(&"cut".parse().unwrap())
                .unwrap()
                .is_some()
        );
    }

    /// The administrator has put it there after the import: the team's image stays the team's.
    #[test]
    fn import_hides_base_image() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::new(dir.path());
        publish(&images, "foo", None).unwrap();
        fs::write(dir.path().join("foo.ext4"), b"").unwrap();
        assert_eq!(names(&images), [("foo".to_owned(), true)]);
        let passed_over = images.passed_over().unwrap();
        assert!(matches!(passed_over[0].why, NotAnImage::Imported));
    }

    #[test]
    fn unfinished_imports_leave_others_alone() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::new(dir.path());
        publish(&images, "whole", None).unwrap();
        let staging = images.stage_import().unwrap();
        fs::write(staging.path("archive"), b"x").unwrap();
        let cut = images.imported_dir().join(".import-cut");
        fs::create_dir(&cut).unwrap();
        fs::write(cut.join("archive"), b"x").unwrap();
        fs::write(images.imported_dir().join(".import-file"), b"x").unwrap();
        images.remove_unfinished_imports();
        assert!(staging.path("archive").exists(), "it is under way");
        assert!(!cut.exists());
        assert_eq!(names(&images), [("whole".to_owned(), true)]);
    }
}
