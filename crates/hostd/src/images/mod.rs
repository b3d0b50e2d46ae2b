//! Templates on this host: each file `NAME.ext4` in the images directory is one, with its
//! configuration in `NAME.json` where it has one, and so is each image that a team has imported
//! ([`mod@imported`]).
//!
//! The directory is read afresh each time, so that an image that is put there works at once and one
//! that is still being written under a temporary name (hidden, or without `.ext4`) is not seen.
//! What looks like an image and cannot be one is passed over, and named: once in the log, and by
//! `wrenn doctor`.

pub mod checksums;
mod config;
pub mod identity;
pub mod import;
mod imported;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use model::{ImageConfig, TemplateName};
use parking_lot::Mutex;
use stdx::error::chain;
use stdx::io::OptionalExt;

use crate::file_set::{FileSet, Sizes};
use checksums::{Checksums, Damaged};
pub use config::ConfigError;
pub use imported::ImportRecord;

/// A bootable image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub name: TemplateName,
    pub path: PathBuf,
    /// Bytes that the image takes on disk.
    pub size_bytes: u64,
    /// Milliseconds since the Unix epoch.
    pub created_at_ms: i64,
    /// Record of its import; `None` for an image of the administrator.
    pub import: Option<ImportRecord>,
}

impl Image {
    /// Reads its configuration; `None` if it has none. Blocking.
    ///
    /// # Errors
    /// [`ConfigError`], with the file and what is wrong in it.
    pub fn read_config(&self) -> Result<Option<ImageConfig>, ConfigError> {
        config::read_config(&self.path)
    }

    /// Measures the bytes that it takes on disk. Blocking.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let file = self.path.canonicalize();
        file.and_then(|file| FileSet::of_file(&file))
            .unwrap_or_default()
            .sizes()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "there is no template {name:?} on this host; {}",
        if known.is_empty() {
            "there is none at all: make one with `make images`".to_owned()
        } else {
            format!("there are: {}", known.join(", "))
        }
    )]
    Unknown { name: String, known: Vec<String> },
    #[error("cannot read the images directory {dir}")]
    Io { dir: PathBuf, source: io::Error },
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// The images directory.
#[derive(Debug, Clone)]
pub struct Images {
    dir: PathBuf,
    /// Files about which it was logged that they are no images.
    logged: Arc<Mutex<BTreeSet<PathBuf>>>,
    checksums: Arc<Checksums>,
}

/// A file that looks like an image and is none, or a configuration that cannot be used.
#[derive(Debug)]
pub struct PassedOver {
    pub path: PathBuf,
    pub why: NotAnImage,
}

/// Reason why a file cannot be used, to follow its name.
#[derive(Debug, thiserror::Error)]
pub enum NotAnImage {
    #[error("its name is not UTF-8; rename it")]
    NotUtf8,
    #[error("its name must end with .ext4 in lower case; rename it")]
    Suffix,
    #[error("its name is none of a template")]
    Name(#[from] model::InvalidValue),
    #[error("it cannot be looked at")]
    Io(#[from] io::Error),
    #[error("it is no regular file")]
    NotRegular,
    #[error("nothing is created from its image")]
    Config(#[from] ConfigError),
    #[error("a team has imported an image of that name; rename the file")]
    Imported,
    #[error("the record of its import cannot be read; remove the directory, and import it again")]
    Record(#[source] io::Error),
}

impl Images {
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            logged: Arc::default(),
            checksums: Arc::default(),
        }
    }

    fn dir(&self) -> &Path {
        &self.dir
    }

    /// Uses the checksums that are kept in the directory of the installation.
    #[must_use]
    pub fn with_checksums(self, installation: &Path) -> Self {
        Self {
            checksums: Arc::new(Checksums::open(installation)),
            ..self
        }
    }

    /// Returns the checksums of images and of everything else that guests are made from.
    pub(crate) fn checksums(&self) -> Arc<Checksums> {
        Arc::clone(&self.checksums)
    }

    /// Refuses a file that guests are made from, and that is known to be damaged.
    ///
    /// # Errors
    /// [`Damaged`], with the file and a fix in its text.
    pub fn check_content(&self, path: &Path) -> Result<(), Damaged> {
        self.checksums.refuse_damaged(path)
    }

    /// Returns the image of that name.
    ///
    /// # Errors
    /// [`Error::Unknown`] if there is none; it names up to 20 that exist.
    pub fn find_image(&self, name: &TemplateName) -> Result<Image, Error> {
        let images = self.list_images()?;
        let known = || {
            images
                .iter()
                .map(|image| image.name.to_string())
                .take(20)
                .collect()
        };
        let found = images.iter().find(|image| image.name == *name).cloned();
        found.ok_or_else(|| Error::Unknown {
            name: name.to_string(),
            known: known(),
        })
    }

    /// Lists all images, by name. A missing directory has no images.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list_images(&self) -> Result<Vec<Image>, Error> {
        let (images, passed_over) = self.scan_dir()?;
        let mut logged = self.logged.lock();
        for PassedOver { path, why } in passed_over {
            if logged.insert(path.clone()) {
                tracing::warn!(path = %path.display(), why = chain(&why), "a file in the images directory cannot be used");
            }
        }
        Ok(images)
    }

    /// Lists files that look like images and are none, by name.
    ///
    /// # Errors
    /// As [`Images::list_images`].
    pub fn passed_over(&self) -> Result<Vec<PassedOver>, Error> {
        Ok(self.scan_dir()?.1)
    }

    fn scan_dir(&self) -> Result<(Vec<Image>, Vec<PassedOver>), Error> {
        let failed = |source| Error::Io {
            dir: self.dir.clone(),
            source,
        };
        let Some(entries) = fs::read_dir(&self.dir).optional().map_err(failed)? else {
            return Ok((Vec::new(), Vec::new()));
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        let (mut images, mut passed_over) = self.scan_imports().map_err(failed)?;
        for path in paths.into_iter().filter(|path| looks_like_image(path)) {
            match read_image(&path) {
                // Also if the import cannot be read: the name is a team's.
                Ok(image) if self.find_import(&image.name)?.is_some() => {
                    let why = NotAnImage::Imported;
                    passed_over.push(PassedOver { path, why });
                }
                Ok(image) => {
                    if let Err(error) = image.read_config() {
                        let path = config::config_path(&path);
                        let why = error.into();
                        passed_over.push(PassedOver { path, why });
                    }
                    images.push(image);
                }
                Err(why) => passed_over.push(PassedOver { path, why }),
            }
        }
        images.sort_by(|a, b| a.name.cmp(&b.name));
        Ok((images, passed_over))
    }
}

/// Returns true for names that end with `.ext4`, however that is spelled, and are not hidden.
fn looks_like_image(path: &Path) -> bool {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().to_lowercase())
        .unwrap_or_default();
    !name.starts_with('.') && name.ends_with(".ext4")
}

fn read_image(path: &Path) -> Result<Image, NotAnImage> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or(NotAnImage::NotUtf8)?;
    let name = name.strip_suffix(".ext4").ok_or(NotAnImage::Suffix)?;
    let name = name.parse()?;
    let meta = fs::metadata(path)?;
    if !meta.is_file() {
        return Err(NotAnImage::NotRegular);
    }
    let created = meta
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .unwrap_or_default();
    Ok(Image {
        name,
        path: path.to_owned(),
        size_bytes: linux::file::allocated_bytes(path)?,
        created_at_ms: i64::try_from(created.as_millis()).unwrap_or(i64::MAX),
        import: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finished_images_with_valid_names_are_templates() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "minimal.ext4",
            "python3.12.ext4",
            ".half.ext4",
            "BAD.ext4",
            "notes.txt",
            "x.ext4.unfinished",
            "upper.EXT4",
        ] {
            fs::write(dir.path().join(name), b"content").unwrap();
        }
        fs::create_dir(dir.path().join("folder.ext4")).unwrap();
        let images = Images::new(dir.path());
        let names: Vec<String> = images
            .list_images()
            .unwrap()
            .iter()
            .map(|image| image.name.to_string())
            .collect();
        assert_eq!(names, ["minimal", "python3.12"]);
        let passed_over = images.passed_over().unwrap();
        let names: Vec<_> = passed_over
            .iter()
            .map(|file| file.path.file_name().unwrap().to_str().unwrap())
            .collect();
        assert_eq!(names, ["BAD.ext4", "folder.ext4", "upper.EXT4"]);
        assert!(
            chain(&passed_over[0].why).contains("its name is none of a template"),
            "{passed_over:?}"
        );
        let unknown = images
            .find_image(&"other".parse().unwrap())
            .unwrap_err()
            .to_string();
        assert!(
            unknown.ends_with("there are: minimal, python3.12"),
            "{unknown}"
        );
        let none = Images::new(&dir.path().join("none"))
            .find_image(&"other".parse().unwrap())
            .unwrap_err()
            .to_string();
        assert!(none.contains("make images"), "{none}");
    }
}
