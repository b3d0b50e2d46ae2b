//! Makes the VM of a sandbox, or of one that was paused: network and disk side by side, then the VM,
//! booted or restored. [`super::init_guest`] follows.
//!
//! Nothing is undone here: the caller releases everything when this fails.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stdx::error::chain;
use vmm::{Disk, Net, Vm, VmConfig};

use super::Handle;
use super::actor::blocking;
use super::base;
use super::init_guest::BootKind;
use super::instant::{self, INITRAMFS, Instant, KERNEL, MEMORY, MODULES};
use super::preboot;
use super::state::Event;
use crate::host::Host;
use crate::network::{GUEST_MAC, TAP};
use crate::warm::BootKey;

/// What a sandbox is made from.
#[derive(Debug, Clone)]
pub(crate) enum Start {
    /// Boots from an image.
    Image(PathBuf),
    /// Goes on from an instant; its disk is the instant's, or one over an image of that.
    Instant {
        dir: PathBuf,
        image: Option<PathBuf>,
    },
    /// It was made by an earlier run of the agent.
    Restarted,
}

/// Makes everything up to the running VM.
///
/// # Errors
/// The event that ended the attempt.
pub(crate) async fn create(
    host: &Arc<Host>,
    handle: &Handle,
    start: &Start,
) -> Result<(Arc<dyn Vm>, BootKind), Event> {
    let key = preboot::boot_key(host, handle, start).await;
    let warm = preboot::find_entry(host, key.clone()).await;
    if let Some(dir) = warm.clone() {
        preboot::hold_memory(host, dir).await;
    }
    let start = &warm
        .clone()
        .map_or_else(|| start.clone(), |dir| Start::Instant { dir, image: None });
    let (network, disk) = tokio::join!(network(host, handle), disk(host, handle, start));
    network.map_err(Event::Failed)?;
    let disk = disk.map_err(Event::Failed)?;
    if handle.removing.is_cancelled() {
        return Err(Event::Remove);
    }
    let config = vm_config(host, handle, disk).await.map_err(Event::Failed)?;
    fail::fail_point!("create::disk-and-network-made");
    let restored = match start {
        Start::Instant { dir, .. } => Some(restore(host, handle, &config, dir).await),
        Start::Image(_) | Start::Restarted => None,
    };
    let made = match (restored, warm) {
        (Some(Err(event)), Some(dir)) => {
            if event == Event::Remove {
                return Err(event);
            }
            preboot::discard_entry(host, handle, &dir, &event).await;
            boot(host, handle, &config, None).await?
        }
        (Some(restored), _) => restored?,
        (None, _) => boot(host, handle, &config, key).await?,
    };
    fail::fail_point!("create::vm-booted");
    Ok(made)
}

async fn boot(
    host: &Host,
    handle: &Handle,
    config: &VmConfig,
    key: Option<BootKey>,
) -> Result<(Arc<dyn Vm>, BootKind), Event> {
    // A start that is given up is ended by the release.
    let booted = handle
        .unless_removed(host.engine.driver.boot(config))
        .await
        .ok_or(Event::Remove)?;
    let vm = booted.map_err(|error| Event::Failed(chain(&error)))?;
    Ok((vm.into(), BootKind::Booted { key }))
}

/// Makes a paused sandbox's VM run again, from the instant in `saved`.
///
/// # Errors
/// The event that ended the attempt.
pub(crate) async fn resume(
    host: &Arc<Host>,
    handle: &Handle,
    saved: &Path,
) -> Result<(Arc<dyn Vm>, BootKind), Event> {
    let record = handle.record.borrow().clone();
    let restored = {
        let (host, dir, saved) = (
            Arc::clone(host),
            host.ledger.dir(&handle.id),
            saved.to_owned(),
        );
        let size = record.disk.map_or(0, |disk| disk.size_bytes);
        blocking(move || {
            base::check(&dir, record.disk)?;
            // Where the instant has a disk of its own, what an earlier attempt wrote is thrown
            // away.
            host.disks.replace(&saved, &dir)?;
            host.disks.restore(&record.id, &dir, size)
        })
    };
    let (network, disk) = tokio::join!(network(host, handle), restored);
    network.map_err(Event::Failed)?;
    let disk = disk.map_err(Event::Failed)?;
    if handle.removing.is_cancelled() {
        return Err(Event::Remove);
    }
    let config = vm_config(host, handle, disk).await.map_err(Event::Failed)?;
    fail::fail_point!("resume::disk-and-network-made");
    restore(host, handle, &config, saved).await
}

async fn restore(
    host: &Host,
    handle: &Handle,
    config: &VmConfig,
    from: &Path,
) -> Result<(Arc<dyn Vm>, BootKind), Event> {
    let failed = |error: &dyn std::error::Error| Event::Failed(chain(error));
    let dir = from.to_owned();
    let instant = blocking(move || Instant::read(&dir)).await;
    let instant = instant.map_err(|error| {
        Event::Failed(format!(
            "its saved state in {} is damaged: {error}",
            from.display()
        ))
    })?;
    let engine = host.engine_name();
    if instant.engine != engine {
        return Err(Event::Failed(format!(
            "its memory was saved by {}, and this host agent uses {engine}; start the agent with the former \
             (AGENT_VMM, AGENT_ACCEL)",
            instant.engine
        )));
    }
    let memory = from.join(MEMORY);
    // A start that is given up is ended by the release.
    let restored = handle.unless_removed(async {
        let vm: Arc<dyn Vm> = host.engine.driver.restore(config, &memory).await?.into();
        fail::fail_point!("restore::vm-loaded");
        vm.resume().await.map(|()| vm)
    });
    let vm = restored
        .await
        .ok_or(Event::Remove)?
        .map_err(|error| failed(&error))?;
    Ok((
        vm,
        BootKind::Restored {
            token: instant.token,
        },
    ))
}

async fn network(host: &Arc<Host>, handle: &Handle) -> Result<(), String> {
    let slot = handle
        .record
        .borrow()
        .slot
        .ok_or("the sandbox has no network slot")?;
    let of = Arc::clone(host);
    let is_open = blocking(move || of.networks.create(slot, of.jails.user(slot))).await?;
    super::egress::start(host, handle, is_open).await
}

async fn disk(host: &Arc<Host>, handle: &Handle, start: &Start) -> Result<Disk, String> {
    let record = handle.record.borrow().clone();
    let size = record
        .disk
        .ok_or("the sandbox has no disk to make")?
        .size_bytes;
    let (host, dir, start) = (Arc::clone(host), host.ledger.dir(&handle.id), start.clone());
    blocking(move || {
        boot_files(&host, &start, &dir).map_err(crate::disk::Error::boot_files(&dir))?;
        let made = match start {
            Start::Image(image)
            | Start::Instant {
                image: Some(image), ..
            } => host.disks.create(&record.id, &image, &dir, size)?,
            Start::Instant {
                dir: from,
                image: None,
            } => {
                host.disks.copy(&from, &dir)?;
                host.disks.restore(&record.id, &dir, size)?
            }
            Start::Restarted => host.disks.restore(&record.id, &dir, size)?,
        };
        // After the link: from now on it is the file of the image as it is now.
        base::check(&dir, record.disk)?;
        Ok::<_, crate::disk::Error>(made)
    })
    .await
}

/// Kernel and initramfs under names that live as long as the sandbox: it may be resumed when this
/// host has others.
fn boot_files(host: &Host, start: &Start, dir: &Path) -> io::Result<()> {
    match start {
        Start::Instant { dir: from, .. } => instant::link_boot_files(from, dir),
        Start::Image(_) | Start::Restarted => {
            instant::link(&host.boot.kernel, &dir.join(KERNEL))?;
            instant::link(&host.boot.initramfs, &dir.join(INITRAMFS))?;
            match &host.boot.modules {
                Some(modules) => instant::link(modules, &dir.join(MODULES)),
                None => Ok(()),
            }
        }
    }
}

async fn vm_config(host: &Host, handle: &Handle, disk: Disk) -> Result<VmConfig, String> {
    let record = handle.record.borrow().clone();
    let slot = record.slot.ok_or("the sandbox has no network slot")?;
    let (dir, of) = (host.vm_dir(&handle.id), host.ledger.dir(&handle.id));
    let made = dir.clone();
    blocking(move || stdx::fs::create_private_dir(made)).await?;
    Ok(VmConfig {
        dir,
        name: handle.id.to_string(),
        vcpus: record.spec.vcpus,
        memory_mb: record.spec.memory_mb,
        kernel: of.join(KERNEL),
        initramfs: of.join(INITRAMFS),
        kernel_args: host.kernel_args(),
        disk,
        modules: Some(of.join(MODULES)).filter(|modules| modules.exists()),
        net: Some(Net {
            netns: slot.netns(),
            tap: TAP.to_owned(),
            mac: GUEST_MAC,
        }),
        jail: Some(host.jails.of(slot)),
    })
}
