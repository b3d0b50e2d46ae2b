//! Boots a guest from a kernel.

use std::fs::File;

use crate::files::in_file;
use crate::{Net, Result, VmConfig};

use super::api::{
    Action, Balloon, BootSource, CacheType, Drive, Entropy, HugePages, MachineConfig, MmdsConfig,
    MmdsVersion, NetworkInterface,
};
use super::args::{self, DISK, MODULES, NIC};
use super::client::Client;
use super::start::{Files, check_config, instance_data, prepare_dir, start_firecracker};
use super::vm::FirecrackerVm;
use super::{Host, memory};

/// Interval of the balloon's statistics, seconds.
const STATISTICS_INTERVAL_S: u16 = 10;

pub(super) async fn boot(host: Host, config: VmConfig) -> Result<FirecrackerVm> {
    check_config(&config).await?;
    for path in [&config.kernel, &config.initramfs, &config.disk.path] {
        File::open(path).map_err(in_file("open", path))?;
    }
    let run = prepare_dir(&config)?;
    memory::create_zeroed(&config.dir, u64::from(config.memory_mb) << 20)
        .map_err(in_file("make the memory in", &config.dir))?;
    let started = start_firecracker(
        &host,
        &config,
        run,
        Files {
            write: &[],
            read: &[],
            devices: &[],
        },
    )
    .await?;
    match configure(&started.client, &host, &config).await {
        Ok(()) => Ok(FirecrackerVm::new(started)),
        Err(error) => Err(started.end_after(error).await),
    }
}

async fn configure(client: &Client, host: &Host, config: &VmConfig) -> Result<()> {
    client.machine_config(&machine(config)).await?;
    if let Some(template) = &host.cpu_template {
        client.cpu_config(template).await?;
    }
    let boot_source = BootSource {
        kernel_image_path: config.kernel.clone(),
        initrd_path: Some(config.initramfs.clone()),
        boot_args: Some(args::kernel_args(config)),
    };
    client.boot_source(&boot_source).await?;
    client.drive(&drive(DISK, false)).await?;
    if config.modules.is_some() {
        client.drive(&drive(MODULES, true)).await?;
    }
    if let Some(net) = &config.net {
        client.network_interface(&nic(net)).await?;
        let interfaces = MmdsConfig {
            version: MmdsVersion::V2,
            network_interfaces: vec![NIC.into()],
        };
        client.mmds_config(&interfaces).await?;
        instance_data(client, config).await?;
    }
    client.entropy(&Entropy::default()).await?;
    // Takes no memory from the guest; it is there for its memory statistics.
    let balloon = Balloon {
        amount_mib: 0,
        deflate_on_oom: true,
        stats_polling_interval_s: STATISTICS_INTERVAL_S,
    };
    client.balloon(&balloon).await?;
    client.action(Action::InstanceStart).await
}

fn machine(config: &VmConfig) -> MachineConfig {
    MachineConfig {
        vcpu_count: config.vcpus,
        mem_size_mib: config.memory_mb,
        smt: false,
        track_dirty_pages: true,
        huge_pages: HugePages::None,
    }
}

fn drive(name: &str, is_read_only: bool) -> Drive {
    Drive {
        drive_id: name.into(),
        path_on_host: name.into(),
        is_root_device: false,
        is_read_only,
        // A guest takes flushed writes for safe.
        cache_type: CacheType::Writeback,
        rate_limiter: None,
    }
}

fn nic(net: &Net) -> NetworkInterface {
    let mac: Vec<String> = net.mac.iter().map(|byte| format!("{byte:02x}")).collect();
    NetworkInterface {
        iface_id: NIC.into(),
        host_dev_name: net.tap.clone(),
        guest_mac: Some(mac.join(":")),
        rx_rate_limiter: None,
        tx_rate_limiter: None,
    }
}
