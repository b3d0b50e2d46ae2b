//! The phase `resuming`.

use runtime::trace::in_step;
use stdx::error::chain;

use super::Actor;
use crate::sandbox::ledger::PAUSED;
use crate::sandbox::state::{End, Event};
use crate::sandbox::{create, init_guest};

impl Actor {
    /// Restores the VM from the saved state, and waits until the guest is ready.
    pub(super) async fn resume_vm(&mut self) -> Event {
        let resources = &self.context.resources;
        let handle = &self.context.handle;
        let permit = handle.unless_removed(in_step(
            "wait for permit",
            self.context.state.start_permits.acquire_permit(),
        ));
        let Some(permit) = permit.await else {
            return Event::Remove;
        };
        handle.set_guest(resources.slot.guest(&self.context.record()));
        let saved = self.context.dir().join(PAUSED);
        let resumed = create::resume_vm(resources, handle, &saved).await;
        drop(permit);
        let (vm, kind) = match resumed {
            Ok(resumed) => resumed,
            Err(event) => return event,
        };
        handle.vm.set(Some(vm));
        fail::fail_point!("resume::vm-runs");
        let event = in_step(
            "guest ready",
            init_guest::wait_until_ready(resources, handle, kind),
        )
        .await;
        match &event {
            Event::Ready => self.backoff.reset(),
            Event::Failed(error) => self.backoff.record_failure(chain(&error)),
            Event::Exited(exit) => {
                let reason = End::from(exit.clone()).reason;
                self.backoff.record_failure(reason);
            }
            _ => {}
        }
        event
    }
}
