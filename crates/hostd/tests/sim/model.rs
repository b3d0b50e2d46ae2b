//! What may be: for each sandbox all that was asked of its one value, with the times between which
//! it came about. A register whose operations overlap; what may be read is what some order of them
//! explains.

use std::collections::{BTreeMap, BTreeSet};

use model::SandboxId;

/// Counts questions and answers.
pub type Time = u64;

/// Values that something may be; `None` is any, because nobody answered.
pub type Values = Option<BTreeSet<u64>>;

/// Something that gave a sandbox one of the values at one moment.
#[derive(Debug, Clone)]
struct Set {
    values: Values,
    from: Time,
    /// It comes about before that; `None`: at any time.
    to: Option<Time>,
    /// It did come about.
    certain: bool,
    /// It does not outlive the agent that was asked.
    volatile: bool,
}

/// One value of a sandbox, with all that was asked of it.
#[derive(Debug, Clone, Default)]
pub struct Register {
    sets: Vec<Set>,
}

#[derive(Debug, Clone, Default)]
pub struct Known {
    /// It was said to run.
    pub certain: bool,
    pub removing: bool,
    pub removed: bool,
    /// It may end by itself, or was asked to.
    pub may_end: bool,
    /// It was said to have been stopped.
    pub stopped: bool,
    /// What its program keeps.
    pub value: Register,
    /// Its `timeout_sec`.
    pub timeout: Register,
    pub checkpoints: BTreeMap<String, Values>,
}

impl Known {
    pub fn new(values: Values, from: Time) -> Self {
        Self {
            value: Register::new(values, from),
            timeout: Register::new(None, from),
            ..Self::default()
        }
    }

    /// One that begins with nobody knows what.
    pub fn that_may_end(may_end: bool, from: Time) -> Self {
        Self {
            may_end,
            ..Self::new(None, from)
        }
    }
}

impl Register {
    pub fn new(values: Values, from: Time) -> Self {
        let first = Set {
            values,
            from,
            to: Some(from),
            certain: true,
            volatile: false,
        };
        Self { sets: vec![first] }
    }

    /// Returns the values that a reader may see between the two times. No change may have begun
    /// later.
    pub fn seen(&self, from: Time, to: Time) -> Values {
        let over = |set: &Set| {
            let after = |other: &Set| set.to.is_some_and(|end| other.from > end);
            self.sets.iter().any(|other| {
                other.certain && after(other) && other.to.is_some_and(|end| end < from)
            })
        };
        let mut values = BTreeSet::new();
        for set in self.sets.iter().filter(|set| set.from < to && !over(set)) {
            values.extend(set.values.as_ref()?);
        }
        Some(values)
    }

    /// What it began with, which is known by now.
    pub fn began_with(&mut self, values: Values) {
        self.sets[0].values = values;
    }

    /// Something begins that may give it a value; for [`Register::end`].
    pub fn begin(&mut self, values: Values, from: Time, volatile: bool) -> usize {
        self.sets.push(Set {
            values,
            from,
            to: None,
            certain: false,
            volatile,
        });
        self.sets.len() - 1
    }

    /// It came about, or nobody knows; but not later than this.
    pub fn end(&mut self, set: usize, certain: bool, to: Time) {
        self.sets[set].to = Some(to);
        self.sets[set].certain = certain;
    }

    /// It did not come about.
    pub fn never(&mut self, set: usize) {
        self.sets[set].values = Some(BTreeSet::new());
    }

    /// It had this value at some time in between.
    pub fn saw(&mut self, value: u64, from: Time, to: Time) {
        let values = Some(BTreeSet::from([value]));
        self.sets.push(Set {
            values,
            from,
            to: Some(to),
            certain: true,
            volatile: false,
        });
    }
}

#[derive(Debug, Default)]
pub struct Model {
    now: Time,
    pub sandboxes: BTreeMap<SandboxId, Known>,
    /// The children of each fork that was asked for.
    pub forks: Vec<Vec<SandboxId>>,
    /// Of every snapshot that a name may have meant.
    pub snapshots: BTreeMap<String, Vec<Values>>,
    /// Names that were said to be there, and that nobody has asked to remove.
    pub published: BTreeSet<String>,
    /// When the last removal of a snapshot was over, which is never for one that nobody answered.
    pub unpublished: BTreeMap<String, Time>,
}

impl Model {
    pub fn tick(&mut self) -> Time {
        self.now += 1;
        self.now
    }

    /// What was asked of the agent and not answered comes about no more.
    pub fn agent_died(&mut self) {
        let now = self.tick();
        let registers = self
            .sandboxes
            .values_mut()
            .flat_map(|known| [&mut known.value, &mut known.timeout]);
        for set in registers.flat_map(|register| &mut register.sets) {
            if set.volatile {
                set.to.get_or_insert(now);
            }
        }
    }

    /// What a sandbox made from the snapshot may begin with.
    pub fn of_snapshot(&self, name: &str) -> Values {
        let mut values = BTreeSet::new();
        for version in self.snapshots.get(name)? {
            values.extend(version.as_ref()?);
        }
        Some(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_overwritten_for_sure_is_seen_no_more() {
        let mut known = Register::new(Some(BTreeSet::from([0])), 1);
        let first = known.begin(Some(BTreeSet::from([7])), 2, true);
        assert_eq!(known.seen(3, 4), Some(BTreeSet::from([0, 7])));
        known.end(first, true, 5);
        assert_eq!(known.seen(4, 6), Some(BTreeSet::from([0, 7])));
        assert_eq!(known.seen(6, 7), Some(BTreeSet::from([7])));
        known.begin(Some(BTreeSet::from([8])), 8, true);
        assert_eq!(known.seen(9, 10), Some(BTreeSet::from([7, 8])));
        known.saw(8, 11, 12);
        assert_eq!(known.seen(13, 14), Some(BTreeSet::from([8])));
    }
}
