//! Who changes which sandbox at this moment, for the events of the changes.
//!
//! A user's change of a sandbox comes back as a report of its host, over the call that asked for it
//! or over the watch, whichever is faster. So the actor is noted by sandbox while its request is
//! carried out, and what is written about the sandbox meanwhile is written for that actor. Memory is
//! enough: a request that another control plane carries out, or that died with its process, leaves
//! its changes to `system`.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::SandboxId;
use parking_lot::Mutex;
use store::{Actor, Store};

use super::App;
use crate::auth::Principal;

/// Actors by sandbox, the latest last.
#[derive(Debug, Default, Clone)]
pub struct Actors(Arc<Mutex<BTreeMap<SandboxId, Vec<Actor>>>>);

/// Note of an actor, until this is dropped.
#[derive(Debug)]
pub struct ActorNote {
    actors: Actors,
    id: SandboxId,
    actor: Actor,
}

impl Actors {
    /// Notes that `principal` changes a sandbox from now on.
    #[must_use]
    pub fn note(&self, id: &SandboxId, principal: &Principal) -> ActorNote {
        let actor = principal.actor();
        let mut actors = self.0.lock();
        actors.entry(id.clone()).or_default().push(actor.clone());
        drop(actors);
        ActorNote {
            actors: self.clone(),
            id: id.clone(),
            actor,
        }
    }

    fn current(&self, id: &SandboxId) -> Option<Actor> {
        self.0.lock().get(id)?.last().cloned()
    }
}

impl Drop for ActorNote {
    fn drop(&mut self) {
        let mut actors = self.actors.0.lock();
        let Some(noted) = actors.get_mut(&self.id) else {
            return;
        };
        if let Some(place) = noted.iter().position(|actor| *actor == self.actor) {
            noted.remove(place);
        }
        if noted.is_empty() {
            actors.remove(&self.id);
        }
    }
}

impl App {
    /// Returns the store for changes of a sandbox, in the name of who changes it now.
    pub(super) fn store_of(&self, id: &SandboxId) -> Store {
        match self.actors.current(id) {
            Some(actor) => self.store.acting_for(actor),
            None => self.store.clone(),
        }
    }
}
