//! `GET /files`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use guest_rpc::http::{ErrorBody, InitRequest};
use reqwest::{Client, Response};

use crate::support::{Agent, open_folder};

async fn get(agent: &Agent, path: &Path, more: &str, headers: &[(&str, &str)]) -> Response {
    let mut call = Client::new().get(agent.at(path, more));
    for (name, value) in headers {
        call = call.header(*name, *value);
    }
    call.send().await.expect("an answer")
}

fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer
        .headers()
        .get(name)
        .map_or("", |value| value.to_str().expect("text"))
}

#[tokio::test]
async fn download_has_content_and_headers() {
    let agent = Agent::open().await;
    let folder = open_folder();
    let path = folder.path().join("big.json");
    let content: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    fs::write(&path, &content).expect("writes");
    let answer = get(&agent, &path, "", &[("accept-encoding", "gzip, deflate")]).await;
    assert_eq!(
        (answer.status().as_u16(), header(&answer, "content-length")),
        (200, "3000000")
    );
    assert_eq!(
        header(&answer, "content-disposition"),
        "inline; filename=\"big.json\""
    );
    assert_eq!(
        (header(&answer, "vary"), header(&answer, "accept-ranges")),
        ("Accept-Encoding", "bytes")
    );
    assert_eq!(header(&answer, "content-type"), "application/json");
    let since = header(&answer, "last-modified").to_owned();
    assert!(answer.bytes().await.expect("a body") == content);
    let unchanged = get(&agent, &path, "", &[("if-modified-since", since.as_str())]).await;
    assert_eq!(unchanged.status(), 304);
    let refused = get(
        &agent,
        &path,
        "",
        &[("accept-encoding", "br, identity;q=0")],
    )
    .await;
    assert_eq!(
        (
            refused.status().as_u16(),
            refused.json::<ErrorBody>().await.expect("JSON").code
        ),
        (406, 406)
    );
}

#[tokio::test]
async fn a_range_is_a_part() {
    let agent = Agent::open().await;
    let folder = open_folder();
    let path = folder.path().join("a.bin");
    let content: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 253) as u8).collect();
    fs::write(&path, &content).expect("writes");
    for (range, start, end) in [
        ("0-0", 0, 1),
        ("10-600009", 10, 600_010),
        ("999990-", 999_990, 1_000_000),
        ("-5", 999_995, 1_000_000),
    ] {
        let answer = get(&agent, &path, "", &[("range", &format!("bytes={range}"))]).await;
        assert_eq!(answer.status(), 206, "{range}");
        assert_eq!(
            header(&answer, "content-range"),
            format!("bytes {start}-{}/1000000", end - 1)
        );
        assert_eq!(header(&answer, "content-length"), (end - start).to_string());
        assert!(
            answer.bytes().await.expect("a body") == content[start..end],
            "{range}"
        );
    }
    let outside = get(&agent, &path, "", &[("range", "bytes=1000000-")]).await;
    assert_eq!(
        (outside.status().as_u16(), header(&outside, "content-range")),
        (416, "bytes */1000000")
    );
    let changed = [
        ("range", "bytes=0-0"),
        ("if-range", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ];
    assert_eq!(get(&agent, &path, "", &changed).await.status(), 200);
}

#[tokio::test]
async fn files_without_size_arrive_complete() {
    let agent = Agent::open().await;
    let answer = get(
        &agent,
        Path::new("/proc/sys/kernel/random/boot_id"),
        "",
        &[],
    )
    .await;
    assert_eq!(header(&answer, "content-length"), "37");
    let right = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("is there");
    assert_eq!(answer.text().await.expect("a body"), right);
    let folder = open_folder();
    fs::write(folder.path().join("empty"), "").expect("writes");
    let empty = get(&agent, &folder.path().join("empty"), "", &[]).await;
    assert_eq!(
        (empty.status().as_u16(), header(&empty, "content-length")),
        (200, "0")
    );
}

#[tokio::test]
async fn odd_file_times_do_not_fail() {
    let agent = Agent::open().await;
    let disk = crate::support::Disk::of(64);
    let path = disk.path().join("a");
    for seconds in [-5, 300_000_000_000] {
        let file = fs::File::create(&path).expect("made");
        let time = nix::sys::time::TimeSpec::new(seconds, 0);
        nix::sys::stat::futimens(&file, &time, &time).expect("a time");
        let answer = get(
            &agent,
            &path,
            "",
            &[("if-modified-since", "Thu, 01 Jan 1970 00:00:00 GMT")],
        )
        .await;
        assert!(
            matches!(answer.status().as_u16(), 200 | 304)
                && !answer.headers().contains_key("last-modified")
        );
    }
}

#[tokio::test]
async fn what_cannot_be_read_says_why() {
    let agent = Agent::open().await;
    let folder = open_folder();
    let secret = folder.path().join("secret");
    fs::write(&secret, "x").expect("writes");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("chmod");
    nix::unistd::mkfifo(&folder.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU)
        .expect("a pipe");
    let cases = [
        (secret.clone(), "&username=nobody", 403),
        (secret, "&username=no-such-user", 401),
        (folder.path().to_path_buf(), "", 400),
        (folder.path().join("pipe"), "", 400),
        ("/dev/zero".into(), "", 400),
        ("a%00b".into(), "", 400),
        (folder.path().join("none"), "", 404),
        (folder.path().join("secret/below"), "", 404),
        (folder.path().join("none"), "&archive=zip", 400),
    ];
    for (path, more, status) in cases {
        let answer = get(&agent, &path, more, &[]).await;
        assert_eq!(answer.status(), status, "{} {more}", path.display());
        let body: ErrorBody = answer.json().await.expect("a JSON body");
        assert_eq!((body.code, body.message.is_empty()), (status, false));
    }
}

#[tokio::test]
async fn signed_url_opens_its_file() {
    let agent = Agent::start(&[]).await;
    let init = InitRequest {
        access_token: Some("secret".into()),
        ..Default::default()
    };
    Client::new()
        .post(format!("{}/init", agent.url))
        .json(&init)
        .send()
        .await
        .expect("an answer");
    let folder = open_folder();
    let path = folder.path().join("a");
    fs::write(&path, "x").expect("writes");
    let text = path.display().to_string();
    let sign = |operation: &str, user: &str, expiration: Option<&str>| {
        let escape = |text: String| text.replace('+', "%2B").replace('/', "%2F");
        escape(guest_rpc::http::file_signature(
            &text, operation, user, "secret", expiration,
        ))
    };
    let status = async |more: String| get(&agent, &path, &more, &[]).await.status().as_u16();
    assert_eq!(
        status(format!("&signature={}", sign("read", "", None))).await,
        200
    );
    assert_eq!(
        status(format!(
            "&username=root&signature={}",
            sign("read", "root", None)
        ))
        .await,
        200
    );
    assert_eq!(
        status(format!(
            "&username=nobody&signature={}",
            sign("read", "root", None)
        ))
        .await,
        401
    );
    assert_eq!(
        status(format!("&signature={}", sign("write", "", None))).await,
        401
    );
    assert_eq!(status(String::new()).await, 401);
    let expired = format!(
        "&signature_expiration=1&signature={}",
        sign("read", "", Some("1"))
    );
    let body: ErrorBody = get(&agent, &path, &expired, &[])
        .await
        .json()
        .await
        .expect("JSON");
    assert_eq!(
        (body.code, body.message.as_str()),
        (401, "signature is already expired")
    );
    let valid = format!(
        "&signature_expiration=99999999999&signature={}",
        sign("read", "", Some("99999999999"))
    );
    assert_eq!(status(valid).await, 200);
    // The header speaks where there is one.
    let signed = format!("&signature={}", sign("read", "", None));
    assert_eq!(
        get(&agent, &path, &signed, &[("x-access-token", "wrong")])
            .await
            .status(),
        401
    );
}
