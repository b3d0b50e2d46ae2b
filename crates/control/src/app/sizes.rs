//! Sizes of a new sandbox: those that its request names, those of its template, or the defaults.
//! Pure.

use host_rpc as rpc;
use model::SandboxSpec;

use crate::error::{Error, Result};

/// What a request names; `None` leaves it to the template.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    pub vcpus: Option<u32>,
    /// MiB.
    pub memory_mb: Option<u32>,
    /// MiB.
    pub disk_mb: Option<u32>,
}

impl Sizes {
    #[must_use]
    pub fn of(spec: &SandboxSpec) -> Self {
        Self {
            vcpus: Some(spec.vcpus),
            memory_mb: Some(spec.memory_mb),
            disk_mb: spec.disk_mb,
        }
    }
}

/// `spec` has the defaults for what `named` leaves out. A snapshot with memory puts its own sizes
/// there: the guest that goes on in it has them.
///
/// # Errors
/// `InvalidRequest` when a snapshot with memory has others than those that are named.
pub fn fit(
    spec: SandboxSpec,
    named: &Sizes,
    template: Option<&rpc::Template>,
) -> Result<SandboxSpec> {
    let Some(snapshot) =
        template.filter(|template| template.kind == rpc::TemplateKind::TEMPLATE_KIND_SNAPSHOT)
    else {
        return Ok(spec);
    };
    let wanted = [
        ("vcpus", named.vcpus, snapshot.vcpus),
        ("memory_mb", named.memory_mb, snapshot.memory_mb),
        ("disk_mb", named.disk_mb, snapshot.disk_mb),
    ];
    for (field, named, has) in wanted {
        if let Some(named) = named.filter(|&named| named != has) {
            return Err(Error::invalid(format!(
                "{field} must be {has} as in the snapshot {}, not {named}: it has {} vCPUs, {} MiB of memory and {} \
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
    use std::collections::BTreeMap;

    use super::*;

    fn spec() -> SandboxSpec {
        SandboxSpec {
            template: "ready".parse().unwrap(),
            vcpus: 1,
            memory_mb: 512,
            timeout_sec: 300,
            on_timeout: model::OnTimeout::default(),
            auto_resume: true,
            disk_mb: None,
            envs: BTreeMap::new(),
            public_ports: false,
            network: model::NetworkSpec::default(),
        }
    }

    fn template(kind: rpc::TemplateKind) -> rpc::Template {
        let name = "ready".to_owned();
        rpc::Template {
            name,
            kind: kind.into(),
            vcpus: 2,
            memory_mb: 256,
            disk_mb: 4096,
            ..Default::default()
        }
    }

    #[test]
    fn a_snapshot_gives_its_sizes_and_no_others() {
        let snapshot = template(rpc::TemplateKind::TEMPLATE_KIND_SNAPSHOT);
        let fitted = fit(spec(), &Sizes::default(), Some(&snapshot)).unwrap();
        assert_eq!(
            Sizes::of(&fitted),
            Sizes {
                vcpus: Some(2),
                memory_mb: Some(256),
                disk_mb: Some(4096)
            }
        );
        assert_eq!(
            fit(fitted.clone(), &Sizes::of(&fitted), Some(&snapshot)).unwrap(),
            fitted
        );
        let named = Sizes {
            memory_mb: Some(512),
            ..Sizes::default()
        };
        let refused = fit(spec(), &named, Some(&snapshot)).unwrap_err().message;
        assert!(
            refused.contains("memory_mb must be 256") && refused.contains("`memory: false`"),
            "{refused}"
        );
    }

    #[test]
    fn from_everything_else_sandboxes_boot_in_any_size() {
        for kind in [
            rpc::TemplateKind::TEMPLATE_KIND_BASE,
            rpc::TemplateKind::TEMPLATE_KIND_IMAGE,
        ] {
            let named = Sizes {
                vcpus: Some(1),
                ..Sizes::default()
            };
            assert_eq!(fit(spec(), &named, Some(&template(kind))).unwrap(), spec());
        }
        assert_eq!(fit(spec(), &Sizes::default(), None).unwrap(), spec());
    }
}
