//! Images, which sandboxes are created from.

use std::io;

use api_types::{PrunedImages, Template};
use bytes::Bytes;
use futures::Stream;
use reqwest::{Body, Method};

use crate::connection::Client;
use crate::error::Result;

impl Client {
    /// Imports an image: an archive of `docker save`, an OCI archive, a tar archive of a root file
    /// system, or an ext4 file system.
    pub async fn import_image<S>(&self, name: &str, archive: S) -> Result<Template>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        let mut url = self.route(&["v1", "images"]);
        url.query_pairs_mut().append_pair("name", name);
        let request = self
            .request(Method::POST, url)
            .header("content-type", "application/octet-stream")
            .body(Body::wrap_stream(archive));
        self.send_json(request).await
    }

    /// Gets a base image, or one that was imported.
    pub async fn image(&self, name: &str) -> Result<Template> {
        let url = self.route(&["v1", "images", name]);
        self.send_json(self.request(Method::GET, url)).await
    }

    /// Deletes images that no sandbox was made from; with `dry_run` it only names them.
    pub async fn prune_images(&self, dry_run: bool) -> Result<PrunedImages> {
        let mut url = self.route(&["v1", "images"]);
        url.query_pairs_mut()
            .append_pair("dry_run", if dry_run { "true" } else { "false" });
        self.send_json(self.request(Method::DELETE, url)).await
    }

    /// Deletes an image that was imported. Sandboxes that were made from it keep their disks.
    pub async fn delete_image(&self, name: &str) -> Result<()> {
        let url = self.route(&["v1", "images", name]);
        self.send(self.request(Method::DELETE, url)).await.map(drop)
    }
}
