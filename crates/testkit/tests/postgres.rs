//! A server for tests ends with its test, however that ends, and leaves nothing.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use sqlx::{ConnectOptions as _, Connection as _, Executor as _, Row as _};
use testkit::eventually;
use testkit::postgres::Database;

/// In the process that is to end: how.
const VICTIM: &str = "TESTKIT_TEST_VICTIM";

/// The server's directory, as the server knows it.
async fn directory(database: &Database) -> PathBuf {
    let mut connection = database.options().connect().await.unwrap();
    let row = connection
        .fetch_one("SELECT current_setting('data_directory')")
        .await
        .unwrap();
    connection.close().await.unwrap();
    PathBuf::from(row.get::<String, _>(0))
}

#[tokio::test]
async fn databases_of_one_process_are_apart_on_one_server() {
    let one = Database::create().await.unwrap();
    let other = Database::create().await.unwrap();
    assert_ne!(one.url(), other.url());
    assert_eq!(directory(&one).await, directory(&other).await);
    for database in [one, other] {
        let mut connection = database.options().connect().await.unwrap();
        connection
            .execute("CREATE TABLE t (x INTEGER)")
            .await
            .unwrap();
    }
}

/// This test starts itself as a second process, which asks for a database and then ends badly.
#[tokio::test]
async fn nothing_is_left_of_a_test_that_ends_badly() {
    if let Ok(how) = std::env::var(VICTIM) {
        let database = Database::create().await.unwrap();
        println!("\ndirectory {}", directory(&database).await.display());
        assert_eq!(how, "by a signal", "as it was told");
        return std::future::pending().await;
    }
    for how in ["by a panic", "by a signal"] {
        let data = end(how);
        let base = data.parent().unwrap();
        assert_ne!(base, data);
        eventually(
            "the server and its directory to be gone",
            Duration::from_secs(30),
            async || (!base.exists() && !is_running(&data)).then_some(()),
        )
        .await;
    }
}

/// Where the data was of a process that ended so.
fn end(how: &str) -> PathBuf {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "nothing_is_left_of_a_test_that_ends_badly",
            "--nocapture",
        ])
        .env(VICTIM, how)
        .env_remove(testkit::postgres::SERVER_VARIABLE)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let data = lines.find_map(|line| Some(PathBuf::from(line.ok()?.strip_prefix("directory ")?)));
    if how == "by a signal" {
        victim.kill().unwrap();
    }
    assert!(!victim.wait().unwrap().success());
    data.expect("the process says where its server is")
}

/// Whether some process has the directory on its command line.
fn is_running(data: &std::path::Path) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    processes
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .any(|line| String::from_utf8_lossy(&line).contains(&*data.to_string_lossy()))
}
