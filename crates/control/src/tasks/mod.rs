//! Reconcilers: they make rows and hosts agree, whatever was lost in between.
//!
//! One task ends sandboxes whose end has come, and one wakes users that wait for what another
//! control plane changes. A task per host keeps a watch on it and applies what it reports; beside that, rounds of
//! `reconcile` compare all rows with all that the host has. Both start from the state as it is, not
//! from what was missed, so any of them can die or be late at any moment.

mod events;
mod plan;
mod reconcile;
mod watch;
mod webhooks;

use std::sync::Arc;

use futures::FutureExt;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::events::EventSettings;

/// Starts the tasks of all hosts, and those of events and webhooks. They end with `app.shutdown`.
pub fn start_tasks(app: &Arc<App>, events: EventSettings) -> TaskTracker {
    let tasks = TaskTracker::new();
    tasks.spawn(events::run_feed(Arc::clone(app), events));
    tasks.spawn(webhooks::run_webhooks(Arc::clone(app)));
    for host in app.hosts.all() {
        tasks.spawn(watch::watch_host(Arc::clone(app), Arc::clone(host)));
    }
    let ends = Arc::clone(app);
    let forwarding = app.store.clone();
    for work in [
        ends.end_due_sandboxes().boxed(),
        async move { forwarding.forward_notifications().await }.boxed(),
    ] {
        let shutdown = app.shutdown.clone();
        tasks.spawn(async move { shutdown.run_until_cancelled(work).await });
    }
    tasks.close();
    tasks
}
