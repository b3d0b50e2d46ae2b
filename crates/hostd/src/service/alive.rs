//! Calls to a guest agent whose VM may end, be paused or be stopped under them. There is no answer
//! then, not even a reset, and the kernel would retransmit for a quarter of an hour
//! (`tcp_retries2`, tcp(7)).

use std::time::Duration;

use connectrpc::ConnectError;

use crate::sandbox::Handle;
use crate::sandbox::state::Phase;

/// Time to wait until the sandbox's record has the reason for which the VM ended.
const SETTLE: Duration = Duration::from_secs(5);

/// Waits for a call to the guest, for as long as its VM runs.
///
/// # Errors
/// `FailedPrecondition` with the sandbox's state if the VM ends; `ResourceExhausted` if the sandbox
/// is stalled on disk pressure, so that an upload that fills the host's disk fails and does not
/// wait for space; otherwise the call's own error.
pub(super) async fn while_up<T>(
    handle: &Handle,
    call: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    tokio::select! {
        biased;
        answer = call => answer,
        error = wait_until_ended(handle) => Err(error),
        why = handle.stalled.wait_until_stalled() => Err(ConnectError::resource_exhausted(why)),
    }
}

/// Waits until the current VM has ended or is about to be released. Returns an error with the
/// reason.
pub(super) async fn wait_until_ended(handle: &Handle) -> ConnectError {
    let mut record = handle.record.clone();
    // An error means that the actor is gone, which is the same.
    let down = async { drop(record.wait_for(|record| !record.phase.is_up()).await) };
    // Not the record alone: if it changes quickly, its watcher sees a sandbox that runs again, in
    // another VM.
    match handle.vm.get() {
        Some(vm) => tokio::select! {
            () = down => {}
            _ = vm.wait() => {
                let mut record = handle.record.clone();
                let _ = tokio::time::timeout(SETTLE, record.wait_for(|record| !record.phase.is_up())).await;
            }
        },
        None => down.await,
    }
    unreachable_error(handle)
}

/// Returns an error with the reason for which the sandbox does not answer.
pub(super) fn unreachable_error(handle: &Handle) -> ConnectError {
    let record = handle.record.borrow();
    let state = record.phase.state();
    let reason = record.phase.reason();
    ConnectError::failed_precondition(match record.phase {
        Phase::Running => "the sandbox was paused and resumed under the call".to_owned(),
        _ if reason.is_empty() => format!("the sandbox is {state}"),
        _ => format!("the sandbox is {state}: {reason}"),
    })
}
