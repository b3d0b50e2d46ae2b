//! Sizes of a new sandbox: those that its request names, those of its template, or the defaults.
//! Pure.

use model::{ResourceRequest, SandboxSpec, TemplateKind};

use crate::error::{Error, Result};
use crate::hosts::Template;

/// Puts the sizes of a snapshot with memory into `spec`: its guest goes on with them. `spec` has
/// the defaults for the sizes that `requested` leaves out.
///
/// # Errors
/// `InvalidRequest` if the request names other sizes than the snapshot has.
pub fn resolve_resources(
    spec: SandboxSpec,
    requested: &ResourceRequest,
    template: Option<&Template>,
) -> Result<SandboxSpec> {
    let Some(snapshot) = template.filter(|template| template.kind == TemplateKind::Snapshot) else {
        return Ok(spec);
    };
    let wanted = [
        ("vcpus", requested.vcpus, snapshot.vcpus),
        ("memory_mb", requested.memory_mb, snapshot.memory_mb),
        ("disk_mb", requested.disk_mb, snapshot.disk_mb),
    ];
    for (field, requested, has) in wanted {
        if let Some(requested) = requested.filter(|&requested| requested != has) {
            return Err(Error::invalid(format!(
                "{field} must be {has} as in the snapshot {}, not {requested}: it has {} vCPUs, {} MiB of memory and {} \
                 MiB of disk, and its guest goes on with them; leave {field} out, or make a snapshot without memory \
                 (`memory: false`), whose sandboxes may have any size",
                snapshot.name, snapshot.vcpus, snapshot.memory_mb, snapshot.disk_mb
            )));
        }
    }
    let disk_mb = Some(snapshot.disk_mb)
        .filter(|&size| size > 0)
        .or(spec.disk_mb);
    Ok(SandboxSpec {
        vcpus: snapshot.vcpus,
        memory_mb: snapshot.memory_mb,
        disk_mb,
        ..spec
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> SandboxSpec {
        SandboxSpec::builder()
            .template("ready".parse::<model::TemplateName>().unwrap())
            .build()
    }

    fn template(kind: TemplateKind) -> Template {
        Template {
            name: "ready".parse().unwrap(),
            kind,
            size_bytes: 1,
            exclusive_bytes: 1,
            created_at: 1,
            vcpus: 2,
            memory_mb: 256,
            disk_mb: 4096,
            source_sandbox_id: None,
            digest: None,
            format: None,
            image_config: None,
        }
    }

    #[test]
    fn snapshot_gives_its_sizes_alone() {
        let snapshot = template(TemplateKind::Snapshot);
        let fitted =
            resolve_resources(spec(), &ResourceRequest::default(), Some(&snapshot)).unwrap();
        assert_eq!(
            ResourceRequest::from(&fitted),
            ResourceRequest {
                vcpus: Some(2),
                memory_mb: Some(256),
                disk_mb: Some(4096)
            }
        );
        assert_eq!(
            resolve_resources(
                fitted.clone(),
                &ResourceRequest::from(&fitted),
                Some(&snapshot)
            )
            .unwrap(),
            fitted
        );
        let named = ResourceRequest {
            memory_mb: Some(512),
            ..ResourceRequest::default()
        };
        let refused = resolve_resources(spec(), &named, Some(&snapshot))
            .unwrap_err()
            .message;
        assert!(
            refused.contains("memory_mb must be 256") && refused.contains("`memory: false`"),
            "{refused}"
        );
    }

    #[test]
    fn other_templates_boot_any_size() {
        for kind in [TemplateKind::Base, TemplateKind::Image] {
            let named = ResourceRequest {
                vcpus: Some(1),
                ..ResourceRequest::default()
            };
            assert_eq!(
                resolve_resources(spec(), &named, Some(&template(kind))).unwrap(),
                spec()
            );
        }
        assert_eq!(
            resolve_resources(spec(), &ResourceRequest::default(), None).unwrap(),
            spec()
        );
    }
}
