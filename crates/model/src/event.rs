//! Kinds of events: what can change, in words that clients match on.

use std::fmt;
use std::str::FromStr;

use crate::error::InvalidValue;

macro_rules! event_kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// Kind of an event, as text `SUBJECT.CHANGE`. The set is closed: a new version of the API
        /// may add kinds.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum EventKind {
            $($(#[$doc])* $name,)+
        }

        impl EventKind {
            /// Every kind, for documents and filters.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

event_kinds! {
    /// A sandbox was asked for; it does not run yet.
    SandboxCreated = "sandbox.created",
    /// It runs for the first time, or again after it was thought lost.
    SandboxStarted = "sandbox.started",
    SandboxPaused = "sandbox.paused",
    SandboxResumed = "sandbox.resumed",
    /// It ended in good order.
    SandboxStopped = "sandbox.stopped",
    /// It ended with an error, or was lost.
    SandboxFailed = "sandbox.failed",
    /// Its settings were changed.
    SandboxUpdated = "sandbox.updated",
    SandboxNetworkChanged = "sandbox.network_changed",
    /// Children were made of it.
    SandboxForked = "sandbox.forked",
    SandboxCheckpointed = "sandbox.checkpointed",
    /// One of its checkpoints was deleted.
    SandboxCheckpointDeleted = "sandbox.checkpoint_deleted",
    SandboxRolledBack = "sandbox.rolled_back",
    /// Its deletion was asked for.
    SandboxDeleting = "sandbox.deleting",
    /// Nothing of it is left.
    SandboxDeleted = "sandbox.deleted",
    /// A background command was started.
    CommandStarted = "command.started",
    /// A background command was seen to have ended.
    CommandEnded = "command.ended",
    /// A snapshot was made of a sandbox.
    TemplateCreated = "template.created",
    TemplateDeleted = "template.deleted",
    KeyCreated = "key.created",
    KeyDeleted = "key.deleted",
    WebhookCreated = "webhook.created",
    /// Its settings were changed, or its secret.
    WebhookUpdated = "webhook.updated",
    WebhookDeleted = "webhook.deleted",
    /// Nothing is sent to it any more: it failed for too long, or its receiver is gone.
    WebhookDisabled = "webhook.disabled",
    /// Reports come from a host.
    HostConnected = "host.connected",
    /// No reports come from a host any more.
    HostLost = "host.lost",
    /// It takes no new sandboxes any more.
    HostDraining = "host.draining",
    /// The same, and none of its sandboxes runs.
    HostDrained = "host.drained",
    /// It takes new sandboxes again.
    HostUndrained = "host.undrained",
}

impl EventKind {
    /// Returns the kinds that a filter selects: the kind of that text, or with `SUBJECT.*` all of a
    /// subject.
    ///
    /// # Errors
    /// If it selects none.
    pub fn matching(filter: &str) -> Result<Vec<Self>, InvalidValue> {
        let subject = filter.strip_suffix('*').filter(|it| it.ends_with('.'));
        let is_match = |kind: &Self| match subject {
            Some(subject) => kind.as_str().starts_with(subject),
            None => kind.as_str() == filter,
        };
        let kinds: Vec<Self> = Self::ALL.iter().copied().filter(is_match).collect();
        if kinds.is_empty() {
            let text = "must be a kind of event like sandbox.paused, or like sandbox.* for all of a subject";
            return Err(InvalidValue::new("type", text));
        }
        Ok(kinds)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EventKind {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let found = Self::ALL.iter().find(|kind| kind.as_str() == text);
        found
            .copied()
            .ok_or_else(|| InvalidValue::new("type", "must be a kind of event like sandbox.paused"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_select_kinds_of_subject() {
        let all = EventKind::matching("sandbox.*").unwrap();
        assert_eq!(all.len(), 14);
        assert_eq!(
            EventKind::matching("key.created").unwrap(),
            [EventKind::KeyCreated]
        );
        for wrong in ["", "*", "sandbox", "sandbox*", "sandbox.gone", "nothing.*"] {
            assert!(EventKind::matching(wrong).is_err(), "{wrong}");
        }
        for kind in EventKind::ALL {
            assert_eq!(kind.as_str().parse::<EventKind>().unwrap(), *kind);
        }
    }
}
