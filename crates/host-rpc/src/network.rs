//! Rules for where a sandbox may connect to, as messages.

use model::network::Bandwidth;
use model::{InvalidValue, NetworkSpec};

use crate::NetworkRules;

#[must_use]
pub fn to_message(rules: &NetworkSpec) -> NetworkRules {
    NetworkRules {
        allow_out: rules.allow_out.iter().map(ToString::to_string).collect(),
        deny_out: rules.deny_out.iter().map(ToString::to_string).collect(),
        deny_internet: !rules.allow_internet,
        egress_mbps: rules.bandwidth.egress_mbps,
        ingress_mbps: rules.bandwidth.ingress_mbps,
        ..NetworkRules::default()
    }
}

/// Converts the rules of a message. A sender without rules is of a version before them: everything
/// is open.
///
/// # Errors
/// Names the entry that is wrong.
pub fn from_message(message: Option<&NetworkRules>) -> Result<NetworkSpec, InvalidValue> {
    let Some(message) = message else {
        return Ok(NetworkSpec::default());
    };
    let rules = NetworkSpec::parse(
        &message.allow_out,
        &message.deny_out,
        !message.deny_internet,
    )?;
    let rules = rules.with_bandwidth(Bandwidth {
        egress_mbps: message.egress_mbps,
        ingress_mbps: message.ingress_mbps,
    });
    rules.check().map(|()| rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_come_back_as_they_were() {
        let rules = NetworkSpec::parse(
            &["*.a.com".to_owned()],
            &["9.0.0.0/8".to_owned(), "2606::/16".to_owned()],
            false,
        )
        .unwrap();
        let rules = rules.with_bandwidth(Bandwidth {
            egress_mbps: 3,
            ingress_mbps: 4,
        });
        assert_eq!(from_message(Some(&to_message(&rules))).unwrap(), rules);
        assert_eq!(from_message(None).unwrap(), NetworkSpec::default());
        assert_eq!(
            from_message(Some(&NetworkRules::default())).unwrap(),
            NetworkSpec::default()
        );
    }
}
