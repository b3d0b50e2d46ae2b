//! From an archive to a file system, in two passes over its layers: the first merges them in memory
//! and tells what the result needs, the second writes the data of the files that are left.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

use crate::Digest;
use crate::archive::Archive;
use crate::counted::{CHUNK, Counted};
use crate::decompress::{Compression, Section, Unpacked, is_zero};
use crate::error::{Result, invalid};
use crate::ext4::{self, FileSystem, Need};
use crate::image::Image;
use crate::limits::Budget;
use crate::tar_stream::{BLOCK, TarStream, is_header};
use crate::tree::{InodeId, Kind, Tree};

/// Forms of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Archive of `docker save`.
    Docker,
    /// A tar archive of an OCI layout.
    Oci,
    /// A tar archive of a root file system.
    Tar,
    /// An ext4 file system.
    Ext4,
}

/// Result of the first pass: how an image becomes a file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub format: Format,
    /// Content address: of the manifest (OCI), of the configuration (Docker), or of the file.
    pub digest: String,
    /// The object `config` of its configuration.
    pub config: Option<serde_json::Value>,
    pub result: PlannedResult,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlannedResult {
    /// The archive, or the spool file where that is set, is the file system as it is.
    AsItIs { spooled: bool },
    /// The image file is to be formatted for that, and then to be filled.
    Fill(Need),
}

/// A layer of the image as it is in a file.
#[derive(Debug)]
struct LayerSource {
    file: File,
    start: u64,
    length: u64,
}

impl LayerSource {
    fn open(&self) -> io::Result<Unpacked> {
        Unpacked::new(Section::new(&self.file, self.start, self.length)?)
    }
}

/// How a layer is to be read.
#[derive(Debug, Clone, Copy)]
struct LayerForm {
    /// It may have whiteouts.
    is_layer: bool,
    /// Nothing but the blocks at its end tells that it is whole.
    needs_end: bool,
    is_hashed: bool,
}

/// An image whose layers were merged.
#[derive(Debug)]
pub struct Unpacking {
    pub plan: Plan,
    tree: Tree,
    layers: Vec<LayerSource>,
    budget: Budget,
}

impl Unpacking {
    /// Finds out what `archive` is, and merges its layers. If it is compressed as a whole, it is
    /// first unpacked to `spool`.
    ///
    /// # Errors
    /// When it is no image for the architecture, broken, or too large.
    pub fn plan_image(
        archive: File,
        spool: &File,
        architecture: &str,
        mut budget: Budget,
    ) -> Result<Self> {
        let length = archive.metadata()?.len();
        if length == 0 {
            return Err(invalid("it is empty"));
        }
        let section = Section::new(&archive, 0, length)?;
        let is_spooled = section.compression()? != Compression::None;
        let source = if is_spooled {
            unpack_whole(section, spool, &mut budget)?;
            spool.try_clone()?
        } else {
            archive.try_clone()?
        };
        let whole = |budget: &Budget| -> Result<Digest> {
            let mut section = Section::new(&archive, 0, length)?;
            Digest::from_reader(&mut (&mut section).take(length), budget)
        };
        // A header of an archive first: the bytes behind it may be anything.
        if !is_tar(&source)? && ext4::is_ext4(&source)? {
            check_length(&source)?;
            // Here, since the agent is not to wait for it when it ends.
            source.sync_all()?;
            let plan = Plan {
                format: Format::Ext4,
                digest: whole(&budget)?.to_string(),
                config: None,
                result: PlannedResult::AsItIs {
                    spooled: is_spooled,
                },
            };
            return Ok(Self {
                plan,
                tree: Tree::new(),
                layers: Vec::new(),
                budget,
            });
        }
        check_is_tar(&source)?;
        // A stream that was unpacked is whole: it has an end of its own.
        let needs_end = !is_spooled;
        let index = Archive::read_index(&source, needs_end, budget.for_other_pass())?;
        let mut unpacking = match index {
            Some(index) => match Image::find_in(&index, architecture)? {
                Some(image) => Self::merge_image(&index, image, budget)?,
                None => Self::merge_tar(source, needs_end, whole(&budget)?, budget)?,
            },
            None => Self::merge_tar(source, needs_end, whole(&budget)?, budget)?,
        };
        unpacking.tree.ensure_lost_and_found()?;
        unpacking.plan.result = PlannedResult::Fill(Need::of_tree(&unpacking.tree));
        Ok(unpacking)
    }

    fn new(format: Format, digest: &Digest, budget: Budget) -> Self {
        let plan = Plan {
            format,
            digest: digest.to_string(),
            config: None,
            result: PlannedResult::AsItIs { spooled: false },
        };
        Self {
            plan,
            tree: Tree::new(),
            layers: Vec::new(),
            budget,
        }
    }

    fn merge_image(archive: &Archive, image: Image, budget: Budget) -> Result<Self> {
        let format = if image.layers.iter().all(|layer| layer.blob.is_some()) {
            Format::Oci
        } else {
            Format::Docker
        };
        let mut merged = Self::new(format, &image.digest, budget);
        merged.plan.config = image.config;
        for layer in image.layers {
            let section = archive.open_section(&layer.name)?;
            let compression = section.compression()?;
            if compression == Compression::Xz {
                return Err(invalid("a layer is compressed with xz, which no image has"));
            }
            // Before a byte of it is looked at.
            if let Some(blob) = &layer.blob {
                let length = section.len();
                let mut section = archive.open_section(&layer.name)?.take(length);
                blob.verify(&Digest::from_reader(&mut section, &merged.budget)?)?;
            }
            let is_verified =
                compression == Compression::None && layer.blob.as_ref() == Some(&layer.unpacked);
            let form = LayerForm {
                is_layer: true,
                needs_end: false,
                is_hashed: !is_verified,
            };
            let found = merged.merge_layer(section, form)?;
            if !is_verified {
                layer.unpacked.verify(&found)?;
            }
        }
        Ok(merged)
    }

    fn merge_tar(source: File, needs_end: bool, digest: Digest, budget: Budget) -> Result<Self> {
        let length = source.metadata()?.len();
        let mut merged = Self::new(Format::Tar, &digest, budget);
        let section = Section::new(&source, 0, length)?;
        let form = LayerForm {
            is_layer: false,
            needs_end,
            is_hashed: false,
        };
        merged.merge_layer(section, form)?;
        if merged.tree.children(crate::tree::ROOT).next().is_none() {
            return Err(invalid("the archive has no files"));
        }
        Ok(merged)
    }

    /// Adds a layer, and returns the digest of what it unpacks to, if that is wanted.
    fn merge_layer(&mut self, section: Section, form: LayerForm) -> Result<Digest> {
        let number = self.layers.len();
        let layer = LayerSource {
            file: section.file().try_clone()?,
            start: section.start(),
            length: section.len(),
        };
        let counted = Counted::new(section, form.is_hashed, &mut self.budget)?;
        let mut stream = TarStream::new(counted);
        while let Some(entry) = stream.next_entry()? {
            let budget = &mut *stream.get_mut().budget;
            budget.count_entry()?;
            self.tree
                .apply_entry(number, entry, form.is_layer, budget)?;
        }
        if form.needs_end && !stream.is_ended() {
            return Err(invalid(
                "the archive has no end: it was truncated; send it again",
            ));
        }
        self.layers.push(layer);
        // What is behind the end counts for the digest.
        Ok(stream.into_source().finish()?)
    }

    /// Writes the tree into the file system that was made in `image`.
    ///
    /// # Errors
    /// When there is no room, or the archive has changed.
    pub fn fill_image(mut self, image: File) -> Result<()> {
        let mut system = FileSystem::open(image, &mut self.tree)?;
        let mut files: Vec<(usize, u64, InodeId)> = Vec::new();
        for (id, inode) in self.tree.inodes() {
            if let Kind::File(layer, data) = &inode.kind
                && data.length > 0
            {
                files.push((*layer, data.offset, id));
            }
        }
        files.sort_unstable();
        let mut buffer = vec![0; CHUNK];
        let mut open: Option<(usize, Unpacked, u64)> = None;
        for (layer, offset, id) in files {
            if open.as_ref().is_none_or(|(number, ..)| *number != layer) {
                open = Some((layer, self.layers[layer].open()?, 0));
            }
            let (Some((_, source, position)), Kind::File(_, data)) =
                (&mut open, &self.tree.inode(id).kind)
            else {
                continue;
            };
            source.skip(offset - *position)?;
            let mut writer = system.add_data(id, data.length);
            for extent in &data.extents {
                let mut at = extent.start;
                while at < extent.end {
                    let wanted = usize::try_from(extent.end - at).unwrap_or(usize::MAX);
                    let wanted = wanted.min(buffer.len());
                    source.read_exact(&mut buffer[..wanted])?;
                    writer.write_at(at, &buffer[..wanted])?;
                    at += wanted as u64;
                    self.budget.check_time()?;
                }
            }
            writer.finish()?;
            *position = offset + data.stored();
        }
        system.finish(&self.tree, &self.budget)
    }
}

/// Unpacks an archive that is compressed as a whole.
fn unpack_whole(section: Section, spool: &File, budget: &mut Budget) -> Result<()> {
    let mut source = Unpacked::new(section)?;
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    loop {
        let mut have = 0;
        while have < buffer.len() {
            match source.read(&mut buffer[have..])? {
                0 => break,
                count => have += count,
            }
        }
        if have == 0 {
            break;
        }
        budget.check_unpacked(at + have as u64)?;
        source.check_ratio()?;
        if !is_zero(&buffer[..have]) {
            spool.write_all_at(&buffer[..have], at)?;
        }
        at += have as u64;
    }
    spool.set_len(at)?;
    let again = Section::new(spool, 0, at)?;
    if again.compression()? != Compression::None {
        return Err(invalid("it is compressed twice; unpack it once"));
    }
    Ok(())
}

fn check_length(file: &File) -> Result<()> {
    let stated = ext4::stated_bytes(file)?;
    let length = file.metadata()?.len();
    if length < stated {
        return Err(invalid(format!(
            "the ext4 file system has {stated} bytes, and its file only {length}: it was truncated"
        )));
    }
    Ok(())
}

fn is_tar(file: &File) -> Result<bool> {
    let mut block = [0; BLOCK as usize];
    if file.metadata()?.len() < BLOCK {
        return Ok(false);
    }
    file.read_exact_at(&mut block, 0)?;
    Ok(is_header(&block))
}

fn check_is_tar(file: &File) -> Result<()> {
    if is_tar(file)? {
        return Ok(());
    }
    let mut block = [1; BLOCK as usize];
    if file.metadata()?.len() >= BLOCK {
        file.read_exact_at(&mut block, 0)?;
    }
    if is_zero(&block) {
        return Err(invalid("it has no files"));
    }
    Err(invalid(
        "it is no image: neither a tar archive (of `docker save`, of an OCI layout, of a root file system; plain, or \
         compressed with gzip, zstd or xz) nor an ext4 file system",
    ))
}
