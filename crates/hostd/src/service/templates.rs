//! Templates of this host: base images, and those created from sandboxes.

use std::sync::Arc;

use connectrpc::{RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use host_rpc as rpc;
use host_rpc::TemplateService;
use stdx::task::run_blocking;

use super::Agent;
use super::error::from_sandbox_error;
use crate::host::Host;
use crate::images::Image;
use crate::sandbox::SandboxError;
use crate::snapshot::template::Template;

#[expect(
    refining_impl_trait,
    reason = "the concrete messages are what the handlers make"
)]
impl TemplateService for Agent {
    async fn list_templates(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, rpc::ListTemplatesRequest>,
    ) -> ServiceResult<ServiceStream<rpc::ListTemplatesResponse>> {
        // Walks directories, and is asked for in each round of reconciliation.
        let host = Arc::clone(&self.manager.host);
        let templates = run_blocking(move || list_templates(&host))
            .await
            .map_err(from_sandbox_error)?;
        Response::stream_ok(rpc::batch::stream_items(
            templates.into_iter(),
            |templates| rpc::ListTemplatesResponse {
                templates,
                ..Default::default()
            },
        ))
    }
}

fn list_templates(host: &Host) -> Result<Vec<rpc::Template>, SandboxError> {
    let images = host
        .images
        .list_images()?
        .into_iter()
        .map(|image| image_message(&image));
    Ok(images
        .chain(host.templates.list_templates().iter().map(template_message))
        .collect())
}

/// Converts an image, and measures it. Blocking.
pub(super) fn image_message(image: &Image) -> rpc::Template {
    let import = image.import.as_ref();
    let kind = match import {
        Some(_) => rpc::TemplateKind::TEMPLATE_KIND_IMAGE,
        None => rpc::TemplateKind::TEMPLATE_KIND_BASE,
    };
    rpc::Template {
        name: image.name.to_string(),
        size_bytes: image.size_bytes,
        exclusive_bytes: image.sizes().exclusive,
        created_at_ms: image.created_at_ms,
        kind: kind.into(),
        digest: import
            .map(|import| import.digest.clone())
            .unwrap_or_default(),
        format: import
            .map(|import| import.format.clone())
            .unwrap_or_default(),
        ..rpc::Template::default()
    }
}

/// Converts an image with its configuration, and measures it. Blocking.
pub(super) fn image_with_config(image: &Image) -> rpc::Image {
    // One that cannot be read is in the log, and refuses creates.
    let config = image.read_config().ok().flatten();
    let config = config.and_then(|config| serde_json::to_string(&config).ok());
    rpc::Image {
        template: image_message(image).into(),
        config: config.unwrap_or_default(),
        ..Default::default()
    }
}

/// Converts a template that was created from a sandbox, and measures it. Blocking.
pub(super) fn template_message(template: &Template) -> rpc::Template {
    let (kind, snapshot) = match template.has_memory {
        true => (
            rpc::TemplateKind::TEMPLATE_KIND_SNAPSHOT,
            Some(&template.snapshot),
        ),
        false => (rpc::TemplateKind::TEMPLATE_KIND_IMAGE, None),
    };
    let sizes = template.sizes();
    rpc::Template {
        name: template.name.to_string(),
        size_bytes: sizes.allocated,
        exclusive_bytes: sizes.exclusive,
        created_at_ms: template.published_at_ms,
        kind: kind.into(),
        vcpus: snapshot.map_or(0, |snapshot| snapshot.size.vcpus),
        memory_mb: snapshot.map_or(0, |snapshot| snapshot.size.memory_mb),
        disk_mb: template.disk_mb(),
        source_sandbox_id: template.source.to_string(),
        ..rpc::Template::default()
    }
}
