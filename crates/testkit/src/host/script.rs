//! What the next calls meet.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use connectrpc::ConnectError;
use tokio::sync::watch;

#[derive(Debug)]
enum Deed {
    Fail(ConnectError),
    Hold(Arc<Held>),
}

#[derive(Debug)]
struct Held {
    reached: watch::Sender<bool>,
    open: watch::Sender<bool>,
}

/// Holds a call up. Dropping it opens it.
#[derive(Debug)]
pub struct Gate(Arc<Held>);

impl Gate {
    /// Waits until a call stands before it.
    ///
    /// # Panics
    /// Never.
    pub async fn reached(&self) {
        self.0.reached.subscribe().wait_for(|reached| *reached).await.expect("the gate is there");
    }

    pub fn open(&self) {
        self.0.open.send_replace(true);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

#[derive(Debug, Default)]
pub(super) struct Script {
    deeds: Mutex<BTreeMap<&'static str, VecDeque<Deed>>>,
    calls: Mutex<BTreeMap<&'static str, usize>>,
}

impl Script {
    pub(super) fn fail_next(&self, call: &'static str, error: ConnectError) {
        self.add(call, Deed::Fail(error));
    }

    pub(super) fn hold_next(&self, call: &'static str) -> Gate {
        let held = Arc::new(Held { reached: watch::Sender::new(false), open: watch::Sender::new(false) });
        self.add(call, Deed::Hold(Arc::clone(&held)));
        Gate(held)
    }

    fn add(&self, call: &'static str, deed: Deed) {
        self.deeds.lock().expect("the script").entry(call).or_default().push_back(deed);
    }

    pub(super) fn calls(&self, call: &'static str) -> usize {
        self.calls.lock().expect("the calls").get(call).copied().unwrap_or_default()
    }

    /// A call comes in: counts it, and does to it what the script says.
    pub(super) async fn meet(&self, call: &'static str) -> Result<(), ConnectError> {
        *self.calls.lock().expect("the calls").entry(call).or_default() += 1;
        let deed = self.deeds.lock().expect("the script").get_mut(call).and_then(VecDeque::pop_front);
        match deed {
            None => Ok(()),
            Some(Deed::Fail(error)) => Err(error),
            Some(Deed::Hold(held)) => {
                held.reached.send_replace(true);
                held.open.subscribe().wait_for(|open| *open).await.expect("the gate is there");
                Ok(())
            }
        }
    }
}
