//! Templates on this host: each file `NAME.ext4` in the images directory is one.
//!
//! The directory is read afresh each time, so that an image that is put there works at once and one that is
//! still being written under a temporary name (hidden, or without `.ext4`) is not seen.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use model::TemplateName;

/// One bootable image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub name: TemplateName,
    pub path: PathBuf,
    /// Bytes that it takes on disk.
    pub size_bytes: u64,
    /// Milliseconds since the Unix epoch.
    pub created_at_ms: i64,
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
}

/// The images directory.
#[derive(Debug, Clone)]
pub struct Images {
    dir: PathBuf,
}

impl Images {
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The image of that name.
    ///
    /// # Errors
    /// [`Error::Unknown`] names those that there are.
    pub fn find(&self, name: &TemplateName) -> Result<Image, Error> {
        let images = self.list()?;
        let known = || images.iter().map(|image| image.name.to_string()).take(20).collect();
        let found = images.iter().find(|image| image.name == *name).cloned();
        found.ok_or_else(|| Error::Unknown { name: name.to_string(), known: known() })
    }

    /// All images, by name. No directory means no images.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, Error> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|source| Error::Io { dir: self.dir.clone(), source })?,
        };
        let mut images: Vec<Image> = entries.flatten().filter_map(|entry| image(&entry.path())).collect();
        images.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(images)
    }
}

fn image(path: &Path) -> Option<Image> {
    let name = path.file_name()?.to_str()?.strip_suffix(".ext4")?.parse().ok()?;
    let meta = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let created = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Image {
        name,
        path: path.to_owned(),
        size_bytes: linux::file::allocated_bytes(path).ok()?,
        created_at_ms: i64::try_from(created.as_millis()).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finished_images_with_valid_names_are_templates() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["minimal.ext4", "python3.12.ext4", ".half.ext4", "BAD.ext4", "notes.txt", "x.ext4.unfinished"] {
            fs::write(dir.path().join(name), b"content").unwrap();
        }
        fs::create_dir(dir.path().join("folder.ext4")).unwrap();
        let images = Images::new(dir.path());
        let names: Vec<String> = images.list().unwrap().iter().map(|image| image.name.to_string()).collect();
        assert_eq!(names, ["minimal", "python3.12"]);
        let unknown = images.find(&"other".parse().unwrap()).unwrap_err().to_string();
        assert!(unknown.ends_with("there are: minimal, python3.12"), "{unknown}");
        let none = Images::new(&dir.path().join("none")).find(&"other".parse().unwrap()).unwrap_err().to_string();
        assert!(none.contains("make images"), "{none}");
    }
}
