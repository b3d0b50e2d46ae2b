//! The phase `creating`.

use runtime::trace::in_step;

use super::Actor;
use crate::sandbox::start_permits::BootTurn;
use crate::sandbox::state::Event;
use crate::sandbox::{create, init_guest, preboot};

impl Actor {
    /// Creates network, disk and VM, and waits until the guest is ready.
    pub(super) async fn create_vm(&mut self) -> Event {
        let resources = &self.context.resources;
        let permits = &self.context.state.start_permits;
        let handle = &self.context.handle;
        let needs_boot = preboot::needs_boot(resources, handle, &self.source).await;
        let allowed = handle.unless_removed(in_step("wait for permit", async {
            let turn = if needs_boot {
                permits.acquire_boot_turn().await
            } else {
                BootTurn::none()
            };
            (turn, permits.acquire_permit().await)
        }));
        let Some((turn, permit)) = allowed.await else {
            return Event::Remove;
        };
        let created = create::create_vm(resources, handle, &self.source).await;
        // A permit is only for the work of host and VMM: a guest must not hold it up.
        drop(permit);
        match created {
            Ok((vm, kind)) => {
                handle.vm.set(Some(vm));
                let ready = in_step(
                    "guest ready",
                    init_guest::wait_until_ready(resources, handle, kind),
                );
                turn.hold_during(ready).await
            }
            Err(event) => event,
        }
    }
}
