//! `true` on a running sandbox. Ours: `POST …/exec`. Bare: `process.Process/Start` of the same
//! sandbox's guest agent, called from this process. Both keep their connections.

use std::time::Instant;

use crate::pairs::{Pairs, Side, print_progress, side_order};
use crate::report::{Row, Target};
use crate::server::Server;
use crate::stats::Better;

const PAIRS: usize = 200;
/// Number of runs before the clock counts: emulated guests run code faster when it has been
/// translated.
const WARM_UP: usize = 10;
const MAX_RATIO: f64 = 1.5;

/// Measures execs; see the module.
///
/// # Errors
/// When a program fails.
pub async fn measure(server: &Server) -> anyhow::Result<Row> {
    let sandbox = server.create(None).await?;
    let envd = server.envd_of(&sandbox)?;
    let mut pairs = Pairs::default();
    for pair in 0..WARM_UP + PAIRS {
        for side in side_order(pair) {
            let began = Instant::now();
            match side {
                Side::Ours => server.exec(&sandbox).await?,
                Side::Bare => envd.exec().await?,
            }
            if pair >= WARM_UP {
                pairs.push(side, began.elapsed().as_secs_f64() * 1000.0);
            }
        }
        print_progress("exec", pair + 1, WARM_UP + PAIRS);
    }
    server.client.delete(&sandbox.id).await?;
    Ok(pairs.row(
        "exec of true",
        "ms",
        Better::Lower,
        Target::RatioAtMost(MAX_RATIO),
    ))
}
