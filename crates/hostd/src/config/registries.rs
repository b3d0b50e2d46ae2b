//! Registries that images are pulled from.

use std::collections::BTreeMap;
use std::path::Path;

use ipnet::IpNet;
use registry::RegistryPolicy;
use runtime::config::Variables;

const FILE: &str = "AGENT_REGISTRIES";
const NETWORKS: &str = "AGENT_REGISTRY_NETWORKS";

/// Reads the rules of the operator. Without any, images come from the public internet alone.
pub(super) fn read_policy(variables: &mut Variables<'_>, dir: &Path) -> RegistryPolicy {
    let file = variables.path(FILE, &dir.join("registries.json"));
    let registries = RegistryPolicy::read_registries(&file).unwrap_or_else(|error| {
        let file = file.display();
        variables.add_error(format!("{FILE}: the file {file} has a mistake: {error}"));
        BTreeMap::new()
    });
    RegistryPolicy {
        networks: read_networks(variables),
        registries,
    }
}

fn read_networks(variables: &mut Variables<'_>) -> Vec<IpNet> {
    let text = variables.text(NETWORKS).unwrap_or_default();
    let mut networks = Vec::new();
    for network in text.split(',').map(str::trim).filter(|it| !it.is_empty()) {
        match network.parse() {
            Ok(network) => networks.push(network),
            Err(_) => variables.add_error(format!(
                "{NETWORKS} must be networks with commas between them like 10.0.0.0/8,127.0.0.0/8, not {network:?}"
            )),
        }
    }
    networks
}
