//! User, working directory and environment of processes.

use std::collections::BTreeMap;

use connectrpc::ErrorCode;
use guest_rpc::process::ListRequest;
use guestd::user::lookup_user;

use crate::support::{Agent, Outcome, Running, as_user, run, shell, start};

async fn run_as(agent: &Agent, user: &str, script: &str) -> Outcome {
    Running::start(&agent.client(), shell(script), as_user(user))
        .await
        .expect("starts")
        .finish()
        .await
}

#[tokio::test]
async fn process_has_all_ids_of_user() {
    let agent = Agent::open().await;
    let script = "grep -E '^(Uid|Gid|Groups)' /proc/self/status; echo $HOME $USER $LOGNAME; pwd";
    for name in ["nobody", "daemon", "root"] {
        let user = lookup_user(name).expect("every Debian has this user");
        let text = run_as(&agent, name, script).await.text();
        let ids = |id: u32| [id; 4].map(|i| i.to_string()).join("\t");
        let mut groups = user.groups.clone();
        groups.sort_unstable();
        let groups: String = groups.iter().map(|g| format!("{g} ")).collect();
        let home = user.home.display();
        let dir = if user.home.is_dir() {
            home.to_string()
        } else {
            "/".to_owned()
        };
        let right = format!(
            "Uid:\t{}\nGid:\t{}\nGroups:\t{groups}\n{home} {name} {name}\n{dir}\n",
            ids(user.uid),
            ids(user.gid)
        );
        assert_eq!(text, right);
    }
}

#[tokio::test]
async fn nobody_can_do_less_than_root() {
    let agent = Agent::open().await;
    assert_eq!(
        run_as(
            &agent,
            "nobody",
            "cat /etc/shadow 2>&1 >/dev/null || exit 9"
        )
        .await
        .code(),
        9
    );
    assert_eq!(
        run_as(&agent, "nobody", "kill -0 1 2>/dev/null || exit 9")
            .await
            .code(),
        9
    );
    assert_eq!(
        run_as(&agent, "root", "cat /etc/shadow >/dev/null")
            .await
            .code(),
        0
    );
}

#[tokio::test]
async fn an_unknown_user_is_unauthenticated() {
    let agent = Agent::open().await;
    let error = Running::start(&agent.client(), shell("true"), as_user("no-such-user"))
        .await
        .expect_err("is refused");
    assert_eq!(error.code, ErrorCode::Unauthenticated);
    assert!(error.message.unwrap_or_default().contains("no-such-user"));
}

#[tokio::test]
async fn a_terminal_belongs_to_its_user() {
    let agent = Agent::open().await;
    let mut request = shell("stat -c %U $(tty) && echo again > $(tty)");
    request.pty = guest_rpc::process::PTY::default().into();
    let outcome = Running::start(&agent.client(), request, as_user("nobody"))
        .await
        .expect("starts")
        .finish()
        .await;
    let text = String::from_utf8_lossy(&outcome.pty).into_owned();
    assert_eq!((text.as_str(), outcome.code()), ("nobody\r\nagain\r\n", 0));
}

#[tokio::test]
async fn processes_lead_sessions_and_die_first() {
    let agent = Agent::open().await;
    let text = run(
        &agent.client(),
        "echo $$; cut -d' ' -f5,6 /proc/$$/stat; cat /proc/self/oom_score_adj",
    )
    .await
    .text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1], format!("{0} {0}", lines[0]));
    assert_eq!(lines[2], "100");
}

#[tokio::test]
async fn environment_has_nothing_of_agent() {
    let agent = Agent::open().await;
    let client = agent.client();
    let mut request = shell("env; pwd");
    let mut config = request.process.clone().into_option().expect("a config");
    config.envs = [
        ("MINE".to_owned(), "a b=c".to_owned()),
        ("USER".to_owned(), "other".to_owned()),
    ]
    .into_iter()
    .collect();
    config.cwd = Some("/usr/bin".into());
    request.process = config.into();
    let text = start(&client, request).await.finish().await.text();
    assert!(text.ends_with("\n/usr/bin\n"));
    let envs: BTreeMap<_, _> = text.lines().filter_map(|l| l.split_once('=')).collect();
    assert_eq!(
        (envs["MINE"], envs["USER"], envs["E2B_SANDBOX"]),
        ("a b=c", "other", "true")
    );
    assert!(
        !envs
            .keys()
            .any(|name| name.starts_with("CARGO") || name.starts_with("NEXTEST")),
        "{envs:?}"
    );
    assert!(
        !run(&client, "env").await.text().contains("MINE"),
        "it stays with its request"
    );
}

#[tokio::test]
async fn no_descriptor_of_the_agent_leaks() {
    let agent = Agent::open().await;
    let client = agent.client();
    let other = start(&client, shell("sleep 60")).await;
    assert_eq!(
        run(&client, "exec ls -x /proc/self/fd").await.text().trim(),
        "0  1  2  3",
        "3 is what ls itself opens"
    );
    drop(other);
}

#[tokio::test]
async fn list_shows_requested_command() {
    let agent = Agent::open().await;
    let client = agent.client();
    let mut request = shell("echo up; sleep 60");
    request.tag = Some("mine".into());
    let mut config = request.process.clone().into_option().expect("a config");
    config.cwd = Some("/tmp".into());
    config.envs = [("A".to_owned(), "1".to_owned())].into_iter().collect();
    request.process = config.clone().into();
    let running = start(&client, request).await;
    let list = client
        .list(ListRequest::default())
        .await
        .expect("the list")
        .into_owned();
    assert_eq!(list.processes.len(), 1);
    assert_eq!(
        (list.processes[0].pid, list.processes[0].tag.as_deref()),
        (running.pid, Some("mine"))
    );
    assert_eq!(list.processes[0].config.as_option(), Some(&config));
}

#[tokio::test]
async fn numbers_are_users_and_groups() {
    let agent = Agent::open().await;
    let script = "grep -E '^(Uid|Gid|Groups)' /proc/self/status | tr '\\t' ' '; echo $HOME; pwd";
    let right = |uid: u32, gid: u32| {
        format!(
            "Uid: {uid} {uid} {uid} {uid}\nGid: {gid} {gid} {gid} {gid}\nGroups: {gid} \n/\n/\n"
        )
    };
    assert_eq!(
        run_as(&agent, "123456", script).await.text(),
        right(123_456, 0)
    );
    assert_eq!(
        run_as(&agent, "123456:70000", script).await.text(),
        right(123_456, 70_000)
    );
    let folder = crate::support::open_folder();
    let path = folder.path().join("a");
    let call = reqwest::Client::new().post(agent.at(&path, "&username=123456:70000"));
    let call = call
        .header("content-type", "application/octet-stream")
        .body("x");
    assert_eq!(call.send().await.expect("an answer").status(), 200);
    let found = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&path).expect("is there"));
    assert_eq!(found, 123_456);
    assert_eq!(
        run_as(&agent, "123456", &format!("cat {}", path.display()))
            .await
            .text(),
        "x"
    );
}
