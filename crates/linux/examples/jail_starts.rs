//! How long 50 starts at once take, with and without a jail:
//! `cargo run --release --example jail_starts [MOUNTS]`.
//!
//! With a number it first makes so many more mounts, in a mount namespace of its own, as a host
//! full of containers has them. For comparison it also starts programs with a copy of that mount
//! namespace each, and all of them one after another: what that takes on one core, 50 at once may
//! take on all cores together. Needs root.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use linux::cgroup::{self, Limits as Group, Tree};
use linux::jail::{Jail, Limits};
use linux::netns;
use linux::process::Spawn;

const STARTS: u32 = 50;
const ROUNDS: u32 = 20;
const FIRST_USER: u32 = 2_070_000_000;
/// Made before, as for a VM.
const NETNS: &str = "wtest-starts";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bare,
    Jailed,
    JailedWithGroup,
    /// Does the same as `unshare --mount`.
    CopyOfMounts,
}

fn main() -> io::Result<()> {
    let mounts: u32 = std::env::args()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .unwrap_or_default();
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    let (dir, private) = (
        std::env::temp_dir(),
        nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE,
    );
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    for _ in 0..mounts {
        nix::mount::mount(
            Some(&dir),
            &dir,
            None::<&str>,
            nix::mount::MsFlags::MS_BIND,
            None::<&str>,
        )?;
    }
    let tree = Tree::prepare("wtest-starts")?;
    netns::create(NETNS)?;
    println!("{STARTS} starts of `true`, best of {ROUNDS} rounds, {mounts} more mounts");
    let measured = [
        Kind::Bare,
        Kind::Jailed,
        Kind::JailedWithGroup,
        Kind::CopyOfMounts,
    ]
    .into_iter()
    .try_for_each(|kind| {
        let (alone, together) = (
            best(kind, tree.as_ref(), false)?,
            best(kind, tree.as_ref(), true)?,
        );
        println!("{kind:?}: {alone:.1} ms one after another, {together:.1} ms at once");
        Ok(())
    });
    netns::remove(NETNS)?;
    tree.map_or(Ok(()), |tree| std::fs::remove_dir(tree.group("")))?;
    measured
}

/// Milliseconds.
fn best(kind: Kind, tree: Option<&Tree>, at_once: bool) -> io::Result<f64> {
    let rounds: io::Result<Vec<Duration>> =
        (0..ROUNDS).map(|_| round(kind, tree, at_once)).collect();
    Ok(rounds?.into_iter().min().unwrap_or_default().as_secs_f64() * 1000.0)
}

/// From the first start to the end of the last program.
fn round(kind: Kind, tree: Option<&Tree>, at_once: bool) -> io::Result<Duration> {
    let begin = Instant::now();
    let mut starts = Vec::new();
    for number in 0..STARTS {
        let group = tree.map(|tree| tree.group(&number.to_string()));
        let start = std::thread::spawn(move || start(kind, FIRST_USER + number, group.as_deref()));
        if at_once {
            starts.push(start)
        } else {
            join(start)?
        }
    }
    starts.into_iter().try_for_each(join)?;
    Ok(begin.elapsed())
}

fn join(start: std::thread::JoinHandle<io::Result<()>>) -> io::Result<()> {
    start
        .join()
        .map_err(|_| io::Error::other("a start panicked"))?
}

fn start(kind: Kind, user: u32, group: Option<&Path>) -> io::Result<()> {
    let program = PathBuf::from("/usr/bin/true");
    let mut spawn = Spawn {
        program: program.clone(),
        netns: Some(NETNS.to_owned()),
        ..Spawn::default()
    };
    let group = group.filter(|_| kind == Kind::JailedWithGroup);
    match kind {
        Kind::Bare => {}
        Kind::CopyOfMounts => nix::sched::unshare(
            nix::sched::CloneFlags::CLONE_FS | nix::sched::CloneFlags::CLONE_NEWNS,
        )?,
        Kind::Jailed | Kind::JailedWithGroup => {
            let mut jail = Jail::new(user, user, Limits::default())?;
            jail.program(&program)?;
            if let Some(group) = group {
                let limits = Group {
                    cpu_percent: 100,
                    weight: 100,
                    memory_bytes: 1 << 30,
                    swap_bytes: 0,
                    tasks: 64,
                };
                cgroup::create(group, &limits)?;
                jail.cgroup(group)?;
            }
            spawn.jail = Some(jail);
        }
    }
    spawn.spawn()?.wait(Duration::from_secs(60))?;
    group.map_or(Ok(()), cgroup::remove)
}
