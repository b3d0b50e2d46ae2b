//! Record of what has passed over a connection to a guest, for [`super::retry`].

use std::sync::atomic::{AtomicBool, Ordering};

/// Use of one connection to a guest.
#[derive(Debug, Default)]
pub(super) struct ConnectionUse {
    /// The guest has sent something since it was connected.
    answered: AtomicBool,
    /// The guest has sent nothing since we last did.
    unanswered: AtomicBool,
}

impl ConnectionUse {
    pub(super) fn note_sent(&self) {
        self.unanswered.store(true, Ordering::Relaxed);
    }

    pub(super) fn note_received(&self) {
        self.answered.store(true, Ordering::Relaxed);
        self.unanswered.store(false, Ordering::Relaxed);
    }

    pub(super) fn is_kept_and_unanswered(&self) -> bool {
        self.answered.load(Ordering::Relaxed) && self.unanswered.load(Ordering::Relaxed)
    }
}
