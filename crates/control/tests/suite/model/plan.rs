//! What is to happen in a history, drawn from its seed before it begins. Which sandbox a question
//! means is known only when it is asked, so it holds a number to pick one by.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use testkit::host::Cut;

/// Tasks that ask at the same time, and questions of each in the life of one control plane.
const CLIENTS: u64 = 4;
const QUESTIONS: u64 = 8;
/// Idempotency keys and names of snapshots that there are: few, so that they meet.
const NAMES: u64 = 3;

/// Calls of a host, as the contract names them.
const CALLS: [&str; 17] = [
    "GetHost",
    "ListTemplates",
    "ListSandboxes",
    "WatchSandboxes",
    "EnsureSandbox",
    "RemoveSandbox",
    "PauseSandbox",
    "ResumeSandbox",
    "UpdateNetwork",
    "ForkSandbox",
    "CreateSnapshot",
    "RemoveSnapshot",
    "CreateCheckpoint",
    "ListCheckpoints",
    "RollbackSandbox",
    "ReadFile",
    "WriteFile",
];
/// What goes on beside a call.
const STEPS: [&str; 3] = ["Boot", "Save", "Children"];

#[derive(Debug)]
pub struct Plan {
    pub kind: Kind,
    pub lives: Vec<Life>,
}

/// What may go wrong in this history.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    pub hosts: usize,
    /// Hosts refuse, go away and come back, and lose answers.
    pub faults: bool,
    /// Sandboxes end by themselves.
    pub deaths: bool,
}

/// Of one control plane.
#[derive(Debug)]
pub struct Life {
    pub clients: Vec<Vec<Question>>,
    /// What happens on hosts, and after how many questions of all clients.
    pub weather: Vec<(u64, Weather)>,
    pub end: End,
}

#[derive(Debug, Clone, Copy)]
pub enum End {
    /// As with `kill -9` after so many questions; then the next one starts before the weather has
    /// cleared, or after.
    Crash { after: u64, in_bad_weather: bool },
    /// In good order, when all clients have their answers.
    Stop,
    /// It lives on.
    Stay,
}

#[derive(Debug, Clone)]
pub struct Question {
    pub what: Operation,
    pub pick: u64,
    /// When the client hangs up, if it does.
    pub patience: Option<Duration>,
}

#[derive(Debug, Clone)]
pub enum Operation {
    Create {
        key: Option<u64>,
        auto_resume: bool,
    },
    CreateFrom {
        name: u64,
    },
    Pause,
    Resume,
    SetNetwork,
    Write,
    Read,
    Look,
    Fork {
        key: Option<u64>,
        count: u32,
    },
    /// With a key that came before.
    ForkAgain,
    Snapshot {
        name: u64,
        memory: bool,
        overwrite: bool,
    },
    RemoveSnapshot {
        name: u64,
    },
    Checkpoint,
    RemoveCheckpoint,
    RollBack,
    Remove,
    /// Whatever a list shows, also what is being made.
    RemoveListed,
}

#[derive(Debug, Clone)]
pub enum Weather {
    Slow(&'static str, Duration),
    Refuse(&'static str, Refusal),
    Cut(&'static str, Cut),
    Full,
    Room,
    Restart,
    Away,
    Back,
    BreakDown,
    /// With a report, or without.
    Lose(bool),
}

#[derive(Debug, Clone, Copy)]
pub enum Refusal {
    Internal,
    Unavailable,
    Exhausted,
}

struct Dice(StdRng);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0.random_range(0..n)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.0.random_range(0..all.len())]
    }

    fn some<T>(&mut self, one_in: u64, draw: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.one_in(one_in) {
            Some(draw(self))
        } else {
            None
        }
    }

    fn millis(&mut self, below: u64) -> Duration {
        Duration::from_millis(self.below(below))
    }
}

impl Plan {
    pub fn draw(seed: u64) -> Self {
        let mut dice = Dice(StdRng::seed_from_u64(seed));
        let hosts = if dice.one_in(4) { 2 } else { 1 };
        let kind = Kind {
            hosts,
            faults: !dice.one_in(3),
            deaths: dice.one_in(3),
        };
        let lives = (0..=dice.below(3)).map(|_| life(&mut dice, kind)).collect();
        Self { kind, lives }
    }
}

fn life(dice: &mut Dice, kind: Kind) -> Life {
    let questions = CLIENTS * QUESTIONS;
    let clients = (0..CLIENTS)
        .map(|_| (0..QUESTIONS).map(|_| question(dice)).collect())
        .collect();
    let mut weather: Vec<(u64, Weather)> = (0..questions)
        .flat_map(|after| any_weather(dice, kind, after))
        .collect();
    weather.sort_by_key(|(after, _)| *after);
    let end = match dice.below(5) {
        0 => End::Stop,
        1 => End::Stay,
        _ => End::Crash {
            after: 1 + dice.below(questions),
            in_bad_weather: dice.one_in(3),
        },
    };
    Life {
        clients,
        weather,
        end,
    }
}

fn question(dice: &mut Dice) -> Question {
    let what = operation(dice);
    let patience = dice.some(12, |dice| dice.millis(25));
    Question {
        what,
        pick: dice.below(u64::from(u32::MAX)),
        patience,
    }
}

fn operation(dice: &mut Dice) -> Operation {
    let name = dice.below(NAMES);
    match dice.below(30) {
        0..=2 => Operation::Create {
            key: None,
            auto_resume: !dice.one_in(4),
        },
        3..=5 => Operation::Create {
            key: Some(name),
            auto_resume: name > 0,
        },
        6 => Operation::CreateFrom { name },
        7..=9 => Operation::Pause,
        10 | 11 => Operation::Resume,
        12 | 13 => Operation::SetNetwork,
        14 | 15 => Operation::Write,
        16 => Operation::Read,
        17 | 18 => Operation::Look,
        19 => Operation::ForkAgain,
        20 | 21 => {
            let count = 1 + u32::try_from(dice.below(3)).unwrap();
            Operation::Fork {
                key: dice.some(2, |_| name),
                count,
            }
        }
        22 => Operation::Snapshot {
            name,
            memory: dice.one_in(2),
            overwrite: dice.one_in(2),
        },
        23 => Operation::RemoveSnapshot { name },
        24 => Operation::Checkpoint,
        25 if dice.one_in(3) => Operation::RemoveCheckpoint,
        25 | 26 => Operation::RollBack,
        27 if dice.one_in(3) => Operation::RemoveListed,
        _ => Operation::Remove,
    }
}

/// What happens after so many questions, and what ends it soon.
fn any_weather(dice: &mut Dice, kind: Kind, after: u64) -> Vec<(u64, Weather)> {
    let both = [&CALLS[..], &STEPS[..]].concat();
    let what = match dice.below(40) {
        0..=15 => Weather::Slow(dice.of(&both), dice.millis(40)),
        16 | 17 if kind.deaths => Weather::BreakDown,
        18 if kind.deaths => Weather::Lose(dice.one_in(2)),
        19..=24 if kind.faults => Weather::Refuse(
            dice.of(&both),
            dice.of(&[Refusal::Internal, Refusal::Unavailable, Refusal::Exhausted]),
        ),
        25..=30 if kind.faults => {
            Weather::Cut(dice.of(&CALLS), dice.of(&[Cut::Before, Cut::After]))
        }
        31 if kind.faults => Weather::Restart,
        32 if kind.faults => Weather::Away,
        33 if kind.faults => Weather::Full,
        _ => return Vec::new(),
    };
    let end = match what {
        Weather::Away => Some(Weather::Back),
        Weather::Full => Some(Weather::Room),
        _ => None,
    };
    let end = end.map(|end| (after + 1 + dice.below(6), end));
    std::iter::once((after, what)).chain(end).collect()
}
