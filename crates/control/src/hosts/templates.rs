//! Calls about templates.

use host_rpc as rpc;
use model::{ImageConfig, InvalidValue, TemplateKind, TemplateName};

use super::Host;
use super::calls::{ASK_TIMEOUT, listed};
use crate::error::Result;

/// Template on a host, from which sandboxes can be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pub name: TemplateName,
    pub kind: TemplateKind,
    /// Bytes allocated on the host.
    pub size_bytes: u64,
    /// Those of them that are free when it is removed.
    pub exclusive_bytes: u64,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
    /// Sizes of a [`TemplateKind::Snapshot`]; 0 otherwise. MiB.
    pub vcpus: u32,
    pub memory_mb: u32,
    pub disk_mb: u32,
    pub source_sandbox_id: Option<String>,
    /// Content address of an image that was imported.
    pub digest: Option<String>,
    /// Form of that image.
    pub format: Option<String>,
    /// Configuration of an image. Only [`Host::get_image`] and [`Host::import_image`] tell it.
    pub image_config: Option<Box<ImageConfig>>,
}

impl Template {
    /// Returns true if it is an image that was imported.
    #[must_use]
    pub fn is_import(&self) -> bool {
        self.digest.is_some()
    }

    /// Returns true if it was made of a sandbox or imported, and so belongs to a team.
    #[must_use]
    pub fn is_snapshot(&self) -> bool {
        self.kind != TemplateKind::Base
    }
}

impl TryFrom<rpc::Template> for Template {
    type Error = InvalidValue;

    fn try_from(template: rpc::Template) -> std::result::Result<Self, InvalidValue> {
        use rpc::TemplateKind as Message;
        let kind = match template.kind.as_known() {
            Some(Message::TEMPLATE_KIND_SNAPSHOT) => TemplateKind::Snapshot,
            Some(Message::TEMPLATE_KIND_IMAGE) => TemplateKind::Image,
            Some(Message::TEMPLATE_KIND_BASE | Message::TEMPLATE_KIND_UNSPECIFIED) | None => {
                TemplateKind::Base
            }
        };
        Ok(Self {
            name: template.name.parse()?,
            kind,
            size_bytes: template.size_bytes,
            exclusive_bytes: template.exclusive_bytes,
            created_at: template.created_at_ms,
            vcpus: template.vcpus,
            memory_mb: template.memory_mb,
            disk_mb: template.disk_mb,
            source_sandbox_id: Some(template.source_sandbox_id).filter(|id| !id.is_empty()),
            digest: Some(template.digest).filter(|digest| !digest.is_empty()),
            format: Some(template.format).filter(|format| !format.is_empty()),
            image_config: None,
        })
    }
}

impl Host {
    /// Lists the templates of the host, without those whose names are invalid.
    ///
    /// # Errors
    /// The host's, or that it cannot be reached.
    pub async fn list_templates(&self) -> Result<Vec<Template>> {
        let request = rpc::ListTemplatesRequest::default();
        let listed: Vec<rpc::Template> = listed!(
            self,
            templates.list_templates_with_options(request) -> ListTemplatesResponse.templates,
            ASK_TIMEOUT
        )?;
        Ok(listed
            .into_iter()
            .filter_map(|template| Template::try_from(template).ok())
            .collect())
    }
}
