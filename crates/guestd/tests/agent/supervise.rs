//! The start command: started again as its policy says, with one output, until its last end.

use guest_rpc::command as rpc;
use guest_rpc::process::{ProcessConfig, Signal};
use rpc::RestartCondition::{self, *};

use crate::commands::{Commands, at, commands, get, read, signal, wait_until_ended};
use crate::support::{Agent, eventually};

const START: &str = "start";

fn request(cmd: &str, args: &[&str], condition: RestartCondition) -> rpc::SuperviseRequest {
    let config = ProcessConfig {
        cmd: cmd.to_owned(),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        ..Default::default()
    };
    let policy = rpc::RestartPolicy {
        condition: condition.into(),
        ..Default::default()
    };
    rpc::SuperviseRequest {
        process: config.into(),
        restart: policy.into(),
        ..Default::default()
    }
}

async fn supervise(commands: &Commands, request: &rpc::SuperviseRequest) {
    let set = commands.supervise(request.clone()).await;
    set.expect("it is taken");
}

/// Waits for the start command, as soon as there is one that fits.
async fn wait_for(commands: &Commands, fits: impl Fn(&rpc::Command) -> bool) -> rpc::Command {
    let found = async || {
        let listed = commands.list(rpc::ListRequest::default()).await;
        let listed = listed.expect("a list").into_owned().commands;
        listed.into_iter().find(|command| fits(command))
    };
    eventually("the start command", async || found().await.is_some()).await;
    found().await.expect("it is there")
}

fn restarts(command: &rpc::Command) -> u64 {
    command
        .supervision
        .as_option()
        .expect("a start command")
        .restarts
}

#[tokio::test]
async fn crashed_start_command_runs_again() {
    let agent = Agent::open().await;
    let commands = commands(&agent);
    let folder = tempfile::tempdir().expect("a folder");
    let script = format!(
        "cd {}; echo x >>runs; n=$(wc -l <runs); echo run $n; [ $n -gt 2 ] && exec sleep 1000; exit $n",
        folder.path().display()
    );
    let wanted = request("/bin/sh", &["-c", &script], RESTART_CONDITION_ON_FAILURE);
    supervise(&commands, &wanted).await;
    let first = wait_for(&commands, |_| true).await;
    let stable = wait_for(&commands, |command| {
        (restarts(command), command.output_end) == (2, "run N\n".len() as u64 * 3)
    });
    let stable = stable.await;
    assert_eq!(first.id, stable.id);
    let supervision = stable.supervision.as_option().expect("supervision");
    assert_eq!(supervision.last_exit_code, Some(2));
    assert_eq!((supervision.next_start_ms, stable.exit_code), (None, None));
    // The host says it again after a resume.
    supervise(&commands, &wanted).await;
    assert_eq!(get(&commands, START).await.pid, stable.pid);
    signal(&commands, START, Signal::SIGNAL_SIGTERM).await;
    let ended = wait_until_ended(&commands, START).await;
    assert_eq!((ended.exit_code, restarts(&ended)), (Some(143), 2));
    let output = read(&commands, at(START, 0), usize::MAX).await;
    assert_eq!(output.out, b"run 1\nrun 2\nrun 3\n");
    // It has ended for good, until a create asks for it.
    supervise(&commands, &wanted).await;
    assert!(get(&commands, START).await.ended_ms.is_some());
    let anew = rpc::SuperviseRequest {
        restart_ended: true,
        ..wanted
    };
    supervise(&commands, &anew).await;
    let second = wait_for(&commands, |command| {
        command.id != ended.id && command.pid > 0
    })
    .await;
    assert_eq!(restarts(&second), 0);
    // It runs: there is nothing to start anew.
    supervise(&commands, &anew).await;
    assert_eq!(get(&commands, START).await.id, second.id);
}

#[tokio::test]
async fn signal_ends_wait_for_restart() {
    let agent = Agent::open().await;
    let commands = commands(&agent);
    let wanted = request("/bin/sh", &["-c", "exit 3"], RESTART_CONDITION_ALWAYS);
    supervise(&commands, &wanted).await;
    let waiting = wait_for(&commands, |command| {
        let supervision = command.supervision.as_option();
        supervision.is_some_and(|supervision| supervision.next_start_ms.is_some())
    });
    let waiting = waiting.await;
    assert_eq!((waiting.pid, waiting.exit_code), (0, None));
    let reload = rpc::SendSignalRequest {
        command: START.to_owned(),
        signal: Signal::SIGNAL_SIGUSR1.into(),
        ..Default::default()
    };
    if let Err(error) = commands.send_signal(reload).await {
        assert_eq!(error.code, connectrpc::ErrorCode::FailedPrecondition);
    }
    signal(&commands, START, Signal::SIGNAL_SIGKILL).await;
    let ended = wait_until_ended(&commands, START).await;
    // On a busy machine the signal can come after the wait, in a next run.
    let is_in_wait = restarts(&ended) == restarts(&waiting);
    assert!(ended.exit_code == Some(3) || !is_in_wait, "{ended:?}");
}

#[tokio::test]
async fn reason_of_failed_start_is_output() {
    let agent = Agent::open().await;
    let commands = commands(&agent);
    let wanted = request("/no/such/program", &[], RESTART_CONDITION_NEVER);
    supervise(&commands, &wanted).await;
    wait_for(&commands, |_| true).await;
    let ended = wait_until_ended(&commands, START).await;
    assert_eq!(ended.exit_code, Some(127));
    assert!(ended.started_ms > 0, "{ended:?}");
    let output = read(&commands, at(START, 0), usize::MAX).await;
    let text = String::from_utf8(output.err).expect("text");
    assert!(text.contains("No such file or directory"), "{text}");
    let nothing = commands.supervise(rpc::SuperviseRequest::default()).await;
    let refused = nothing.expect_err("refused").message.expect("a reason");
    assert!(refused.contains("process.cmd"), "{refused}");
}

#[tokio::test]
async fn other_start_command_replaces_former() {
    let agent = Agent::open().await;
    let commands = commands(&agent);
    let former = request("sleep", &["1000"], RESTART_CONDITION_ALWAYS);
    supervise(&commands, &former).await;
    let former = wait_for(&commands, |command| command.pid > 0).await;
    let other = request("sleep", &["2000"], RESTART_CONDITION_NEVER);
    supervise(&commands, &other).await;
    let other = wait_for(&commands, |command| {
        command.id != former.id && command.pid > 0
    })
    .await;
    let ended = get(&commands, &former.id).await;
    assert_eq!((ended.exit_code, restarts(&ended)), (Some(137), 0));
    assert_eq!(get(&commands, START).await.id, other.id);
}

/// The first has a process that holds up its end: what is no longer in its group holds its output.
#[tokio::test]
async fn third_start_command_waits_for_first() {
    let agent = Agent::open().await;
    let commands = commands(&agent);
    let script = "setsid sh -c 'echo; exec sleep 3' & exec sleep 1000";
    let first = request("/bin/sh", &["-c", script], RESTART_CONDITION_ALWAYS);
    supervise(&commands, &first).await;
    let first = wait_for(&commands, |command| command.output_end > 0).await;
    for seconds in ["2000", "3000"] {
        let other = request("sleep", &[seconds], RESTART_CONDITION_NEVER);
        supervise(&commands, &other).await;
    }
    let third = wait_for(&commands, |command| {
        command.args == ["3000"] && command.pid > 0
    })
    .await;
    let first = get(&commands, &first.id).await;
    assert!(
        first
            .ended_ms
            .is_some_and(|ended| ended <= third.started_ms),
        "{first:?} and {third:?}"
    );
    let listed = commands.list(rpc::ListRequest::default()).await;
    let listed = listed.expect("a list").into_owned().commands;
    assert!(listed.iter().all(|command| command.args != ["2000"]));
}

fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

#[tokio::test]
async fn crashed_run_takes_children_along() {
    let agent = Agent::open().await;
    let commands = commands(&agent);
    let folder = tempfile::tempdir().expect("a folder");
    let children = folder.path().join("children");
    let script = format!(
        "sleep 1000 & echo $! >>{}; [ $(wc -l <{0}) -gt 1 ] && exec sleep 1000; exit 1",
        children.display()
    );
    let wanted = request("/bin/sh", &["-c", &script], RESTART_CONDITION_ON_FAILURE);
    supervise(&commands, &wanted).await;
    let listed = || {
        let text = std::fs::read_to_string(&children).unwrap_or_default();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    eventually("the second run", async || listed().len() == 2).await;
    let pids = listed();
    eventually("the end of the first child", async || !is_alive(&pids[0])).await;
    assert!(is_alive(&pids[1]));
    signal(&commands, START, Signal::SIGNAL_SIGTERM).await;
    wait_until_ended(&commands, START).await;
    eventually("the end of the second child", async || !is_alive(&pids[1])).await;
}

/// A cgroup of these tests, removed with this.
struct TestGroup(std::path::PathBuf);

impl TestGroup {
    /// Tests run as root, on a machine with cgroups of version 2.
    fn create() -> Self {
        let mounts = std::fs::read_to_string("/proc/mounts").expect("mounts");
        let mount = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let place = fields.next()?;
            (fields.next()? == "cgroup2").then_some(place)
        });
        let mount = std::path::Path::new(mount.expect("a mounted cgroup2"));
        let group = mount.join(format!("wrenn-guestd-{}", std::process::id()));
        std::fs::create_dir(&group).expect("a cgroup");
        Self(group)
    }
}

impl Drop for TestGroup {
    fn drop(&mut self) {
        for name in ["user/start", "user", ""] {
            let _ = std::fs::remove_dir(self.0.join(name));
        }
    }
}

#[tokio::test]
async fn run_outlives_removal_of_cgroup() {
    let group = TestGroup::create();
    let root = group.0.to_str().expect("a path in UTF-8");
    let agent = Agent::start(&["--no-auth", "--cgroup-root", root]).await;
    let commands = commands(&agent);
    let folder = tempfile::tempdir().expect("a folder");
    let children = folder.path().join("children");
    // In a session of its own: the end of its process group does not reach it.
    let script = format!(
        "setsid sh -c 'echo $$ >>{}; exec sleep 1000' & sleep 0.1; exit 3",
        children.display()
    );
    let wanted = request("/bin/sh", &["-c", &script], RESTART_CONDITION_ALWAYS);
    supervise(&commands, &wanted).await;
    let in_wait = |command: &rpc::Command, number: u64| {
        let supervision = command.supervision.as_option();
        supervision.is_some_and(|it| it.restarts >= number && it.next_start_ms.is_some())
    };
    // What is removed while it waits: a next run that has begun already keeps it.
    for (number, removed) in [&["user/start"][..], &["user/start", "user"]]
        .iter()
        .enumerate()
    {
        wait_for(&commands, |command| in_wait(command, number as u64)).await;
        let pids = std::fs::read_to_string(&children).expect("the runs have begun");
        let ended: Vec<&str> = pids.lines().take(number + 1).collect();
        assert_eq!(ended.len(), number + 1, "{pids}");
        assert!(!ended.into_iter().any(is_alive), "{pids}");
        for name in *removed {
            let _ = std::fs::remove_dir(group.0.join(name));
        }
    }
    let waiting = wait_for(&commands, |command| in_wait(command, 2)).await;
    let supervision = waiting.supervision.as_option().expect("supervision");
    assert_eq!(supervision.last_exit_code, Some(3));
    signal(&commands, START, Signal::SIGNAL_SIGKILL).await;
    wait_until_ended(&commands, START).await;
    let pids = std::fs::read_to_string(&children).expect("its children");
    for pid in pids.lines() {
        let pid = nix::unistd::Pid::from_raw(pid.parse().expect("a number"));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
}
