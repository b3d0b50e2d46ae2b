//! Two sandboxes cannot see each other.

use e2e::Platform;

#[test]
fn sandboxes_share_no_files_processes_or_network() {
    let platform = Platform::start();
    let wrenn = platform.cli();
    let (a, b) = (wrenn.create(&[]), wrenn.create(&[]));

    let _ = wrenn
        .sh(
            &a,
            "echo secret > /tmp/only-in-a; setsid sleep 4242 >/dev/null 2>&1 & true",
        )
        .succeeded();
    assert_ne!(wrenn.sh(&b, "cat /tmp/only-in-a").code, 0);
    assert_eq!(
        wrenn
            .sh(&b, "pgrep -fx 'sleep 4242' | wc -l")
            .succeeded()
            .text(),
        "0"
    );
    assert_eq!(
        wrenn
            .sh(&a, "pgrep -fx 'sleep 4242' | wc -l")
            .succeeded()
            .text(),
        "1"
    );

    // A server in A that listens everywhere answers A itself, and nobody else: not by the address
    // that the host uses for A, nor through the gateway.
    let serve =
        "cd /tmp && setsid python3 -m http.server 8000 --bind 0.0.0.0 >/dev/null 2>&1 & sleep 3";
    let _ = wrenn.sh(&a, serve).succeeded();
    let ip = wrenn.info(&a).unwrap()["host_ip"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        wrenn
            .sh(&a, "curl -s http://127.0.0.1:8000/only-in-a")
            .succeeded()
            .text(),
        "secret"
    );
    for address in [
        format!("http://{ip}:8000/"),
        format!("http://{ip}:49983/health"),
    ] {
        let tried = wrenn.sh(&b, &format!("curl -s -m 4 -o /dev/null {address}"));
        assert_ne!(tried.code, 0, "B reached {address}");
    }
    // Nor do guests reach what listens on the host.
    let port = platform.url().rsplit(':').next().unwrap().to_owned();
    for gateway in ["169.254.0.22", "10.12.0.0", "10.12.0.2", "10.12.0.4"] {
        let tried = wrenn.sh(
            &b,
            &format!("curl -s -m 3 -o /dev/null http://{gateway}:{port}/health"),
        );
        assert_ne!(tried.code, 0, "B reached the control plane at {gateway}");
    }
    platform.finish();
}

#[test]
fn the_guest_agent_wants_its_token() {
    let platform = Platform::start();
    let wrenn = platform.cli();
    let id = wrenn.create(&[]);
    let status = |path: &str| {
        let curl =
            format!("curl -s -o /dev/null -w '%{{http_code}}' 'http://127.0.0.1:49983{path}'");
        wrenn.sh(&id, &curl).succeeded().text()
    };
    assert_eq!(status("/health"), "204");
    assert_eq!(status("/files?path=/etc/passwd"), "401");
    assert_eq!(status("/envs"), "401");
    let init = "curl -s -o /dev/null -w '%{http_code}' -X POST -H 'content-type: application/json' \
                -d '{\"accessToken\":\"mine\"}' http://127.0.0.1:49983/init";
    assert_eq!(wrenn.sh(&id, init).succeeded().text(), "401");
    platform.finish();
}
