//! Reads plans of statements, for tests.

use sqlx::Row as _;
use sqlx::postgres::PgRow;

/// Returns the number of rows that the leaves of a plan of `EXPLAIN (ANALYZE, FORMAT JSON)` returned or
/// dropped, and the plan.
pub(crate) fn rows_read(plan: &PgRow) -> (f64, serde_json::Value) {
    // JSON is text on the wire, too.
    let plan = plan.get_unchecked::<String, _>(0);
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    (read_by(&plan[0]["Plan"]), plan)
}

fn read_by(plan: &serde_json::Value) -> f64 {
    if let Some(inner) = plan["Plans"].as_array() {
        return inner.iter().map(read_by).sum();
    }
    let number = |name: &str| plan[name].as_f64().unwrap_or_default();
    (number("Actual Rows") + number("Rows Removed by Filter")) * number("Actual Loops")
}
