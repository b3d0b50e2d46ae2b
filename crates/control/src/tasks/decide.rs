//! What to do about the differences between our rows and what one host has. Pure.
//!
//! The order of looking is what makes this safe (see `converge`): the rows were read before the
//! host was asked, so a row whose host does not have it is lost and not just new; and a sandbox
//! without a row is looked up once more before it is removed.

use std::collections::{BTreeMap, BTreeSet};

use model::{SandboxId, SandboxState};
use store::Sandbox;

/// A row that no host has begun belongs to somebody who still works on it for so long: longer than
/// it takes from the insert to the host's first note of it, however busy both are.
const GRACE_MS: i64 = 30_000;

/// What was seen, in this order.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    pub(super) rows: &'a [Sandbox],
    /// What this host has.
    pub(super) host_has: &'a BTreeSet<SandboxId>,
    pub(super) host_id: &'a str,
    /// All hosts of the installation; `None` while not all have said who they are.
    pub(super) all_host_ids: Option<&'a [String]>,
    /// Being created by this very process.
    pub(super) creating: &'a BTreeSet<SandboxId>,
    pub(super) now: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The second and third step of a deletion, again.
    FinishDeletion(Sandbox),
    /// The row was never finished and nobody works on it.
    GiveUp(SandboxId),
    /// The host of the row does not have it any more.
    Lost(Sandbox),
    /// The host of the row is not one of ours any more.
    HostGone(Sandbox),
    /// The host has what we have no row for, or what belongs to another host.
    Evict(SandboxId),
}

pub(super) fn decide(seen: &Seen<'_>) -> Vec<Step> {
    let rows: BTreeMap<&SandboxId, &Sandbox> = seen.rows.iter().map(|row| (&row.id, row)).collect();
    let about_rows = seen.rows.iter().filter_map(|row| about_row(seen, row));
    let about_host = seen.host_has.iter().filter(|id| match rows.get(id) {
        None => true,
        Some(row) => row
            .host_id
            .as_deref()
            .is_some_and(|owner| owner != seen.host_id),
    });
    about_rows
        .chain(about_host.cloned().map(Step::Evict))
        .collect()
}

fn about_row(seen: &Seen<'_>, row: &Sandbox) -> Option<Step> {
    let has = seen.host_has.contains(&row.id);
    match row.host_id.as_deref() {
        None if row.deleting => Some(Step::FinishDeletion(row.clone())),
        // If the host has it, a report will say so.
        None => (!has && is_abandoned(seen, row)).then(|| Step::GiveUp(row.id.clone())),
        Some(owner) if owner == seen.host_id => match (row.deleting, has) {
            (true, _) => Some(Step::FinishDeletion(row.clone())),
            (false, true) => None,
            (false, false) if row.state.is_terminal() => None,
            (false, false)
                if row.state == SandboxState::Pending && seen.creating.contains(&row.id) =>
            {
                None
            }
            (false, false) => Some(Step::Lost(row.clone())),
        },
        Some(owner) => {
            let gone = seen
                .all_host_ids
                .is_some_and(|all| all.iter().all(|id| id != owner));
            let matters = row.deleting || !row.state.is_terminal();
            (gone && matters).then(|| Step::HostGone(row.clone()))
        }
    }
}

fn is_abandoned(seen: &Seen<'_>, row: &Sandbox) -> bool {
    row.state == SandboxState::Pending
        && !seen.creating.contains(&row.id)
        && seen.now.saturating_sub(row.created_at) > GRACE_MS
}

#[cfg(test)]
mod tests {
    use model::{Generation, SandboxSpec};
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_000_000;

    fn row(state: SandboxState, host_id: Option<&str>, deleting: bool, age: i64) -> Sandbox {
        Sandbox {
            id: SandboxId::random(),
            team_id: model::TeamId::default(),
            state,
            generation: Generation(7),
            reason: None,
            spec: SandboxSpec {
                template: "minimal".parse().unwrap(),
                vcpus: 1,
                memory_mb: 512,
                timeout_sec: 300,
                on_timeout: model::OnTimeout::default(),
                auto_resume: true,
                disk_mb: None,
                envs: BTreeMap::new(),
                public_ports: false,
                network: model::NetworkSpec::default(),
            },
            key_id: "key".to_owned(),
            host_id: host_id.map(str::to_owned),
            guest_ip: None,
            host_ip: None,
            created_at: NOW - age,
            started_at: None,
            last_active_at: None,
            disk: None,
            last_updated: NOW,
            deleting,
        }
    }

    fn decided(row: &Sandbox, has: bool, creating: bool) -> Vec<Step> {
        let only = |yes: bool| {
            yes.then(|| row.id.clone())
                .into_iter()
                .collect::<BTreeSet<_>>()
        };
        let all = ["here".to_owned(), "there".to_owned()];
        decide(&Seen {
            rows: std::slice::from_ref(row),
            host_has: &only(has),
            host_id: "here",
            all_host_ids: Some(&all),
            creating: &only(creating),
            now: NOW,
        })
    }

    #[test]
    fn what_a_host_lost_is_told() {
        for state in [
            SandboxState::Pending,
            SandboxState::Running,
            SandboxState::Paused,
        ] {
            let row = row(state, Some("here"), false, 0);
            assert_eq!(decided(&row, false, false), [Step::Lost(row.clone())]);
            assert_eq!(decided(&row, true, false), []);
        }
        for state in [SandboxState::Stopped, SandboxState::Error] {
            assert_eq!(
                decided(&row(state, Some("here"), false, 0), false, false),
                []
            );
        }
    }

    #[test]
    fn rows_without_a_host_have_a_time_of_grace() {
        let young = row(SandboxState::Pending, None, false, GRACE_MS);
        let old = row(SandboxState::Pending, None, false, GRACE_MS + 1);
        assert_eq!(decided(&young, false, false), []);
        assert_eq!(decided(&old, false, false), [Step::GiveUp(old.id.clone())]);
        assert_eq!(
            decided(&old, true, false),
            [],
            "a report of the host will come"
        );
        assert_eq!(
            decided(&old, false, true),
            [],
            "it is being created right now"
        );
    }

    #[test]
    fn strangers_and_doubles_are_removed() {
        let elsewhere = row(SandboxState::Running, Some("there"), false, 0);
        assert_eq!(
            decided(&elsewhere, true, false),
            [Step::Evict(elsewhere.id.clone())]
        );
        let lost_host = row(SandboxState::Running, Some("nowhere"), false, 0);
        assert_eq!(
            decided(&lost_host, false, false),
            [Step::HostGone(lost_host.clone())]
        );
    }

    fn any_row() -> impl Strategy<Value = Sandbox> {
        let state = proptest::sample::select(&SandboxState::ALL[..]);
        let host = proptest::option::of(proptest::sample::select(vec!["here", "there", "nowhere"]));
        (state, host, any::<bool>(), 0..100_000i64)
            .prop_map(|(state, host, deleting, age)| row(state, host, deleting, age))
    }

    proptest! {
        /// A deletion is never forgotten, what is being created is left alone, and nothing that
        /// agrees is touched.
        #[test]
        fn deletions_win_and_agreement_is_peace(row in any_row(), has: bool, creating: bool) {
            let steps = decided(&row, has, creating);
            let ours = row.host_id.as_deref().is_none_or(|owner| owner == "here");
            if row.deleting && ours {
                prop_assert_eq!(steps, [Step::FinishDeletion(row.clone())]);
            } else if creating && row.state == SandboxState::Pending && ours {
                prop_assert!(steps.is_empty());
            } else if has && row.host_id.as_deref() == Some("here") {
                prop_assert!(steps.is_empty());
            }
        }
    }
}
