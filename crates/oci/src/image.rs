//! Which layers and which configuration an archive has: an OCI layout (`index.json`), or what
//! `docker save` writes (`manifest.json`).

use std::collections::{BTreeMap, BTreeSet};

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;

use crate::Digest;
use crate::archive::Archive;
use crate::error::{Result, invalid, limit, printable};
use crate::limits::{MAX_BLOBS, MAX_LAYERS, MAX_SHOWN};

const INDEX: &str = "index.json";
const DOCKER_MANIFEST: &str = "manifest.json";
const DOCKER_CONFIG_TYPE: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_INDEX_TYPE: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Annotation of manifests that describe another image, such as how it was built.
pub(crate) const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
const REFERENCE_NAME: &str = "org.opencontainers.image.ref.name";
/// Indices that may lie in one another.
const MAX_INDICES: usize = 4;

/// An image in an archive.
#[derive(Debug)]
pub(crate) struct Image {
    /// Of its manifest in an OCI layout, of its configuration in an archive of Docker.
    pub(crate) digest: Digest,
    pub(crate) layers: Vec<Layer>,
    /// The object `config` of its configuration.
    pub(crate) config: Option<serde_json::Value>,
}

#[derive(Debug)]
pub(crate) struct Layer {
    /// Name in the archive.
    pub(crate) name: String,
    /// Of what is in the archive; `None` if only that of the unpacked layer is known.
    pub(crate) blob: Option<Digest>,
    /// Of the unpacked layer.
    pub(crate) unpacked: Digest,
}

/// Entry of Docker's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    layers: Vec<String>,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
}

/// Fields of a configuration that are read. `oci-spec` refuses forms that old builders write.
#[derive(Debug, Deserialize)]
struct Configuration {
    os: String,
    architecture: String,
    config: Option<serde_json::Value>,
    #[serde(default)]
    rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
struct RootFs {
    /// `null` in an image without layers.
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

impl Image {
    /// Finds the image for the architecture, in Go's words; `None` if the archive has no images.
    pub(crate) fn find_in(archive: &Archive, architecture: &str) -> Result<Option<Self>> {
        if archive.has("oci-layout") && archive.has(INDEX) {
            return Self::find_oci(archive, architecture).map(Some);
        }
        if archive.has(DOCKER_MANIFEST) {
            // A file of that name is no reason to take a root file system for an image.
            let content = archive.read_file(DOCKER_MANIFEST)?;
            if let Ok(images) = serde_json::from_slice(&content) {
                return Self::find_docker(archive, images, architecture).map(Some);
            }
        }
        Ok(None)
    }

    fn find_oci(archive: &Archive, architecture: &str) -> Result<Self> {
        let mut search = Search {
            archive,
            architecture,
            found: BTreeMap::new(),
            others: BTreeSet::new(),
            seen: 0,
        };
        search.search_index(&archive.read_file(INDEX)?, 1, "")?;
        let names = search.found.values().map(|found| found.1.clone());
        let names: Vec<String> = names.collect();
        let mut found = search.found.into_values();
        match (found.next(), found.next()) {
            (Some((descriptor, _)), None) => {
                Self::from_manifest(archive, &descriptor, architecture)
            }
            (Some(_), Some(_)) => Err(several(&names)),
            (None, _) => Err(wrong_platform(&search.others, architecture)),
        }
    }

    fn from_manifest(archive: &Archive, manifest: &Descriptor, arch: &str) -> Result<Self> {
        let digest = Digest::parse(manifest.digest().as_ref())?;
        let manifest: ImageManifest = serde_json::from_slice(&archive.read_blob(&digest)?)?;
        let config = Digest::parse(manifest.config().digest().as_ref())?;
        let (config, unpacked) = parse_config(&archive.read_blob(&config)?, arch)?;
        let layers = manifest.layers();
        check_layers(layers.len(), unpacked.len())?;
        let layers = layers.iter().zip(unpacked).map(|(layer, unpacked)| {
            check_media_type(layer)?;
            let blob = Digest::parse(layer.digest().as_ref())?;
            Ok(Layer {
                name: blob.path(),
                blob: Some(blob),
                unpacked,
            })
        });
        Ok(Self {
            digest,
            layers: layers.collect::<Result<_>>()?,
            config,
        })
    }

    fn find_docker(archive: &Archive, mut images: Vec<DockerImage>, arch: &str) -> Result<Self> {
        let names = images.iter().map(|image| {
            let mut tags = image.repo_tags.iter().flatten();
            tags.next().cloned().unwrap_or_else(|| image.config.clone())
        });
        let names: Vec<String> = names.collect();
        let image = match (images.pop(), images.len()) {
            (Some(image), 0) => image,
            (Some(_), _) => return Err(several(&names)),
            (None, _) => return Err(invalid("the archive has no image in its manifest.json")),
        };
        let content = archive.read_file(image.config.trim_start_matches("./"))?;
        let digest = Digest::from_bytes(&content);
        // Its name has the digest, in all releases.
        let stem = image.config.rsplit('/').next().unwrap_or_default();
        if let Ok(named) = Digest::parse(&format!("sha256:{}", stem.trim_end_matches(".json"))) {
            named.verify(&digest)?;
        }
        let (config, unpacked) = parse_config(&content, arch)?;
        check_layers(image.layers.len(), unpacked.len())?;
        let layers = image.layers.into_iter().zip(unpacked);
        let layers = layers.map(|(name, unpacked)| Layer {
            name: name.trim_start_matches("./").to_owned(),
            blob: None,
            unpacked,
        });
        Ok(Self {
            digest,
            layers: layers.collect(),
            config,
        })
    }
}

/// Search for the images of an architecture in an index and those in it.
struct Search<'a> {
    archive: &'a Archive,
    architecture: &'a str,
    /// Manifests by digest, with their names.
    found: BTreeMap<String, (Descriptor, String)>,
    /// Platforms of the others.
    others: BTreeSet<String>,
    seen: usize,
}

impl Search<'_> {
    fn search_index(&mut self, content: &[u8], depth: usize, name: &str) -> Result<()> {
        if depth > MAX_INDICES {
            let text = format!("the archive has more than {MAX_INDICES} indices in one another");
            return Err(limit(text));
        }
        let index: ImageIndex = serde_json::from_slice(content)?;
        for descriptor in index.manifests() {
            self.seen += 1;
            if self.seen > MAX_BLOBS {
                return Err(limit("the indices of the archive have too many images"));
            }
            let annotations = descriptor.annotations().as_ref();
            let annotation = |name| annotations.and_then(|all| all.get(name));
            let name = annotation(REFERENCE_NAME).map_or(name, |name| name);
            let is_index = match descriptor.media_type() {
                MediaType::ImageIndex => true,
                MediaType::Other(other) => other == DOCKER_INDEX_TYPE,
                _ => false,
            };
            if is_index {
                let digest = Digest::parse(descriptor.digest().as_ref())?;
                let content = self.archive.read_blob(&digest)?;
                self.search_index(&content, depth + 1, name)?;
            } else if annotation(REFERENCE_TYPE).is_none() {
                self.add_manifest(descriptor, name)?;
            }
        }
        Ok(())
    }

    /// Returns system and architecture of a manifest that does not tell; `None` if it is no image.
    fn platform_of(&self, descriptor: &Descriptor) -> Result<Option<(String, String)>> {
        let digest = Digest::parse(descriptor.digest().as_ref())?;
        let manifest: ImageManifest = serde_json::from_slice(&self.archive.read_blob(&digest)?)?;
        if !is_image(&manifest) {
            return Ok(None);
        }
        let config = Digest::parse(manifest.config().digest().as_ref())?;
        let content = self.archive.read_blob(&config)?;
        let config: Configuration = serde_json::from_slice(&content)?;
        Ok(Some((config.os, config.architecture)))
    }

    fn add_manifest(&mut self, descriptor: &Descriptor, name: &str) -> Result<()> {
        let (os, architecture) = match descriptor.platform() {
            Some(platform) => (
                platform.os().to_string(),
                platform.architecture().to_string(),
            ),
            None => match self.platform_of(descriptor)? {
                Some(platform) => platform,
                None => return Ok(()),
            },
        };
        if os == "linux" && architecture == self.architecture {
            let digest = descriptor.digest().to_string();
            let found = (descriptor.clone(), name.to_owned());
            self.found.insert(digest, found);
        } else {
            self.others.insert(format!("{os}/{architecture}"));
        }
        Ok(())
    }
}

/// Returns true for manifests of images. Signatures, charts and the like have others.
pub(crate) fn is_image(manifest: &ImageManifest) -> bool {
    let kind = manifest.config().media_type();
    let is_config = *kind == MediaType::ImageConfig || kind.to_string() == DOCKER_CONFIG_TYPE;
    is_config && manifest.artifact_type().is_none()
}

/// Returns the object `config`, and the digests of the unpacked layers.
pub(crate) fn parse_config(
    content: &[u8],
    arch: &str,
) -> Result<(Option<serde_json::Value>, Vec<Digest>)> {
    let parsed: Configuration = serde_json::from_slice(content)?;
    if parsed.os != "linux" || parsed.architecture != arch {
        let platform = format!("{}/{}", parsed.os, parsed.architecture);
        return Err(wrong_platform(&BTreeSet::from([platform]), arch));
    }
    let unpacked = parsed.rootfs.diff_ids.unwrap_or_default();
    let unpacked = unpacked.iter().map(|digest| Digest::parse(digest));
    Ok((parsed.config, unpacked.collect::<Result<_>>()?))
}

pub(crate) fn check_layers(layers: usize, unpacked: usize) -> Result<()> {
    if layers > MAX_LAYERS {
        return Err(limit(format!(
            "the image has more than {MAX_LAYERS} layers"
        )));
    }
    if layers != unpacked {
        return Err(invalid(format!(
            "the image has {layers} layers, and {unpacked} in its configuration"
        )));
    }
    Ok(())
}

pub(crate) fn check_media_type(layer: &Descriptor) -> Result<()> {
    let kind = layer.media_type().to_string();
    let shown = printable(kind.as_bytes());
    if kind.contains("encrypted") {
        return Err(invalid(format!(
            "a layer of the image is encrypted ({shown}); decrypt it first: skopeo copy --decryption-key"
        )));
    }
    if kind.contains("nondistributable") || kind.contains("foreign") {
        return Err(invalid(format!(
            "a layer of the image is not part of it, but fetched from its vendor ({shown})"
        )));
    }
    if kind.contains(".tar") {
        return Ok(());
    }
    Err(invalid(format!(
        "{shown} is no layer of a file system: this is no image that a sandbox can be made of"
    )))
}

fn several(names: &[String]) -> crate::Error {
    invalid(format!(
        "the archive has {} images ({}); make one with a single image",
        names.len(),
        shown(names)
    ))
}

pub(crate) fn wrong_platform(found: &BTreeSet<String>, architecture: &str) -> crate::Error {
    let found = if found.is_empty() {
        "there is no image".to_owned()
    } else {
        format!("the image is for {}", shown(found))
    };
    invalid(format!(
        "{found}, and the host needs \"linux/{architecture}\""
    ))
}

/// Joins the first names.
fn shown<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    let mut names = names.into_iter().map(|name| printable(name.as_bytes()));
    let mut shown: Vec<String> = names.by_ref().take(MAX_SHOWN).collect();
    let more = names.count();
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    shown.join(", ")
}
