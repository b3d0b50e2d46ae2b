//! Networks of sandboxes: addresses, name servers, speed.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;

use model::network::Bandwidth;
use runtime::config::Variables;

use crate::network::{Ipv6Setting, NetworkSettings, Plan, connections};

const POOL: &str = "AGENT_NETWORK_POOL";
const CIDR: &str = "AGENT_NETWORK_CIDR";
const DNS: &str = "AGENT_DNS";
const IPV6: &str = "AGENT_IPV6";
pub(crate) const EGRESS: &str = "AGENT_EGRESS_MBPS";
pub(crate) const INGRESS: &str = "AGENT_INGRESS_MBPS";
pub(crate) const CONNECTIONS: &str = "AGENT_SANDBOX_CONNECTIONS";

/// Default of `AGENT_NETWORK_POOL`: a burst of creates that a person starts. Each network costs
/// some kernel objects.
const DEFAULT_POOL: usize = 4;
const POOL_SIZES: RangeInclusive<usize> = 0..=256;
const DEFAULT_DNS: &str = "8.8.8.8,8.8.4.4";

/// Networks of sandboxes.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// `AGENT_NETWORK_POOL`: number of networks that are preallocated for new sandboxes.
    pub pool_size: usize,
    /// All other variables.
    pub settings: NetworkSettings,
}

impl NetworkConfig {
    pub(super) fn from_variables(variables: &mut Variables<'_>) -> Self {
        Self {
            pool_size: variables.parse_within(POOL, &POOL_SIZES, DEFAULT_POOL),
            settings: NetworkSettings {
                plan: read_plan(variables),
                name_servers: read_name_servers(variables),
                ipv6: variables.parse_or(IPV6, "auto, on or off", Ipv6Setting::Auto),
                limits: Bandwidth {
                    egress_mbps: read_mbps(variables, EGRESS),
                    ingress_mbps: read_mbps(variables, INGRESS),
                },
                connections: read_connections(variables),
            },
        }
    }
}

fn read_plan(variables: &mut Variables<'_>) -> Option<Plan> {
    let text = variables.text(CIDR)?;
    let plan = text.parse().ok().and_then(Plan::from_halves);
    if plan.is_none() {
        let longest = Plan::LONGEST_PREFIX;
        variables.add_error(format!(
            "{CIDR} must be a private IPv4 network of /{longest} or larger, as 10.212.0.0/15, not {text:?}"
        ));
    }
    plan
}

fn read_name_servers(variables: &mut Variables<'_>) -> String {
    let servers = variables
        .text(DNS)
        .unwrap_or_else(|| DEFAULT_DNS.to_owned());
    if !servers.split(',').all(is_name_server) {
        variables.add_error(format!(
            "{DNS} must be IPv4 addresses, with ports where they are not 53, and commas between them, not {servers:?}"
        ));
    }
    servers
}

/// Returns true for an address with or without a port.
fn is_name_server(text: &str) -> bool {
    text.parse::<Ipv4Addr>().is_ok() || text.parse::<SocketAddrV4>().is_ok()
}

fn read_mbps(variables: &mut Variables<'_>, name: &str) -> u32 {
    let most = Bandwidth::MAX_MBPS;
    let expected = format!("a number of Mbit/s from 0 (no limit) to {most}");
    let mbps = variables.parse_or(name, &expected, 0);
    if mbps > most {
        variables.add_error(format!("{name} must be {expected}, not {mbps}"));
    }
    mbps
}

fn read_connections(variables: &mut Variables<'_>) -> Option<u32> {
    variables.text(CONNECTIONS)?;
    let range = connections::LEAST..=connections::MOST;
    Some(variables.parse_within(CONNECTIONS, &range, connections::LEAST))
}
