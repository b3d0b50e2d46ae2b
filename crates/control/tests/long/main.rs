//! Tests that take minutes, or need programs that `make test` does without: `make test-long`
//! (`scripts/test-long.sh`) runs it.

#[expect(
    dead_code,
    reason = "shared with the other suite, which uses all of it"
)]
#[path = "../suite/support.rs"]
mod support;

mod autobahn;

use std::collections::BTreeSet;
use std::process::Command;

use api_types::CreateSandbox;
use axum::Router;
use tokio::net::TcpListener;

use support::one;

const PORT: u16 = 3000;

/// Names of the cases of h2spec that a server fails, and how many there are in all.
async fn failed_cases(port: u16, path: &str) -> (BTreeSet<String>, usize) {
    let program =
        std::env::var("H2SPEC").expect("H2SPEC: the path of h2spec; scripts/test-long.sh sets it");
    let report = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new(program);
    command
        .args([
            "-S",
            "-h",
            "127.0.0.1",
            "-p",
            &port.to_string(),
            "-P",
            path,
            "-j",
        ])
        .arg(report.path());
    // Its exit code says only whether all cases passed.
    tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    let text = std::fs::read_to_string(report.path()).unwrap();
    let cases: Vec<&str> = text.split("<testcase ").skip(1).collect();
    let is_failed = |case: &&&str| case.contains("<failure") || case.contains("<error");
    let name = |case: &&str| {
        case.split('>')
            .next()
            .unwrap_or_default()
            .split(" time=")
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    (
        cases.iter().filter(is_failed).map(name).collect(),
        cases.len(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_conforms_as_asked_directly() {
    let (host, _ground, plane) = one().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let direct = listener.local_addr().unwrap();
    let router = Router::new()
        .fallback(|body: axum::body::Bytes| async move { format!("{} bytes", body.len()) });
    tokio::spawn(async move { axum::serve(listener, router).await });
    host.world().ports.insert(PORT, direct);
    let open = CreateSandbox {
        public_ports: Some(true),
        ..Default::default()
    };
    let id = plane.client().create(&open).await.unwrap().id;
    let ours = plane.url.rsplit(':').next().unwrap().parse().unwrap();
    let (there, all) = failed_cases(direct.port(), "/").await;
    let (here, same) = failed_cases(ours, &format!("/v1/sandboxes/{id}/ports/{PORT}/")).await;
    println!(
        "h2spec: {all} cases; directly {} fail, through the proxy {}",
        there.len(),
        here.len()
    );
    assert!(all > 100 && all == same, "{all} and {same} cases");
    let only_here: Vec<_> = here.difference(&there).collect();
    assert!(
        only_here.is_empty(),
        "through the proxy alone: {only_here:#?}"
    );
}
