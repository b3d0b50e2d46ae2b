//! Help and refusals of the built command, without a server.

use crate::wrenn::{bare, finish};

#[tokio::test]
async fn help_names_every_command() {
    let help = finish(bare(&["--help"]), Vec::new()).await.with(0).text();
    for command in [
        "up",
        "doctor",
        "run",
        "create",
        "ls",
        "info",
        "ping",
        "keep-alive",
        "exec",
        "cp",
        "rm",
        "pause",
        "resume",
        "fork",
        "snapshot",
        "snapshots",
        "checkpoint",
        "checkpoints",
        "rollback",
        "ssh",
        "ssh-config",
        "ssh-proxy",
        "console",
        "logs",
        "templates",
        "completions",
        "version",
    ] {
        assert!(
            help.lines()
                .any(|line| line.trim_start().starts_with(command)),
            "{command}: {help}"
        );
        let own = finish(bare(&[command, "--help"]), Vec::new())
            .await
            .with(0)
            .text();
        assert!(own.contains("Usage: wrenn"), "{own}");
    }
    let script = finish(bare(&["completions", "bash"]), Vec::new())
        .await
        .with(0)
        .text();
    assert!(script.contains("templates"));
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let url = ["--url", "http://127.0.0.1:1", "--key", "wrn_x"];
    for (args, code, said) in [
        (vec!["ls"], 1, "wrenn up"),
        (vec!["run"], 2, "<CMD>"),
        (vec!["exec", "sb-a"], 2, "<CMD>"),
        (vec!["rm"], 2, "<SANDBOX>"),
        (vec!["rm", "--all", "sb-a"], 2, "--all"),
        (vec!["cp", "a", "b"], 2, "SANDBOX:PATH"),
        (vec!["cp", "a:b", "c:d"], 2, "copy to this machine first"),
        (vec!["create", "--memory", "lots"], 2, "512m"),
        (vec!["create", "-e", "=x"], 2, "NAME=VALUE"),
        (vec!["create", "--on-timeout", "sleep"], 2, "kill"),
        (vec!["fork", "sb-a", "--count", "33"], 2, "32"),
        (vec!["rollback", "sb-a"], 2, "<NAME>"),
        (vec!["snapshots", "rm"], 2, "<NAME>"),
        (vec!["checkpoints"], 2, "<SANDBOX>"),
        (vec!["nonsense"], 2, "nonsense"),
        (vec!["exec", "-it", "sb-a", "bash"], 2, "leave out -t"),
    ] {
        let ended = finish(bare(&args), Vec::new()).await.with(code);
        assert!(
            ended.stderr.contains(said) && ended.stdout.is_empty(),
            "{args:?}: {ended:?}"
        );
    }
    for (args, code) in [
        (vec!["ls"], 1),
        (vec!["run", "true"], 125),
        (vec!["exec", "a", "true"], 125),
    ] {
        let ended = finish(bare(&[&url, args.as_slice()].concat()), Vec::new())
            .await
            .with(code);
        assert!(
            ended.stderr.contains("no connection to http://127.0.0.1:1"),
            "{ended:?}"
        );
        assert!(ended.stderr.contains("wrenn up"), "{ended:?}");
    }
    let strange = finish(bare(&["--url", "nowhere", "--key", "k", "ls"]), Vec::new())
        .await
        .with(2);
    assert!(
        strange.stderr.contains("http://127.0.0.1:8000"),
        "{strange:?}"
    );
}

#[tokio::test]
async fn refusals_are_json_where_that_is_asked_for() {
    for (args, code, error) in [
        (
            vec!["--json", "--url", "http://127.0.0.1:1", "--key", "k", "ls"],
            1,
            "unreachable",
        ),
        (vec!["ls", "--json"], 1, "local_error"),
        (vec!["ls", "--json", "--bad"], 2, "usage"),
        (vec!["cp", "--json", "a", "b"], 2, "usage"),
    ] {
        let ended = finish(bare(&args), Vec::new()).await.with(code);
        let body: serde_json::Value =
            serde_json::from_str(&ended.stderr).unwrap_or_else(|_| panic!("{ended:?}"));
        assert_eq!(body["error"]["code"], error, "{ended:?}");
        assert!(
            body["error"]["message"]
                .as_str()
                .is_some_and(|message| message.len() > 10),
            "{ended:?}"
        );
    }
}

#[tokio::test]
async fn the_credentials_file_is_found() {
    let server = crate::server::Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "WRENN_API_URL={}\nWRENN_API_KEY={}\n",
        server.url,
        crate::server::KEY
    );
    std::fs::write(dir.path().join("credentials"), text).unwrap();
    let mut command = bare(&["ls", "--json"]);
    command.env("WRENN_DIR", dir.path());
    assert_eq!(finish(command, Vec::new()).await.with(0).text(), "[]");
}
