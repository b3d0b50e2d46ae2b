//! Measurements that take turns.

use std::io::{IsTerminal, Write};

use crate::report::{Row, Target, median_ratio};
use crate::stats::{Better, summarize};

/// Measurements, ours and bare, run by run.
#[derive(Debug, Default)]
pub struct Pairs {
    pub ours: Vec<f64>,
    pub bare: Vec<f64>,
}

/// Side whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Ours,
    Bare,
}

/// Returns the order of a pair's sides: it alternates, so that neither side always works in the
/// wake of the other.
pub fn side_order(pair: usize) -> [Side; 2] {
    if pair.is_multiple_of(2) {
        [Side::Ours, Side::Bare]
    } else {
        [Side::Bare, Side::Ours]
    }
}

impl Pairs {
    pub fn push(&mut self, side: Side, value: f64) {
        match side {
            Side::Ours => self.ours.push(value),
            Side::Bare => self.bare.push(value),
        }
    }

    pub fn row(
        &self,
        name: &'static str,
        unit: &'static str,
        better: Better,
        target: Target,
    ) -> Row {
        let ours = summarize(&self.ours, better);
        let bare = summarize(&self.bare, better);
        Row {
            name,
            unit,
            n: self.ours.len(),
            ours,
            bare: Some(bare),
            ratio: Some(median_ratio(ours, bare)),
            target,
        }
    }

    /// Returns the row of measurements where lower is better, compared by their 99th percentile.
    pub fn row_of_worst(&self, name: &'static str, unit: &'static str, target: Target) -> Row {
        let row = self.row(name, unit, Better::Lower, target);
        Row {
            ratio: row.bare.map(|bare| row.ours.p99 / bare.p99),
            ..row
        }
    }
}

/// Prints on a terminal how far a row is.
pub fn print_progress(row: &str, done: usize, all: usize) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        let _ = write!(
            stderr,
            "\r{row}: {done} of {all}{}",
            if done == all { "\n" } else { "" }
        );
        let _ = stderr.flush();
    } else if done == all {
        let _ = writeln!(stderr, "{row}: {all} done");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_are_first_as_often() {
        let first: Vec<Side> = (0..4).map(|pair| side_order(pair)[0]).collect();
        assert_eq!(first, [Side::Ours, Side::Bare, Side::Ours, Side::Bare]);
        assert!((0..4).all(|pair| side_order(pair)[0] != side_order(pair)[1]));
    }

    #[test]
    fn a_row_compares_medians() {
        let mut pairs = Pairs::default();
        for (ours, bare) in [(10.0, 8.0), (11.0, 8.0), (90.0, 80.0)] {
            pairs.push(Side::Ours, ours);
            pairs.push(Side::Bare, bare);
        }
        let row = pairs.row("exec", "ms", Better::Lower, Target::RatioAtMost(1.5));
        assert_eq!(
            (row.n, row.ratio, row.is_met()),
            (3, Some(11.0 / 8.0), Some(true))
        );
        let worst = pairs.row_of_worst("exec, p99", "ms", Target::RatioAtMost(1.1));
        assert_eq!(
            (worst.n, worst.ratio, worst.is_met()),
            (3, Some(90.0 / 80.0), Some(false))
        );
    }
}
