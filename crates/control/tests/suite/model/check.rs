//! What must be at the end of a life, once rows and hosts have come to agree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use client::Client;
use host_rpc::SandboxState as OnHost;
use model::SandboxState;
use store::Sandbox;
use testkit::host::Sandbox as Fake;

use super::known::{Known, PAUSED, RUNNING, Register, Time, only};
use super::make::TAG;
use super::scene::Scene;
use super::user::{content_of, value_of};

/// For rows and hosts to come to agree: some rounds of the control plane.
const PATIENCE: Duration = Duration::from_secs(60);

/// Rows and hosts that agree, as seen between the two times.
pub struct Settled {
    rows: Vec<Sandbox>,
    on_hosts: BTreeMap<String, Fake>,
    from: Time,
    to: Time,
}

/// Waits until rows and hosts agree and nothing is on its way.
pub async fn settled(scene: &Scene, rest: &Client) -> Option<Settled> {
    let why = Mutex::new(String::new());
    let look = testkit::eventually("rows and hosts to agree", 2 * PATIENCE, || async {
        let seen = look(scene, rest).await;
        seen.map_err(|reason| *why.lock().unwrap() = reason).ok()
    });
    let settled = tokio::time::timeout(PATIENCE, look).await;
    if settled.is_err() {
        scene.violation(format!("stuck: {}", why.into_inner().unwrap()));
    }
    settled.ok()
}

/// Or what is not yet as it should be.
async fn look(scene: &Scene, rest: &Client) -> Result<Settled, String> {
    let from = scene.model().tick();
    let rows = scene.look_at_rows().await;
    let mut on_hosts = BTreeMap::new();
    for host in &scene.hosts {
        let world = host.world();
        for (id, fake) in &world.sandboxes {
            let Some(row) = rows.iter().find(|row| row.id.as_str() == id) else {
                return Err(format!("{id} is on {} and has no row", world.host_id));
            };
            if row.host_id.as_ref() != Some(&world.host_id) {
                return Err(format!(
                    "{id} is on {} and its row on {:?}",
                    world.host_id, row.host_id
                ));
            }
            on_hosts.insert(id.clone(), fake.clone());
        }
    }
    let has_crashed = scene.has_crashed.load(Ordering::SeqCst);
    for row in &rows {
        agrees(row, on_hosts.get(row.id.as_str()), has_crashed)?;
    }
    is_shown(&rows, rest).await?;
    // A host that was away is asked again after a while.
    let health = rest
        .health()
        .await
        .map_err(|error| error.to_string())?
        .status;
    if health != "ok" {
        return Err(format!("the control plane is {health}"));
    }
    let to = scene.model().tick();
    Ok(Settled {
        rows,
        on_hosts,
        from,
        to,
    })
}

fn agrees(row: &Sandbox, fake: Option<&Fake>, has_crashed: bool) -> Result<(), String> {
    let Some(fake) = fake else {
        // Nobody was asked for it; it goes after a while, in `reconcile.rs`.
        let is_abandoned =
            has_crashed && row.state == SandboxState::Pending && row.host_id.is_none();
        let is_fine = !row.deleting && (row.state.is_terminal() || is_abandoned);
        return if is_fine {
            Ok(())
        } else {
            Err(format!("no host has {row:?}"))
        };
    };
    let is_same_state = match row.state {
        SandboxState::Pending => false,
        SandboxState::Running => fake.state == OnHost::SANDBOX_STATE_RUNNING,
        SandboxState::Paused => fake.state == OnHost::SANDBOX_STATE_PAUSED,
        SandboxState::Stopped | SandboxState::Error => fake.state == OnHost::SANDBOX_STATE_ERROR,
    };
    let rules = host_rpc::network::from_message(fake.spec.network.as_option())
        .map_err(|error| error.to_string())?;
    if row.deleting
        || !is_same_state
        || row.generation.0 != fake.generation
        || row.spec.network != rules
    {
        return Err(format!(
            "{row:?} is {:?} with generation {} and {rules:?}",
            fake.state, fake.generation
        ));
    }
    Ok(())
}

/// What users see is what is in the rows.
async fn is_shown(rows: &[Sandbox], rest: &Client) -> Result<(), String> {
    let shown = rest.list_all().await.map_err(|error| error.to_string())?;
    let shown: BTreeSet<(String, String)> = shown
        .into_iter()
        .map(|sandbox| (sandbox.id, format!("{:?}", sandbox.status).to_lowercase()))
        .collect();
    let rows: BTreeSet<(String, String)> = rows
        .iter()
        .map(|row| (row.id.to_string(), row.state.to_string()))
        .collect();
    if shown == rows {
        Ok(())
    } else {
        Err(format!("users see {shown:?}, and there is {rows:?}"))
    }
}

/// Everything that was answered holds, and nothing else is there.
pub fn check(scene: &Scene, settled: &Settled, is_all_over: bool) {
    let known = scene.model().sandboxes.clone();
    for (id, known) in &known {
        let row = settled.rows.iter().find(|row| row.id.as_str() == id);
        check_one(scene, settled, (id, known), row);
    }
    find(scene, settled, is_all_over);
    for name in scene.model().published.clone() {
        if !scene
            .hosts
            .iter()
            .any(|host| host.world().snapshots.contains_key(&name))
        {
            scene.violation(format!("snapshot {name} was promised and is not there"));
        }
    }
}

fn check_one(scene: &Scene, settled: &Settled, (id, known): (&str, &Known), row: Option<&Sandbox>) {
    let Some(row) = row else {
        if known.is_promised() {
            scene.violation(format!("{id} was promised and is gone: {known:?}"));
        }
        return;
    };
    if known.removed {
        scene.violation(format!("{id} was removed and is there: {row:?}"));
    }
    if row.state.is_terminal() {
        if known.is_alive() {
            scene.violation(format!("{id} ended: {row:?}; {known:?}"));
        }
        return;
    }
    let Some(fake) = settled.on_hosts.get(id) else {
        return;
    };
    let network = value_of(&row.spec.network.clone().into());
    let values = [
        ("power", &known.power, Some(power_of(fake))),
        ("rules", &known.network, network),
        (
            "content",
            &known.content,
            Some(content_of(&fake.content.files)),
        ),
    ];
    for (what, register, value) in values {
        if !value.is_some_and(|value| register.may_be(value, settled.from, settled.to)) {
            let may_be = register.seen(settled.from, settled.to);
            scene.violation(format!(
                "{what} of {id} is {value:?} and may be {may_be:?}: {register:?}"
            ));
        }
    }
    for (name, values) in &known.checkpoints {
        let found = fake
            .checkpoints
            .iter()
            .find(|checkpoint| checkpoint.about.name == *name);
        let value = found.map(|checkpoint| content_of(&checkpoint.content.files));
        if !value.is_some_and(|value| values.as_ref().is_none_or(|values| values.contains(&value)))
        {
            scene.violation(format!(
                "checkpoint {name} of {id} has {value:?} and may have {values:?}"
            ));
        }
    }
}

fn power_of(fake: &Fake) -> u64 {
    if fake.state == OnHost::SANDBOX_STATE_PAUSED {
        PAUSED
    } else {
        RUNNING
    }
}

/// Adds sandboxes that are there and that no answer named: each was asked for, all of a fork or
/// none, and counts from now on. With `is_all_over` no earlier request can change them any more.
fn find(scene: &Scene, settled: &Settled, is_all_over: bool) {
    for row in settled.rows.iter().filter(|row| row.host_id.is_some()) {
        let mut model = scene.model();
        if model.sandboxes.contains_key(row.id.as_str())
            || model.deleted_unseen.contains(row.id.as_str())
        {
            continue;
        }
        scene.tell(format!(
            "found {} of {}: {}",
            row.id, row.spec.envs[TAG], row.state
        ));
        let network = only(value_of(&row.spec.network.clone().into()).expect("rules of ours"));
        let fake = settled.on_hosts.get(row.id.as_str());
        let content = fake.and_then(|fake| only(content_of(&fake.content.files)));
        let when = (settled.from, settled.to);
        let mut known = Known::new(&row.spec.envs[TAG], network, content, when);
        known.power = Register::new(
            fake.and_then(|fake| only(power_of(fake))),
            settled.from,
            settled.to,
        );
        (known.found, known.may_end, known.auto_resume) =
            (true, row.state.is_terminal(), row.spec.auto_resume);
        known.certain = is_all_over && !known.may_end;
        model.sandboxes.insert(row.id.to_string(), known);
    }
    if scene.has_meddled.load(Ordering::SeqCst) {
        return;
    }
    let model = scene.model();
    let found: Vec<&str> = model
        .sandboxes
        .values()
        .filter(|known| known.found)
        .map(|known| known.tag.as_str())
        .collect();
    for tag in found.iter().copied().collect::<BTreeSet<_>>() {
        let count = found.iter().filter(|found| **found == tag).count();
        if !model.explains(tag, count) {
            scene.violation(format!(
                "{count} of {tag} that nobody was told of: {:?}",
                model.unanswered
            ));
        }
    }
}
