//! What the stories share: a platform started as a user starts it, its command line, and the list
//! of everything on the host that a platform could leave behind.
//!
//! Needs root, the built programs and a prepared kernel and image; `make test` provides them.

mod cli;
mod leftovers;
mod platform;
mod postgres;
mod programs;

pub use cli::{Finished, Wrenn};
pub use leftovers::Leftovers;
pub use platform::{Platform, binary, test_data};
pub use postgres::Postgres;
pub use programs::{Program, Programs};

use std::time::{Duration, Instant};

/// Asks again and again until `probe` has an answer; the panic after `limit` says what was awaited.
pub fn eventually<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(
            Instant::now() < deadline,
            "waited {limit:?} in vain for: {what}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}
