//! Makes the guest of a running VM ready: waits for the guest agent, and gives the guest the
//! identity of its sandbox (`POST /init`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use guest_rpc::http::{InitRequest, Ipv6};
use model::{ImageConfig, SandboxId};
use rand::RngExt;
use runtime::trace::in_current_context;
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio::time::timeout;
use vmm::Vm;

use super::boot_source::BootKind;
use super::clock;
use super::handle::Handle;
use super::preboot;
use super::resources::{SandboxResources, SlotResources};
use super::start_command;
use super::state::Event;
use super::step_error::StepError;
use crate::guest;
use crate::network::{GATEWAY_IP6, GUEST_IP6, GUEST_PREFIX6, TAP_MAC};
use crate::operation::{OperationError, OperationKind};

/// Time from the start of the VM until the guest agent answers, and again for `/init`. Without
/// hardware virtualisation and beside many others a boot takes tens of seconds.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// Time for a guest agent that listens to answer `/health`; then it is asked again, after [`POLL`].
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// Waits for the guest agent, and gives the guest its identity. Returns [`Event::Ready`], or the
/// event of the failure.
pub(crate) async fn wait_until_ready(
    resources: &SandboxResources,
    handle: &Handle,
    kind: BootKind,
) -> Event {
    let Some(vm) = handle.vm.get() else {
        return Event::Failed(StepError::NoVm.into());
    };
    tokio::select! {
        biased;
        () = handle.removing.cancelled() => Event::Remove,
        exit = vm.wait() => Event::Exited(exit),
        ready = init_guest(resources, handle, &vm, &kind) => match ready {
            Ok(()) => Event::Ready,
            Err(error) => Event::Failed(error),
        },
    }
}

async fn init_guest(
    resources: &SandboxResources,
    handle: &Handle,
    vm: &Arc<dyn Vm>,
    kind: &BootKind,
) -> Result<(), OperationError> {
    let stream = wait_for_agent(handle, kind).await?;
    if let BootKind::Booted { key: Some(key) } = kind {
        let resources = resources.clone();
        let handle = handle.clone();
        let vm = Arc::clone(vm);
        let key = key.clone();
        // In a task of its own: cancelled in the middle it would leave its staging directory.
        let adding = async move { preboot::add_entry(&resources, &handle, &vm, &key).await };
        let _ = tokio::spawn(in_current_context(adding)).await;
    }
    if matches!(kind, BootKind::Restored { token: Some(_), .. }) {
        // It was asked to freeze before the snapshot, and may have done so even where it did not
        // answer in time.
        handle.frozen.store(true, Ordering::Relaxed);
    }
    let sent = Instant::now();
    send_init(&resources.slot, handle, kind, stream).await?;
    if matches!(kind, BootKind::Restored { .. }) {
        // The guest has reset all connections but the one that `/init` came over.
        handle.set_guest(resources.slot.guest(&handle.record.borrow()));
    }
    let of_template = matches!(
        kind,
        BootKind::Restored {
            of_template: true,
            ..
        }
    );
    start_command::set_in_new_guest(handle, of_template).await?;
    if sent.elapsed() > clock::ACCURACY {
        // The request took so long that the time in it was out of date when it arrived. Waited for,
        // since the sandbox is used as soon as it is ready.
        clock::set_now(handle).await;
    }
    fail::fail_point!("create::guest-ready");
    tracing::debug!(sandbox = %handle.id, "the guest agent is ready");
    Ok(())
}

/// Waits until the guest agent answers. Returns a connection to one that was restored: its first
/// answers are slow, and a second connection would be one more of them.
async fn wait_for_agent(
    handle: &Handle,
    kind: &BootKind,
) -> Result<Option<TcpStream>, OperationError> {
    let guest = handle.guest();
    let answers = async {
        match kind {
            BootKind::Restored { .. } => Some(guest.wait_until_reachable(guest::GOES_ON).await),
            BootKind::Booted { .. } => {
                guest.wait_until_reachable(guest::BOOTS).await;
                while !guest.is_healthy(HEALTH_TIMEOUT).await {
                    tokio::time::sleep(POLL).await;
                }
                None
            }
        }
    };
    timeout(READY_TIMEOUT, answers).await.map_err(|_| {
        let seconds = READY_TIMEOUT.as_secs();
        StepError::SilentGuest { seconds }.into()
    })
}

/// Sends `/init`, with the token that the guest has now.
async fn send_init(
    slots: &SlotResources,
    handle: &Handle,
    kind: &BootKind,
    stream: Option<TcpStream>,
) -> Result<(), OperationError> {
    let guest = match kind {
        BootKind::Restored {
            token: Some(token), ..
        } => handle.guest().with_token(token),
        BootKind::Restored { token: None, .. } | BootKind::Booted { .. } => handle.guest(),
    };
    let is_restored = matches!(kind, BootKind::Restored { .. });
    let request = init_request(slots, handle, is_restored);
    let sending = async {
        match stream {
            Some(stream) => guest.init_over(stream, &request).await,
            None => guest.init(&request).await,
        }
    };
    // A hostile guest may never answer, and other boots wait for this one's turn.
    let answer = timeout(READY_TIMEOUT, sending).await.map_err(|_| {
        let seconds = READY_TIMEOUT.as_secs();
        OperationError::from(StepError::SlowSetup { seconds })
    })?;
    answer.map_err(|error| {
        let error = OperationKind::Guest.error(error);
        error.context("the guest agent refused its set-up")
    })
}

fn init_request(slots: &SlotResources, handle: &Handle, is_restored: bool) -> InitRequest {
    let record = handle.record.borrow().clone();
    let image = record.image_config.as_deref();
    let mut envs = image.map(ImageConfig::environment).unwrap_or_default();
    envs.extend(record.spec.envs);
    let entropy: [u8; 64] = rand::rng().random();
    let now = stdx::time::since_epoch();
    InitRequest {
        access_token: Some(record.token),
        env_vars: Some(envs),
        default_user: image.map(|config| config.user().to_owned()),
        default_workdir: image.map(|config| config.working_dir().to_owned()),
        time_ns: u64::try_from(now.as_nanos()).ok(),
        entropy: Some(BASE64_STANDARD.encode(entropy)),
        hostname: Some(handle.id.to_string()),
        sandbox_id: Some(handle.id.to_string()),
        template_id: Some(record.spec.template.to_string()),
        machine_id: Some(derived_id(&record.id, "machine")),
        boot_id: Some(as_uuid(&derived_id(&record.id, "boot"))),
        // Connections in the snapshot lead to another sandbox's network, or to a former one.
        reset_connections: is_restored,
        mtu: Some(slots.networks.mtu()),
        // The network was made by this run of the agent, so it has the mode of now.
        ipv6: slots.networks.ipv6_mode().is_on().then_some(Ipv6 {
            address: GUEST_IP6,
            prefix: GUEST_PREFIX6,
            gateway: GATEWAY_IP6,
            gateway_mac: TAP_MAC,
        }),
    }
}

/// Returns 32 hex digits that are derived from the sandbox's id and the purpose, so that they never
/// change and differ between sandboxes.
fn derived_id(id: &SandboxId, purpose: &str) -> String {
    let hash = Sha256::digest(format!("{purpose} {id}"));
    hex::encode(&hash[..16])
}

/// Formats 32 hex digits as a random UUID (RFC 9562, version 4).
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
    fn derived_ids_stay_and_differ() {
        let one = SandboxId::random();
        let other = SandboxId::random();
        assert_eq!(derived_id(&one, "machine"), derived_id(&one, "machine"));
        assert_ne!(derived_id(&one, "machine"), derived_id(&one, "boot"));
        assert_ne!(derived_id(&one, "machine"), derived_id(&other, "machine"));
        let uuid = as_uuid(&derived_id(&one, "boot"));
        let lengths: Vec<usize> = uuid.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
    }
}
