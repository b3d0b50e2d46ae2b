//! `/v1/capsules/stats` and `/v1/capsules/usage`: what the team's capsules use and used.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json as Answer};
use serde::Deserialize;
use serde_json::{Value, json};
use stdx::time::now_ms;
use time::format_description::StaticFormatDescription;
use time::macros::format_description;
use time::{Date, Duration};

use crate::api::extract::Query;
use crate::api::format_time;
use crate::app::App;
use crate::app::run_history::{
    DayUse, Reserved, Run, day_of, midnight_of, peak_reserved, reserved_at, usage_by_day,
};
use crate::auth::Principal;
use crate::error::{Error, Result};

/// Ranges of a series: name, length and time between two points in seconds.
const RANGES: [(&str, i64, i64); 5] = [
    ("5m", 300, 10),
    ("1h", 3600, 60),
    ("6h", 21_600, 300),
    ("24h", 86_400, 900),
    ("30d", 2_592_000, 21_600),
];
const DEFAULT_RANGE: &str = "1h";
/// Time that peaks are of.
const PEAKS_MS: i64 = 30 * 86_400_000;
/// Days of usage where a query leaves out the first one, and most of them.
const DEFAULT_DAYS: i64 = 30;
const MAX_DAYS: i64 = 92;
const DATE: StaticFormatDescription = format_description!("[year]-[month]-[day]");

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StatsQuery {
    range: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DaysQuery {
    from: Option<String>,
    to: Option<String>,
}

/// Returns how many capsules run, what is reserved for them, and how that was before.
pub async fn get_stats(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Query(query): Query<StatsQuery>,
) -> Result<Answer<Value>> {
    let now = now_ms();
    let range = query.range.as_deref().unwrap_or(DEFAULT_RANGE);
    let times = series_times(range, now)?;
    let runs = app.list_runs(&principal, now - PEAKS_MS).await?;
    Ok(Answer(stats(range, &runs, &times)))
}

/// Returns the use on each day.
pub async fn get_daily_usage(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Query(query): Query<DaysQuery>,
) -> Result<Answer<Value>> {
    let now = now_ms();
    let (first, last) = query.days(day_of(now)?)?;
    let runs = app.list_runs(&principal, midnight_of(first)).await?;
    let days = usage_by_day(&runs, first, last, now);
    let points: Vec<Value> = days.iter().map(day_json).collect();
    let answer = json!({ "from": date_text(first), "to": date_text(last), "points": points });
    Ok(Answer(answer))
}

/// Returns the times of a series, of which the last one is now.
fn series_times(range: &str, now: i64) -> Result<Vec<i64>> {
    let found = RANGES.iter().find(|(name, ..)| *name == range);
    let (_, length, step) = found.ok_or_else(|| {
        let names = RANGES.map(|(name, ..)| name).join(", ");
        Error::invalid(format!("range must be one of {names}"))
    })?;
    let points = length / step;
    let time = |number| now - (points - number) * step * 1000;
    Ok((1..=points).map(time).collect())
}

fn stats(range: &str, runs: &[Run], times: &[i64]) -> Value {
    let series = reserved_at(runs, times);
    let current = series.last().copied().unwrap_or_default();
    let peak = peak_reserved(runs);
    let of_each = |value: fn(&Reserved) -> u64| series.iter().map(value).collect::<Vec<_>>();
    json!({
        "range": range,
        "current": {
            "running_count": current.sandboxes,
            "vcpus_reserved": current.cpus,
            "memory_mb_reserved": current.memory,
        },
        "peaks": {
            "running_count": peak.sandboxes,
            "vcpus": peak.cpus,
            "memory_mb": peak.memory,
        },
        "series": {
            "labels": times.iter().map(|time| format_time(*time)).collect::<Vec<_>>(),
            "running": of_each(|it| it.sandboxes.into()),
            "vcpus": of_each(|it| it.cpus.into()),
            "memory_mb": of_each(|it| it.memory),
        },
    })
}

impl DaysQuery {
    /// Returns the first and the last day.
    fn days(&self, today: Date) -> Result<(Date, Date)> {
        let read = |field, text: &Option<String>| {
            let text = text.as_deref();
            text.map(|text| read_date(field, text)).transpose()
        };
        let last = read("to", &self.to)?.unwrap_or(today);
        let default = last.saturating_sub(Duration::days(DEFAULT_DAYS));
        let first = read("from", &self.from)?.unwrap_or(default);
        if first > last {
            return Err(Error::invalid("from must not be after to"));
        }
        if (last - first).whole_days() >= MAX_DAYS {
            let text = format!("from and to must be at most {MAX_DAYS} days, both included");
            return Err(Error::invalid(text));
        }
        Ok((first, last))
    }
}

fn read_date(field: &str, text: &str) -> Result<Date> {
    Date::parse(text, DATE).map_err(|_| {
        let shown: String = text.chars().take(32).collect();
        Error::invalid(format!(
            "{field} must be a date like 2026-01-31, not {shown:?}"
        ))
    })
}

fn date_text(day: Date) -> String {
    day.format(DATE).unwrap_or_default()
}

fn day_json(day: &DayUse) -> Value {
    json!({
        "date": date_text(day.date),
        "cpu_minutes": day.cpu_minutes,
        "ram_mb_minutes": day.memory_minutes,
    })
}

#[cfg(test)]
mod tests {
    use time::macros::date;

    use super::*;

    fn days(from: Option<&str>, to: Option<&str>) -> Result<(Date, Date)> {
        let query = DaysQuery {
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
        };
        query.days(date!(2026 - 03 - 31))
    }

    #[test]
    fn days_have_defaults_and_bounds() {
        let all = (date!(2026 - 03 - 01), date!(2026 - 03 - 31));
        assert_eq!(days(None, None).unwrap(), all);
        let one = (date!(2026 - 03 - 05), date!(2026 - 03 - 05));
        assert_eq!(days(Some("2026-03-05"), Some("2026-03-05")).unwrap(), one);
        assert!(days(Some("2025-12-30"), None).is_ok());
        for (from, to, said) in [
            (Some("2025-12-29"), None, "92 days"),
            (Some("2026-04-01"), None, "after"),
            (Some("yesterday"), None, "from must be a date"),
            (None, Some("2026-02-30"), "to must be a date"),
        ] {
            let message = days(from, to).unwrap_err().message;
            assert!(message.contains(said), "{message}");
        }
    }

    #[test]
    fn series_ends_with_now() {
        for (range, points) in [
            ("5m", 30),
            ("1h", 60),
            ("6h", 72),
            ("24h", 96),
            ("30d", 120),
        ] {
            let times = series_times(range, 3_000_000_000).unwrap();
            assert_eq!((times.len(), times.last()), (points, Some(&3_000_000_000)));
        }
        assert!(series_times("7d", 0).unwrap_err().message.contains("30d"));
    }

    #[test]
    fn stats_have_parallel_series() {
        let reserved = Reserved {
            sandboxes: 1,
            cpus: 2,
            memory: 512,
        };
        let run = Run {
            begin: 1_767_225_600_000,
            end: None,
            reserved,
        };
        let times = [1_767_225_599_000, 1_767_225_600_000];
        let found = stats("5m", &[run], &times);
        assert_eq!(found["series"]["running"], json!([0, 1]));
        assert_eq!(found["series"]["memory_mb"], json!([0, 512]));
        assert_eq!(found["series"]["labels"][1], "2026-01-01T00:00:00.000Z");
        assert_eq!(found["current"]["vcpus_reserved"], 2);
        assert_eq!(
            found["peaks"],
            json!({"running_count": 1, "vcpus": 2, "memory_mb": 512})
        );
    }
}
