//! Holds a thread at a fail point, as a disk does on which an fsync does not end.

use std::sync::{Condvar, Mutex, PoisonError};

/// Holds the first thread that comes to a fail point, until it is let go.
#[derive(Default)]
pub struct Barrier {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default, PartialEq, Eq, Clone, Copy)]
enum State {
    #[default]
    Open,
    WaitsAt(&'static str),
    Holds,
}

impl Barrier {
    pub fn close(&self, point: &'static str) {
        self.set(State::WaitsAt(point));
    }

    pub fn open(&self) {
        self.set(State::Open);
    }

    /// Waits until a thread is held.
    pub fn wait_until_held(&self) {
        let guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        drop(
            self.changed
                .wait_while(guard, |state| *state != State::Holds),
        );
    }

    pub fn pass(&self, point: &str) {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*guard, State::WaitsAt(at) if at == point) {
            return;
        }
        *guard = State::Holds;
        self.changed.notify_all();
        drop(
            self.changed
                .wait_while(guard, |state| *state == State::Holds),
        );
    }

    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.changed.notify_all();
    }
}
