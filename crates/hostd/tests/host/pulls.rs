//! Images that are pulled from Debian's registry: from a reference to a command with the image's
//! configuration, and what is left when agent or caller go in between.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use connectrpc::{ConnectError, ErrorCode};
use host_rpc as rpc;
use host_rpc::__buffa::oneof::pull_image_response::Event;
use testkit::eventually;
use testkit::registry::{PASSWORD, TestLayout, TestRegistry, USER};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::agent::{Agent, PATIENCE, shell};
use crate::images::create;

/// Bytes that a stalled connection passes on: more than the documents of an image, less than its
/// layers.
const PASSED: usize = 100_000;

async fn pull(agent: &Agent, request: rpc::PullImageRequest) -> Result<rpc::Image, ConnectError> {
    let client = agent.client();
    let mut messages = client.images().pull_image(request).await?;
    while let Some(message) = messages.message::<rpc::PullImageResponse>().await? {
        if let Some(Event::Image(image)) = message.to_owned_message().event {
            return Ok(*image);
        }
    }
    panic!("the stream ended without an image")
}

fn request(name: &str, reference: String) -> rpc::PullImageRequest {
    rpc::PullImageRequest {
        name: name.to_owned(),
        reference,
        ..Default::default()
    }
}

/// Returns the names below the directory of imports.
fn names(images: &Path) -> Vec<String> {
    let entries = fs::read_dir(images.join("imported")).into_iter().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn random_content() -> Vec<u8> {
    let mut state = 1_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..2_000_000).map(next).collect()
}

/// Passes connections on to a registry, each until so many bytes have come back. Returns its name
/// and the limit.
async fn start_relay(registry: &TestRegistry, passed: usize) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let name = listener.local_addr().unwrap().to_string();
    let limit = Arc::new(AtomicUsize::new(passed));
    let target = registry.name();
    let shared = Arc::clone(&limit);
    tokio::spawn(async move {
        while let Ok((caller, _)) = listener.accept().await {
            let limit = Arc::clone(&shared);
            let server = TcpStream::connect(&target).await.unwrap();
            tokio::spawn(relay(caller, server, limit));
        }
    });
    (name, limit)
}

async fn relay(caller: TcpStream, server: TcpStream, limit: Arc<AtomicUsize>) {
    let (mut from_caller, mut to_caller) = caller.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_caller, &mut to_server).await });
    let mut buffer = vec![0; 16 << 10];
    let mut passed = 0;
    while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
        passed += count;
        if passed > limit.load(Ordering::SeqCst) {
            // It stalls, and does not break.
            std::future::pending::<()>().await;
        }
        if to_caller.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

fn settings(images: &Path) -> [(&'static str, &str); 2] {
    [
        ("AGENT_IMAGES_PATH", images.to_str().unwrap()),
        ("AGENT_REGISTRY_NETWORKS", "127.0.0.0/8"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn pulled_image_runs_with_its_configuration() {
    let images = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start_plain();
    let layout = TestLayout::with_content(b"first");
    registry.push_image(&layout, "team/app:1");
    let agent = Agent::start(&settings(images.path())).await;
    let reference = format!("{}/team/app:1", registry.name());
    let image = pull(&agent, request("app", reference.clone()))
        .await
        .unwrap();
    let template = image.template.into_option().unwrap();
    assert_eq!(
        (template.digest, &*template.format),
        (layout.digest(), "oci")
    );
    let id = create(&agent, "app").await;
    let script = "echo $GREETING $(/bin/id -u) $(pwd) $(/bin/cat /etc/content)";
    let done = agent.exec(shell(&id, script)).await.unwrap();
    assert_eq!(done.stdout, "hello 1234 /work first\n", "{done:?}");
    // The same again is the answer as it is; another one replaces it only when it is told to.
    let before = template.created_at_ms;
    let again = pull(&agent, request("app", reference.clone()))
        .await
        .unwrap();
    assert_eq!(again.template.into_option().unwrap().created_at_ms, before);
    let second = TestLayout::with_content(b"second");
    registry.push_image(&second, "team/app:1");
    let taken = pull(&agent, request("app", reference.clone()))
        .await
        .unwrap_err();
    assert_eq!(taken.code, ErrorCode::AlreadyExists);
    assert!(taken.to_string().contains("--replace"), "{taken}");
    let replace = rpc::PullImageRequest {
        replace: true,
        ..request("app", reference)
    };
    let image = pull(&agent, replace).await.unwrap();
    assert_eq!(
        image.template.into_option().unwrap().digest,
        second.digest()
    );
    let done = agent
        .exec(shell(&id, "/bin/cat /etc/content"))
        .await
        .unwrap();
    assert_eq!(done.stdout, "first");
    let newer = create(&agent, "app").await;
    let done = agent
        .exec(shell(&newer, "/bin/cat /etc/content"))
        .await
        .unwrap();
    assert_eq!(done.stdout, "second");
    let quiet = async || (names(images.path()) == ["app"]).then_some(());
    eventually("the replaced image is removed", PATIENCE, quiet).await;
    agent.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_pull_leaves_nothing() {
    let images = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start_plain();
    registry.push_image(&TestLayout::with_content(&random_content()), "app:1");
    let (name, limit) = start_relay(&registry, PASSED).await;
    let mut agent = Agent::start(&settings(images.path())).await;
    let reference = format!("{name}/app:1");
    let begun = async || (names(images.path()).len() == 1).then_some(());
    let gone = async || names(images.path()).is_empty().then_some(());
    // The caller hangs up.
    let client = agent.client();
    let wanted = request("app", reference.clone());
    let mut messages = client.images().pull_image(wanted.clone()).await.unwrap();
    let mut bytes = 0;
    while bytes == 0 {
        let message = messages.message::<rpc::PullImageResponse>().await.unwrap();
        if let Some(Event::Progress(progress)) = message.unwrap().to_owned_message().event {
            bytes = progress.total_bytes;
        }
    }
    eventually("the download", PATIENCE, begun).await;
    drop(messages);
    eventually("a pull whose caller has gone is removed", PATIENCE, gone).await;
    // The agent dies.
    let pulling = tokio::spawn(async move {
        let mut messages = client.images().pull_image(wanted).await?;
        while messages
            .message::<rpc::PullImageResponse>()
            .await?
            .is_some()
        {}
        Ok::<_, ConnectError>(())
    });
    eventually("the download", PATIENCE, begun).await;
    agent.kill_nine().await;
    pulling.await.unwrap().unwrap_err();
    assert_eq!(names(images.path()).len(), 1);
    agent.launch().await;
    eventually("the next start removes it", PATIENCE, gone).await;
    limit.store(usize::MAX, Ordering::SeqCst);
    pull(&agent, request("app", reference)).await.unwrap();
    assert_eq!(names(images.path()), ["app"]);
    agent.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_decides_where_images_come_from() {
    let images = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start_secure();
    registry.push_image(&TestLayout::with_content(b"secure"), "app:1");
    let file = images.path().join("registries.json");
    let config = serde_json::json!({ registry.name(): { "ca": registry.ca_file() } });
    fs::write(&file, config.to_string()).unwrap();
    let reference = format!("{}/app:1", registry.name());
    let path = images.path().to_str().unwrap().to_owned();
    let settings = [
        ("AGENT_IMAGES_PATH", &*path),
        ("AGENT_REGISTRIES", file.to_str().unwrap()),
    ];
    let mut agent = Agent::start(&settings).await;
    let refused = pull(&agent, request("app", reference.clone()))
        .await
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::PermissionDenied, "{refused}");
    agent.stop().await;
    agent.set("AGENT_REGISTRY_NETWORKS", "127.0.0.0/8");
    agent.launch().await;
    let denied = pull(&agent, request("app", reference.clone()))
        .await
        .unwrap_err();
    assert_eq!(denied.code, ErrorCode::InvalidArgument, "{denied}");
    assert!(
        denied.to_string().contains("without credentials"),
        "{denied}"
    );
    let credentials = rpc::RegistryCredentials {
        username: USER.to_owned(),
        password: PASSWORD.to_owned(),
        ..Default::default()
    };
    let with_user = rpc::PullImageRequest {
        credentials: credentials.into(),
        ..request("app", reference)
    };
    pull(&agent, with_user).await.unwrap();
    let wrong = pull(&agent, request("b", "UPPER".to_owned()))
        .await
        .unwrap_err();
    assert_eq!(wrong.code, ErrorCode::InvalidArgument);
    agent.finish().await;
}
