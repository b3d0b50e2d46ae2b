//! Images that are pulled from registries.

use api_types::{PullImage, PullMessage};
use reqwest::Method;

use crate::connection::Client;
use crate::error::Result;
use crate::lines::JsonLines;

/// Messages of a pull as they come; [`PullMessage::Done`] or [`PullMessage::Error`] comes last.
/// Dropped, it hangs up, and the pull ends.
pub type ImagePull = JsonLines<PullMessage>;

impl Client {
    /// Pulls an image from a registry, as a template of that name. A refusal before its first byte
    /// is an error of this; an answer that ends without a last message broke off.
    pub async fn pull_image(&self, name: &str, pull: &PullImage) -> Result<ImagePull> {
        let url = self.route(&["v1", "images", name, "pull"]);
        let request = self.request(Method::POST, url).json(pull);
        let response = self.send(request).await?;
        Ok(JsonLines::new(self.byte_stream(response)))
    }
}
