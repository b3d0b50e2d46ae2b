//! Statistics: from single measurements to what a row shows.

use serde::Serialize;

/// Median and 99th percentile: 99 of 100 measurements are at least as good.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    pub p50: f64,
    pub p99: f64,
}

/// Direction of improvement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Lower,
    Higher,
}

/// Summarises measurements. With fewer than 100 of them, p99 is the worst one.
///
/// # Panics
/// Without measurements.
pub fn summarize(measured: &[f64], better: Better) -> Summary {
    let mut sorted = measured.to_vec();
    sorted.sort_by(|a, b| match better {
        Better::Lower => a.total_cmp(b),
        Better::Higher => b.total_cmp(a),
    });
    let count = sorted.len();
    let p50 = f64::midpoint(sorted[(count - 1) / 2], sorted[count / 2]);
    // The nearest rank: ceil(0.99 × count), counted from 1.
    let rank = (count * 99).div_ceil(100);
    Summary {
        p50,
        p99: sorted[rank - 1],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(summarize(&[3.0, 1.0, 2.0], Better::Lower).p50, 2.0);
        assert_eq!(summarize(&[4.0, 1.0, 2.0, 3.0], Better::Lower).p50, 2.5);
        assert_eq!(
            summarize(&[7.0], Better::Higher),
            Summary { p50: 7.0, p99: 7.0 }
        );
    }

    #[test]
    fn percentile_99_is_a_bad_value() {
        let measured: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(summarize(&measured, Better::Lower).p99, 198.0);
        assert_eq!(summarize(&measured, Better::Higher).p99, 3.0);
        assert_eq!(summarize(&measured[..10], Better::Lower).p99, 10.0);
    }
}
