//! Makes a sandbox, or one that was paused again: network and disk side by side, then the VM,
//! booted or restored, then the wait for its guest agent.
//!
//! Nothing is undone here: whoever calls releases everything when an event other than `Ready` comes
//! back.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use guest_rpc::http::{InitRequest, Ipv6};
use linux::untrusted_dir;
use model::SandboxId;
use rand::RngExt;
use sha2::{Digest, Sha256};
use tokio::time::timeout;
use vmm::{Disk, Net, Then, Vm, VmConfig};

use super::Handle;
use super::actor::blocking;
use super::base;
use super::capture::{self, Parts};
use super::instant::{self, INITRAMFS, Instant, KERNEL, MEMORY, MODULES};
use super::state::Event;
use crate::guest::{self, chain};
use crate::host::Host;
use crate::network::{GATEWAY_IP6, GUEST_IP6, GUEST_MAC, GUEST_PREFIX6, TAP, TAP_MAC};
use crate::warm::{self, Shape};

/// From the start of the VM to the guest agent's word. Without hardware virtualisation and beside
/// many others a boot takes tens of seconds.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// For a guest agent that listens to say that it is well; then it is asked again, after a pause.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

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

/// How the guest agent is spoken to first.
#[derive(Debug)]
pub(crate) enum Greeting {
    /// It has booted, and takes any token. Nobody has prepared its shape yet, if that is given.
    Booted { shape: Option<warm::Key> },
    /// It was restored, and wants to hear the token that it knows. One that knows none was nobody's
    /// yet.
    Restored { token: Option<String> },
}

/// Makes everything up to the running VM.
///
/// # Errors
/// The event that ended the attempt.
pub(crate) async fn create(
    host: &Arc<Host>,
    handle: &Handle,
    start: &Start,
) -> Result<(Arc<dyn Vm>, Greeting), Event> {
    let shape = shape(host, handle, start).await;
    let warm = find_warm(host, shape.clone()).await;
    if let Some(dir) = warm.clone() {
        let host = Arc::clone(host);
        if let Err(error) = blocking(move || host.warm.hold(&dir, &*host.engine.driver)).await {
            tracing::debug!(
                error,
                "the memory of a guest that waits is read again by each that goes on from it"
            );
        }
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
            distrust(host, handle, &dir, &event).await;
            boot(host, handle, &config, None).await?
        }
        (Some(restored), _) => restored?,
        (None, _) => boot(host, handle, &config, shape).await?,
    };
    fail::fail_point!("create::vm-booted");
    Ok(made)
}

async fn boot(
    host: &Host,
    handle: &Handle,
    config: &VmConfig,
    shape: Option<warm::Key>,
) -> Result<(Arc<dyn Vm>, Greeting), Event> {
    // A start that is given up is ended by the release.
    let booted = handle
        .unless_removed(host.engine.driver.boot(config))
        .await
        .ok_or(Event::Remove)?;
    let vm = booted.map_err(|error| Event::Failed(chain(&error)))?;
    Ok((vm.into(), Greeting::Booted { shape }))
}

/// Returns true if the sandbox is made by a boot, which needs a turn.
pub(crate) async fn is_boot(host: &Arc<Host>, handle: &Handle, start: &Start) -> bool {
    match start {
        Start::Image(_) => find_warm(host, shape(host, handle, start).await)
            .await
            .is_none(),
        Start::Instant { .. } | Start::Restarted => false,
    }
}

async fn find_warm(host: &Arc<Host>, shape: Option<warm::Key>) -> Option<PathBuf> {
    let (host, shape) = (Arc::clone(host), shape?);
    blocking(move || Ok::<_, io::Error>(host.warm.find(&shape)))
        .await
        .ok()
        .flatten()
}

/// The shape of a sandbox that is to boot from an image.
async fn shape(host: &Arc<Host>, handle: &Handle, start: &Start) -> Option<warm::Key> {
    let Start::Image(image) = start.clone() else {
        return None;
    };
    let record = handle.record.borrow().clone();
    let disk = record.disk?;
    let host = Arc::clone(host);
    let key = blocking(move || {
        let shape = Shape {
            image: &image,
            kernel: &host.boot.kernel,
            initramfs: &host.boot.initramfs,
            kernel_args: &host.kernel_args(),
            vcpus: record.spec.vcpus,
            memory_mb: record.spec.memory_mb,
            disk_bytes: disk.size_bytes,
            disk_backend: disk.backend.name(),
            engine: &host.engine_name(),
        };
        shape.key()
    });
    key.await.ok()
}

/// A guest that waited cannot be restored: the next ones boot.
async fn distrust(host: &Arc<Host>, handle: &Handle, dir: &Path, event: &Event) {
    tracing::warn!(sandbox = %handle.id, ?event, "a guest that waited cannot be restored; booting");
    let (host, dir, vm_dir) = (Arc::clone(host), dir.to_owned(), host.vm_dir(&handle.id));
    let cleared = blocking(move || {
        host.warm.remove(&dir)?;
        untrusted_dir::remove_tree(&vm_dir)?;
        fs::DirBuilder::new().mode(0o700).create(&vm_dir)
    });
    if let Err(error) = cleared.await {
        tracing::error!(error, "it cannot be removed");
    }
}

/// At the first boot of a shape: an instant for the next ones, before this guest is told who it is.
async fn prepare(host: &Arc<Host>, handle: &Handle, vm: &Arc<dyn Vm>, shape: &warm::Key) {
    let (beginning, shape) = (Arc::clone(host), shape.clone());
    let begun = blocking(move || Ok::<_, io::Error>(beginning.warm.begin(&shape))).await;
    let Some(making) = begun.ok().flatten() else {
        return;
    };
    let staging = making.staging.clone();
    let parts = Parts {
        memory: true,
        disk: true,
        token: false,
    };
    let taken = capture::of_vm(host, handle, vm, &staging, parts, Then::GoOn).await;
    let sealed = match taken {
        Ok(()) => seal(host, staging.join(MEMORY)).await,
        Err(error) => Err(error),
    };
    let published = match sealed {
        Ok(()) => {
            let host = Arc::clone(host);
            blocking(move || host.warm.publish(&making)).await
        }
        Err(error) => Err(error),
    };
    match published {
        Ok(()) => {
            tracing::info!(sandbox = %handle.id, "the next sandboxes like this one start without booting")
        }
        Err(error) => {
            capture::discard(&staging).await;
            tracing::warn!(sandbox = %handle.id, error, "the next sandboxes like this one will boot, too");
        }
    }
}

/// Gives memory that is finished its checksum.
async fn seal(host: &Arc<Host>, memory: PathBuf) -> Result<(), String> {
    let host = Arc::clone(host);
    blocking(move || host.engine.driver.compact(&memory, &AtomicBool::new(false))).await
}

/// Makes a paused sandbox's VM run again, from the instant in `saved`.
///
/// # Errors
/// The event that ended the attempt.
pub(crate) async fn resume(
    host: &Arc<Host>,
    handle: &Handle,
    saved: &Path,
) -> Result<(Arc<dyn Vm>, Greeting), Event> {
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
) -> Result<(Arc<dyn Vm>, Greeting), Event> {
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
        Greeting::Restored {
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
    blocking(move || fs::DirBuilder::new().mode(0o700).create(made)).await?;
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

/// Waits for the guest agent and makes the guest this sandbox's own.
pub(crate) async fn wait_until_ready(
    host: &Arc<Host>,
    handle: &Handle,
    greeting: Greeting,
) -> Event {
    let Some(vm) = handle.vm.get() else {
        return Event::Failed("the virtual machine is gone".to_owned());
    };
    tokio::select! {
        biased;
        () = handle.removing.cancelled() => Event::Remove,
        exit = vm.wait() => Event::Exited(exit),
        ready = introduce(host, handle, &vm, &greeting) => match ready {
            Ok(()) => Event::Ready,
            Err(reason) => Event::Failed(reason),
        },
    }
}

async fn introduce(
    host: &Arc<Host>,
    handle: &Handle,
    vm: &Arc<dyn Vm>,
    greeting: &Greeting,
) -> Result<(), String> {
    let restored = matches!(greeting, Greeting::Restored { .. });
    // One that was restored was well, and its first answers are slow: it is asked for no more of
    // them than are needed.
    let answers = async {
        if restored {
            return Some(handle.guest().connects(guest::GOES_ON).await);
        }
        answers(handle).await;
        None
    };
    let stream = timeout(READY_TIMEOUT, answers).await;
    let stream = stream.map_err(|_| {
        format!(
            "the guest agent did not answer within {} s",
            READY_TIMEOUT.as_secs()
        )
    })?;
    if let Greeting::Booted { shape: Some(shape) } = greeting {
        // In a task of its own: given up in the middle it would leave what it has made.
        let (host, handle, vm, shape) = (
            Arc::clone(host),
            handle.clone(),
            Arc::clone(vm),
            shape.clone(),
        );
        let _ = tokio::spawn(async move { prepare(&host, &handle, &vm, &shape).await }).await;
    }
    // Unless it was nobody's, it was asked to freeze, and may have done so even where it did not
    // answer in time.
    handle.frozen.fetch_or(
        matches!(greeting, Greeting::Restored { token: Some(_) }),
        Ordering::Relaxed,
    );
    let request = init_request(host, handle, restored);
    let told = std::time::Instant::now();
    let guest = match greeting {
        Greeting::Restored { token: Some(token) } => handle.guest().with_token(token),
        Greeting::Restored { token: None } | Greeting::Booted { .. } => handle.guest(),
    };
    // A guest can keep anybody waiting who lets it, and others wait for this one's turn.
    let asked = async {
        match stream {
            Some(stream) => guest.init_over(stream, &request).await,
            None => guest.init(&request).await,
        }
    };
    let answer = timeout(READY_TIMEOUT, asked).await;
    let answer = answer.map_err(|_| {
        format!(
            "the guest agent did not take its set-up within {} s",
            READY_TIMEOUT.as_secs()
        )
    })?;
    answer.map_err(|error| format!("the guest agent refused its set-up: {error}"))?;
    if restored {
        // The guest has reset all connections but that one.
        handle.set_address(host, &handle.record.borrow());
    }
    if told.elapsed() > super::clock::ACCURACY {
        // The time in the request was as old as that when it arrived.
        handle.clock.notify_one();
    }
    fail::fail_point!("create::guest-ready");
    tracing::debug!(sandbox = %handle.id, host = host.id, "the guest agent is ready");
    Ok(())
}

async fn answers(handle: &Handle) {
    let guest = handle.guest();
    guest.connects(guest::BOOTS).await;
    while !guest.is_healthy(ANSWER_TIMEOUT).await {
        tokio::time::sleep(POLL).await;
    }
}

fn init_request(host: &Host, handle: &Handle, restored: bool) -> InitRequest {
    let record = handle.record.borrow().clone();
    let entropy: [u8; 64] = rand::rng().random();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let envs: BTreeMap<String, String> = record.spec.envs;
    InitRequest {
        access_token: Some(record.token),
        env_vars: Some(envs),
        time_ns: u64::try_from(now.as_nanos()).ok(),
        entropy: Some(BASE64_STANDARD.encode(entropy)),
        hostname: Some(handle.id.to_string()),
        sandbox_id: Some(handle.id.to_string()),
        template_id: Some(record.spec.template.to_string()),
        machine_id: Some(own_id(&record.id, "machine")),
        boot_id: Some(as_uuid(&own_id(&record.id, "boot"))),
        // They lead to the network of another sandbox, or of another time.
        reset_connections: restored,
        // The network was made by this agent, just now or ahead.
        ipv6: host.networks.six().is_on().then_some(Ipv6 {
            address: GUEST_IP6,
            prefix: GUEST_PREFIX6,
            gateway: GATEWAY_IP6,
            gateway_mac: TAP_MAC,
        }),
        ..InitRequest::default()
    }
}

/// 32 hex digits that are the same for one sandbox at all times, and others for every other.
fn own_id(id: &SandboxId, purpose: &str) -> String {
    let hash = Sha256::digest(format!("{purpose} {id}"));
    hash.iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// In the form of a random UUID (RFC 9562, version 4).
fn as_uuid(hex: &str) -> String {
    format!(
        "{}-{}-4{}-a{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_a_sandbox_stay_and_are_its_own() {
        let (one, other) = (SandboxId::random(), SandboxId::random());
        assert_eq!(own_id(&one, "machine"), own_id(&one, "machine"));
        assert_ne!(own_id(&one, "machine"), own_id(&one, "boot"));
        assert_ne!(own_id(&one, "machine"), own_id(&other, "machine"));
        let uuid = as_uuid(&own_id(&one, "boot"));
        assert_eq!(
            uuid.split('-').map(str::len).collect::<Vec<_>>(),
            [8, 4, 4, 4, 12]
        );
    }
}
