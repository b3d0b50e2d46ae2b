//! Many short histories of a control plane over fake hosts: several clients ask at once, some hang
//! up, hosts refuse, lose answers, go away and come back, sandboxes end by themselves, and the
//! control plane is killed at any moment and another one takes over its database. A reference model
//! ([`known`]) says what may be.
//!
//! | at the end of every life | at the end of all |
//! |---|---|
//! | rows and hosts agree, and nothing is on its way | everything that is promised can be used as was promised |
//! | what was answered holds; what was not, happened whole or not at all | every sandbox and snapshot can be deleted |
//! | nothing is there that nobody asked for | nothing is left |
//!
//! A history is drawn from a seed before it begins ([`plan`]): `WRENN_MODEL_SEED=N` runs that one
//! first, `WRENN_MODEL_HISTORIES=N` says how many. Time is real, so a seed may have to be run some
//! times until it tells the same story.

mod check;
mod history;
mod known;
mod make;
mod operations;
mod plan;
mod scene;
mod user;

use std::time::Duration;

use testkit::Histories;

/// At the same time; most of their time they wait.
const THREADS: usize = 6;

#[test]
fn whatever_happens_what_was_answered_holds_and_nothing_is_stuck_or_left() {
    let limit = Duration::from_secs(40);
    Histories {
        name: "WRENN_MODEL",
        threads: THREADS,
        most: u64::MAX,
        limit,
    }
    .run(history::run);
}
