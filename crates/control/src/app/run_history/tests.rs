use serde_json::json;
use store::Actor;
use time::macros::date;

use super::*;

const FROM: i64 = 1_000;

fn reserved(sandboxes: u32, cpus: u32, memory: u64) -> Reserved {
    Reserved {
        sandboxes,
        cpus,
        memory,
    }
}

fn run(begin: i64, end: Option<i64>) -> Run {
    Run {
        begin,
        end,
        reserved: reserved(1, 2, 512),
    }
}

fn event(id: &str, kind: EventKind, created_at: i64, previous: Option<&str>) -> Event {
    let mut data = json!({"vcpus": 2, "memory_mb": 512, "state": "stopped"});
    if let Some(previous) = previous {
        data["previous_state"] = json!(previous);
    }
    Event {
        cursor: created_at,
        kind: kind.as_str().to_owned(),
        team_id: None,
        subject: id.to_owned(),
        sandbox_id: Some(id.to_owned()),
        generation: None,
        actor: Actor::local(Actor::SYSTEM),
        data,
        created_at,
    }
}

fn runs(events: &[Event], running: &[(&str, i64)]) -> Vec<Run> {
    let mut timeline = Timeline::new(FROM);
    events.iter().for_each(|event| timeline.apply(event));
    let running = running
        .iter()
        .map(|(id, since)| ((*id).to_owned(), *since, reserved(1, 2, 512)));
    let mut runs = timeline.finish(running);
    runs.sort_by_key(|run| run.begin);
    runs
}

#[test]
fn pauses_cut_runs_in_two() {
    let events = [
        event("a", EventKind::SandboxStarted, 1_100, Some("pending")),
        event("a", EventKind::SandboxPaused, 1_200, Some("running")),
        event("a", EventKind::SandboxResumed, 1_300, Some("paused")),
        event("a", EventKind::SandboxDeleting, 1_400, None),
        event("a", EventKind::SandboxDeleted, 1_500, None),
    ];
    let expected = [run(1_100, Some(1_200)), run(1_300, Some(1_400))];
    assert_eq!(runs(&events, &[]), expected);
}

#[test]
fn first_event_tells_of_time_before() {
    for (kind, previous, expected) in [
        (
            EventKind::SandboxPaused,
            Some("running"),
            vec![run(FROM, Some(1_200))],
        ),
        (
            EventKind::SandboxStopped,
            None,
            vec![run(FROM, Some(1_200))],
        ),
        (EventKind::SandboxStopped, Some("paused"), vec![]),
        (EventKind::SandboxDeleting, None, vec![]),
        (
            EventKind::SandboxResumed,
            Some("paused"),
            vec![run(1_200, None)],
        ),
    ] {
        let events = [event("a", kind, 1_200, previous)];
        assert_eq!(runs(&events, &[]), expected, "{kind}");
    }
    let mut deleted = event("a", EventKind::SandboxDeleting, 1_200, None);
    deleted.data["state"] = json!("running");
    assert_eq!(runs(&[deleted], &[]), [run(FROM, Some(1_200))]);
}

#[test]
fn sandbox_without_event_ran_throughout() {
    let events = [event(
        "b",
        EventKind::SandboxStarted,
        1_100,
        Some("pending"),
    )];
    let found = runs(&events, &[("a", 5), ("b", 1_100), ("c", 1_050)]);
    assert_eq!(found, [run(FROM, None), run(1_050, None), run(1_100, None)]);
}

#[test]
fn days_have_their_part_of_run() {
    let noon = midnight_of(date!(2026 - 03 - 01)) + DAY_MS / 2;
    let all = [run(noon, Some(noon + DAY_MS)), run(noon + DAY_MS, None)];
    let now = noon + DAY_MS + 60_000;
    let days = usage_by_day(&all, date!(2026 - 02 - 28), date!(2026 - 03 - 02), now);
    let cpus: Vec<f64> = days.iter().map(|day| day.cpu_minutes).collect();
    // Half a day of two processors; then half a day, and a minute of the second.
    assert_eq!(cpus, [0.0, 1440.0, 1442.0]);
    assert_eq!(days[1].memory_minutes, 720.0 * 512.0);
    assert_eq!(days[2].date, date!(2026 - 03 - 02));
    assert_eq!(day_of(now).unwrap(), date!(2026 - 03 - 02));
}

#[test]
fn peaks_are_of_one_moment() {
    let all = [
        run(10, Some(20)),
        run(20, Some(30)),
        run(25, None),
        Run {
            reserved: reserved(1, 1, 4096),
            ..run(40, None)
        },
    ];
    assert_eq!(peak_reserved(&all), reserved(2, 4, 4608));
    let at = reserved_at(&all, &[5, 10, 20, 29, 30, 100]);
    let counts: Vec<u32> = at.iter().map(|it| it.sandboxes).collect();
    assert_eq!(counts, [0, 1, 1, 2, 1, 2]);
    assert_eq!(at[5], reserved(2, 3, 4608));
}
