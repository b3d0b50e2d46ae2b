//! Root file systems of all kinds as guests: each boots, runs a command, takes a file, pauses and
//! resumes, and has all modules of its kernel. The images are made here, of one static program and
//! a few files.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use connectrpc::ErrorCode;
use host_rpc as rpc;
use model::SandboxId;
use tempfile::TempDir;

use crate::agent::{Agent, shell, spec};
use crate::image_files::{busybox, fill_with_shell, make_image, run};
use crate::programs::{read, write};

/// An agent with one image, `NAME.ext4`, of what `fill` puts into a folder.
async fn agent_with(name: &str, megabytes: u64, fill: impl FnOnce(&Path)) -> (Agent, TempDir) {
    let images = tempfile::tempdir().unwrap();
    let path = images.path().join(format!("{name}.ext4"));
    make_image(&path, megabytes, &[], fill);
    let agent = Agent::start(&[("AGENT_IMAGES_PATH", images.path().to_str().unwrap())]).await;
    (agent, images)
}

pub async fn create(agent: &Agent, template: &str) -> SandboxId {
    let id = SandboxId::random();
    agent
        .ensure(
            &id,
            rpc::SandboxSpec {
                template: template.into(),
                ..spec()
            },
        )
        .await
        .unwrap();
    id
}

/// What a script says that is run as root, by a shell that is no `/bin/sh`.
async fn out(agent: &Agent, id: &SandboxId, user: &str, busybox: &str, script: &str) -> String {
    let args = ["sh".to_owned(), "-c".to_owned(), script.to_owned()];
    let request = rpc::ExecRequest {
        cmd: busybox.into(),
        args: args.into(),
        user: Some(user.into()),
        ..shell(id, "")
    };
    let done = agent.exec(request).await.unwrap();
    assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{script}");
    done.stdout.trim().to_owned()
}

async fn pause_and_resume(agent: &Agent, id: &SandboxId) {
    agent.pause(id).await.unwrap();
    agent.resume(id).await.unwrap();
}

/// One file in the root: no `/etc`, no user, no shell, no `/tmp`, no mount points, no kmod.
#[tokio::test(flavor = "multi_thread")]
async fn image_of_one_program_is_whole_linux() {
    let fill = |root: &Path| {
        fs::copy(busybox(), root.join("busybox")).unwrap();
    };
    let (agent, _images) = agent_with("scratch", 32, fill).await;
    let id = create(&agent, "scratch").await;
    let sh = async |user, script| out(&agent, &id, user, "/busybox", script).await;
    assert_eq!(
        sh("root", "/busybox id -u; echo $HOME $USER; pwd").await,
        "0\n/ root\n/"
    );
    assert_eq!(
        sh("70000:678", "/busybox id -u; /busybox id -g; echo $HOME").await,
        "70000\n678\n/"
    );
    assert!(
        sh("root", "/busybox cat /etc/resolv.conf")
            .await
            .contains("nameserver ")
    );
    assert_eq!(
        sh("70000", "echo x > /tmp/x; /busybox stat -c '%u %g' /tmp/x").await,
        "70000 0"
    );
    write(&agent.client(), &id, "/data/file", b"content", true)
        .await
        .unwrap();
    assert_eq!(
        read(&agent.client(), &id, "/data/file").await.unwrap(),
        b"content"
    );
    // Each of them is a module that nothing has loaded yet.
    let modules = "set -e; b=/busybox; ! $b grep -qE '^(overlay|fuse|tun|loop|wireguard) ' /proc/modules; \
        $b mkdir -p /tmp/o/lower /tmp/o/upper /tmp/o/work /tmp/o/both; echo below > /tmp/o/lower/file; \
        $b mount -t overlay overlay -o lowerdir=/tmp/o/lower,upperdir=/tmp/o/upper,workdir=/tmp/o/work /tmp/o/both; \
        $b cat /tmp/o/both/file; echo above > /tmp/o/both/file; $b cat /tmp/o/lower/file /tmp/o/upper/file; \
        : 3<> /dev/fuse; : 3<> /dev/net/tun; $b losetup -f; $b ip link add wg0 type wireguard; \
        $b grep -oE '^(overlay|fuse|tun|loop|wireguard) ' /proc/modules | $b sort";
    let loaded = "below\nbelow\nabove\n/dev/loop0\nfuse \nloop \noverlay \ntun \nwireguard";
    assert_eq!(sh("root", modules).await, loaded);
    pause_and_resume(&agent, &id).await;
    assert_eq!(
        sh("root", "/busybox cat /data/file /tmp/o/both/file").await,
        "contentabove"
    );
    let more = "/busybox ip link add br0 type bridge; /busybox grep -o '^bridge ' /proc/modules; \
        echo x > /lib/modules/x; /busybox ls -d /lib/modules/*/kernel | /busybox grep -c kernel";
    assert_eq!(
        sh("root", more).await,
        "bridge \n1",
        "the disk of modules is there after a restore"
    );
    agent.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn image_keeps_its_run_locale_and_settings() {
    let files = [
        (
            "etc/passwd",
            "root:x:0:0::/root:/bin/sh\npostgres:x:105:109::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n",
        ),
        ("etc/group", "root:x:0:\npostgres:x:109:\n"),
        ("etc/sysctl.d/50-own.conf", "vm.swappiness = 11\n"),
        (
            "etc/environment",
            "OWN=\"of the image\"\nPATH=/opt/own/bin:/bin\n",
        ),
        ("usr/lib/locale/C.utf8/LC_CTYPE", ""),
        (
            "usr/lib/tmpfiles.d/sshd.conf",
            "d /run/sshd 0755\nd /run/own 2775 postgres postgres\n",
        ),
        ("run/postgresql/kept", "of the image\n"),
    ];
    let fill = |root: &Path| {
        fill_with_shell(root, &files);
        symlink(
            "../run/systemd/resolve/stub-resolv.conf",
            root.join("etc/resolv.conf"),
        )
        .unwrap();
        chown(root.join("run/postgresql"), Some(105), Some(109)).unwrap();
        fs::set_permissions(root.join("run/postgresql"), Permissions::from_mode(0o2775)).unwrap();
    };
    let (agent, _images) = agent_with("debian-like", 32, fill).await;
    let id = create(&agent, "debian-like").await;
    let facts =
        agent.out(&id, "stat -c '%a %u %g %n' /run/postgresql /run/own /run/sshd /run/lock; cat /run/postgresql/kept");
    let right = "2775 105 109 /run/postgresql\n2775 105 109 /run/own\n755 0 0 /run/sshd\n1777 0 0 /run/lock\nof the image";
    assert_eq!(facts.await, right);
    let resolver = agent
        .out(
            &id,
            "cat /etc/resolv.conf; busybox readlink /etc/resolv.conf",
        )
        .await;
    assert!(
        resolver.starts_with("nameserver ") && resolver.ends_with("stub-resolv.conf"),
        "{resolver}"
    );
    let settings = "id -un; echo $LANG; echo $OWN; echo $PATH; cat /proc/sys/vm/swappiness /proc/sys/vm/max_map_count";
    let path = "/opt/own/bin:/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin";
    assert_eq!(
        agent.out(&id, settings).await,
        format!("user\nC.UTF-8\nof the image\n{path}\n11\n1048576")
    );
    let root = out(
        &agent,
        &id,
        "root",
        "/bin/busybox",
        "grep -c ' / / .* shared:' /proc/self/mountinfo",
    )
    .await;
    assert_eq!(
        root, "1",
        "as with systemd, mounts are seen in namespaces of containers"
    );
    agent.finish().await;
}

/// What the agent has noted when it read the image last is written here by hand.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_made_of_damaged_image() {
    let (mut agent, images) = agent_with("damaged", 32, |root| fill_with_shell(root, &[])).await;
    let image = images.path().join("damaged.ext4");
    let noted = |is_damaged: bool| {
        let meta = fs::metadata(&image).unwrap();
        let entry = serde_json::json!({
            "bytes": meta.len(), "modified": [meta.mtime(), meta.mtime_nsec()], "inode": meta.ino(),
            "sha256": "", "read_at": 0, "is_damaged": is_damaged,
        });
        serde_json::json!({ image.to_str().unwrap(): entry }).to_string()
    };
    let record = agent.dir.path().join("checksums.json");
    agent.stop().await;
    fs::write(&record, noted(true)).unwrap();
    agent.launch().await;
    let id = SandboxId::random();
    let wanted = || rpc::SandboxSpec {
        template: "damaged".into(),
        ..spec()
    };
    let refused = agent.ensure(&id, wanted()).await.unwrap_err();
    assert!(
        refused.to_string().contains("damaged.ext4 is damaged"),
        "{refused}"
    );
    agent.stop().await;
    fs::write(&record, noted(false)).unwrap();
    agent.launch().await;
    agent.ensure(&id, wanted()).await.unwrap();
    agent.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn image_that_cannot_be_written_is_a_guest() {
    let files = [
        ("etc/resolv.conf", "nameserver 127.0.0.53\noptions edns0\n"),
        ("etc/hosts", "127.0.0.1 localhost\n"),
    ];
    let (agent, images) = agent_with("immutable", 32, |root| fill_with_shell(root, &files)).await;
    let image = images.path().join("immutable.ext4");
    let read_only = images.path().join("read-only.ext4");
    fs::copy(&image, &read_only).unwrap();
    for path in ["/etc", "/etc/resolv.conf", "/etc/hosts"] {
        // Immutable (0x10), and with extents, as it was.
        run(
            "debugfs",
            &[
                "-w",
                "-R",
                &format!("set_inode_field {path} flags 0x80010"),
                image.to_str().unwrap(),
            ],
        );
    }
    run("tune2fs", &["-O", "read-only", read_only.to_str().unwrap()]);
    for template in ["immutable", "read-only"] {
        let id = create(&agent, template).await;
        let text = agent.out(&id, "cat /etc/resolv.conf").await;
        assert!(
            text.starts_with("options edns0\nnameserver ") && !text.contains("127.0.0.53"),
            "{template}: {text}"
        );
        let refused = write(&agent.client(), &id, "/etc/new", b"x", true)
            .await
            .unwrap_err();
        assert_eq!(
            refused.code,
            ErrorCode::PermissionDenied,
            "{template}: {refused}"
        );
        write(&agent.client(), &id, "/tmp/file", b"content", true)
            .await
            .unwrap();
        pause_and_resume(&agent, &id).await;
        assert_eq!(
            agent.out(&id, "cat /tmp/file; id -u").await,
            "content0",
            "{template}"
        );
        agent.remove(&id).await;
    }
    agent.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn image_without_room_boots_and_keeps_its_files() {
    let fill = |root: &Path| {
        fill_with_shell(
            root,
            &[
                ("etc/resolv.conf", "nameserver 10.0.2.3\n"),
                ("data/old", "kept"),
            ],
        );
    };
    let (agent, _images) = agent_with("full", 16, fill).await;
    let first = create(&agent, "full").await;
    let until_full = "dd if=/dev/zero of=/fill bs=64k 2> /dev/null; dd if=/dev/zero of=/more bs=1k 2> /dev/null; sync; \
        echo x > /none 2> /dev/null && cat /none; true";
    agent.out(&first, until_full).await;
    agent.snapshot(&first, "fuller", false).await.unwrap();
    agent.remove(&first).await;
    let id = create(&agent, "fuller").await;
    assert!(
        agent
            .out(&id, "cat /etc/resolv.conf")
            .await
            .contains("nameserver ")
    );
    let refused = write(&agent.client(), &id, "/data/old", &[1; 300_000], true)
        .await
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::ResourceExhausted, "{refused}");
    pause_and_resume(&agent, &id).await;
    assert_eq!(
        agent.out(&id, "cat /data/old; ls -A /data").await,
        "keptold"
    );
    agent.out(&id, "rm /fill /more").await;
    write(&agent.client(), &id, "/data/old", b"new", true)
        .await
        .unwrap();
    assert_eq!(agent.out(&id, "cat /data/old").await, "new");
    agent.remove(&id).await;
    agent.remove_snapshot("fuller").await.unwrap();
    agent.finish().await;
}
