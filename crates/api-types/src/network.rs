//! Rules for where a sandbox may connect to.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

const fn yes() -> bool {
    true
}

/// Where a sandbox may connect to. An entry is an IPv4 address, a network as in `192.0.2.0/24`, or a name: `example.com`,
/// `*.example.com` (everything below it) or `*`. What is in `allow_out` is allowed even where `deny_out` has it, too.
/// Whatever the rules, no sandbox reaches addresses that are private, link-local or shared, metadata of clouds, the host
/// or other sandboxes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NetworkRules)]
pub struct NetworkRules {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!(["*.pypi.org", "files.pythonhosted.org"]), max_items = 256)]
    pub allow_out: Vec<String>,
    /// With a name in either list, other addresses can only be reached as those of a name that is not denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 256)]
    pub deny_out: Vec<String>,
    /// Whether what is in neither list is allowed. Default true.
    #[serde(default = "yes")]
    pub allow_internet: bool,
}

impl Default for NetworkRules {
    fn default() -> Self {
        Self { allow_out: Vec::new(), deny_out: Vec::new(), allow_internet: true }
    }
}

impl From<model::NetworkSpec> for NetworkRules {
    fn from(spec: model::NetworkSpec) -> Self {
        let texts = |targets: &[model::network::Target]| targets.iter().map(ToString::to_string).collect();
        Self { allow_out: texts(&spec.allow_out), deny_out: texts(&spec.deny_out), allow_internet: spec.allow_internet }
    }
}

impl TryFrom<NetworkRules> for model::NetworkSpec {
    type Error = model::InvalidValue;

    fn try_from(rules: NetworkRules) -> Result<Self, model::InvalidValue> {
        Self::parse(&rules.allow_out, &rules.deny_out, rules.allow_internet)
    }
}
