//! The history in which an undo goes back: the automatic checkpoints of a sandbox.
//!
//! Each is marked with its place in the history ([`Automatic`]). One that a user made has no mark,
//! and is never removed for others:
//!
//! ```text
//!   auto-1 ← auto-2 ← auto-3       made by the policy: `after` names the one before
//!      ↑          ↖ undo-1         made by an undo to auto-2, of the state before it
//!   auto-4                         made by the policy after that undo
//! ```
//!
//! After that undo the history is auto-1, since the sandbox is where auto-2 was, and with the next
//! command auto-4, auto-1. What was undone stays until newer ones push it out, and so does undo-1,
//! to which a rollback takes the undo back.

use std::collections::{BTreeMap, BTreeSet};

use model::CheckpointName;

use super::checkpoint::{Automatic, Checkpoint};
use crate::file_set::FileSet;

/// Checkpoints of one sandbox as a history.
#[derive(Debug)]
pub(crate) struct History<'a> {
    by_name: BTreeMap<&'a CheckpointName, &'a Checkpoint>,
    /// From the oldest on.
    automatic: Vec<(&'a Automatic, &'a Checkpoint)>,
}

impl<'a> History<'a> {
    pub(crate) fn new(checkpoints: &'a [Checkpoint]) -> Self {
        let marked = checkpoints.iter();
        let marked = marked.filter_map(|it| Some((it.automatic.as_ref()?, it)));
        let mut automatic: Vec<(&Automatic, &Checkpoint)> = marked.collect();
        automatic.sort_by_key(|(automatic, _)| automatic.number);
        let named = checkpoints.iter().map(|it| (&it.name, it));
        Self {
            by_name: named.collect(),
            automatic,
        }
    }

    /// Returns the points that an undo goes to, from the last one on.
    pub(crate) fn steps(&self) -> Vec<&'a Checkpoint> {
        let mut steps = Vec::new();
        let mut seen = BTreeSet::new();
        let mut next = self.automatic.last().and_then(|(mark, newest)| {
            let to = mark.undo_to.as_ref();
            to.map_or(Some(*newest), |to| self.before(to, newest))
        });
        // Names can be used again after a removal, so that a damaged chain could be a ring.
        while let Some(step) = next.filter(|step| seen.insert(&step.name)) {
            steps.push(step);
            next = self.before(&step.name, step);
        }
        steps
    }

    /// Returns the mark of the next checkpoint: of the policy, or before an undo to `undo_to`.
    pub(crate) fn next_mark(&self, undo_to: Option<&CheckpointName>) -> Automatic {
        Automatic {
            number: self.automatic.last().map_or(1, |(last, _)| last.number + 1),
            after: self.steps().first().map(|point| point.name.clone()),
            undo_to: undo_to.cloned(),
        }
    }

    /// Returns the point of the history before a checkpoint. Of one that a user made, or that is
    /// gone, that is the last of the policy that was older; `known` has the age of the latter.
    fn before(&self, name: &CheckpointName, known: &Checkpoint) -> Option<&'a Checkpoint> {
        let point = self.by_name.get(name).copied();
        if let Some(mark) = point.and_then(|point| point.automatic.as_ref()) {
            return self.by_name.get(mark.after.as_ref()?).copied();
        }
        let age = point.unwrap_or(known).created_at_ms;
        let of_policy = self.automatic.iter().rev();
        let mut of_policy = of_policy.filter(|(mark, _)| mark.undo_to.is_none());
        let older = of_policy.find(|(_, point)| point.created_at_ms < age);
        older.map(|(_, point)| *point)
    }

    /// Returns the automatic checkpoints to remove, oldest first, so that at most `keep` stay, and
    /// they have at most `max_bytes` that nothing else has. The newest one stays in any case.
    pub(crate) fn surplus(
        &self,
        keep: usize,
        max_bytes: Option<u64>,
        measure: impl Fn(&Checkpoint) -> FileSet,
    ) -> Vec<CheckpointName> {
        let mut first = self.automatic.len().saturating_sub(keep.max(1));
        if let Some(max_bytes) = max_bytes {
            let rest = self.automatic[first..].iter();
            let sets: Vec<FileSet> = rest.map(|(_, point)| measure(point)).collect();
            let fits = |sets: &[FileSet]| {
                let mut all = FileSet::default();
                sets.iter().for_each(|set| all.add_set(set));
                all.sizes().exclusive <= max_bytes
            };
            let last = sets.len().saturating_sub(1);
            first += (0..last).find(|from| fits(&sets[*from..])).unwrap_or(last);
        }
        let surplus = self.automatic[..first].iter();
        surplus.map(|(_, point)| point.name.clone()).collect()
    }
}

#[cfg(test)]
mod tests;
