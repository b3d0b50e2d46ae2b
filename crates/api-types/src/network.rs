//! Rules for where a sandbox may connect to, and how fast.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

const fn yes() -> bool {
    true
}

/// Where a sandbox may connect to, and how fast. An entry is an IPv4 or IPv6 address, a network as
/// in `192.0.2.0/24` or `2001:db8::/32`, or a name: `example.com`, `*.example.com` (everything
/// below it) or `*`. What is in `allow_out` is allowed even where `deny_out` has it, too.
/// `0.0.0.0/0` in `deny_out` is the whole internet, over IPv6, too; in `allow_out` it is all of
/// IPv4, and `::/0` all of IPv6. Whatever the rules, no sandbox reaches addresses that are private,
/// link-local or shared, metadata of clouds, the host or other sandboxes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NetworkRules)]
pub struct NetworkRules {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!(["*.pypi.org", "files.pythonhosted.org"]), max_items = 256)]
    pub allow_out: Vec<String>,
    /// With a name in either list, other addresses can only be reached as those of a name that is
    /// not denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 256)]
    pub deny_out: Vec<String>,
    /// Whether what is in neither list is allowed. Default true.
    #[serde(default = "yes")]
    pub allow_internet: bool,
    /// How fast it may send, in Mbit/s; without it as fast as its host lets all sandboxes be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100_000)]
    pub egress_mbps: Option<u32>,
    /// How fast it may receive, in Mbit/s; as `egress_mbps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100_000)]
    pub ingress_mbps: Option<u32>,
}

impl Default for NetworkRules {
    fn default() -> Self {
        Self {
            allow_out: Vec::new(),
            deny_out: Vec::new(),
            allow_internet: true,
            egress_mbps: None,
            ingress_mbps: None,
        }
    }
}

impl From<model::NetworkSpec> for NetworkRules {
    fn from(spec: model::NetworkSpec) -> Self {
        let texts =
            |targets: &[model::network::Target]| targets.iter().map(ToString::to_string).collect();
        let limit = |mbps: u32| (mbps > 0).then_some(mbps);
        Self {
            allow_out: texts(&spec.allow_out),
            deny_out: texts(&spec.deny_out),
            allow_internet: spec.allow_internet,
            egress_mbps: limit(spec.bandwidth.egress_mbps),
            ingress_mbps: limit(spec.bandwidth.ingress_mbps),
        }
    }
}

impl TryFrom<NetworkRules> for model::NetworkSpec {
    type Error = model::InvalidValue;

    fn try_from(rules: NetworkRules) -> Result<Self, model::InvalidValue> {
        let bandwidth = model::network::Bandwidth::parse(rules.egress_mbps, rules.ingress_mbps)?;
        Ok(
            Self::parse(&rules.allow_out, &rules.deny_out, rules.allow_internet)?
                .with_bandwidth(bandwidth),
        )
    }
}
