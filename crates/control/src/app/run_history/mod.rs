//! When sandboxes ran, from the events of their changes: what a team used, also with sandboxes that
//! are gone. It reaches back as far as events are kept.
//!
//! ```text
//! events from a time on ─→ Timeline: what ran, and since when ─→ runs ─→ by day, at times, peaks
//! rows of now           ─→ what ran all that time, and so has no event in it
//! ```
//!
//! An event has the state before it (`previous_state`), so that a sandbox which ran before the first
//! event that is read is known to have run from the beginning on. Pure but for the reading.

use std::collections::BTreeMap;

use model::{EventKind, Resource, SandboxState};
use serde_json::Value;
use store::{Event, EventQuery, Events, SandboxFilter};
use time::{Date, OffsetDateTime};

use super::App;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::events::expired;

/// Events that one look at the store gets.
const PAGE: u32 = 1000;
const DAY_MS: i64 = 86_400_000;
const MINUTE_MS: f64 = 60_000.0;
/// Changes after which a sandbox runs, or does not.
const KINDS: [EventKind; 7] = [
    EventKind::SandboxStarted,
    EventKind::SandboxResumed,
    EventKind::SandboxPaused,
    EventKind::SandboxStopped,
    EventKind::SandboxFailed,
    EventKind::SandboxDeleting,
    EventKind::SandboxDeleted,
];

/// Sizes that a sandbox has while it runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reserved {
    pub sandboxes: u32,
    pub cpus: u32,
    /// MiB.
    pub memory: u64,
}

impl Reserved {
    fn from_event(data: &Value) -> Self {
        let number = |field| data[field].as_u64().unwrap_or_default();
        Self {
            sandboxes: 1,
            cpus: u32::try_from(number("vcpus")).unwrap_or_default(),
            memory: number("memory_mb"),
        }
    }

    const fn add(&mut self, other: Self) {
        self.sandboxes += other.sandboxes;
        self.cpus += other.cpus;
        self.memory += other.memory;
    }

    const fn subtract(&mut self, other: Self) {
        self.sandboxes = self.sandboxes.saturating_sub(other.sandboxes);
        self.cpus = self.cpus.saturating_sub(other.cpus);
        self.memory = self.memory.saturating_sub(other.memory);
    }
}

/// Time in which a sandbox ran. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub begin: i64,
    /// `None` while it runs.
    pub end: Option<i64>,
    pub reserved: Reserved,
}

impl Run {
    /// Returns the milliseconds of the run between two times.
    fn within(&self, from: i64, to: i64) -> i64 {
        let end = self.end.map_or(to, |end| end.min(to));
        (end - self.begin.max(from)).max(0)
    }
}

/// Use on one day, UTC.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DayUse {
    pub date: Date,
    pub cpu_minutes: f64,
    /// MiB times minutes.
    pub memory_minutes: f64,
}

/// State of the sandboxes of a team, event by event.
#[derive(Debug)]
struct Timeline {
    from: i64,
    runs: Vec<Run>,
    /// Sandboxes that an event was about; those that run with the beginning of the run.
    seen: BTreeMap<String, Option<(i64, Reserved)>>,
}

impl Timeline {
    const fn new(from: i64) -> Self {
        Self {
            from,
            runs: Vec::new(),
            seen: BTreeMap::new(),
        }
    }

    /// Applies the next event.
    fn apply(&mut self, event: &Event) {
        let Some(id) = event.sandbox_id.clone() else {
            return;
        };
        let data = &event.data;
        let is_start = [EventKind::SandboxStarted, EventKind::SandboxResumed]
            .iter()
            .any(|kind| kind.as_str() == event.kind);
        let since = match self.seen.get(&id) {
            Some(since) => *since,
            None if ran_before(event) => Some((self.from, Reserved::from_event(data))),
            None => None,
        };
        let since = match (is_start, since) {
            (true, Some(since)) => Some(since),
            (true, None) => Some((event.created_at.max(self.from), Reserved::from_event(data))),
            (false, Some((begin, reserved))) => {
                let end = Some(event.created_at.max(begin));
                self.runs.push(Run {
                    begin,
                    end,
                    reserved,
                });
                None
            }
            (false, None) => None,
        };
        self.seen.insert(id, since);
    }

    /// Returns all runs. `running` are the sandboxes that run now, with the time since when they may
    /// have.
    fn finish(mut self, running: impl Iterator<Item = (String, i64, Reserved)>) -> Vec<Run> {
        for (id, since, reserved) in running {
            // It has no event since `from`, so it did nothing but run.
            if !self.seen.contains_key(&id) {
                let begin = since.max(self.from);
                self.seen.insert(id, Some((begin, reserved)));
            }
        }
        let open = self.seen.into_values().flatten();
        self.runs.extend(open.map(|(begin, reserved)| Run {
            begin,
            end: None,
            reserved,
        }));
        self.runs
    }
}

/// Returns true if a sandbox ran until an event. An end by the clock (`ends_at`) does not tell, and is
/// mostly one of a sandbox that runs; a deletion has no state but the one that it is told with.
fn ran_before(event: &Event) -> bool {
    let data = &event.data;
    let running = Some(SandboxState::Running.as_str());
    let is_end = event.kind == EventKind::SandboxStopped.as_str();
    // The last event of a sandbox has no sizes.
    data["vcpus"].is_u64()
        && match data["previous_state"].as_str() {
            None if is_end => true,
            None => data["state"].as_str() == running,
            before => before == running,
        }
}

impl App {
    /// Returns when sandboxes of the team ran from a time on, in no order.
    ///
    /// # Errors
    /// The store's; `Expired` if events are removed while they are read.
    pub async fn list_runs(&self, principal: &Principal, from: i64) -> Result<Vec<Run>> {
        principal.require_read(Resource::Usage)?;
        let query = EventQuery {
            team: Some(principal.team_id.clone()),
            kinds: KINDS.to_vec(),
            since: Some(from),
            ..EventQuery::default()
        };
        let mut timeline = Timeline::new(from);
        let mut after = None;
        loop {
            let events = match self.store.event_list(&query, after, PAGE).await? {
                Events::Page(events) => events,
                Events::Expired | Events::Unknown => return Err(expired()),
            };
            events.iter().for_each(|event| timeline.apply(event));
            after = events.last().map(|event| event.cursor).or(after);
            if events.len() < PAGE as usize {
                break;
            }
        }
        let running = SandboxFilter {
            states: vec![SandboxState::Running],
            ..SandboxFilter::default()
        };
        let rows = self.list_all_sandboxes(principal, &running).await?;
        let describe = |row: store::Sandbox| {
            let size = row.spec.machine_size();
            let reserved = Reserved {
                sandboxes: 1,
                cpus: size.vcpus,
                memory: size.memory_mb.into(),
            };
            let since = row.started_at.unwrap_or(row.created_at);
            (row.id.to_string(), since, reserved)
        };
        Ok(timeline.finish(rows.into_iter().map(describe)))
    }
}

/// Returns the use on each day between two days, both included. Of today it has what is over.
#[must_use]
pub fn usage_by_day(runs: &[Run], first: Date, last: Date, now: i64) -> Vec<DayUse> {
    let mut days = Vec::new();
    let mut day = first;
    while day <= last {
        let begin = midnight_of(day);
        let end = (begin + DAY_MS).min(now);
        let mut cpu_ms = 0.0;
        let mut memory_ms = 0.0;
        for run in runs {
            let ms = run.within(begin, end) as f64;
            cpu_ms += ms * f64::from(run.reserved.cpus);
            memory_ms += ms * run.reserved.memory as f64;
        }
        days.push(DayUse {
            date: day,
            cpu_minutes: cpu_ms / MINUTE_MS,
            memory_minutes: memory_ms / MINUTE_MS,
        });
        let Some(next) = day.next_day() else {
            break;
        };
        day = next;
    }
    days
}

/// Returns the first millisecond of a day, UTC.
#[must_use]
pub fn midnight_of(day: Date) -> i64 {
    day.midnight().assume_utc().unix_timestamp() * 1000
}

/// Returns the day of a time, UTC.
///
/// # Errors
/// A time that no calendar has.
pub fn day_of(ms: i64) -> Result<Date> {
    let time = OffsetDateTime::from_unix_timestamp(ms.div_euclid(1000));
    Ok(time.map_err(Error::internal)?.date())
}

/// Returns what was reserved at each of some times, which are in order.
#[must_use]
pub fn reserved_at(runs: &[Run], times: &[i64]) -> Vec<Reserved> {
    let changes = changes(runs);
    let mut changes = changes.iter().peekable();
    let mut reserved = Reserved::default();
    let mut found = Vec::with_capacity(times.len());
    for &time in times {
        while let Some(change) = changes.next_if(|change| change.time <= time) {
            change.apply_to(&mut reserved);
        }
        found.push(reserved);
    }
    found
}

/// Returns the most that was reserved at any time, of each for itself.
#[must_use]
pub fn peak_reserved(runs: &[Run]) -> Reserved {
    let mut reserved = Reserved::default();
    let mut peak = Reserved::default();
    for change in changes(runs) {
        change.apply_to(&mut reserved);
        peak.sandboxes = peak.sandboxes.max(reserved.sandboxes);
        peak.cpus = peak.cpus.max(reserved.cpus);
        peak.memory = peak.memory.max(reserved.memory);
    }
    peak
}

/// Beginning or end of a run.
#[derive(Debug)]
struct Change {
    time: i64,
    is_begin: bool,
    reserved: Reserved,
}

impl Change {
    const fn apply_to(&self, reserved: &mut Reserved) {
        match self.is_begin {
            true => reserved.add(self.reserved),
            false => reserved.subtract(self.reserved),
        }
    }
}

/// Returns beginnings and ends in order, at one time the ends first.
fn changes(runs: &[Run]) -> Vec<Change> {
    let change = |time, is_begin, run: &Run| Change {
        time,
        is_begin,
        reserved: run.reserved,
    };
    let mut changes = Vec::with_capacity(runs.len() * 2);
    for run in runs {
        changes.push(change(run.begin, true, run));
        changes.extend(run.end.map(|end| change(end, false, run)));
    }
    changes.sort_by_key(|change| (change.time, change.is_begin));
    changes
}

#[cfg(test)]
mod tests;
