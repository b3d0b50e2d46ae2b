//! Places for webhooks that are served at once.
//!
//! Receivers that fail or are slow, or whose first answer has not come, have a lane of their own. In
//! each lane a team has at most a quarter of the places. A place is held until the attempts end, also
//! if the webhook is deleted in the middle: the rows of the store cannot tell how many are held.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::WebhookSettings;

/// Teams that it takes at least to fill a lane.
const TEAMS: usize = 4;

/// Both lanes.
#[derive(Debug)]
pub(crate) struct Lanes {
    pub(crate) fast: Arc<Lane>,
    pub(crate) slow: Arc<Lane>,
}

impl Lanes {
    pub(crate) fn new(settings: &WebhookSettings) -> Self {
        Self {
            fast: Arc::new(Lane::new(settings.fast_places)),
            slow: Arc::new(Lane::new(settings.slow_places)),
        }
    }
}

/// Places, and who holds them.
#[derive(Debug)]
pub(crate) struct Lane {
    places: usize,
    held: Mutex<HashMap<String, usize>>,
}

impl Lane {
    fn new(places: usize) -> Self {
        Self {
            places,
            held: Mutex::default(),
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.held.lock().values().sum::<usize>() >= self.places
    }

    /// Acquires a place for a webhook of a team; `None` if there is none for that team.
    pub(crate) fn acquire(self: &Arc<Self>, team: &str) -> Option<Place> {
        let mut held = self.held.lock();
        let of_team = held.get(team).copied().unwrap_or_default();
        let all: usize = held.values().sum();
        if all >= self.places || of_team >= self.places.div_ceil(TEAMS) {
            return None;
        }
        held.insert(team.to_owned(), of_team + 1);
        Some(Place {
            lane: Arc::clone(self),
            team: team.to_owned(),
        })
    }
}

/// A place in a lane, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    lane: Arc<Lane>,
    team: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.lane.held.lock();
        if let Some(count) = held.get_mut(&self.team) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.team);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn team_gets_quarter_of_lane() {
        let lane = Arc::new(Lane::new(8));
        let first = lane.acquire("a").unwrap();
        let second = lane.acquire("a").unwrap();
        assert!(lane.acquire("a").is_none());
        drop(first);
        let third = lane.acquire("a").unwrap();
        let others: Vec<Place> = ["b", "b", "c", "c", "d", "d"]
            .iter()
            .map(|team| lane.acquire(team).unwrap())
            .collect();
        assert!(lane.is_full() && lane.acquire("e").is_none());
        drop((second, third, others));
        assert!(!lane.is_full() && lane.held.lock().is_empty());
    }
}
