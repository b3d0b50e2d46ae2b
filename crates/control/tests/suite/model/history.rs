//! One history: control planes live and die over one database and the same hosts, and at last
//! everything is cleared away.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::check::{check, settled};
use super::plan::{End, Kind, Life, Plan};
use super::scene::Scene;
use super::user::User;
use crate::support::Plane;

/// For everything to be gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was never to be and was, with the story that led to it.
pub fn run(seed: u64) -> Option<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let plan = Plan::draw(seed);
        let scene = Scene::new(plan.kind).await;
        scene.tell(format!("{:?}", plan.kind));
        let mut plane = scene.start().await;
        for life in plan.lives {
            plane = live(&scene, plane, life).await;
            // What follows would follow from that.
            if scene.is_violated() {
                return scene.verdict(seed);
            }
        }
        clear(&scene, &plane).await;
        scene.verdict(seed)
    })
}

/// The life of one control plane. Who lives after it.
async fn live(scene: &Arc<Scene>, plane: Plane, life: Life) -> Plane {
    let weather = tokio::spawn(Arc::clone(scene).weather(life.weather));
    let users = life
        .clients
        .into_iter()
        .enumerate()
        .map(|(name, questions)| {
            tokio::spawn(User::new(scene, &plane, name, scene.kind).ask(questions))
        });
    let mut users = futures::future::join_all(users.collect::<Vec<_>>());
    let mut progress = scene.progress.subscribe();
    let crash = async {
        match life.end {
            End::Crash { after, .. } => drop(progress.wait_for(|now| now.questions >= after).await),
            End::Stop | End::Stay => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        ended = &mut users => Some(ended),
        () = crash => None,
    };
    let plane = match life.end {
        End::Crash { .. } => {
            scene.tell("    the control plane is killed");
            scene.is_dead.store(true, Ordering::SeqCst);
            scene.has_crashed.store(true, Ordering::SeqCst);
            plane.kill();
            None
        }
        End::Stop | End::Stay => Some(plane),
    };
    let ended = match ended {
        Some(ended) => ended,
        None => users.await,
    };
    ended
        .into_iter()
        .for_each(|user| user.expect("a user has no doubts"));
    scene
        .progress
        .send_modify(|progress| progress.is_over = true);
    weather.await.expect("there is always weather");
    let plane = goes_on(scene, plane, life.end).await;
    let Some(settled) = settled(scene, &plane.client()).await else {
        return plane;
    };
    // Hosts and control plane are others than those that were asked, and so nothing goes on.
    let is_all_over = !matches!(
        life.end,
        End::Stay
            | End::Crash {
                in_bad_weather: true,
                ..
            }
    );
    check(scene, &settled, is_all_over);
    if is_all_over {
        scene.model().all_is_over();
    }
    plane
}

/// Who lives after this end, in fair weather.
async fn goes_on(scene: &Arc<Scene>, plane: Option<Plane>, end: End) -> Plane {
    match (end, plane) {
        (End::Stay, Some(plane)) => {
            scene.clears_up(false).await;
            plane
        }
        (
            End::Crash {
                in_bad_weather: true,
                ..
            },
            _,
        ) => {
            let plane = scene.start().await;
            scene.clears_up(false).await;
            plane
        }
        (_, plane) => {
            if let Some(plane) = plane {
                plane.stop().await;
            }
            scene.clears_up(true).await;
            scene.start().await
        }
    }
}

/// Nothing happens any more: all that was promised can be used, and then deleted.
async fn clear(scene: &Arc<Scene>, plane: &Plane) {
    let user = User::new(
        scene,
        plane,
        usize::MAX,
        Kind {
            faults: false,
            ..scene.kind
        },
    );
    let all: Vec<String> = scene.model().sandboxes.keys().cloned().collect();
    for id in all {
        user.verify(&id).await;
    }
    let rest = plane.client();
    for sandbox in rest.list_all().await.expect("a list") {
        if let Err(error) = rest.delete(&sandbox.id).await {
            scene.violation(format!("{sandbox:?} cannot be deleted: {error:?}"));
        }
    }
    scene.check_owners().await;
    for snapshot in rest.snapshots().await.expect("a list") {
        if let Err(error) = rest.delete_snapshot(&snapshot.name).await {
            scene.violation(format!("{snapshot:?} cannot be deleted: {error:?}"));
        }
    }
    let gone = testkit::eventually("everything gone", 2 * PATIENCE, || async {
        leftovers(scene).await.is_empty().then_some(())
    });
    if tokio::time::timeout(PATIENCE, gone).await.is_err() {
        scene.violation(format!("left behind: {:?}", leftovers(scene).await));
    }
}

async fn leftovers(scene: &Scene) -> Vec<String> {
    let mut left: Vec<String> = scene
        .look_at_rows()
        .await
        .iter()
        .map(|row| format!("{row:?}"))
        .collect();
    for host in &scene.hosts {
        let world = host.world();
        left.extend(
            world
                .sandboxes
                .keys()
                .chain(world.snapshots.keys())
                .cloned(),
        );
    }
    left
}
