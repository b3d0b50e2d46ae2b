//! Documents of an image in a registry, which are fetched one by one: an index of platforms, a
//! manifest, a configuration. The unpacker reads them again, with everything else of the image.

use std::collections::BTreeSet;

use oci_spec::image::{ImageIndex, ImageManifest};
use serde_json::Value;

use crate::Digest;
use crate::error::{Result, invalid, printable};
use crate::image::{
    REFERENCE_TYPE, check_layers, check_media_type, is_image, parse_config, wrong_platform,
};
use crate::limits::MAX_BLOBS;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A document that a reference names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoteDocument {
    /// An index; the digest of its manifest for the architecture.
    Index(Digest),
    Manifest(RemoteManifest),
}

/// Manifest of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteManifest {
    pub media_type: String,
    pub config: Digest,
    /// Digests and sizes in bytes, the lowest layer first.
    pub layers: Vec<(Digest, u64)>,
}

/// Reads an index or a manifest. `architecture` is in Go's words.
///
/// # Errors
/// When it is neither; when the index has no image for Linux on the architecture, with the
/// platforms that it has; when the manifest is of something else than an image.
pub fn read_document(content: &[u8], architecture: &str) -> Result<RemoteDocument> {
    let document: Value = serde_json::from_slice(content)?;
    if document.get("manifests").is_some() {
        return choose_platform(content, architecture).map(RemoteDocument::Index);
    }
    if document.get("schemaVersion") == Some(&Value::from(1)) {
        return Err(invalid(
            "the image has a manifest of version 1, which registries gave up; push it again with a current docker, \
             podman or skopeo",
        ));
    }
    if document.get("layers").is_none() || document.get("config").is_none() {
        return Err(invalid(
            "the registry has neither a manifest nor an index there: it is no image",
        ));
    }
    let manifest: ImageManifest = serde_json::from_slice(content)?;
    if !is_image(&manifest) {
        let kind = manifest.config().media_type().to_string();
        return Err(invalid(format!(
            "the registry has no image there, but something else ({})",
            printable(kind.as_bytes())
        )));
    }
    let layers = manifest.layers().iter().map(|layer| {
        check_media_type(layer)?;
        Ok((Digest::parse(layer.digest().as_ref())?, layer.size()))
    });
    let layers = layers.collect::<Result<Vec<_>>>()?;
    let media_type = manifest.media_type().as_ref();
    Ok(RemoteDocument::Manifest(RemoteManifest {
        media_type: media_type.map_or_else(|| OCI_MANIFEST.to_owned(), ToString::to_string),
        config: Digest::parse(manifest.config().digest().as_ref())?,
        layers,
    }))
}

/// Checks that a configuration is for Linux on the architecture, and of an image with so many
/// layers.
///
/// # Errors
/// When it is not.
pub fn check_config(content: &[u8], architecture: &str, layers: usize) -> Result<()> {
    let (_, unpacked) = parse_config(content, architecture)?;
    check_layers(layers, unpacked.len())
}

fn choose_platform(content: &[u8], architecture: &str) -> Result<Digest> {
    let index: ImageIndex = serde_json::from_slice(content)?;
    let mut others = BTreeSet::new();
    let mut found: Vec<(bool, Digest)> = Vec::new();
    let mut untold = Vec::new();
    for manifest in index.manifests().iter().take(MAX_BLOBS) {
        let annotations = manifest.annotations().as_ref();
        if annotations.is_some_and(|all| all.contains_key(REFERENCE_TYPE)) {
            continue;
        }
        let digest = Digest::parse(manifest.digest().as_ref())?;
        let Some(platform) = manifest.platform() else {
            untold.push(digest);
            continue;
        };
        if platform.os().to_string() == "linux"
            && platform.architecture().to_string() == architecture
        {
            // A variant asks for a newer processor than the host may have, but for arm64's first.
            let variant = platform.variant().as_deref();
            found.push((!matches!(variant, None | Some("v8" | "v1")), digest));
        } else {
            others.insert(format!("{}/{}", platform.os(), platform.architecture()));
        }
    }
    found.sort_by_key(|(is_variant, _)| *is_variant);
    if let Some((_, digest)) = found.into_iter().next() {
        return Ok(digest);
    }
    match untold.pop() {
        // Its configuration tells.
        Some(digest) if untold.is_empty() && others.is_empty() => Ok(digest),
        _ => Err(wrong_platform(&others, architecture)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::from_bytes(text.as_bytes())
    }

    fn entry(name: &str, platform: Option<Value>, attestation: bool) -> Value {
        let mut entry = json!({
            "mediaType": OCI_MANIFEST, "digest": digest(name).to_string(), "size": 2,
        });
        if let Some(platform) = platform {
            entry["platform"] = platform;
        }
        if attestation {
            entry["annotations"] = json!({ REFERENCE_TYPE: "attestation-manifest" });
        }
        entry
    }

    fn choose(entries: &[Value]) -> Result<RemoteDocument> {
        let index = json!({ "schemaVersion": 2, "manifests": entries });
        read_document(index.to_string().as_bytes(), "amd64")
    }

    #[test]
    fn plain_variant_of_platform_is_chosen() {
        let entries = [
            entry(
                "arm",
                Some(json!({"os": "linux", "architecture": "arm64"})),
                false,
            ),
            entry(
                "v3",
                Some(json!({"os": "linux", "architecture": "amd64", "variant": "v3"})),
                false,
            ),
            entry(
                "plain",
                Some(json!({"os": "linux", "architecture": "amd64"})),
                false,
            ),
            entry(
                "proof",
                Some(json!({"os": "unknown", "architecture": "unknown"})),
                true,
            ),
        ];
        assert_eq!(
            choose(&entries).unwrap(),
            RemoteDocument::Index(digest("plain"))
        );
        assert_eq!(
            choose(&entries[1..2]).unwrap(),
            RemoteDocument::Index(digest("v3"))
        );
        let untold = [entry("untold", None, false)];
        assert_eq!(
            choose(&untold).unwrap(),
            RemoteDocument::Index(digest("untold"))
        );
    }

    #[test]
    fn other_platforms_are_named() {
        let entries = [
            entry(
                "arm",
                Some(json!({"os": "linux", "architecture": "arm64"})),
                false,
            ),
            entry(
                "win",
                Some(json!({"os": "windows", "architecture": "amd64"})),
                false,
            ),
        ];
        let error = choose(&entries).unwrap_err().to_string();
        for expected in ["linux/arm64", "windows/amd64", "needs \"linux/amd64\""] {
            assert!(error.contains(expected), "{error}");
        }
        assert!(choose(&[]).unwrap_err().to_string().contains("no image"));
    }

    #[test]
    fn manifests_of_other_things_are_refused() {
        let chart = json!({
            "schemaVersion": 2, "layers": [],
            "config": { "mediaType": "application/vnd.cncf.helm.config.v1+json",
                        "digest": digest("c").to_string(), "size": 2 },
        });
        for (document, expected) in [
            (chart, "helm"),
            (json!({"schemaVersion": 1, "fsLayers": []}), "version 1"),
            (json!({"schemaVersion": 2}), "neither"),
            (json!([]), "neither"),
        ] {
            let error = read_document(document.to_string().as_bytes(), "amd64").unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
