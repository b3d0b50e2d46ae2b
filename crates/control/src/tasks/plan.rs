//! Plans how to remove the differences between our rows and what one host has. Pure.
//!
//! The order of reading is what makes this safe (see `reconcile`): the rows were read before the
//! host was asked, so a row whose host does not have it is lost and not just new; and a sandbox
//! without a row is looked up once more before it is removed.

use std::collections::{BTreeMap, BTreeSet};

use model::{AutoCheckpoint, SandboxId, SandboxState, StopReason};
use store::Sandbox;

use crate::hosts::HostSettings;

/// Age up to which a row without a host belongs to a create that goes on: longer than it takes from
/// the insert to the host's first note of it, however busy both are.
const GRACE_MS: i64 = 30_000;

/// Rows and sandboxes, read in the order of the fields.
#[derive(Debug)]
pub(super) struct Observation<'a> {
    pub(super) rows: &'a [Sandbox],
    /// Sandboxes that this host has.
    pub(super) host_has: &'a BTreeMap<SandboxId, HostSandbox>,
    pub(super) host_id: &'a str,
    /// All hosts of the installation; `None` while not all have said who they are.
    pub(super) all_host_ids: Option<&'a [String]>,
    /// Sandboxes that this very process is creating.
    pub(super) in_flight: &'a BTreeSet<SandboxId>,
    pub(super) now: i64,
}

/// Sandbox as its host reports it, as far as rows are compared with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HostSandbox {
    pub(super) is_over: bool,
    /// `None` where the host sent none.
    pub(super) settings: Option<HostSettings>,
}

/// Repair of one difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Repeats a deletion from the removal on the host on.
    FinishDeletion(Sandbox),
    /// Removes a row that is still `pending` and that no create works on.
    Rollback(SandboxId),
    /// Marks a row whose host does not have the sandbox any more.
    MarkLost(Sandbox),
    /// Marks a row whose host is not configured any more.
    MarkHostGone(Sandbox),
    /// Ends a sandbox on the host whose row has stopped because its end has come.
    Stop(Sandbox),
    /// Tells the host the settings about idleness that a user changed. It reports the sandbox anew
    /// then, also one whose row says that it was lost.
    TellSettings(SandboxId),
    /// Records the policy for automatic checkpoints that the host goes by.
    RecordPolicy(Sandbox, Option<AutoCheckpoint>),
    /// Removes a sandbox from the host that has no row and was deleted, or that belongs to another
    /// host.
    RemoveOrphan(SandboxId),
}

/// Returns the steps that make rows and host agree.
pub(super) fn plan_steps(observed: &Observation<'_>) -> Vec<Step> {
    let rows: BTreeMap<&SandboxId, &Sandbox> =
        observed.rows.iter().map(|row| (&row.id, row)).collect();
    let about_rows = observed
        .rows
        .iter()
        .filter_map(|row| about_row(observed, row));
    let about_host = observed.host_has.keys().filter(|id| match rows.get(id) {
        None => true,
        Some(row) => row
            .host_id
            .as_deref()
            .is_some_and(|owner| owner != observed.host_id),
    });
    about_rows
        .chain(about_host.cloned().map(Step::RemoveOrphan))
        .collect()
}

fn about_row(observed: &Observation<'_>, row: &Sandbox) -> Option<Step> {
    let on_host = observed.host_has.get(&row.id);
    let has = on_host.is_some();
    match row.host_id.as_deref() {
        None if row.deleting => Some(Step::FinishDeletion(row.clone())),
        // If the host has it, a report will say so.
        None => (!has && is_abandoned(observed, row)).then(|| Step::Rollback(row.id.clone())),
        Some(owner) if owner == observed.host_id => match (row.deleting, has) {
            (true, _) => Some(Step::FinishDeletion(row.clone())),
            (false, true) => on_host.and_then(|on_host| about_difference(row, on_host)),
            (false, false) if row.state.is_terminal() => None,
            (false, false)
                if row.state == SandboxState::Pending && observed.in_flight.contains(&row.id) =>
            {
                None
            }
            (false, false) => Some(Step::MarkLost(row.clone())),
        },
        Some(owner) => {
            let gone = observed
                .all_host_ids
                .is_some_and(|all| all.iter().all(|id| id != owner));
            let matters = row.deleting || !row.state.is_terminal();
            (gone && matters).then(|| Step::MarkHostGone(row.clone()))
        }
    }
}

/// Compares a row with the sandbox that its host has.
fn about_difference(row: &Sandbox, on_host: &HostSandbox) -> Option<Step> {
    if on_host.is_over {
        return None;
    }
    if row.stop_reason == Some(StopReason::EndTime) {
        return Some(Step::Stop(row.clone()));
    }
    if row.stop_reason == Some(StopReason::HostLost) {
        return Some(Step::TellSettings(row.id.clone()));
    }
    let settings = on_host.settings?;
    if !matches!(row.state, SandboxState::Running | SandboxState::Paused) {
        return None;
    }
    if settings.idle != row.spec.idle_settings() {
        return Some(Step::TellSettings(row.id.clone()));
    }
    let policy = settings.policy;
    (policy != row.spec.checkpoint_policy()).then(|| Step::RecordPolicy(row.clone(), policy))
}

fn is_abandoned(observed: &Observation<'_>, row: &Sandbox) -> bool {
    row.state == SandboxState::Pending
        && !observed.in_flight.contains(&row.id)
        && observed.now.saturating_sub(row.created_at) > GRACE_MS
}

#[cfg(test)]
mod tests {
    use model::{Generation, SandboxAttributes, SandboxSpec};
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
            spec: SandboxSpec::builder().build(),
            attributes: SandboxAttributes::default(),
            stop_reason: None,
            revision: 0,
            key_id: "key".to_owned(),
            host_id: host_id.map(str::to_owned),
            guest_ip: None,
            host_ip: None,
            created_at: NOW - age,
            started_at: None,
            last_active_at: None,
            disk: None,
            last_updated: NOW,
            pausing_until: None,
            deleting,
        }
    }

    fn host_sandbox(row: &Sandbox) -> HostSandbox {
        HostSandbox {
            is_over: row.state.is_terminal(),
            settings: Some(HostSettings {
                idle: row.spec.idle_settings(),
                policy: row.spec.checkpoint_policy(),
            }),
        }
    }

    fn planned(row: &Sandbox, has: bool, in_flight: bool) -> Vec<Step> {
        let only = |yes: bool| {
            yes.then(|| row.id.clone())
                .into_iter()
                .collect::<BTreeSet<_>>()
        };
        let all = ["here".to_owned(), "there".to_owned()];
        plan_steps(&Observation {
            rows: std::slice::from_ref(row),
            host_has: &only(has)
                .into_iter()
                .map(|id| (id, host_sandbox(row)))
                .collect(),
            host_id: "here",
            all_host_ids: Some(&all),
            in_flight: &only(in_flight),
            now: NOW,
        })
    }

    #[test]
    fn lost_sandbox_is_marked() {
        for state in [
            SandboxState::Pending,
            SandboxState::Running,
            SandboxState::Paused,
        ] {
            let row = row(state, Some("here"), false, 0);
            assert_eq!(planned(&row, false, false), [Step::MarkLost(row.clone())]);
            assert_eq!(planned(&row, true, false), []);
        }
        for state in [SandboxState::Stopped, SandboxState::Error] {
            assert_eq!(
                planned(&row(state, Some("here"), false, 0), false, false),
                []
            );
        }
    }

    #[test]
    fn host_learns_of_end_and_settings() {
        let mut row = row(SandboxState::Running, Some("here"), false, 0);
        let mut on_host = host_sandbox(&row);
        assert_eq!(about_difference(&row, &on_host), None);
        row.spec.timeout_sec += 1;
        let told = Step::TellSettings(row.id.clone());
        assert_eq!(about_difference(&row, &on_host), Some(told));
        row.spec.timeout_sec -= 1;
        row.spec.set_checkpoint_policy(Some(AutoCheckpoint {
            before_each_command: true,
            every_sec: None,
            keep: 3,
            max_bytes: None,
        }));
        let recorded = Step::RecordPolicy(row.clone(), None);
        assert_eq!(about_difference(&row, &on_host), Some(recorded));
        on_host.settings = None;
        assert_eq!(
            about_difference(&row, &on_host),
            None,
            "a host of an earlier version"
        );
        row.state = SandboxState::Stopped;
        row.stop_reason = Some(StopReason::EndTime);
        let stop = Step::Stop(row.clone());
        assert_eq!(about_difference(&row, &on_host), Some(stop));
        row.state = SandboxState::Error;
        row.stop_reason = Some(StopReason::HostLost);
        let told = Step::TellSettings(row.id.clone());
        assert_eq!(about_difference(&row, &on_host), Some(told));
        on_host.is_over = true;
        assert_eq!(about_difference(&row, &on_host), None);
    }

    #[test]
    fn row_without_host_has_grace_period() {
        let young = row(SandboxState::Pending, None, false, GRACE_MS);
        let old = row(SandboxState::Pending, None, false, GRACE_MS + 1);
        assert_eq!(planned(&young, false, false), []);
        assert_eq!(
            planned(&old, false, false),
            [Step::Rollback(old.id.clone())]
        );
        assert_eq!(
            planned(&old, true, false),
            [],
            "a report of the host will come"
        );
        assert_eq!(
            planned(&old, false, true),
            [],
            "it is being created right now"
        );
    }

    #[test]
    fn orphans_and_doubles_are_removed() {
        let elsewhere = row(SandboxState::Running, Some("there"), false, 0);
        assert_eq!(
            planned(&elsewhere, true, false),
            [Step::RemoveOrphan(elsewhere.id.clone())]
        );
        let lost_host = row(SandboxState::Running, Some("nowhere"), false, 0);
        assert_eq!(
            planned(&lost_host, false, false),
            [Step::MarkHostGone(lost_host.clone())]
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
        fn plan_favours_deletion_and_keeps_agreement(row in any_row(), has: bool, in_flight: bool) {
            let steps = planned(&row, has, in_flight);
            let ours = row.host_id.as_deref().is_none_or(|owner| owner == "here");
            if row.deleting && ours {
                prop_assert_eq!(steps, [Step::FinishDeletion(row.clone())]);
            } else if in_flight && row.state == SandboxState::Pending && ours {
                prop_assert!(steps.is_empty());
            } else if has && row.host_id.as_deref() == Some("here") {
                prop_assert!(steps.is_empty());
            }
        }
    }
}
