//! Reconcilers: they make rows and hosts agree, whatever was lost in between.
//!
//! A task per host keeps a watch on it and applies what it reports; beside that, rounds of
//! `reconcile` compare all rows with all that the host has. Both start from the state as it is, not
//! from what was missed, so any of them can die or be late at any moment.

mod plan;
mod reconcile;
mod watch;

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use crate::app::App;

/// Starts the tasks of all hosts. They end with `app.shutdown`.
pub fn start_tasks(app: &Arc<App>) -> TaskTracker {
    let tasks = TaskTracker::new();
    for host in app.hosts.all() {
        tasks.spawn(watch::watch_host(Arc::clone(app), Arc::clone(host)));
    }
    tasks.close();
    tasks
}
