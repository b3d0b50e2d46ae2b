//! A pull, from a reference to an archive.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oci::Digest;
use oci::limits::MAX_JSON;
use oci::remote::{self, RemoteDocument, RemoteManifest};
use tokio::sync::watch;

use crate::archive::{ArchiveLayout, Document};
use crate::credentials::Credentials;
use crate::download::{Download, PullProgress};
use crate::endpoint::Endpoint;
use crate::error::{RegistryError, Result};
use crate::http_client::{HttpClient, read_body};
use crate::policy::RegistryPolicy;
use crate::reference::ImageReference;

/// Forms of manifests that are read.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json, \
                         application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_SERVER: &str = "registry-1.docker.io";
/// Times that a document is asked for when a server fails, and the pause after the first time.
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Pulls images by the rules of an operator.
#[derive(Debug, Clone)]
pub struct Puller {
    policy: Arc<RegistryPolicy>,
}

/// An image in a registry, of which everything but the layers was fetched.
#[derive(Debug)]
pub struct RemoteImage {
    /// Of the manifest for the host's platform.
    pub digest: Digest,
    http: HttpClient,
    endpoints: Vec<Endpoint>,
    layout: ArchiveLayout,
}

impl Puller {
    #[must_use]
    pub fn new(policy: RegistryPolicy) -> Self {
        Self {
            policy: Arc::new(policy),
        }
    }

    /// Finds the image for an architecture, in Go's words.
    ///
    /// # Errors
    /// When there is none, it is for other platforms (with their names), or no image.
    pub async fn resolve_image(
        &self,
        reference: &ImageReference,
        credentials: Option<Credentials>,
        architecture: &str,
    ) -> Result<RemoteImage> {
        let http = HttpClient::new(&self.policy, reference.registry())?;
        let mut endpoints = self.endpoints(reference, credentials);
        loop {
            match resolve_at(&http, &endpoints[0], reference, architecture).await {
                Ok((digest, layout)) => {
                    return Ok(RemoteImage {
                        digest,
                        http,
                        endpoints,
                        layout,
                    });
                }
                Err(error) if endpoints.len() > 1 => {
                    let mirror = endpoints.remove(0);
                    tracing::info!(mirror = mirror.host(), %error, "a mirror does not have the image");
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the mirrors of the registry, then the registry itself.
    fn endpoints(
        &self,
        reference: &ImageReference,
        credentials: Option<Credentials>,
    ) -> Vec<Endpoint> {
        let registry = reference.registry();
        let repository = reference.repository();
        let settings = self.policy.registries.get(registry);
        let mirrors = settings.map_or(&[][..], |settings| &settings.mirrors);
        let mirrors = mirrors
            .iter()
            .map(|mirror| Endpoint::new(mirror, repository, None));
        let scheme = if self.policy.is_plain(registry) {
            "http"
        } else {
            "https"
        };
        let server = if registry == DOCKER_HUB {
            DOCKER_HUB_SERVER
        } else {
            registry
        };
        let origin = format!("{scheme}://{server}");
        let origin = Endpoint::new(&origin, repository, credentials);
        mirrors.chain(std::iter::once(origin)).collect()
    }
}

impl RemoteImage {
    /// Returns the bytes of the archive.
    #[must_use]
    pub fn archive_bytes(&self) -> u64 {
        self.layout.length
    }

    /// Writes the archive. Dropped, it stops; what is written then is no image.
    ///
    /// # Errors
    /// When a layer cannot be fetched or is not what the manifest says; the file's.
    pub async fn download_archive(
        &self,
        file: File,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<()> {
        self.layout.write_documents(&file)?;
        let download = Download {
            http: &self.http,
            endpoints: &self.endpoints,
            file: Arc::new(file),
            progress,
        };
        download.fetch_blobs(&self.layout.blobs).await
    }
}

async fn resolve_at(
    http: &HttpClient,
    endpoint: &Endpoint,
    reference: &ImageReference,
    architecture: &str,
) -> Result<(Digest, ArchiveLayout)> {
    let pinned = reference.digest().map(Digest::parse).transpose()?;
    let path = format!("manifests/{}", reference.manifest_name());
    let content = fetch_document(http, endpoint, &path, pinned.as_ref()).await?;
    let (content, manifest) = match remote::read_document(&content, architecture)? {
        RemoteDocument::Manifest(manifest) => (content, manifest),
        RemoteDocument::Index(chosen) => {
            let path = format!("manifests/{chosen}");
            let content = fetch_document(http, endpoint, &path, Some(&chosen)).await?;
            match remote::read_document(&content, architecture)? {
                RemoteDocument::Manifest(manifest) => (content, manifest),
                RemoteDocument::Index(_) => {
                    let text = "the image is an index in an index, which no registry has; name one of its manifests";
                    return Err(RegistryError::Refused(text.to_owned()));
                }
            }
        }
    };
    let RemoteManifest {
        media_type,
        config,
        layers,
    } = manifest;
    let path = format!("blobs/{config}");
    let config_content = fetch_document(http, endpoint, &path, Some(&config)).await?;
    remote::check_config(&config_content, architecture, layers.len())?;
    let digest = Digest::from_bytes(&content);
    let document = |digest: &Digest, content: &Bytes, media_type: &str| Document {
        digest: digest.clone(),
        media_type: media_type.to_owned(),
        content: content.to_vec(),
    };
    let manifest = document(&digest, &content, &media_type);
    let config = document(&config, &config_content, "");
    let layout = ArchiveLayout::of_image(&manifest, &config, &layers)?;
    Ok((digest, layout))
}

/// Gets a manifest or a configuration, and verifies it.
async fn fetch_document(
    http: &HttpClient,
    endpoint: &Endpoint,
    path: &str,
    expected: Option<&Digest>,
) -> Result<Bytes> {
    let accept = if path.starts_with("manifests/") {
        MANIFESTS
    } else {
        "*/*"
    };
    let mut attempt = 1;
    loop {
        let fetched = async {
            let response = endpoint.fetch_path(http, path, accept, 0).await?;
            read_body(response, MAX_JSON).await
        };
        match fetched.await {
            Ok(content) => {
                if let Some(expected) = expected {
                    expected.verify(&Digest::from_bytes(&content))?;
                }
                return Ok(content);
            }
            Err(error) if error.is_transient() && attempt < ATTEMPTS => {
                tracing::info!(server = endpoint.host(), %error, "a registry is asked again");
                tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(attempt - 1)).await;
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}
