//! One suite for both backends: each test runs once on a file of SQLite and once on a database of a
//! real PostgreSQL.

mod adoptions;
mod attributes;
mod backup;
mod cursors;
mod db;
mod errors;
mod events;
mod inserts;
mod keys;
mod lifecycle;
mod pauses;
mod reports;
mod schema;
mod secrets;
mod sqlite_only;
mod teams;
mod webhooks;

macro_rules! suite {
    ($($module:ident :: $test:ident,)*) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $test() {
                crate::$module::$test(crate::db::Db::sqlite()).await;
            })*
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $test() {
                crate::$module::$test(crate::db::Db::postgres().await).await;
            })*
        }
    };
}

suite! {
    attributes::name_is_unique_among_living,
    attributes::rows_of_ids_are_of_team,
    attributes::racing_inserts_of_name_make_one,
    attributes::filters_agree_with_plain_search,
    attributes::outdated_update_changes_nothing,
    attributes::renewal_and_expiry_never_both_win,
    attributes::metadata_of_any_text_is_found,
    attributes::waiters_hear_of_every_change,
    adoptions::adopted_sandbox_is_as_reported,
    adoptions::lost_sandbox_returns_without_taken_name,
    adoptions::orphan_is_adopted_or_deleted,
    backup::restored_cursors_are_new,
    backup::restored_ends_are_put_off,
    backup::restored_webhooks_are_disabled,
    cursors::pages_hold_every_row_once,
    errors::a_row_edited_by_hand_is_named,
    errors::texts_with_nul_are_the_same_everywhere,
    events::changes_of_sandbox_are_events,
    events::refused_change_leaves_no_event,
    events::reader_misses_no_late_commit,
    events::trimmed_history_has_no_holes,
    events::large_data_of_event_is_truncated,
    events::trimmed_history_is_told,
    events::hosts_and_commands_are_told_once,
    inserts::what_goes_in_comes_out,
    inserts::an_idempotency_key_makes_one_row,
    inserts::an_idempotency_key_is_free_again_after_the_deletion,
    inserts::racing_inserts_make_one_row,
    inserts::inserts_race_with_removals,
    keys::keys_come_and_go,
    lifecycle::given_up_sandbox_frees_idempotency_key,
    lifecycle::several_are_given_up_together_or_not_at_all,
    lifecycle::what_runs_is_not_given_up,
    lifecycle::a_deletion_has_two_steps,
    lifecycle::writers_in_crowds_are_all_served,
    lifecycle::callers_that_leave_disturb_nobody,
    pauses::claimed_pause_and_renewal_never_meet,
    pauses::claim_is_taken_over_after_lease,
    pauses::ends_hold_in_random_histories,
    reports::rows_follow_the_model,
    reports::the_newest_report_wins_in_any_order,
    schema::is_made_by_many_at_once_and_only_once,
    schema::a_database_without_tables_is_refused,
    schema::a_newer_schema_is_refused,
    schema::a_step_that_was_edited_is_refused,
    secrets::racing_processes_agree_on_a_secret,
    teams::sandbox_is_hidden_from_other_team,
    teams::key_keeps_team_and_scopes,
    teams::snapshot_name_has_one_owner,
    teams::snapshot_lock_has_one_holder,
    teams::expired_snapshot_lock_releases_no_claim,
    teams::snapshot_lock_ends_with_clock_back,
    webhooks::deliveries_are_those_wanted,
    webhooks::racing_fan_outs_send_once,
    webhooks::webhook_has_one_sender,
    webhooks::failing_webhook_is_disabled,
    webhooks::dead_letters_are_sent_again,
    webhooks::queue_stays_in_its_bounds,
    webhooks::failed_receiver_is_left_alone,
    webhooks::changed_receiver_ends_lease,
    webhooks::installation_deliveries_stay_with_operators,
    webhooks::lane_follows_last_attempt,
    webhooks::lease_survives_step_of_clock,
    webhooks::request_to_resend_outlives_attempt,
    webhooks::unreadable_webhook_keeps_no_others,
}
