//! Calls about images that are imported.

use bytes::Bytes;
use futures::Stream;
use host_rpc as rpc;
use host_rpc::__buffa::oneof::import_image_request::Part;
use model::{ErrorCode, TemplateName};

use super::Host;
use super::calls::{ASK_TIMEOUT, FILES_TIMEOUT, query, unary};
use super::files::{ContentFailure, content_messages};
use super::templates::Template;
use crate::error::{Error, Result};

impl Host {
    /// Imports an image. No time limit of ours: it takes as long as its sender does, and then the
    /// host has one. When `archive` fails, so does the import, with the same error.
    ///
    /// # Errors
    /// The host's; those of `archive`.
    pub async fn import_image<S>(&self, name: &TemplateName, archive: S) -> Result<Template>
    where
        S: Stream<Item = Result<Bytes>> + Send + 'static,
    {
        let failure = ContentFailure::default();
        let message = |part| rpc::ImportImageRequest {
            part: Some(part),
            ..Default::default()
        };
        let target = rpc::ImportImageTarget {
            name: name.to_string(),
            ..Default::default()
        };
        let done = || Part::from(rpc::import_image_request::ImportImageDone::default());
        let messages = content_messages(
            message(Part::from(target)),
            move |data| message(Part::Data(data)),
            move || message(done()),
            archive,
            failure.clone(),
        );
        self.forget_inventory();
        let answer = self.client()?.images().import_image(messages).await;
        self.forget_inventory();
        // The host only sees that the upload broke off.
        if let Some(error) = failure.take() {
            return Err(error);
        }
        let answer = answer.map_err(|error| self.failed(&error))?;
        template_from(answer.into_owned())
    }

    /// Gets an image with its configuration.
    ///
    /// # Errors
    /// `NotFound`; the host's, or that it cannot be reached.
    pub async fn get_image(&self, name: &TemplateName) -> Result<Template> {
        let request = rpc::GetImageRequest {
            name: name.to_string(),
            ..Default::default()
        };
        template_from(query!(
            self,
            images.get_image_with_options(request),
            ASK_TIMEOUT
        )?)
    }

    /// Removes an image that was imported.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn remove_image(&self, name: &TemplateName) -> Result<()> {
        let request = rpc::RemoveImageRequest {
            name: name.to_string(),
            ..Default::default()
        };
        self.forget_inventory();
        let answer = unary!(
            self,
            images.remove_image_with_options(request),
            FILES_TIMEOUT
        );
        self.forget_inventory();
        answer.map(drop)
    }
}

/// The image exists when this fails: no refusal.
pub(super) fn template_from(image: rpc::Image) -> Result<Template> {
    let template = image.template.into_option().unwrap_or_default();
    let template = Template::try_from(template).map_err(|cause| {
        let text = "the host agent's answer makes no sense";
        Error::new(ErrorCode::AgentError, text).because(cause)
    })?;
    Ok(Template {
        // A configuration that this version cannot read counts as none.
        image_config: serde_json::from_str(&image.config).ok(),
        ..template
    })
}
