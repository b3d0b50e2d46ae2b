//! Makes a sandbox: network and disk side by side, then the VM, then the wait for its guest agent.
//!
//! Nothing is undone here: whoever calls releases everything when an event other than `Ready` comes back.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use guest_rpc::http::InitRequest;
use rand::RngExt;
use tokio::time::timeout;
use vmm::{Disk, Net, Vm, VmConfig};

use super::actor::{Handle, blocking};
use super::state::Event;
use crate::guest::chain;
use crate::host::Host;
use crate::network::{GUEST_MAC, TAP};

/// From the start of the VM to the guest agent's word. Without hardware virtualisation and beside many others a
/// boot takes tens of seconds.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// For a guest agent that listens to say that it is well; then it is asked again, after a pause.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// Makes everything up to the running VM.
///
/// # Errors
/// The event that ended the attempt.
pub(crate) async fn create(host: &Arc<Host>, handle: &Handle) -> Result<Arc<dyn Vm>, Event> {
    let (network, disk) = tokio::join!(network(host, handle), disk(host, handle));
    network.map_err(Event::Failed)?;
    let disk = disk.map_err(Event::Failed)?;
    if handle.removing.is_cancelled() {
        return Err(Event::Remove);
    }
    let config = vm_config(host, handle, disk).map_err(|error| Event::Failed(chain(&error)))?;
    fail::fail_point!("create::disk-and-network-made");
    let vm = host.engine.driver.boot(&config).await.map_err(|error| Event::Failed(chain(&error)))?;
    fail::fail_point!("create::vm-booted");
    Ok(vm.into())
}

async fn network(host: &Arc<Host>, handle: &Handle) -> Result<(), String> {
    let slot = handle.record.borrow().slot.ok_or("the sandbox has no network slot")?;
    let host = Arc::clone(host);
    blocking(move || host.networks.create(slot, host.jails.user(slot))).await
}

async fn disk(host: &Arc<Host>, handle: &Handle) -> Result<Disk, String> {
    let record = handle.record.borrow().clone();
    let size = record.disk.ok_or("the sandbox has no disk to make")?.size_bytes;
    let (host, dir) = (Arc::clone(host), host.ledger.dir(&handle.id));
    let image = {
        let host = Arc::clone(&host);
        blocking(move || host.images.find(&record.spec.template)).await?
    };
    blocking(move || host.disks.create(&record.id, &image.path, &dir, size)).await
}

fn vm_config(host: &Host, handle: &Handle, disk: Disk) -> io::Result<VmConfig> {
    let record = handle.record.borrow().clone();
    let slot = record.slot.ok_or_else(|| io::Error::other("the sandbox has no network slot"))?;
    let dir = host.vm_dir(&handle.id);
    fs::DirBuilder::new().mode(0o700).create(&dir)?;
    Ok(VmConfig {
        dir,
        name: handle.id.to_string(),
        vcpus: record.spec.vcpus,
        memory_mb: record.spec.memory_mb,
        kernel: host.boot.kernel.clone(),
        initramfs: host.boot.initramfs.clone(),
        kernel_args: host.kernel_args(),
        disk,
        net: Some(Net { netns: slot.netns(), tap: TAP.to_owned(), mac: GUEST_MAC }),
        jail: Some(host.jails.of(slot)),
    })
}

/// Waits for the guest agent and makes the guest this sandbox's own.
pub(crate) async fn wait_until_ready(host: &Host, handle: &Handle) -> Event {
    let Some(vm) = handle.vm.get() else { return Event::Failed("the virtual machine is gone".to_owned()) };
    tokio::select! {
        biased;
        () = handle.removing.cancelled() => Event::Remove,
        exit = vm.wait() => Event::Exited(exit),
        ready = introduce(host, handle) => match ready {
            Ok(()) => Event::Ready,
            Err(reason) => Event::Failed(reason),
        },
    }
}

async fn introduce(host: &Host, handle: &Handle) -> Result<(), String> {
    if timeout(READY_TIMEOUT, answers(handle)).await.is_err() {
        return Err(format!("the guest agent did not answer within {} s of the boot", READY_TIMEOUT.as_secs()));
    }
    let request = init_request(handle);
    handle.guest.init(&request).await.map_err(|error| format!("the guest agent refused its set-up: {error}"))?;
    fail::fail_point!("create::guest-ready");
    tracing::debug!(sandbox = %handle.id, host = host.id, "the guest agent is ready");
    Ok(())
}

async fn answers(handle: &Handle) {
    handle.guest.listens().await;
    while !handle.guest.is_healthy(ANSWER_TIMEOUT).await {
        tokio::time::sleep(POLL).await;
    }
}

fn init_request(handle: &Handle) -> InitRequest {
    let record = handle.record.borrow().clone();
    let entropy: [u8; 64] = rand::rng().random();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let envs: BTreeMap<String, String> = record.spec.envs;
    InitRequest {
        access_token: Some(record.token),
        env_vars: Some(envs),
        time_ns: u64::try_from(now.as_nanos()).ok(),
        entropy: Some(BASE64_STANDARD.encode(entropy)),
        hostname: Some(handle.id.to_string()),
        sandbox_id: Some(handle.id.to_string()),
        template_id: Some(record.spec.template.to_string()),
        ..InitRequest::default()
    }
}
