//! Script of a fake host: failures, delays and cuts of its next calls.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use connectrpc::ConnectError;
use tokio::sync::watch;

/// Time for a call to come to a gate, on a machine that is busy with other tests.
const REACHED_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Debug)]
enum Deed {
    Fail(ConnectError),
    Hold(Arc<Held>),
    Take(Duration),
}

/// Moment at which the connection of a call breaks: its caller cannot tell one from the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Break before anything is done.
    Before,
    /// Break after all is done; the answer is lost.
    After,
}

#[derive(Debug)]
struct Held {
    reached: watch::Sender<bool>,
    open: watch::Sender<bool>,
}

/// Gate that holds a call up. Dropping it opens it.
#[derive(Debug)]
pub struct Gate(Arc<Held>);

impl Gate {
    /// Waits until a call stands before it.
    ///
    /// # Panics
    /// No call comes in [`REACHED_TIMEOUT`].
    pub async fn wait_until_reached(&self) {
        let mut reached = self.0.reached.subscribe();
        let reached = reached.wait_for(|reached| *reached);
        tokio::time::timeout(REACHED_TIMEOUT, reached)
            .await
            .expect("a call comes to the gate")
            .expect("the gate is there");
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
    cuts: Mutex<BTreeMap<&'static str, VecDeque<Cut>>>,
    calls: Mutex<BTreeMap<&'static str, usize>>,
}

impl Script {
    pub(super) fn fail_next(&self, call: &'static str, error: ConnectError) {
        self.add(call, Deed::Fail(error));
    }

    pub(super) fn hold_next(&self, call: &'static str) -> Gate {
        let held = Arc::new(Held {
            reached: watch::Sender::new(false),
            open: watch::Sender::new(false),
        });
        self.add(call, Deed::Hold(Arc::clone(&held)));
        Gate(held)
    }

    pub(super) fn slow_next(&self, call: &'static str, time: Duration) {
        self.add(call, Deed::Take(time));
    }

    pub(super) fn cut_next(&self, call: &'static str, cut: Cut) {
        self.cuts
            .lock()
            .expect("the cuts")
            .entry(call)
            .or_default()
            .push_back(cut);
    }

    /// Returns the cut of the connection of a call that comes in, if there is to be one.
    pub(super) fn take_cut(&self, call: &str) -> Option<Cut> {
        self.cuts
            .lock()
            .expect("the cuts")
            .get_mut(call)
            .and_then(VecDeque::pop_front)
    }

    /// Clears the script: nothing happens to the next calls.
    pub(super) fn clear(&self) {
        self.deeds.lock().expect("the script").clear();
        self.cuts.lock().expect("the cuts").clear();
    }

    fn add(&self, call: &'static str, deed: Deed) {
        self.deeds
            .lock()
            .expect("the script")
            .entry(call)
            .or_default()
            .push_back(deed);
    }

    pub(super) fn calls(&self, call: &'static str) -> usize {
        self.calls
            .lock()
            .expect("the calls")
            .get(call)
            .copied()
            .unwrap_or_default()
    }

    /// Counts a call that comes in, and applies the script to it.
    pub(super) async fn meet_barrier(&self, call: &'static str) -> Result<(), ConnectError> {
        *self
            .calls
            .lock()
            .expect("the calls")
            .entry(call)
            .or_default() += 1;
        let deed = self
            .deeds
            .lock()
            .expect("the script")
            .get_mut(call)
            .and_then(VecDeque::pop_front);
        match deed {
            None => Ok(()),
            Some(Deed::Fail(error)) => Err(error),
            Some(Deed::Take(time)) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
            Some(Deed::Hold(held)) => {
                held.reached.send_replace(true);
                held.open
                    .subscribe()
                    .wait_for(|open| *open)
                    .await
                    .expect("the gate is there");
                Ok(())
            }
        }
    }
}
