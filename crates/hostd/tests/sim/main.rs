//! Many short histories of a host agent on a simulated machine: the real manager, actors, ledger,
//! disks and snapshots, over virtual machines and guests that are objects of this program. Several
//! clients ask at once, VMs die, calls and writes fail, the agent dies at any step and another one
//! takes over. A model says what may be.
//!
//! Time is the runtime's, which goes on when nothing else does; so waiting costs nothing. A history
//! is drawn from a seed: `WRENN_SIM_SEED=N` runs that one first, `WRENN_SIM_HISTORIES=N` says how
//! many. Threads for blocking work run when the kernel lets them, so a seed may have to be run some
//! times until it tells the same story.

mod barrier;
mod changes;
mod checkpoints;
mod console;
mod forks;
mod full;
mod guest;
mod history;
mod host;
mod hostile;
mod limits;
mod model;
mod network;
mod operations;
mod preboot;
mod rows;
mod slow;
mod templates;
mod undo;
mod upgrade;
mod verdict;
mod vm;
mod world;

use std::time::Duration;

use testkit::Histories;

#[test]
fn whatever_happens_nothing_is_lost_stuck_or_left_behind() {
    world::install();
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let limit = Duration::from_secs(50);
    Histories {
        name: "WRENN_SIM",
        threads,
        most: 1500,
        limit,
    }
    .run(history::run);
}
