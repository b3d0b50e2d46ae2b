//! The limits of what sandboxes share of this host, from the constants and settings that hold them.

use model::SharedLimit;
use model::shared_limit::or_none;
use runtime::environment::variable;

use crate::config::{Config, api, disks, limits, network};
use crate::egress::limits as egress;
use crate::images::import;
use crate::network::connections;
use crate::sandbox::log;

const MIB: u64 = 1 << 20;

/// Lists the limits that hold for an agent with these settings.
#[must_use]
pub fn shared_limits(config: &Config) -> Vec<SharedLimit> {
    let defaults = Config::without_variables()
        .as_ref()
        .map(all)
        .unwrap_or_default();
    SharedLimit::compare(all(config), defaults, |name| variable(name).is_some())
}

fn all(config: &Config) -> Vec<SharedLimit> {
    [
        of_host(config),
        of_images(config),
        of_network(config),
        of_names(),
        of_bandwidth(config),
        of_disk(config),
        of_vmm(),
    ]
    .concat()
}

fn of_host(config: &Config) -> Vec<SharedLimit> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let listener = &config.api.listener;
    vec![
        SharedLimit::set_by(
            limits::SANDBOXES,
            "sandboxes of a host that are not paused",
            config.limits.sandboxes.to_string(),
            "a create or resume is refused",
        ),
        SharedLimit::built_in(
            "starts of VMs at once",
            "one for each processor",
            "others wait; a guest that does not answer holds none",
        )
        .with_actual(processors),
        SharedLimit::set_by(
            limits::CHECKPOINTS,
            "checkpoints of a sandbox",
            config.limits.checkpoints.to_string(),
            "the next one is refused",
        ),
        SharedLimit::set_by(
            limits::SNAPSHOTS,
            "snapshots made of a sandbox",
            config.limits.snapshots.to_string(),
            "the next one is refused",
        ),
        SharedLimit::built_in(
            "log of a sandbox, in memory and in its file",
            format!(
                "{} KiB, {} KiB",
                log::MAX_WEIGHT / 1024,
                log::MAX_FILE / 1024
            ),
            "old lines go",
        ),
        SharedLimit::set_by(
            api::MAX_CONNECTIONS,
            "connections to the agent",
            listener.connections.to_string(),
            "those without the token are closed first",
        ),
        SharedLimit::built_in(
            "connections to the agent of one address without the token",
            or_none(listener.per_address.unwrap_or_default() as u64, ""),
            "the next one is closed",
        ),
    ]
}

fn of_images(config: &Config) -> Vec<SharedLimit> {
    vec![
        SharedLimit::set_by(
            limits::IMAGES,
            "images that were imported on a host",
            config.limits.images.to_string(),
            "no more are imported",
        ),
        SharedLimit::set_by(
            limits::IMAGE_MB,
            "an image that is imported, as it is sent and unpacked",
            format!("{} MiB", config.limits.image_bytes / MIB),
            "it is refused",
        ),
        SharedLimit::built_in(
            "files of an image that is imported; bytes unpacked for each compressed one; time",
            format!(
                "{}, {}, {} s",
                import::MAX_ENTRIES,
                oci::limits::MAX_RATIO,
                import::UNPACK_TIME.as_secs()
            ),
            "it is refused",
        ),
        SharedLimit::built_in(
            "images that are unpacked at once",
            import::MAX_UNPACKED.to_string(),
            "others wait",
        ),
    ]
}

fn of_network(config: &Config) -> Vec<SharedLimit> {
    let settings = &config.network.settings;
    let tracked = settings.connections.map_or_else(
        || {
            format!(
                "{}, at most 1/{} of nf_conntrack_max",
                connections::DEFAULT,
                connections::PARTS
            )
        },
        |limit| limit.to_string(),
    );
    vec![
        SharedLimit::set_by(
            network::CONNECTIONS,
            "tracked connections of a sandbox, and so ports of the host's NAT",
            tracked,
            "new ones wait; its log tells",
        )
        .with_actual(connections::sandbox_limit(settings.connections)),
        SharedLimit::built_in(
            "connections to the ports of a sandbox",
            host_rpc::tunnel::MAX_CONNECTIONS.to_string(),
            "the next one gets 429",
        ),
    ]
}

fn of_names() -> Vec<SharedLimit> {
    vec![
        SharedLimit::built_in(
            "connections of a sandbox through the proxy for names",
            egress::PROXY_CONNECTIONS.to_string(),
            "the next one is reset; its log tells",
        ),
        SharedLimit::built_in(
            "questions of a sandbox to name servers",
            format!(
                "{} a second, {} at once",
                egress::QUESTIONS,
                egress::QUESTIONS_AT_ONCE
            ),
            "others are refused; its log tells",
        ),
        SharedLimit::built_in(
            "names that are new to the rules of a sandbox",
            format!(
                "{} a second, {} at once",
                egress::NEW_NAMES,
                egress::NEW_NAMES_AT_ONCE
            ),
            "others are refused; its log tells",
        ),
        SharedLimit::built_in(
            "names, and addresses of names, that rules of a sandbox hold",
            format!("{}, {}", egress::NAMES, crate::network::MAX_PINNED),
            "the oldest go",
        ),
    ]
}

fn of_bandwidth(config: &Config) -> Vec<SharedLimit> {
    let settings = &config.network.settings;
    let mbps = |mbps: u32| or_none(mbps.into(), "Mbit/s");
    vec![
        SharedLimit::set_by(
            network::EGRESS,
            "what a sandbox sends",
            mbps(settings.limits.egress_mbps),
            "it is slowed down",
        ),
        SharedLimit::set_by(
            network::INGRESS,
            "what a sandbox gets",
            mbps(settings.limits.ingress_mbps),
            "it is slowed down",
        ),
    ]
}

fn of_disk(config: &Config) -> Vec<SharedLimit> {
    let limits = &config.disks.limits;
    let (least, most) = crate::disk::RESERVE;
    vec![
        SharedLimit::set_by(
            disks::MBPS,
            "what a sandbox reads from its disk, and writes",
            or_none(limits.bytes.unwrap_or_default() / 1_000_000, "MB/s"),
            "it is slowed down",
        ),
        SharedLimit::set_by(
            disks::IOPS,
            "operations of a sandbox on its disk, reading and writing",
            or_none(limits.operations.unwrap_or_default(), "a second"),
            "it is slowed down",
        ),
        SharedLimit::built_in(
            "free space that sandboxes leave on the host's disk",
            format!("1/8 of it, {} to {} MiB", least / MIB, most / MIB),
            "who writes stands still until there is room",
        ),
    ]
}

fn of_vmm() -> Vec<SharedLimit> {
    use vmm::limits;
    vec![
        SharedLimit::built_in(
            "length of each file that a VMM writes",
            format!("disk + memory + {} MiB", limits::FILE_SLACK_BYTES / MIB),
            "the write fails, in the guest too",
        ),
        SharedLimit::built_in(
            "directory of a VMM, which is in memory",
            format!(
                "{} MiB, {} files",
                limits::RUN_DIR_BYTES / MIB,
                limits::RUN_DIR_FILES
            ),
            "the write fails",
        ),
        SharedLimit::built_in(
            "open files of a VMM",
            linux::jail::Limits::default().files.to_string(),
            "the next one fails",
        ),
        SharedLimit::built_in(
            "swap of a VMM",
            "of one half of the host's, its memory's share of the host's memory",
            "its memory stays in memory",
        ),
        SharedLimit::built_in(
            "console of a sandbox that is not read yet",
            format!("{} KiB", limits::CONSOLE_BYTES / 1024),
            "old bytes go",
        ),
    ]
}
