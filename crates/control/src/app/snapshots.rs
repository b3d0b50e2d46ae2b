//! Templates that are made of sandboxes. They are on the host of their sandbox; this process
//! remembers none of them.

use std::sync::Arc;

use host_rpc as rpc;
use model::{ErrorCode, SandboxId, TemplateName};

use super::App;
use crate::error::{Error, Result};

/// A checked request.
#[derive(Debug)]
pub struct Snapshot {
    pub sandbox: SandboxId,
    pub name: TemplateName,
    pub memory: bool,
    pub overwrite: bool,
}

/// A prefix and eight hex digits.
///
/// # Errors
/// Never with a prefix that a name may begin with.
pub fn random_name<T: std::str::FromStr<Err = model::InvalidValue>>(prefix: &str) -> Result<T> {
    Ok(format!("{prefix}-{:08x}", rand::random::<u32>()).parse()?)
}

/// Answers when it is safe on the host's disk. The sandbox goes on as it was.
///
/// # Errors
/// `Conflict` when the name is taken; what keeps the host from it: nothing is left of the snapshot
/// then.
pub async fn create(app: Arc<App>, snapshot: Snapshot) -> Result<rpc::Template> {
    let (sandbox, host) = app.alive(&snapshot.sandbox).await?;
    if app.hosts.all().len() > 1 {
        let is_elsewhere = |(owner, template): &(Arc<_>, rpc::Template)| {
            !Arc::ptr_eq(owner, &host) && template.name == snapshot.name.as_str()
        };
        if app
            .templates_on_hosts()
            .await?
            .templates
            .iter()
            .any(is_elsewhere)
        {
            let text = format!(
                "another host has a template {}; choose another name",
                snapshot.name
            );
            return Err(Error::new(ErrorCode::Conflict, text));
        }
    }
    let request = rpc::CreateSnapshotRequest {
        sandbox_id: sandbox.id.to_string(),
        name: snapshot.name.to_string(),
        memory: snapshot.memory,
        overwrite: snapshot.overwrite,
        ..Default::default()
    };
    let template = host
        .create_snapshot(request)
        .await?
        .template
        .into_option()
        .unwrap_or_default();
    tracing::info!(sandbox = %sandbox.id, template = template.name, "snapshot made");
    Ok(template)
}

/// Answers when it is gone.
///
/// # Errors
/// `NotFound`, also for base images; `Conflict` with the ids of the sandboxes that use it;
/// `HostUnavailable` when only a host that does not answer may have it.
pub async fn delete(app: Arc<App>, name: TemplateName) -> Result<()> {
    let mut found = app.templates_on_hosts().await?;
    let mut holders = std::mem::take(&mut found.templates);
    holders.retain(|(_, template)| template.name == name.as_str());
    if !holders.is_empty() && holders.iter().all(|(_, template)| is_base(template)) {
        let text = format!(
            "{name} is a base image and no snapshot; those are files in the image directory of the host"
        );
        return Err(Error::new(ErrorCode::NotFound, text));
    }
    holders.retain(|(_, template)| !is_base(template));
    if holders.is_empty() {
        return Err(found.lack(no_snapshot(&name)));
    }
    for (host, _) in holders {
        host.remove_snapshot(rpc::RemoveSnapshotRequest {
            name: name.to_string(),
            ..Default::default()
        })
        .await?;
    }
    tracing::info!(template = %name, "snapshot removed");
    Ok(())
}

/// Installed, and not made of a sandbox.
#[must_use]
pub fn is_base(template: &rpc::Template) -> bool {
    !matches!(
        template.kind.as_known(),
        Some(rpc::TemplateKind::TEMPLATE_KIND_IMAGE | rpc::TemplateKind::TEMPLATE_KIND_SNAPSHOT)
    )
}

fn no_snapshot(name: &TemplateName) -> Error {
    Error::new(
        ErrorCode::NotFound,
        format!("there is no snapshot {name}; `wrenn snapshots` lists them"),
    )
}

impl App {
    /// # Errors
    /// `NotFound`, also for base images; `HostUnavailable` when only a host that does not answer
    /// may have it.
    pub async fn snapshot(&self, name: &TemplateName) -> Result<rpc::Template> {
        let mut found = self.templates_on_hosts().await?;
        let mut made = std::mem::take(&mut found.templates)
            .into_iter()
            .map(|(_, template)| template);
        let made = made.find(|template| template.name == name.as_str() && !is_base(template));
        made.ok_or_else(|| found.lack(no_snapshot(name)))
    }
}
