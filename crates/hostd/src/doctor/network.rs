//! Checks of the host's network that sandboxes share: addresses and tracked connections.

use linux::sysctl;

use super::Check;
use crate::config::Config;
use crate::network::host_rules::noted_plans;
use crate::network::{addresses, connections};

/// Compares what all sandboxes together may have tracked with what the host can track.
pub(super) fn check_connections(config: &Config) -> Check {
    let limit = connections::sandbox_limit(config.network.settings.connections);
    let size = sysctl::get(connections::TABLE_SIZE)
        .ok()
        .and_then(|size| size.parse().ok());
    compare(limit, config.limits.sandboxes, size)
}

/// Checks that no other software uses the networks of sandboxes.
pub(super) fn check_addresses(config: &Config) -> Check {
    const NAME: &str = "addresses";
    let fix = "set AGENT_NETWORK_CIDR to a private network of /22 or larger that nothing else uses";
    let found = noted_plans().and_then(|ours| {
        Ok((
            addresses::in_use(&config.network.settings.name_servers, &ours)?,
            ours,
        ))
    });
    let (in_use, ours) = match found {
        Ok(found) => found,
        Err(error) => {
            return Check::warning(NAME, format!("cannot tell which are in use: {error}"), fix);
        }
    };
    match addresses::choose_networks(config.network.settings.plan, &ours, &in_use) {
        Err(error) => Check::missing(NAME, error.to_string(), fix),
        Ok(plan) => match addresses::find_overlaps(plan, &in_use).first() {
            None => Check::ok(
                NAME,
                format!("sandboxes have those of {plan}, which nothing else here uses"),
            ),
            Some(used) => {
                let found = format!(
                    "sandboxes have those of {plan}, and here is {}: it is out of reach",
                    used.by
                );
                Check::warning(NAME, found, fix)
            }
        },
    }
}

fn compare(limit: u32, sandboxes: usize, size: Option<u64>) -> Check {
    const NAME: &str = "connections";
    let Some(size) = size else {
        return Check::ok(
            NAME,
            format!("{limit} of each sandbox; connections are not tracked yet"),
        );
    };
    let each = u64::from(connections::limit_on_host(limit));
    // A quarter is the host's own.
    let enough = size / 4 * 3 / each;
    let found = format!(
        "{limit} of each sandbox; the host tracks {size}, which {enough} sandboxes can fill"
    );
    if enough >= sandboxes as u64 {
        return Check::ok(NAME, found);
    }
    let wanted = each.saturating_mul(sandboxes as u64) / 3 * 4;
    let fix = format!(
        "nothing, unless that many sandboxes work against you at once; for all {sandboxes} of AGENT_MAX_SANDBOXES: \
         sysctl -w net.netfilter.nf_conntrack_max={wanted} (320 bytes of memory each), or a lower AGENT_SANDBOX_CONNECTIONS"
    );
    Check::warning(NAME, found, fix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn table_too_small_for_all_sandboxes_is_told() {
        assert_eq!(compare(4096, 1000, Some(262_144)).status, Status::Warning);
        assert_eq!(compare(4096, 38, Some(262_144)).status, Status::Ok);
        let told = compare(4096, 1000, Some(262_144));
        assert!(
            told.fix.unwrap().contains("nf_conntrack_max=6826664 "),
            "what holds then"
        );
        assert_eq!(compare(4096, 1000, Some(6_827_000)).status, Status::Ok);
    }
}
