//! Who may depend on whom. The table is the architecture; ARCHITECTURE.md explains it.

use std::collections::BTreeMap;

use cargo_metadata::{DependencyKind, Metadata};

use crate::Finding;

/// Crate, and our own crates that it may depend on.
const MAY: [(&str, &[&str]); 23] = [
    ("stdx", &[]),
    ("runtime", &["stdx"]),
    ("model", &[]),
    ("api-types", &["model"]),
    ("guest-rpc", &[]),
    ("host-rpc", &["model"]),
    ("store", &["model"]),
    (
        "control",
        &[
            "model",
            "api-types",
            "client",
            "host-rpc",
            "listener",
            "mcp",
            "runtime",
            "stdx",
            "store",
        ],
    ),
    ("dockerfile", &["model"]),
    ("linux", &["stdx"]),
    ("disk-diff", &["linux", "model"]),
    ("oci", &["linux"]),
    ("registry", &["model", "oci"]),
    ("sparse", &[]),
    ("listener", &[]),
    ("vmm", &["linux", "stdx"]),
    (
        "hostd",
        &[
            "model",
            "host-rpc",
            "guest-rpc",
            "disk-diff",
            "linux",
            "listener",
            "oci",
            "registry",
            "runtime",
            "stdx",
            "vmm",
        ],
    ),
    ("guestd", &["guest-rpc", "runtime", "sparse", "stdx"]),
    ("client", &["api-types", "guest-rpc"]),
    ("mcp", &["client"]),
    ("ssh", &["client"]),
    // The last two for `wrenn up`, which is both in one process.
    (
        "cli",
        &[
            "client", "control", "hostd", "mcp", "model", "registry", "runtime", "sparse", "ssh",
        ],
    ),
    ("testkit", &["model", "guest-rpc", "host-rpc", "stdx"]),
];

/// What measures and what tests from the outside may use anything, or nothing.
const OUTSIDE: [(&str, bool); 3] = [("bench", true), ("e2e", false), ("tidy", false)];

/// Only for tests, where a test may use it: the doubles, and the SDK that a user has.
const FOR_TESTS: [&str; 2] = ["testkit", "client"];

/// Crates of others that have one owner among ours, so that a rule about what they do can be kept.
const OWNERS: [(&str, &[&str]); 9] = [
    ("sqlx", &["store", "testkit"]),
    ("rtnetlink", &["linux"]),
    ("kvm-ioctls", &["linux"]),
    ("devicemapper", &["linux"]),
    ("loopdev-3", &["linux"]),
    ("seccompiler", &["linux"]),
    ("userfaultfd", &["linux"]),
    ("qapi", &["vmm"]),
    ("utoipa-axum", &["control"]),
];

/// One dependency, as a manifest states it.
#[derive(Debug, Clone, Copy)]
pub struct Edge<'a> {
    pub from: &'a str,
    pub to: &'a str,
    pub is_ours: bool,
    pub is_for_tests: bool,
}

/// Every forbidden edge of the workspace, and crates that the table does not know.
#[must_use]
pub fn check(metadata: &Metadata) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in metadata.workspace_packages() {
        let manifest = package
            .manifest_path
            .strip_prefix(&metadata.workspace_root)
            .unwrap_or(&package.manifest_path);
        let mut found = |text: String| findings.push(Finding::new(manifest, 0, text));
        if package.description.as_deref().is_none_or(str::is_empty) {
            found("has no description: say in one line what the crate is for".to_owned());
        }
        for dependency in &package.dependencies {
            let edge = Edge {
                from: &package.name,
                to: &dependency.name,
                is_ours: dependency.path.is_some(),
                is_for_tests: dependency.kind == DependencyKind::Development,
            };
            if let Some(text) = forbidden(edge) {
                found(text);
            }
        }
    }
    findings
}

/// Why an edge is forbidden, if it is.
#[must_use]
pub fn forbidden(edge: Edge<'_>) -> Option<String> {
    let Edge {
        from,
        to,
        is_ours,
        is_for_tests,
    } = edge;
    if !is_ours {
        let (_, owners) = OWNERS.iter().find(|(name, _)| *name == to)?;
        let is_right = is_for_tests || owners.contains(&from);
        return (!is_right).then(|| {
            format!(
                "{from} uses {to}, which only {} may: ask them instead",
                owners.join(", ")
            )
        });
    }
    if is_for_tests && FOR_TESTS.contains(&to) {
        return None;
    }
    let may: BTreeMap<&str, &[&str]> = MAY.into_iter().collect();
    if let Some((_, anything)) = OUTSIDE.iter().find(|(name, _)| *name == from) {
        return (!anything)
            .then(|| format!("{from} depends on {to}: it is to see only what a user sees"));
    }
    match may.get(from) {
        None => Some(format!(
            "{from} is not in the table of tests/tidy/src/edges.rs: decide what it may depend on"
        )),
        Some(allowed) if allowed.contains(&to) => None,
        Some(allowed) => Some(format!(
            "{from} depends on {to}, but may only depend on [{}]: move the code, or pass what it needs through them",
            allowed.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge<'a>(from: &'a str, to: &'a str) -> Edge<'a> {
        Edge {
            from,
            to,
            is_ours: true,
            is_for_tests: false,
        }
    }

    #[test]
    fn the_table_decides() {
        assert_eq!(forbidden(edge("vmm", "linux")), None);
        assert!(
            forbidden(edge("linux", "vmm"))
                .unwrap()
                .contains("may only depend on [stdx]")
        );
        assert!(forbidden(edge("control", "hostd")).is_some());
        assert!(forbidden(edge("e2e", "model")).is_some());
        assert_eq!(forbidden(edge("bench", "client")), None);
        assert!(
            forbidden(edge("new", "model"))
                .unwrap()
                .contains("not in the table")
        );
    }

    #[test]
    fn doubles_are_for_tests_only() {
        assert!(forbidden(edge("hostd", "testkit")).is_some());
        assert_eq!(
            forbidden(Edge {
                is_for_tests: true,
                ..edge("hostd", "testkit")
            }),
            None
        );
    }

    #[test]
    fn some_crates_have_an_owner() {
        let sqlx = |from| {
            forbidden(Edge {
                is_ours: false,
                ..edge(from, "sqlx")
            })
        };
        assert_eq!(sqlx("store"), None);
        assert!(sqlx("control").unwrap().contains("only store"));
        assert_eq!(
            forbidden(Edge {
                is_ours: false,
                ..edge("control", "serde")
            }),
            None
        );
    }
}
