//! What outlives control planes: hosts, database, the model, and what was noticed. And the weather
//! over the hosts.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use connectrpc::ConnectError;
use store::Store;
use testkit::host::FakeHost;
use tokio::sync::watch;

use super::known::{Known, Model};
use super::plan::{Kind, Refusal, Weather};
use crate::support::{Ground, Plane};

pub struct Scene {
    pub kind: Kind,
    pub hosts: Vec<FakeHost>,
    pub ground: Ground,
    /// A pair of eyes of its own.
    pub store: Store,
    model: Mutex<Model>,
    story: Mutex<Vec<String>>,
    violations: Mutex<Vec<String>>,
    numbers: AtomicU64,
    pub progress: watch::Sender<Progress>,
    /// The control plane is being killed, or was: answers may break off.
    pub is_dead: AtomicBool,
    /// One was: rows can be there that no host was asked for.
    pub has_crashed: AtomicBool,
    /// Something was deleted that nobody had been told of.
    pub has_meddled: AtomicBool,
    is_away: AtomicBool,
}

/// Of the life of one control plane.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// That were begun.
    pub questions: u64,
    /// The weather changes no more.
    pub is_over: bool,
}

impl Scene {
    pub async fn new(kind: Kind) -> Arc<Self> {
        let ground = Ground::new().await;
        Arc::new(Self {
            kind,
            hosts: (0..kind.hosts)
                .map(|number| FakeHost::start_as(&format!("host-{number}")))
                .collect(),
            store: ground.store().await,
            ground,
            model: Mutex::default(),
            story: Mutex::default(),
            violations: Mutex::default(),
            numbers: AtomicU64::new(1),
            progress: watch::Sender::new(Progress::default()),
            is_dead: AtomicBool::new(false),
            has_crashed: AtomicBool::new(false),
            has_meddled: AtomicBool::new(false),
            is_away: AtomicBool::new(false),
        })
    }

    pub async fn start(&self) -> Plane {
        let hosts: Vec<&FakeHost> = self.hosts.iter().collect();
        let plane = self.ground.start(&hosts).await;
        self.progress.send_replace(Progress::default());
        self.is_dead.store(false, Ordering::SeqCst);
        self.tell("a control plane starts");
        plane
    }

    pub fn model(&self) -> MutexGuard<'_, Model> {
        locked(&self.model)
    }

    /// Changes what is known of a sandbox, at a new time.
    pub fn note<T>(&self, id: &str, change: impl FnOnce(&mut Known, u64) -> T) -> Option<T> {
        let mut model = self.model();
        let now = model.tick();
        model.sandboxes.get_mut(id).map(|known| change(known, now))
    }

    /// A number that never comes again.
    pub fn fresh(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub fn tell(&self, line: impl Into<String>) {
        locked(&self.story).push(line.into());
    }

    /// Something that must never be.
    pub fn violation(&self, what: impl Into<String>) {
        let what = what.into();
        self.tell(format!("VIOLATION: {what}"));
        locked(&self.violations).push(what);
    }

    pub fn is_violated(&self) -> bool {
        !locked(&self.violations).is_empty()
    }

    /// What must never be and was, with all that happened.
    pub fn verdict(&self, seed: u64) -> Option<String> {
        let violations = locked(&self.violations);
        let story = locked(&self.story).join("\n");
        (!violations.is_empty())
            .then(|| format!("{story}\n\nseed {seed}: {}", violations.join("; ")))
    }

    /// Everything that happens on hosts in the life of one control plane.
    pub async fn weather(self: Arc<Self>, plan: Vec<(u64, Weather)>) {
        let mut progress = self.progress.subscribe();
        for (after, weather) in plan {
            let reached = progress
                .wait_for(|now| now.is_over || now.questions >= after)
                .await;
            if reached.expect("the scene is there").is_over {
                return;
            }
            self.tell(format!("    {weather:?}"));
            self.becomes(&weather).await;
        }
    }

    async fn becomes(self: &Arc<Self>, weather: &Weather) {
        let host = &self.hosts[usize::try_from(self.fresh()).unwrap() % self.hosts.len()];
        match *weather {
            Weather::Slow(call, time) => host.slow_next(call, time),
            Weather::Refuse(call, how) => host.fail_next(call, refusal(how)),
            Weather::Cut(call, cut) => host.cut_next(call, cut),
            Weather::Full => host.world().is_full = true,
            Weather::Room => host.world().is_full = false,
            Weather::Restart => self.bring_back().await,
            Weather::Away => {
                self.is_away.store(true, Ordering::SeqCst);
                host.stop();
            }
            Weather::Back => self.bring_back().await,
            Weather::BreakDown | Weather::Lose(_) => self.end_one(weather),
        }
    }

    /// Ends one of those that are promised.
    fn end_one(&self, weather: &Weather) {
        let id = {
            let mut model = self.model();
            let Some((id, known)) = model
                .sandboxes
                .iter_mut()
                .find(|(_, known)| known.is_alive())
            else {
                return;
            };
            known.may_end = true;
            id.clone()
        };
        self.tell(format!("    it is {id}"));
        for host in &self.hosts {
            match weather {
                Weather::Lose(true) => host.lose(&id),
                Weather::Lose(false) => host.forget(&id),
                _ => drop(host.break_down(&id, "the guest panicked")),
            }
        }
    }

    /// All hosts serve, also those that were away.
    async fn bring_back(self: &Arc<Self>) {
        let scene = Arc::clone(self);
        let back =
            tokio::task::spawn_blocking(move || scene.hosts.iter().for_each(FakeHost::restart));
        back.await.expect("hosts come back");
        self.is_away.store(false, Ordering::SeqCst);
    }

    /// From now on nothing goes wrong. Hosts that were away come back; all of them start again if
    /// they are told to.
    pub async fn clears_up(self: &Arc<Self>, restart: bool) {
        for host in &self.hosts {
            host.clear_script();
            host.world().is_full = false;
        }
        if restart || self.is_away.load(Ordering::SeqCst) {
            self.bring_back().await;
        }
        self.tell("the weather has cleared");
    }

    pub fn is_on_a_host(&self, id: &str) -> bool {
        self.hosts
            .iter()
            .any(|host| host.world().sandboxes.contains_key(id))
    }

    /// Each snapshot belongs to a team, whatever crashed or met what while it was made.
    pub async fn check_owners(&self) {
        let owners = self.store.snapshot_owners().await;
        let owners = owners.expect("the database answers");
        for host in &self.hosts {
            for name in host.world().snapshots.keys() {
                if !owners.contains_key(name) {
                    self.violation(format!("snapshot {name} belongs to no team"));
                }
            }
        }
    }

    /// Generations only grow.
    pub async fn look_at_rows(&self) -> Vec<store::Sandbox> {
        let rows = self
            .store
            .sandbox_list_all()
            .await
            .expect("the database answers");
        let mut model = self.model();
        for row in &rows {
            let newest = model.generations.entry(row.id.to_string()).or_default();
            if row.generation.0 < *newest {
                self.violation(format!(
                    "{} went back from generation {newest} to {:?}",
                    row.id, row.generation
                ));
            }
            *newest = row.generation.0;
        }
        rows
    }
}

fn refusal(how: Refusal) -> ConnectError {
    match how {
        Refusal::Internal => ConnectError::internal("bad luck"),
        Refusal::Unavailable => ConnectError::unavailable("not now"),
        Refusal::Exhausted => ConnectError::resource_exhausted("the disk of the host is full"),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
