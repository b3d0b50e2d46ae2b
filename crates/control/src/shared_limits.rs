//! The limits that all clients of the control plane share, from the settings that hold them.

use model::SharedLimit;
use model::shared_limit::or_none;
use runtime::environment::variable;

use crate::app::image_uploads::{IDLE_LIMIT, MAX_IMPORTS};
use crate::app::sandbox_fork::MAX_COUNT;
use crate::config::Config;

/// Lists the limits that hold for a control plane with these settings.
#[must_use]
pub fn shared_limits(config: &Config) -> Vec<SharedLimit> {
    let defaults = Config::without_variables()
        .as_ref()
        .map(all)
        .unwrap_or_default();
    SharedLimit::compare(all(config), defaults, |name| variable(name).is_some())
}

fn all(config: &Config) -> Vec<SharedLimit> {
    [of_clients(config), of_sandboxes(config)].concat()
}

fn of_clients(config: &Config) -> Vec<SharedLimit> {
    const WAIT: &str = "429 `resource_exhausted`, with the time to wait";
    let rates = &config.rate_limits;
    let per_address = config.listener.per_address.unwrap_or_default();
    vec![
        SharedLimit::set_by(
            "CP_MAX_CONNECTIONS",
            "connections to the API and to ports",
            config.listener.connections.to_string(),
            "those without a key, link or token are closed first",
        ),
        SharedLimit::set_by(
            "CP_MAX_CONNECTIONS_PER_ADDRESS",
            "connections of one address without a key, link or token",
            or_none(per_address as u64, ""),
            "the next one is closed",
        ),
        SharedLimit::set_by(
            "CP_MAX_REQUESTS_PER_SEC",
            "API requests of a key",
            or_none(rates.requests_per_sec.into(), "a second"),
            WAIT,
        ),
        SharedLimit::set_by(
            "CP_MAX_CREATES_PER_MIN",
            "sandboxes that a key creates or forks",
            or_none(rates.creates_per_min.into(), "a minute"),
            WAIT,
        ),
    ]
}

fn of_sandboxes(config: &Config) -> Vec<SharedLimit> {
    const TOO_LARGE: &str = "the request is refused";
    let sizes = &config.limits;
    vec![
        SharedLimit::built_in("children of one fork", MAX_COUNT.to_string(), TOO_LARGE),
        SharedLimit::built_in(
            "imports of images of a team at once; time without a byte of one",
            format!("{MAX_IMPORTS}, {} s", IDLE_LIMIT.as_secs()),
            "the next one gets 429; the upload is refused",
        ),
        SharedLimit::set_by(
            "CP_MAX_VCPUS",
            "processors of a sandbox",
            sizes.max_vcpus.to_string(),
            TOO_LARGE,
        ),
        SharedLimit::set_by(
            "CP_MAX_MEMORY_MB",
            "memory of a sandbox",
            format!("{} MiB", sizes.max_memory_mb),
            TOO_LARGE,
        ),
        SharedLimit::set_by(
            "CP_MAX_DISK_MB",
            "disk of a sandbox",
            format!("{} MiB", sizes.max_disk_mb),
            TOO_LARGE,
        ),
        SharedLimit::set_by(
            "CP_MAX_TIMEOUT_SEC",
            "time that a sandbox stays without activity",
            format!("{} s", sizes.max_timeout_sec),
            TOO_LARGE,
        ),
        SharedLimit::set_by(
            "CP_MAX_UPLOAD_MB",
            "file of one `files/write`",
            format!("{} MiB", config.max_upload_bytes >> 20),
            TOO_LARGE,
        ),
    ]
}
