//! The table for people and the file for programs.

use std::fmt::Write as _;
use std::fs;

use anyhow::Context;
use serde_json::{Value, json};

use crate::place::Place;
use crate::platform::Machine;
use crate::stats::Summary;

/// Target of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// Median of ours divided by that of bare.
    RatioAtMost(f64),
    RatioAtLeast(f64),
    /// Median of ours, by that of bare and a constant in the row's unit.
    AtMostOfBare {
        times: f64,
        plus: f64,
    },
    /// Worst of ours, in the row's unit.
    AtMost(f64),
    /// The row is only there to be known.
    None,
}

impl Target {
    fn text(self) -> String {
        match self {
            Self::RatioAtMost(limit) => format!("ratio ≤ {limit}"),
            Self::RatioAtLeast(limit) => format!("ratio ≥ {limit}"),
            Self::AtMostOfBare { times, plus } => format!("≤ {times} × bare + {plus}"),
            Self::AtMost(limit) => format!("≤ {limit}"),
            Self::None => "–".to_owned(),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Row {
    pub name: &'static str,
    pub unit: &'static str,
    /// Measurements of each side.
    pub n: usize,
    pub ours: Summary,
    /// `None` where there is nothing bare to compare with.
    pub bare: Option<Summary>,
    pub ratio: Option<f64>,
    pub target: Target,
}

/// Returns the median of ours divided by that of bare.
pub fn median_ratio(ours: Summary, bare: Summary) -> f64 {
    ours.p50 / bare.p50
}

impl Row {
    /// Returns true if the target is reached; `None` without one.
    pub fn is_met(&self) -> Option<bool> {
        match self.target {
            Target::RatioAtMost(limit) => self.ratio.map(|ratio| ratio <= limit),
            Target::RatioAtLeast(limit) => self.ratio.map(|ratio| ratio >= limit),
            Target::AtMostOfBare { times, plus } => self
                .bare
                .map(|bare| self.ours.p50 <= times * bare.p50 + plus),
            Target::AtMost(limit) => Some(self.ours.p99 <= limit),
            Target::None => None,
        }
    }

    fn cells(&self) -> [String; 9] {
        let number = |value: f64| {
            if value < 100.0 {
                format!("{value:.2}")
            } else {
                format!("{value:.0}")
            }
        };
        let of = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), number);
        let met = self
            .is_met()
            .map_or("", |met| if met { "  yes" } else { "  NO" });
        [
            self.name.to_owned(),
            self.unit.to_owned(),
            self.n.to_string(),
            number(self.ours.p50),
            number(self.ours.p99),
            of(self.bare.map(|bare| bare.p50)),
            of(self.bare.map(|bare| bare.p99)),
            of(self.ratio),
            format!("{}{met}", self.target.text()),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name, "unit": self.unit, "n": self.n, "ours": self.ours, "bare": self.bare,
            "ratio": self.ratio, "target": self.target.text(), "met": self.is_met(),
        })
    }
}

const HEAD: [&str; 9] = [
    "", "unit", "n", "ours p50", "p99", "bare p50", "p99", "ratio", "target",
];

/// Report of a run.
#[derive(Debug)]
pub struct Report {
    pub machine: Machine,
    pub rows: Vec<Row>,
    /// Bare machines that did not start, and were started again.
    pub started_again: usize,
}

impl Report {
    /// Prints the table and writes the file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn publish(&self, place: &Place) -> anyhow::Result<()> {
        let path = place.report();
        print!("{}", self.table());
        let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
        let report = json!({ "machine": self.machine, "rows": rows, "bare_started_again": self.started_again });
        let text = serde_json::to_string_pretty(&report)?;
        fs::write(&path, text + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
        if self.started_again > 0 {
            println!(
                "\nbare machines that did not start and were started again: {}",
                self.started_again
            );
        }
        println!("\n{}", path.display());
        Ok(())
    }

    fn table(&self) -> String {
        let mut lines = vec![HEAD.map(str::to_owned)];
        lines.extend(self.rows.iter().map(Row::cells));
        let width = |column: usize| {
            lines
                .iter()
                .map(|cells| cells[column].chars().count())
                .max()
                .unwrap_or_default()
        };
        let mut text = self.machine.text();
        text.push('\n');
        for cells in &lines {
            for (column, cell) in cells.iter().enumerate() {
                let width = width(column);
                // Words to the left, numbers to the right.
                let _ = match column {
                    0 | 1 | 8 => write!(text, "{cell:<width$}  "),
                    _ => write!(text, "{cell:>width$}  "),
                };
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(p50: f64, bare: Option<f64>, target: Target) -> Row {
        let ours = Summary {
            p50,
            p99: p50 * 2.0,
        };
        let bare = bare.map(|p50| Summary { p50, p99: p50 });
        Row {
            name: "a row",
            unit: "ms",
            n: 3,
            ours,
            bare,
            ratio: bare.map(|bare| median_ratio(ours, bare)),
            target,
        }
    }

    #[test]
    fn targets_compare_the_right_number() {
        assert_eq!(
            row(11.0, Some(10.0), Target::RatioAtMost(1.1)).is_met(),
            Some(true)
        );
        assert_eq!(
            row(12.0, Some(10.0), Target::RatioAtMost(1.1)).is_met(),
            Some(false)
        );
        assert_eq!(
            row(7.9, Some(10.0), Target::RatioAtLeast(0.8)).is_met(),
            Some(false)
        );
        let written = Target::AtMostOfBare {
            times: 1.5,
            plus: 10.0,
        };
        assert_eq!(row(25.0, Some(10.0), written).is_met(), Some(true));
        assert_eq!(row(25.1, Some(10.0), written).is_met(), Some(false));
        assert_eq!(row(41.0, None, Target::AtMost(80.0)).is_met(), Some(false));
        assert_eq!(row(1.0, None, Target::None).is_met(), None);
    }

    #[test]
    fn the_file_has_the_agreed_form() {
        let value = row(12.0, Some(10.0), Target::RatioAtMost(1.5)).json();
        assert_eq!(value["ours"], json!({ "p50": 12.0, "p99": 24.0 }));
        assert_eq!(
            (&value["n"], &value["ratio"], &value["met"]),
            (&json!(3), &json!(1.2), &json!(true))
        );
        assert_eq!(row(1.0, None, Target::None).json()["bare"], Value::Null);
    }
}
