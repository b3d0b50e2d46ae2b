//! What a control plane makes of the reports: it applies those alone whose generation is above that
//! of its row.

use std::collections::BTreeMap;
use std::sync::Arc;

use host_rpc::{SandboxReport, SandboxState};
use hostd::sandbox::Manager;
use hostd::sandbox::state::Phase;
use model::SandboxId;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;

use crate::world::World;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    generation: u64,
    state: Option<SandboxState>,
}

/// Rows of all sandboxes that were ever reported. They outlive agents.
#[derive(Debug, Default)]
pub struct Rows(BTreeMap<String, Row>);

/// One control plane's connection to one agent.
pub struct Watch {
    manager: Arc<Manager>,
    reports: Receiver<SandboxReport>,
}

impl Watch {
    /// `reports` are those from before the agent began.
    pub fn new(manager: &Arc<Manager>, reports: Receiver<SandboxReport>) -> Self {
        Self {
            manager: Arc::clone(manager),
            reports,
        }
    }

    /// Applies what has been reported since.
    pub async fn apply(&mut self, world: &World, rows: &mut Rows) {
        loop {
            match self.reports.try_recv() {
                Ok(report) => rows.apply(
                    &report.sandbox_id,
                    report.generation,
                    report.state.as_known(),
                ),
                Err(TryRecvError::Lagged(_)) => self.list(world, rows).await,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    /// Applies what there is, as a new watch is sent it: each sandbox must be told as it is.
    pub async fn list(&self, world: &World, rows: &mut Rows) {
        for handle in self.manager.list_sandboxes().await {
            let (generation, state) = {
                let record = handle.record.borrow();
                (record.generation.0, state(&record.phase))
            };
            rows.apply(handle.id.as_str(), generation, state);
            rows.check(world, &handle.id, generation, state);
        }
    }
}

impl Rows {
    fn apply(&mut self, id: &str, generation: u64, state: Option<SandboxState>) {
        let row = self.0.entry(id.to_owned()).or_insert(Row {
            generation: 0,
            state: None,
        });
        if generation > row.generation {
            *row = Row { generation, state };
        }
    }

    fn check(&self, world: &World, id: &SandboxId, generation: u64, state: Option<SandboxState>) {
        let row = self.0.get(id.as_str());
        if row != Some(&Row { generation, state }) {
            world.violation(format!(
                "{id} is {state:?} at generation {generation}, and its row says {row:?}"
            ));
        }
    }
}

fn state(phase: &Phase) -> Option<SandboxState> {
    match (phase, phase.state()) {
        (Phase::Gone, _) => Some(SandboxState::SANDBOX_STATE_REMOVED),
        (_, model::SandboxState::Pending) => Some(SandboxState::SANDBOX_STATE_PENDING),
        (_, model::SandboxState::Running) => Some(SandboxState::SANDBOX_STATE_RUNNING),
        (_, model::SandboxState::Paused) => Some(SandboxState::SANDBOX_STATE_PAUSED),
        (_, model::SandboxState::Stopped) => Some(SandboxState::SANDBOX_STATE_STOPPED),
        (_, model::SandboxState::Error) => Some(SandboxState::SANDBOX_STATE_ERROR),
    }
}
