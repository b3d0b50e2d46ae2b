//! Where everything lies in the archive that is made: an OCI layout in an uncompressed tar archive,
//! whose layers are written at places of their own, several at once.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use oci::Digest;
use serde_json::json;
use tar::{EntryType, Header};

/// Archives count in blocks of this size, bytes.
const BLOCK: u64 = 512;
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// A document of an image, which is in memory.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) content: Vec<u8>,
}

/// A layer, and where it is in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BlobPlace {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// Offset of its first byte.
    pub(crate) offset: u64,
}

/// Layout of an archive.
#[derive(Debug, Default)]
pub(crate) struct ArchiveLayout {
    /// What is written at once: headers and documents, with their offsets.
    parts: Vec<(u64, Vec<u8>)>,
    pub(crate) blobs: Vec<BlobPlace>,
    /// Length of the archive, bytes.
    pub(crate) length: u64,
}

impl ArchiveLayout {
    /// Lays out an image. A layer that comes twice is there once.
    pub(crate) fn of_image(
        manifest: &Document,
        config: &Document,
        layers: &[(Digest, u64)],
    ) -> io::Result<Self> {
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": manifest.media_type,
                "digest": manifest.digest.to_string(),
                "size": manifest.content.len(),
            }],
        });
        let mut layout = Self::default();
        layout.add_file("oci-layout", LAYOUT)?;
        layout.add_file("index.json", index.to_string().as_bytes())?;
        layout.add_file(&manifest.digest.path(), &manifest.content)?;
        layout.add_file(&config.digest.path(), &config.content)?;
        for (digest, size) in layers {
            if layout.blobs.iter().any(|blob| blob.digest == *digest) || *digest == config.digest {
                continue;
            }
            layout.add_header(&digest.path(), *size)?;
            let offset = layout.length;
            layout.blobs.push(BlobPlace {
                digest: digest.clone(),
                size: *size,
                offset,
            });
            layout.add_content(*size)?;
        }
        // Two blocks of zeroes are the end.
        layout.add_content(2 * BLOCK)?;
        Ok(layout)
    }

    fn add_file(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.add_header(name, content.len() as u64)?;
        self.parts.push((self.length, content.to_vec()));
        self.add_content(content.len() as u64)
    }

    fn add_header(&mut self, name: &str, size: u64) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_path(name)?;
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        self.parts.push((self.length, header.as_bytes().to_vec()));
        self.add_content(BLOCK)
    }

    fn add_content(&mut self, size: u64) -> io::Result<()> {
        let end = self
            .length
            .checked_add(size)
            .and_then(|end| end.checked_next_multiple_of(BLOCK));
        self.length = end.ok_or_else(|| io::Error::other("the sizes of the layers are none"))?;
        Ok(())
    }

    /// Writes everything but the layers. What is not written is a hole. Blocking.
    pub(crate) fn write_documents(&self, file: &File) -> io::Result<()> {
        file.set_len(self.length)?;
        for (offset, part) in &self.parts {
            file.write_all_at(part, *offset)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn document(content: &[u8]) -> Document {
        Document {
            digest: Digest::from_bytes(content),
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            content: content.to_vec(),
        }
    }

    #[test]
    fn archive_has_every_blob_once() {
        let layers: [&[u8]; 3] = [b"first", &[7; 1000], b"first"];
        let places = layers.map(|layer| (Digest::from_bytes(layer), layer.len() as u64));
        let layout = ArchiveLayout::of_image(&document(b"{}"), &document(b"[]"), &places).unwrap();
        assert_eq!(layout.blobs.len(), 2);
        let file = tempfile::tempfile().unwrap();
        layout.write_documents(&file).unwrap();
        for (blob, content) in layout.blobs.iter().zip(layers) {
            file.write_all_at(content, blob.offset).unwrap();
        }
        let mut archive = tar::Archive::new(file);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (
                entry.path().unwrap().to_string_lossy().into_owned(),
                content,
            )
        });
        let entries: Vec<_> = entries.collect();
        assert_eq!(entries.len(), 6);
        for (name, content) in &entries[2..] {
            assert_eq!(*name, Digest::from_bytes(content).path());
        }
    }

    #[test]
    fn sizes_beyond_numbers_are_errors() {
        let huge = [(Digest::from_bytes(b"a"), u64::MAX)];
        ArchiveLayout::of_image(&document(b"{}"), &document(b"[]"), &huge).unwrap_err();
    }
}
