//! What one sandbox may have done for it.

use std::time::Instant;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_over_limit_are_logged() {
    let world = world(&[], &[], true).await;
    world.flood(GOOD, 2 * world::CONNECTIONS).await;
    let limit = world::CONNECTIONS;
    world
        .wait_for_log_line(&format!(
            "denied: more than {limit} connections at one time (AGENT_SANDBOX_CONNECTIONS)"
        ))
        .await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_questions_share_the_budget() {
    let world = world(&[], &[], true).await;
    let begin = Instant::now();
    let answered = world.ask_on_new_connections("good.test", 1500).await;
    let most = 500.0 + 100.0 * begin.elapsed().as_secs_f64() + 1.0;
    assert!(
        f64::from(answered) <= most && answered >= 400,
        "{answered} answers, {most} at most"
    );
    world
        .wait_for_log_line("denied: DNS questions beyond the limit")
        .await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_new_names_are_bounded() {
    let world = world(&["*.many.test"], &[], false).await;
    let names = (0..350).map(|number| format!("a{number}.many.test"));
    let answers = world.ask_for_all(names).await;
    let found = answers.iter().filter(|answer| !answer.is_empty()).count();
    assert!((300..345).contains(&found), "{found} names");
    world
        .wait_for_log_line("denied: new names beyond the limit")
        .await;
    // What was answered the kernel lets through, and it is answered again.
    assert_eq!(world.ask("a0.many.test").await, [host("45.91.0.0")]);
    assert!(
        world.is_pinned("45.91.0.0")
            && world.is_pinned("45.91.0.200")
            && !world.is_pinned("45.91.9.9")
    );
    world.finish().await;
}

/// The server answers late, and the rules change before it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_judged_by_former_rules_ends() {
    let world = world(&["good.test"], &[], false).await;
    world.ask("good.test").await;
    world.hold_back(GOOD).await;
    let mut connection = world.open(GOOD, 443).await.unwrap();
    connection.say(&client_hello("good.test")).unwrap();
    world.connecting(GOOD).await;
    world.change(&rules(&["plain.test"], &[], false)).await;
    world.let_go().await;
    assert!(
        connection.hear().is_err(),
        "it carries data under rules that deny it"
    );
    world.finish().await;
}
