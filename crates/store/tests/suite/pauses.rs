//! Claims of pauses, renewals and ends of one sandbox, in every order.

use model::{EndPolicy, SandboxAttributes, SandboxState};
use store::{Inserted, NewSandbox, Sandbox, Store};

use crate::db::{Db, new_sandbox, report};

async fn insert_with(store: &Store, end_policy: EndPolicy) -> Sandbox {
    let attributes = SandboxAttributes {
        end_policy,
        run_ms: Some(50),
        ..SandboxAttributes::default()
    };
    let new = NewSandbox {
        attributes,
        ..new_sandbox(1)
    };
    match store.sandbox_insert(&new).await.unwrap() {
        Inserted::New(row) => row,
        other => panic!("{other:?}"),
    }
}

async fn read(store: &Store, row: &Sandbox) -> Sandbox {
    store.sandbox_get_any_team(&row.id).await.unwrap().unwrap()
}

async fn apply(
    store: &Store,
    row: &Sandbox,
    generation: u64,
    state: SandboxState,
    now: i64,
) -> Sandbox {
    let report = report(&row.id, generation, state);
    store.sandbox_apply_report(&report, now).await.unwrap();
    read(store, row).await
}

async fn renew(store: &Store, before: &Sandbox, ends_at: i64, now: i64) -> Option<Sandbox> {
    let attributes = SandboxAttributes {
        ends_at: Some(ends_at),
        ..before.attributes.clone()
    };
    let renewed = store.sandbox_update(before, &before.spec, &attributes, now);
    renewed.await.unwrap()
}

pub async fn claimed_pause_and_renewal_never_meet(db: Db) {
    let stores = [db.store().await, db.empty().await];
    for _ in 0..24 {
        let row = insert_with(&stores[0], EndPolicy::StopRunning).await;
        // The report that it runs makes its end.
        let row = apply(&stores[0], &row, 7, SandboxState::Running, 50).await;
        assert_eq!(row.attributes.ends_at, Some(100));
        let (renewed, claimed) = tokio::join!(
            renew(&stores[0], &row, 200, 100),
            stores[1].sandbox_claim_pause(&row, 500),
        );
        let claimed = claimed.unwrap();
        assert!(renewed.is_some() != claimed.is_some());
        let Some(claimed) = claimed else { continue };
        assert!(claimed.is_pausing() && claimed.attributes.ends_at == Some(100));
        // Its end does not come.
        let due = stores[0].sandbox_list_due(1000).await.unwrap();
        assert!(due.iter().all(|due| due.id != row.id));
        let expired = stores[0].sandbox_expire(&row.id, "over", 1000).await;
        assert_eq!(expired.unwrap(), None);
        // The report that it is paused takes end and claim away.
        let row = apply(&stores[0], &row, 8, SandboxState::Paused, 310).await;
        assert_eq!((row.attributes.ends_at, row.pausing_until), (None, None));
        let released = stores[1].sandbox_release_pause(&claimed, 320, 400).await;
        released.unwrap();
        assert_eq!(read(&stores[1], &row).await, row);
        // Each run has an end of its own.
        let row = apply(&stores[0], &row, 9, SandboxState::Running, 1000).await;
        assert_eq!(row.attributes.ends_at, Some(1050));
    }
}

pub async fn claim_is_taken_over_after_lease(db: Db) {
    let stores = [db.store().await, db.empty().await];
    let row = insert_with(&stores[0], EndPolicy::PauseRunning).await;
    let row = apply(&stores[0], &row, 7, SandboxState::Running, 50).await;
    let mut first = stores[0]
        .sandbox_claim_pause(&row, 500)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(stores[1].sandbox_list_claimed(499, 9).await.unwrap(), []);
    let due = stores[1].sandbox_list_claimed(500, 9).await.unwrap();
    assert_eq!(due, std::slice::from_ref(&first));
    // Claims of the same moment are two.
    let second = stores[1].sandbox_claim_pause(&due[0], 500).await;
    let mut second = second.unwrap().unwrap();
    assert!(
        !stores[0]
            .sandbox_renew_pause(&mut first, 600)
            .await
            .unwrap()
    );
    stores[0]
        .sandbox_release_pause(&first, 510, 520)
        .await
        .unwrap();
    assert!(read(&stores[0], &row).await.is_pausing());
    assert!(
        stores[1]
            .sandbox_renew_pause(&mut second, 700)
            .await
            .unwrap()
    );
    stores[1]
        .sandbox_release_pause(&second, 610, 900)
        .await
        .unwrap();
    let row = read(&stores[0], &row).await;
    assert_eq!(
        (row.attributes.ends_at, row.pausing_until),
        (Some(900), None)
    );
    // An end that has not come stays where it is.
    let third = stores[0]
        .sandbox_claim_pause(&row, 800)
        .await
        .unwrap()
        .unwrap();
    stores[0]
        .sandbox_release_pause(&third, 700, 750)
        .await
        .unwrap();
    assert_eq!(read(&stores[0], &row).await.attributes.ends_at, Some(900));
}

/// Numbers of a linear congruential generator: the same ones for a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % sides
    }
}

/// Returns true if no change came between.
fn is_same(known: &Sandbox, now: &Sandbox) -> bool {
    (known.revision, known.state) == (now.revision, now.state)
}

pub async fn ends_hold_in_random_histories(db: Db) {
    let store = db.store().await;
    for seed in 0..40 {
        let mut dice = Dice(seed);
        let policy = [EndPolicy::StopRunning, EndPolicy::PauseRunning][dice.roll(2) as usize];
        let mut row = insert_with(&store, policy).await;
        let (mut now, mut generation) = (10, 10);
        // Rows as callers have read them before, and claims that they hold.
        let mut stale = vec![row.clone()];
        let mut claims: Vec<Sandbox> = Vec::new();
        for step in 0..60 {
            now += dice.roll(30).cast_signed();
            let before = read(&store, &row).await;
            let known = stale[dice.roll(stale.len() as u64) as usize].clone();
            let told = format!("seed {seed}, step {step}: {before:?}");
            match dice.roll(7) {
                0 => {
                    generation += 1;
                    let state = match dice.roll(2) {
                        0 => SandboxState::Running,
                        _ => SandboxState::Paused,
                    };
                    row = apply(&store, &row, generation, state, now).await;
                    let end = match (state, before.state) {
                        (SandboxState::Paused, _) => None,
                        (_, SandboxState::Running) => before.attributes.ends_at,
                        _ => Some(now + 50),
                    };
                    if !before.state.is_terminal() {
                        assert_eq!(row.attributes.ends_at, end, "{told}");
                    }
                }
                // Callers renew what they have read as running.
                1 if known.state != SandboxState::Running => {}
                1 => {
                    let renewed = renew(&store, &known, now + 40, now).await;
                    let is_current = is_same(&known, &before) && !before.state.is_terminal();
                    assert_eq!(renewed.is_some(), is_current, "{told}");
                }
                2 => {
                    let is_due = before.attributes.ends_at.is_some_and(|end| end <= now);
                    let may_end = policy == EndPolicy::StopRunning
                        && before.state == SandboxState::Running
                        && !before.is_pausing();
                    let expired = store.sandbox_expire(&row.id, "over", now).await.unwrap();
                    assert_eq!(expired.is_some(), is_due && may_end, "{told}");
                }
                3 | 4 => {
                    let claimed = store.sandbox_claim_pause(&known, now + 20).await.unwrap();
                    let is_running = before.state == SandboxState::Running;
                    let is_current = is_same(&known, &before) && is_running;
                    assert_eq!(claimed.is_some(), is_current, "{told}");
                    claims.extend(claimed);
                }
                _ => {
                    let Some(claim) = claims.pop() else { continue };
                    store
                        .sandbox_release_pause(&claim, now, now + 5)
                        .await
                        .unwrap();
                    let after = read(&store, &row).await;
                    let is_held = before.state == SandboxState::Running
                        && before.pausing_until == claim.pausing_until;
                    assert_eq!(
                        after.is_pausing(),
                        before.is_pausing() && !is_held,
                        "{told}"
                    );
                }
            }
            row = read(&store, &row).await;
            if row.state == SandboxState::Paused {
                assert_eq!(
                    (row.attributes.ends_at, row.pausing_until),
                    (None, None),
                    "{told}"
                );
            }
            stale.push(row.clone());
            if stale.len() > 3 {
                stale.remove(0);
            }
        }
    }
}
