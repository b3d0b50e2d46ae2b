//! The configuration of an image in its sandboxes: `NAME.json` beside `NAME.ext4`.

use std::fs;
use std::path::Path;

use connectrpc::ErrorCode;
use host_rpc as rpc;
use model::SandboxId;

use crate::agent::{Agent, shell, spec};
use crate::image_files::{add_files, fill_with_shell, make_image};
use crate::programs::{read, write};

const CONFIG: &str = r#"{"config": {
    "User": "app:staff", "WorkingDir": "/srv/new/app", "StopSignal": "SIGQUIT",
    "Env": ["PATH=/opt/tool/bin:/usr/bin:/bin", "FROM=image", "GREETING=of the image", "HOME=/data"],
    "Entrypoint": ["/entry"], "Cmd": ["serve"], "ExposedPorts": {"80/tcp": {}}}}"#;

/// As Debian's, which every login shell reads.
const PROFILE: &str = "if [ \"$(id -u)\" -eq 0 ]; then\n  PATH=\"/usr/sbin:/usr/bin:/bin\"\nelse\n  \
    PATH=\"/usr/bin:/bin:/games\"\nfi\nexport PATH\n";

fn make_configured(dir: &Path) {
    make_image(&dir.join("configured.ext4"), 32, &[], |root| {
        fill_with_shell(root, &[]);
        let files = [
            (
                "etc/passwd",
                "user:x:1000:1000::/:/bin/sh\napp:x:1001:1001::/home/app:/bin/sh\n",
            ),
            ("etc/group", "staff:x:50:\n"),
            ("etc/profile", PROFILE),
            ("opt/tool/bin/tool", "#!/bin/sh\necho it works\n"),
        ];
        add_files(root, &files);
        let tool = root.join("opt/tool/bin/tool");
        fs::set_permissions(tool, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    });
    fs::write(dir.join("configured.json"), CONFIG).unwrap();
}

async fn create_from(agent: &Agent, template: &str) -> SandboxId {
    let id = SandboxId::random();
    let spec = rpc::SandboxSpec {
        template: template.into(),
        ..spec()
    };
    agent.ensure(&id, spec).await.unwrap();
    id
}

/// What holds in each sandbox of the image, also in copies of one.
async fn check_config(agent: &Agent, id: &SandboxId) {
    let own = "id -u; id -g; pwd; echo $FROM; echo $GREETING; echo $HOME; echo $PATH; tool";
    assert_eq!(
        agent.out(id, own).await,
        "1001\n50\n/srv/new/app\nimage\nhello\n/data\n/opt/tool/bin:/usr/bin:/bin\nit works",
        "the sandbox's GREETING comes before the image's"
    );
    let login = rpc::ExecRequest {
        cmd: "sh".into(),
        args: ["-lc".to_owned(), "tool; echo $PATH".to_owned()].into(),
        ..shell(id, "")
    };
    let done = agent.exec(login.clone()).await.unwrap();
    assert_eq!(
        done.stdout,
        "it works\n/opt/tool/bin:/usr/bin:/bin:/games\n"
    );
    let terminal = rpc::ExecRequest {
        terminal: rpc::TerminalSize::default().into(),
        ..login
    };
    let done = agent.exec(terminal).await.unwrap();
    assert!(done.stdout.starts_with("it works\r\n"), "{done:?}");
    let asked = rpc::ExecRequest {
        user: Some("user".into()),
        cwd: Some("/etc".into()),
        envs: [("FROM".to_owned(), "request".to_owned())]
            .into_iter()
            .collect(),
        ..shell(id, "id -u; pwd; echo $FROM")
    };
    let done = agent.exec(asked).await.unwrap();
    assert_eq!(done.stdout, "1000\n/etc\nrequest\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn image_config_holds_in_every_copy() {
    let images = tempfile::tempdir().unwrap();
    make_configured(images.path());
    let path = images.path().to_str().unwrap().to_owned();
    let mut agent = Agent::start(&[("AGENT_IMAGES_PATH", &path)]).await;
    let id = create_from(&agent, "configured").await;
    check_config(&agent, &id).await;
    write(&agent.client(), &id, "/tmp/file", b"of app", true)
        .await
        .unwrap();
    assert_eq!(agent.out(&id, "stat -c '%u %g' /tmp/file").await, "1001 50");
    assert_eq!(
        read(&agent.client(), &id, "/tmp/file").await.unwrap(),
        b"of app"
    );
    let profile = rpc::ExecRequest {
        user: Some("root".into()),
        ..shell(
            &id,
            "echo x >> /etc/profile || { umount /etc/profile && cat /etc/profile; }",
        )
    };
    let said = agent.exec(profile).await.unwrap();
    assert!(said.stderr.contains("Read-only file system"), "{said:?}");
    // No change of the file changes a sandbox, and none is made of a wrong one.
    fs::write(
        images.path().join("configured.json"),
        r#"{"User": "a:b:c"}"#,
    )
    .unwrap();
    let wanted = rpc::SandboxSpec {
        template: "configured".into(),
        ..spec()
    };
    let refused = agent
        .ensure(&SandboxId::random(), wanted)
        .await
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::FailedPrecondition, "{refused}");
    let text = refused.to_string();
    assert!(
        text.contains("configured.json") && text.contains("USER:GROUP"),
        "{text}"
    );
    agent.pause(&id).await.unwrap();
    agent.stop().await;
    agent.launch().await;
    agent.resume(&id).await.unwrap();
    check_config(&agent, &id).await;
    let child = SandboxId::random();
    agent.fork(&id, std::slice::from_ref(&child)).await.unwrap();
    check_config(&agent, &child).await;
    agent.remove(&child).await;
    for (name, memory) in [("with-memory", true), ("of-disk", false)] {
        agent.snapshot(&id, name, memory).await.unwrap();
        let copy = create_from(&agent, name).await;
        check_config(&agent, &copy).await;
        agent.remove(&copy).await;
        agent.remove_snapshot(name).await.unwrap();
    }
    agent.finish().await;
}
