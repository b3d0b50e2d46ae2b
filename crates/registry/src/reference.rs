//! References of images: `[REGISTRY[:PORT]/]REPOSITORY[:TAG][@sha256:DIGEST]`.

use std::fmt;
use std::str::FromStr;

use oci_spec::distribution::Reference;

use crate::error::{RegistryError, printable};

/// Longest name of a template (`model::TemplateName`).
const MAX_NAME: usize = 63;
/// Longest reference: a name of 255 characters, a tag of 128, a digest.
const MAX_REFERENCE: usize = 600;
const LATEST: &str = "latest";

/// A reference with everything that it leaves out: `alpine` is `docker.io/library/alpine:latest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageReference(Reference);

impl ImageReference {
    /// Returns the name of the registry, with its port if it has one.
    #[must_use]
    pub fn registry(&self) -> &str {
        self.0.registry()
    }

    #[must_use]
    pub fn repository(&self) -> &str {
        self.0.repository()
    }

    /// Returns the digest that the image must have.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.0.digest()
    }

    /// Returns what names the manifest in the registry: the digest before the tag.
    #[must_use]
    pub fn manifest_name(&self) -> &str {
        let name = self.0.digest().or(self.0.tag());
        name.unwrap_or(LATEST)
    }

    /// Returns the usual name of a template of this image: the last part of the repository, and the
    /// tag unless it is `latest`. `alpine:3.20` is `alpine-3.20`.
    #[must_use]
    pub fn template_name(&self) -> String {
        let repository = self.repository();
        let last = repository.rsplit('/').next().unwrap_or(repository);
        let tag = self.0.tag().filter(|tag| *tag != LATEST);
        let name = tag.map_or_else(|| last.to_owned(), |tag| format!("{last}-{tag}"));
        name.to_lowercase().chars().take(MAX_NAME).collect()
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ImageReference {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Self, RegistryError> {
        let refused = |why: &str| {
            RegistryError::Refused(format!(
                "{:?} is no reference of an image ({why}); it is like alpine:3.20, \
                 registry.example.com:5000/team/app:1.0 or app@sha256:…",
                printable(text)
            ))
        };
        if text.len() > MAX_REFERENCE {
            return Err(refused("it is too long"));
        }
        // As skopeo and containers.conf write it.
        let plain = text.strip_prefix("docker://").unwrap_or(text);
        if plain.contains("://") {
            return Err(refused("it has no scheme"));
        }
        let reference: Reference = plain
            .parse()
            .map_err(|error| refused(&format!("{error}")))?;
        match reference.digest() {
            Some(digest) => {
                oci::Digest::parse(digest).map_err(|error| refused(&error.to_string()))?;
            }
            None if plain.contains('@') => return Err(refused("its digest is none")),
            None => {}
        }
        Ok(Self(reference))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_references_are_completed() {
        for (text, whole, name) in [
            ("alpine", "docker.io/library/alpine:latest", "alpine"),
            (
                "alpine:3.20",
                "docker.io/library/alpine:3.20",
                "alpine-3.20",
            ),
            ("docker://team/App-1:V2", "", ""),
            ("team/app:V2", "docker.io/team/app:V2", "app-v2"),
            (
                "index.docker.io/library/alpine",
                "docker.io/library/alpine:latest",
                "alpine",
            ),
            ("localhost/app", "localhost/app:latest", "app"),
            ("127.0.0.1:5000/a/b/c:1", "127.0.0.1:5000/a/b/c:1", "c-1"),
        ] {
            match text.parse::<ImageReference>() {
                Ok(parsed) => {
                    assert_eq!(
                        (&*parsed.to_string(), &*parsed.template_name()),
                        (whole, name)
                    );
                }
                Err(error) => assert_eq!(whole, "", "{error}"),
            }
        }
    }

    #[test]
    fn digest_outranks_tag() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let parsed: ImageReference = format!("quay.io/app:1@{digest}").parse().unwrap();
        assert_eq!(
            (parsed.manifest_name(), parsed.registry()),
            (&*digest, "quay.io")
        );
        assert_eq!(parsed.template_name(), "app-1");
        let parsed: ImageReference = format!("app@{digest}").parse().unwrap();
        assert_eq!(parsed.template_name(), "app");
    }

    #[test]
    fn other_texts_are_refused_with_example() {
        let upper = format!("app@sha256:{}", "0A".repeat(32));
        let long = "a".repeat(700);
        for text in [
            "",
            "UPPER",
            "a b",
            "https://quay.io/app",
            "app@sha256:00",
            "../x",
            "a\nb",
            &upper,
            &long,
        ] {
            let error = text.parse::<ImageReference>().unwrap_err().to_string();
            assert!(error.contains("alpine:3.20"), "{error}");
        }
    }
}
