//! The reference model: what may be, as far as the answers tell.
//!
//! A sandbox has three values that requests change: whether it runs, its network rules, and what is
//! in it. Requests overlap, and some are never answered. So each value is a register whose changes
//! have a time between which they come about, and what may be read of it is what some order of them
//! explains. `hostd/tests/sim/model.rs` does the same for the host agent.

use std::collections::{BTreeMap, BTreeSet};

/// Counts questions and answers.
pub type Time = u64;

/// Values that something may be; `None` is any, because nobody knows.
pub type Values = Option<BTreeSet<u64>>;

/// Values of [`Known::power`].
pub const PAUSED: u64 = 0;
pub const RUNNING: u64 = 1;

pub fn only(value: u64) -> Values {
    Some(BTreeSet::from([value]))
}

/// Something that gave the register one of the values at one moment.
#[derive(Debug, Clone)]
struct Change {
    values: Values,
    from: Time,
    /// It comes about before that; `None`: at any time, because nobody answered.
    to: Option<Time>,
    /// It did come about.
    certain: bool,
}

#[derive(Debug, Clone)]
pub struct Register(Vec<Change>);

impl Register {
    /// One that got its first value between the two times.
    pub fn new(values: Values, from: Time, to: Time) -> Self {
        Self(vec![Change {
            values,
            from,
            to: Some(to),
            certain: true,
        }])
    }

    /// A change is asked for; its number is for the two below.
    pub fn begin(&mut self, value: u64, from: Time) -> usize {
        self.begin_any(only(value), from)
    }

    pub fn begin_any(&mut self, values: Values, from: Time) -> usize {
        self.0.push(Change {
            values,
            from,
            to: None,
            certain: false,
        });
        self.0.len() - 1
    }

    pub fn came_about(&mut self, change: usize, to: Time) {
        self.0[change].to = Some(to);
        self.0[change].certain = true;
    }

    /// What was not answered has come about by now, or never does.
    pub fn all_is_over(&mut self, now: Time) {
        for change in &mut self.0 {
            change.to.get_or_insert(now);
        }
    }

    pub fn never(&mut self, change: usize) {
        self.0[change].values = Some(BTreeSet::new());
    }

    /// Returns the values that a reader may see between the two times. No change may have begun
    /// later.
    pub fn seen(&self, from: Time, to: Time) -> Values {
        let over = |change: &Change| {
            let after = |other: &Change| change.to.is_some_and(|end| other.from > end);
            self.0.iter().any(|other| {
                other.certain && after(other) && other.to.is_some_and(|end| end < from)
            })
        };
        let mut values = BTreeSet::new();
        for change in self
            .0
            .iter()
            .filter(|change| change.from < to && !over(change))
        {
            values.extend(change.values.as_ref()?);
        }
        Some(values)
    }

    pub fn may_be(&self, value: u64, from: Time, to: Time) -> bool {
        self.seen(from, to)
            .is_none_or(|values| values.contains(&value))
    }
}

/// All that is known of one sandbox.
#[derive(Debug, Clone)]
pub struct Known {
    /// Somebody was told that it runs, or it outlived whoever made it.
    pub certain: bool,
    /// Nobody was told of it: it was found.
    pub found: bool,
    /// Its deletion was asked for.
    pub removing: bool,
    /// How often it was.
    pub removals: u32,
    /// Its deletion was answered, or is noted.
    pub removed: bool,
    /// It was made to break down, or its host to lose it.
    pub may_end: bool,
    pub auto_resume: bool,
    /// Of the create that it, or its first ancestor, came from.
    pub tag: String,
    pub power: Register,
    pub network: Register,
    pub content: Register,
    /// Contents of those that are promised.
    pub checkpoints: BTreeMap<String, Values>,
}

impl Known {
    /// One that runs since a time between the two.
    pub fn new(tag: &str, network: Values, content: Values, (from, to): (Time, Time)) -> Self {
        Self {
            certain: true,
            found: false,
            removing: false,
            removals: 0,
            removed: false,
            may_end: false,
            auto_resume: true,
            tag: tag.to_owned(),
            power: Register::new(only(RUNNING), from, to),
            network: Register::new(network, from, to),
            content: Register::new(content, from, to),
            checkpoints: BTreeMap::new(),
        }
    }

    /// It must be there, in whatever state.
    pub fn is_promised(&self) -> bool {
        self.certain && !self.removing
    }

    /// It must run or be paused.
    pub fn is_alive(&self) -> bool {
        self.is_promised() && !self.may_end
    }
}

/// A fork that can be asked for again.
#[derive(Debug, Clone)]
pub struct Fork {
    pub source: String,
    pub count: u32,
}

/// What is known of all of them.
#[derive(Debug, Default)]
pub struct Model {
    now: Time,
    pub sandboxes: BTreeMap<String, Known>,
    /// What requests with an idempotency key were answered with.
    pub answers: BTreeMap<String, Vec<Vec<String>>>,
    /// Forks with a key, and when it came first.
    pub forks: BTreeMap<String, (Fork, Time)>,
    /// Creates and forks that nobody answered: tag, and how many sandboxes there are if there are
    /// any.
    pub unanswered: Vec<(String, usize)>,
    /// Ids that were found in lists, and deleted before anybody was told what they are.
    pub deleted_unseen: BTreeSet<String>,
    /// Contents of every snapshot that a name may have meant.
    pub snapshots: BTreeMap<String, Vec<Values>>,
    /// Names that were said to be there, and that nobody has asked to remove.
    pub published: BTreeSet<String>,
    /// Removals of snapshots that may go on, as those do that nobody answered, and when the last
    /// one ended.
    pub removals: BTreeMap<String, (usize, Time)>,
    /// Newest that a row had.
    pub generations: BTreeMap<String, u64>,
}

impl Model {
    pub fn tick(&mut self) -> Time {
        self.now += 1;
        self.now
    }

    /// What an answer to a question from now on must not show.
    pub fn gone(&self) -> BTreeSet<String> {
        self.sandboxes
            .iter()
            .filter(|(_, known)| known.removed)
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// What was not answered comes about no more.
    pub fn all_is_over(&mut self) {
        let now = self.tick();
        for known in self.sandboxes.values_mut() {
            [&mut known.power, &mut known.network, &mut known.content]
                .into_iter()
                .for_each(|one| one.all_is_over(now));
        }
        self.removals
            .values_mut()
            .for_each(|(ongoing, last)| (*ongoing, *last) = (0, now));
    }

    /// What a sandbox made from the snapshot may begin with.
    pub fn of_snapshot(&self, name: &str) -> Values {
        let mut values = BTreeSet::new();
        for version in self.snapshots.get(name)? {
            values.extend(version.as_ref()?);
        }
        Some(values)
    }

    /// A request with a key is answered with these. What is wrong with that.
    pub fn answered(&mut self, key: &str, ids: &[String]) -> Option<String> {
        let before = self.answers.entry(key.to_owned()).or_default();
        let is_there = |id: &String| self.sandboxes.get(id).is_some_and(Known::is_promised);
        let double = before
            .iter()
            .find(|earlier| earlier.as_slice() != ids && earlier.iter().all(is_there));
        let wrong = double.map(|earlier| format!("{key} made {earlier:?}, and then {ids:?}"));
        before.push(ids.to_vec());
        wrong
    }

    /// Whether `count` sandboxes of a tag that nobody was told of can be what unanswered requests
    /// made, each all or none.
    pub fn explains(&self, tag: &str, count: usize) -> bool {
        let mut sums = BTreeSet::from([0]);
        for (_, made) in self.unanswered.iter().filter(|(of, _)| of == tag) {
            let more: Vec<usize> = sums.iter().map(|sum| sum + made).collect();
            sums.extend(more);
        }
        sums.contains(&count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_overwritten_for_sure_is_seen_no_more() {
        let mut register = Register::new(only(0), 1, 1);
        let first = register.begin(7, 2);
        assert_eq!(register.seen(3, 4), Some(BTreeSet::from([0, 7])));
        register.came_about(first, 5);
        assert_eq!(register.seen(4, 6), Some(BTreeSet::from([0, 7])));
        assert_eq!(register.seen(6, 7), only(7));
        let lost = register.begin(8, 8);
        assert_eq!(register.seen(9, 10), Some(BTreeSet::from([7, 8])));
        register.never(lost);
        assert_eq!(register.seen(11, 12), only(7));
    }

    #[test]
    fn forks_are_whole_or_not_there() {
        let unanswered = [("a", 2), ("a", 3), ("b", 1)]
            .map(|(tag, count)| (tag.to_owned(), count))
            .to_vec();
        let model = Model {
            unanswered,
            ..Model::default()
        };
        let explained = |tag| {
            (0..8)
                .filter(|&count| model.explains(tag, count))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (explained("a"), explained("b"), explained("c")),
            (vec![0, 2, 3, 5], vec![0, 1], vec![0])
        );
    }

    #[test]
    fn a_key_makes_the_same_as_long_as_that_is_there() {
        let mut model = Model::default();
        let ids = |id: &str| vec![id.to_owned()];
        model
            .sandboxes
            .insert("one".to_owned(), Known::new("t", None, None, (1, 2)));
        assert_eq!(model.answered("key", &ids("one")), None);
        assert_eq!(model.answered("key", &ids("one")), None);
        assert!(model.answered("key", &ids("two")).is_some());
        model.sandboxes.get_mut("one").unwrap().removing = true;
        assert_eq!(model.answered("key", &ids("three")), None);
    }
}
