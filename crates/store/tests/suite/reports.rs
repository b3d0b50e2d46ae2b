//! Reports against a small model of the row: whatever comes in whatever order, store and model
//! agree.

use futures::future::join_all;
use model::{SandboxId, SandboxState, TeamId};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use store::{Applied, Report, Sandbox, Store};

use crate::db::{Db, insert, report};

/// What can happen to a row.
#[derive(Debug, Clone)]
enum Event {
    Report {
        generation: u64,
        state: SandboxState,
    },
    MarkDeleting,
    Remove,
}

fn state() -> impl Strategy<Value = SandboxState> {
    proptest::sample::select(SandboxState::ALL.to_vec())
}

/// Few generations, so that doubles, reordering and meetings with the row's own are frequent.
fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => (0u64..8, state()).prop_map(|(generation, state)| Event::Report { generation, state }),
        1 => Just(Event::MarkDeleting),
        1 => Just(Event::Remove),
    ]
}

/// The row as it must be after the event at time `now`.
fn after(row: Option<Sandbox>, event: &Event, now: i64) -> Option<Sandbox> {
    let row = row?;
    match *event {
        Event::Report { generation, state }
            if generation > row.generation.0 && row.state.can_become(state) =>
        {
            let Report {
                id,
                host_id,
                generation,
                state,
                reason,
                stop_reason,
                guest_ip,
                host_ip,
                started_at,
                last_active_at,
                disk,
                network,
            } = report(&row.id, generation, state);
            let network = network.unwrap_or_else(|| row.spec.network.clone());
            let spec = model::SandboxSpec {
                network,
                ..row.spec.clone()
            };
            let host_id = Some(host_id);
            let last_updated = now;
            let known = row;
            Some(Sandbox {
                id,
                host_id,
                generation,
                state,
                reason,
                stop_reason,
                guest_ip,
                host_ip,
                started_at,
                last_active_at,
                disk,
                spec,
                last_updated,
                ..known
            })
        }
        Event::MarkDeleting if !row.deleting => Some(Sandbox {
            deleting: true,
            last_updated: now,
            ..row
        }),
        Event::Remove => None,
        _ => Some(row),
    }
}

/// Does it, and checks what the store says of it.
async fn happen(
    store: &Store,
    id: &SandboxId,
    event: &Event,
    now: i64,
    before: Option<&Sandbox>,
    after: Option<&Sandbox>,
) {
    let changed = before != after;
    match *event {
        Event::Report { generation, state } => {
            let applied = store
                .sandbox_apply_report(&report(id, generation, state), now)
                .await
                .unwrap();
            let expected = match after {
                None => Applied::Unknown,
                Some(row) if changed => Applied::Changed(row.clone()),
                Some(_) => Applied::Stale,
            };
            assert_eq!(applied, expected);
        }
        Event::MarkDeleting => {
            assert_eq!(
                store
                    .sandbox_mark_deleting(&TeamId::default(), id, now)
                    .await
                    .unwrap()
                    .as_ref(),
                after
            );
        }
        Event::Remove => assert_eq!(store.sandbox_remove(id, 9).await.unwrap(), changed),
    }
    assert_eq!(
        store.sandbox_get_any_team(id).await.unwrap().as_ref(),
        after
    );
}

pub async fn rows_follow_the_model(db: Db) {
    let store = db.store().await;
    check(
        proptest::collection::vec(event(), 1..25),
        async move |events| {
            let row = insert(&store, 1).await;
            let id = row.id.clone();
            let mut model = Some(row);
            for (event, now) in events.iter().zip(2..) {
                let next = after(model.clone(), event, now);
                happen(&store, &id, event, now, model.as_ref(), next.as_ref()).await;
                model = next;
            }
        },
    )
    .await;
}

/// A host's history of one sandbox: every step legal, generations grow; and an order in which it
/// arrives, with doubles.
fn history() -> impl Strategy<Value = (Vec<SandboxState>, Vec<usize>)> {
    let states = proptest::collection::vec(state(), 1..8).prop_map(|states| {
        let legal = |states: &mut Vec<SandboxState>, next| {
            if states
                .last()
                .is_none_or(|last: &SandboxState| last.can_become(next))
            {
                states.push(next);
            }
        };
        states.into_iter().fold(Vec::new(), |mut history, next| {
            legal(&mut history, next);
            history
        })
    });
    states.prop_flat_map(|states| {
        let twice: Vec<usize> = (0..states.len()).chain(0..states.len()).collect();
        (Just(states), Just(twice).prop_shuffle())
    })
}

pub async fn the_newest_report_wins_in_any_order(db: Db) {
    let store = db.store().await;
    check(history(), async move |(states, order)| {
        let id = insert(&store, 1).await.id;
        let reports: Vec<_> = states
            .iter()
            .zip(10..)
            .map(|(state, generation)| report(&id, generation, *state))
            .collect();
        // All at once: the database chooses the order.
        let applied = join_all(
            order
                .iter()
                .map(|nth| store.sandbox_apply_report(&reports[*nth], 2)),
        )
        .await;

        let newest = reports.last().unwrap();
        let row = store.sandbox_get_any_team(&id).await.unwrap().unwrap();
        assert_eq!(
            (row.generation, row.state, row.reason),
            (newest.generation, newest.state, newest.reason.clone())
        );
        let mut seen: Vec<_> = applied
            .into_iter()
            .filter_map(|applied| match applied.unwrap() {
                Applied::Changed(row) => Some(row.generation),
                _ => None,
            })
            .collect();
        let changes = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), changes, "a report was applied twice");
    })
    .await;
}

/// Runs a property whose cases are asynchronous. Failed assertions in it shrink like failed
/// properties.
async fn check<S: Strategy + Send + 'static>(
    strategy: S,
    case: impl AsyncFn(S::Value) + Send + 'static,
) {
    let config = Config {
        cases: 48,
        failure_persistence: None,
        ..Config::default()
    };
    let runtime = tokio::runtime::Handle::current();
    let run = move || {
        TestRunner::new(config)
            .run(&strategy, |value| {
                runtime.block_on(case(value));
                Ok(())
            })
            .unwrap();
    };
    // The runner blocks on each case, which a thread of the runtime must not.
    tokio::task::spawn_blocking(run).await.unwrap();
}
