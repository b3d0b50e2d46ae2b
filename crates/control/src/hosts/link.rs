//! What this process knows of the connection to one host.

use tokio::sync::watch;

#[derive(Debug)]
pub(super) struct Link(watch::Sender<State>);

impl Default for Link {
    fn default() -> Self {
        Self(watch::Sender::new(State::default()))
    }
}

#[derive(Default)]
struct State {
    id: Option<String>,
    /// That the host has taken.
    token: Option<String>,
    reports: Reports,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Reports {
    #[default]
    NotYet,
    Coming,
    Missing(String),
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("id", &self.id)
            .field("reports", &self.reports)
            .finish_non_exhaustive()
    }
}

impl Link {
    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.0.borrow())
    }

    /// Waits until reports come, or do not.
    pub(super) async fn heard_of(&self) {
        // An error would mean that the sender is gone, which is `self`.
        let _ = self
            .0
            .subscribe()
            .wait_for(|state| state.reports != Reports::NotYet)
            .await;
    }

    pub(super) fn id(&self) -> Option<String> {
        self.read(|state| state.id.clone())
    }

    pub(super) fn token(&self) -> Option<String> {
        self.read(|state| state.token.clone())
    }

    pub(super) fn state(&self) -> Result<(), String> {
        self.read(|state| match &state.reports {
            Reports::Coming => Ok(()),
            Reports::NotYet => Err("it has not answered yet".to_owned()),
            Reports::Missing(why) => Err(why.clone()),
        })
    }

    /// The host said its id, and took the token.
    pub(super) fn introduced(&self, id: &str, token: &str) {
        self.0.send_modify(|state| {
            state.id = Some(id.to_owned());
            state.token = Some(token.to_owned());
        });
    }

    pub(super) fn forget_token(&self) {
        self.0.send_modify(|state| state.token = None);
    }

    /// Both tell whether that is news.
    pub(super) fn set_up(&self) -> bool {
        self.set(Reports::Coming)
    }

    pub(super) fn set_down(&self, why: &str) -> bool {
        self.set(Reports::Missing(why.to_owned()))
    }

    fn set(&self, reports: Reports) -> bool {
        self.0.send_if_modified(|state| {
            let is_news = state.reports != reports;
            state.reports = reports;
            is_news
        })
    }
}
