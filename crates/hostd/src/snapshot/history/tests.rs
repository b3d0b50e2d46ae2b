use std::fs;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;

fn name(text: &str) -> CheckpointName {
    text.parse().unwrap()
}

/// A sandbox whose state is a number, with what its checkpoints saved.
#[derive(Default)]
struct Sandbox {
    checkpoints: Vec<Checkpoint>,
    saved: BTreeMap<CheckpointName, u64>,
    state: u64,
    /// States before each command that has not been undone, from the first one on.
    undoable: Vec<u64>,
    /// The same of each checkpoint's moment.
    undoable_at: BTreeMap<CheckpointName, Vec<u64>>,
    time: i64,
}

#[derive(Debug, Clone)]
enum Step {
    Command,
    Undo(usize),
    ByHand,
    RedoLast,
}

impl Sandbox {
    fn save(&mut self, text: &str, automatic: Option<Automatic>) -> CheckpointName {
        self.time += 1;
        let name = name(&format!("{text}-{}", self.time));
        self.checkpoints.push(Checkpoint {
            name: name.clone(),
            created_at_ms: self.time,
            dir: name.as_str().into(),
            automatic,
        });
        self.saved.insert(name.clone(), self.state);
        self.undoable_at.insert(name.clone(), self.undoable.clone());
        name
    }

    fn undo_to(&mut self, to: &CheckpointName) -> CheckpointName {
        let mark = History::new(&self.checkpoints).next_mark(Some(to));
        let undo = self.save("undo", Some(mark));
        self.state = self.saved[to];
        self.undoable = self.undoable_at[to].clone();
        undo
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Command => {
                let mark = History::new(&self.checkpoints).next_mark(None);
                self.save("auto", Some(mark));
                self.undoable.push(self.state);
                self.time += 1;
                self.state = self.time.unsigned_abs();
            }
            Step::Undo(count) => {
                let steps = History::new(&self.checkpoints).steps();
                let to = steps.get(*count).map(|point| point.name.clone());
                if let Some(to) = to {
                    self.undo_to(&to);
                }
            }
            Step::ByHand => {
                self.save("mine", None);
            }
            Step::RedoLast => {
                let undone = self.checkpoints.last().map(|last| last.name.clone());
                let undone = undone.filter(|last| last.as_str().starts_with("undo"));
                if let Some(undone) = undone {
                    let before = self.saved[&undone];
                    let undo = self.undo_to(&undone);
                    assert_eq!(self.state, before);
                    assert!(self.saved.contains_key(&undo));
                }
            }
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Command),
        2 => (0_usize..4).prop_map(Step::Undo),
        1 => Just(Step::ByHand),
        1 => Just(Step::RedoLast),
    ]
}

proptest! {
    /// The states that an undo goes to are those before the commands that have not been undone.
    #[test]
    fn undo_goes_back_command_by_command(steps in prop::collection::vec(step(), 0..24)) {
        let mut sandbox = Sandbox::default();
        for step in &steps {
            sandbox.take(step);
            let history = History::new(&sandbox.checkpoints).steps();
            let states: Vec<u64> = history.iter().map(|point| sandbox.saved[&point.name]).collect();
            let mut expected = sandbox.undoable.clone();
            expected.reverse();
            prop_assert_eq!(states, expected, "{:?}", steps);
        }
    }

    #[test]
    fn oldest_automatic_checkpoints_go_first(steps in prop::collection::vec(step(), 0..24), keep in 0_usize..8) {
        let mut sandbox = Sandbox::default();
        steps.iter().for_each(|step| sandbox.take(step));
        let history = History::new(&sandbox.checkpoints);
        let surplus = history.surplus(keep, None, |_| FileSet::default());
        let automatic: Vec<CheckpointName> = sandbox.checkpoints.iter()
            .filter(|point| point.automatic.is_some())
            .map(|point| point.name.clone())
            .collect();
        let stay = automatic.len().min(keep.max(1));
        prop_assert_eq!(&surplus, &automatic[..automatic.len() - stay]);
        // What is left is a history still.
        sandbox.checkpoints.retain(|point| !surplus.contains(&point.name));
        let left = History::new(&sandbox.checkpoints).steps();
        prop_assert!(left.len() <= stay);
    }
}

#[test]
fn ring_of_marks_ends() {
    let mut sandbox = Sandbox::default();
    let mark = Automatic {
        number: 1,
        after: Some(name("auto-1")),
        undo_to: None,
    };
    sandbox.save("auto", Some(mark));
    assert_eq!(History::new(&sandbox.checkpoints).steps().len(), 1);
}

#[test]
fn bytes_bound_keeps_newest() {
    let root = tempfile::tempdir().unwrap();
    let mut sandbox = Sandbox::default();
    for number in 0..4_u64 {
        sandbox.take(&Step::Command);
        let dir = root.path().join(number.to_string());
        fs::create_dir(&dir).unwrap();
        let file = fs::File::create(dir.join("root.cow")).unwrap();
        file.write_all_at(&vec![1; 1 << 20], 0).unwrap();
        file.sync_all().unwrap();
        sandbox.checkpoints.last_mut().unwrap().dir = dir;
    }
    let history = History::new(&sandbox.checkpoints);
    let measure = |point: &Checkpoint| FileSet::of_dir(&point.dir, &[]).unwrap();
    let count = |max_bytes| history.surplus(10, Some(max_bytes), measure).len();
    assert_eq!([count(5 << 20), count(5 << 19), count(0)], [0, 2, 3]);
}
