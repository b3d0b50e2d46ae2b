//! Names and labels of sandboxes, by command line and over REST, through everything that a sandbox
//! goes through.

use e2e::{Platform, Wrenn};
use reqwest::blocking::{Client, Response};
use serde_json::{Value, json};

/// The API, as a program without an SDK asks it.
struct Rest {
    client: Client,
    url: String,
    key: String,
}

impl Rest {
    fn new(platform: &Platform) -> Self {
        Self {
            client: Client::new(),
            url: format!("{}/v1/sandboxes", platform.url()),
            key: platform.key(),
        }
    }

    fn get(&self, query: &str) -> Response {
        let request = self.client.get(format!("{}{query}", self.url));
        request
            .header("X-API-Key", &self.key)
            .send()
            .expect("it answers")
    }

    /// Status and body of a create.
    fn create(&self, body: &Value) -> (u16, Value) {
        let request = self.client.post(&self.url).header("X-API-Key", &self.key);
        let answer = request.json(body).send().expect("it answers");
        (answer.status().as_u16(), answer.json().expect("JSON"))
    }
}

fn ids(wrenn: &Wrenn, filters: &[&str]) -> Vec<String> {
    let listed = wrenn.run([&["ls", "-q"], filters].concat()).succeeded();
    let mut ids: Vec<String> = listed.text().lines().map(str::to_owned).collect();
    ids.sort();
    ids
}

fn sorted<const N: usize>(mut ids: [&String; N]) -> Vec<String> {
    ids.sort();
    ids.map(Clone::clone).to_vec()
}

/// A name that is taken is refused with what has it, and given back to who asks for it.
fn check_name(wrenn: &Wrenn, rest: &Rest, id: &str) {
    let taken = wrenn.run(["create", "--name", "web"]);
    assert_ne!(taken.code, 0, "{}", taken.text());
    for part in [id, "has this name", "is running"] {
        assert!(taken.stderr.contains(part), "{part:?}: {}", taken.stderr);
    }
    assert_eq!(wrenn.create(&["--name", "web", "--or-existing"]), id);
    let other = [
        "create",
        "--name",
        "web",
        "--or-existing",
        "--memory",
        "1024",
    ];
    let other = wrenn.run(other);
    assert_ne!(other.code, 0, "{}", other.text());
    assert!(other.stderr.contains("memory_mb"), "{}", other.stderr);
    let (status, error) = rest.create(&json!({ "name": "web" }));
    assert_eq!(
        (status, &error["error"]["code"]),
        (409, &json!("conflict")),
        "{error}"
    );
    let (status, met) = rest.create(&json!({ "name": "web", "if_exists": "return" }));
    assert_eq!((status, &met["id"]), (200, &json!(id)), "{met}");
}

/// Pages over all sandboxes with a label, one at a time.
fn pages(rest: &Rest, label: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = rest.get(&format!("?label={label}&limit=1{cursor}"));
        let next = page.headers().get("x-next-cursor").cloned();
        let page: Vec<Value> = page.json().expect("a list");
        found.extend(
            page.iter()
                .map(|it| it["id"].as_str().expect("an id").to_owned()),
        );
        let Some(next) = next else { break };
        cursor = format!("&cursor={}", next.to_str().expect("text"));
    }
    found.sort();
    found
}

#[test]
fn names_and_labels_survive_everything() {
    let mut platform = Platform::start();
    let (wrenn, rest) = (platform.cli(), Rest::new(&platform));
    let web = wrenn.create(&["--name", "web", "-l", "team=search", "-l", "env=test"]);
    check_name(&wrenn, &rest, &web);
    // A fork has the labels, and no name.
    let forked = wrenn.run(["fork", "--json", "web"]).succeeded().json();
    let child = forked[0]["id"].as_str().expect("a child").to_owned();
    let about = wrenn.info(&child).expect("it is there");
    assert_eq!(about["name"], Value::Null, "{about}");
    assert_eq!(about["labels"], json!({ "team": "search", "env": "test" }));
    let change = ["update", &child, "-l", "env=prod", "-l", "owner=me"];
    let _ = wrenn.run(change).succeeded();
    // Filters by value and by presence, all of which hold.
    assert_eq!(ids(&wrenn, &["-l", "env=prod"]), [child.as_str()]);
    assert_eq!(ids(&wrenn, &["-l", "env"]), sorted([&web, &child]));
    assert_eq!(
        ids(&wrenn, &["-l", "env=test", "-l", "team=search"]),
        [web.as_str()]
    );
    assert_eq!(ids(&wrenn, &["-l", "env=test", "-l", "owner"]), [""; 0]);
    assert_eq!(ids(&wrenn, &["-f", "name=we"]), [web.as_str()]);
    assert_eq!(pages(&rest, "team"), sorted([&web, &child]));
    let count = |query: &str| -> Value { rest.get(query).json().expect("JSON") };
    assert_eq!(count("/count?label=team=search")["count"], 2);
    assert_eq!(count("/count?label=owner")["count"], 1);
    let counted = wrenn.run(["ls", "--count", "-l", "env"]).succeeded();
    assert_eq!(counted.text(), "2");
    // A snapshot of it and a pause change nothing, and neither does the death of the server.
    let _ = wrenn.run(["snapshot", "web", "saved"]).succeeded();
    let _ = wrenn.run(["pause", "web"]).succeeded();
    platform.kill_nine();
    platform.launch();
    let about = wrenn.info("web").expect("it is found by its name");
    assert_eq!(
        (&about["id"], &about["status"]),
        (&json!(web), &json!("paused"))
    );
    assert_eq!(about["labels"], json!({ "team": "search", "env": "test" }));
    assert_eq!(ids(&wrenn, &["-l", "owner=me"]), [child]);
    let _ = wrenn.run(["resume", "web"]).succeeded();
    let _ = wrenn
        .run(["wait", "web", "--for", "running", "--timeout", "2m"])
        .succeeded();
    assert_eq!(wrenn.sh("web", "echo here").succeeded().text(), "here");
    // A name that was given up is free.
    let _ = wrenn.run(["rename", "web", "old"]).succeeded();
    let again = wrenn.create(&["--template", "saved", "--name", "web"]);
    let about = wrenn.info("web").expect("it is there");
    assert_eq!(
        (&about["id"], &about["labels"]),
        (&json!(again), &json!({}))
    );
    assert_eq!(wrenn.info("old").expect("it is there")["id"], json!(web));
    for sandbox in ["web", "old"] {
        wrenn.rm(sandbox);
    }
    let _ = wrenn.run(["snapshots", "rm", "saved"]).succeeded();
    platform.finish();
}
