//! Receivers that fail, are silent or gone.

use std::time::Duration;

use api_types::{DeliveryStatus, UpdateWebhook};
use client::EventQuery;
use control::WebhookSettings;
use reqwest::Method;

use super::receiver::{Receiver, Reply, Request};
use super::{create, deliveries, make_key, newest, quick, with_webhooks};
use crate::support::{Plane, eventually, refused};

#[tokio::test]
async fn failed_attempts_repeat_same_message() {
    let (_host, _ground, plane) = with_webhooks(WebhookSettings {
        timeout: Duration::from_secs(2),
        // More than are needed: on a busy machine others than the silent one may take too long.
        delays: vec![Duration::from_millis(10); 20],
        ..quick()
    })
    .await;
    let client = plane.client();
    let replies = [Reply::Status(500), Reply::Hang, Reply::Redirect];
    let receiver = Receiver::start(&replies).await;
    let webhook = create(&client, &receiver.url, &["key.created"]).await;
    make_key(&plane).await;
    let delivered = newest(&client, &webhook.id, DeliveryStatus::Delivered).await;
    assert!(delivered.attempts >= 4 && delivered.last_error.is_none());
    let requests = receiver.requests();
    for request in &requests {
        assert_eq!(
            (request.id(), request.path.as_str()),
            (delivered.id.as_str(), "/")
        );
        assert_eq!(request.body, requests[0].body);
    }
    let well = client.webhook(&webhook.id).await.unwrap();
    assert_eq!(well.failing_since, None);
}

#[tokio::test]
async fn dead_letter_can_be_redelivered() {
    let (_host, _ground, plane) = with_webhooks(quick()).await;
    let client = plane.client();
    let receiver = Receiver::start(&[Reply::Status(503); 4]).await;
    let webhook = create(&client, &receiver.url, &["key.created"]).await;
    make_key(&plane).await;
    let dead = newest(&client, &webhook.id, DeliveryStatus::Dead).await;
    assert_eq!((dead.attempts, dead.last_status), (4, Some(503)));
    assert!(dead.last_error.unwrap().contains("503"));
    assert!(
        client
            .webhook(&webhook.id)
            .await
            .unwrap()
            .failing_since
            .is_some()
    );
    let sent = client.redeliver(&webhook.id, &dead.id).await.unwrap();
    assert_eq!(sent.id, dead.id);
    let delivered = newest(&client, &webhook.id, DeliveryStatus::Delivered).await;
    assert_eq!(delivered.attempts, 1);
    let requests = receiver.count(5).await;
    assert!(requests.iter().all(|request| request.id() == dead.id));
    let none = client.redeliver_dead_letters(&webhook.id).await.unwrap();
    assert_eq!(none.count, 0);
    // Without events, and whatever types it gets.
    let test = client.test_webhook(&webhook.id).await.unwrap();
    assert_eq!(test.kind, "webhook.test");
    let requests = receiver.count(6).await;
    assert_eq!(requests[5].id(), test.id);
    assert_eq!(requests[5].json()["type"], "webhook.test");
}

#[tokio::test]
async fn gone_receiver_disables_webhook() {
    let (_host, _ground, plane) = with_webhooks(quick()).await;
    let client = plane.client();
    let receiver = Receiver::start(&[Reply::Status(410)]).await;
    let webhook = create(&client, &receiver.url, &["key.created"]).await;
    make_key(&plane).await;
    newest(&client, &webhook.id, DeliveryStatus::Dead).await;
    let disabled = client.webhook(&webhook.id).await.unwrap();
    assert!(!disabled.enabled);
    assert!(disabled.disabled_reason.unwrap().contains("410"));
    assert_eq!(disabled.paused_until, None, "it does not go on by itself");
    let query = EventQuery {
        kinds: Some("webhook.disabled".to_owned()),
        ..EventQuery::default()
    };
    let events = client.events(&query).await.unwrap().items;
    assert_eq!((events.len(), &events[0].subject), (1, &webhook.id));
    let path = format!("/v1/webhooks/{}/test", webhook.id);
    let message = refused(plane.request(Method::POST, &path), 409, "invalid_state").await;
    assert!(message.contains("enable"), "{message}");
    let enable = UpdateWebhook {
        enabled: Some(true),
        ..UpdateWebhook::default()
    };
    let enabled = client.update_webhook(&webhook.id, &enable).await.unwrap();
    assert!(enabled.enabled && enabled.disabled_reason.is_none());
    let again = client.redeliver_dead_letters(&webhook.id).await.unwrap();
    assert_eq!(again.count, 1);
    newest(&client, &webhook.id, DeliveryStatus::Delivered).await;
}

/// Silent receivers hold all places of their lane, for ever, and as many wait as both lanes have.
#[tokio::test]
async fn silent_receivers_delay_no_other() {
    const PLACES: usize = 4;
    let (_host, _ground, plane) = with_webhooks(WebhookSettings {
        timeout: Duration::from_secs(600),
        lease: Duration::from_secs(1200),
        fast_places: PLACES,
        slow_places: PLACES,
        ..quick()
    })
    .await;
    let client = plane.client();
    let good = Receiver::start(&[]).await;
    let id = create(&client, &good.url, &["key.created"]).await.id;
    make_key(&plane).await;
    newest(&client, &id, DeliveryStatus::Delivered).await;
    let silent = Receiver::start(&[]).await;
    silent.state.lock().silent = Some("/");
    // Of one team as many as both lanes have places, which get one.
    let teams = (0..2 * PLACES).map(|_| "busy".to_owned());
    let teams = teams.chain((0..2 * PLACES).map(|number| format!("team-{number}")));
    for (number, team) in teams.enumerate() {
        let url = format!("{}/{team}/{number}", silent.url);
        insert_with_test(&plane, &team, &url).await;
    }
    client.test_webhook(&id).await.unwrap();
    let hanging = silent.count(PLACES).await;
    for count in 3..6 {
        make_key(&plane).await;
        good.count(count).await;
    }
    let of_one_team = |it: &&Request| it.path.starts_with("/busy/");
    assert!(hanging.iter().filter(of_one_team).count() <= 1);
    assert_eq!(silent.requests().len(), PLACES);
    let well = client.webhook(&id).await.unwrap();
    assert!(well.failing_since.is_none());
}

/// Inserts a webhook of a team that need not have a key, and a message for it.
async fn insert_with_test(plane: &Plane, team: &str, url: &str) {
    let new = store::NewWebhook {
        id: model::WebhookId::random(),
        team_id: team.parse().unwrap(),
        with_installation: false,
        url: url.to_owned(),
        description: String::new(),
        kinds: vec!["key.created".to_owned()],
        secret: "whsec_c2VjcmV0".to_owned(),
        now: 1,
    };
    assert!(plane.store.webhook_insert(&new, u64::MAX).await.unwrap());
    let message = store::NewDelivery {
        id: "evt-test-0".parse().unwrap(),
        kind: "webhook.test".to_owned(),
        payload: "{}".to_owned(),
        created_at: 1,
        is_installation: false,
    };
    let inserted = plane.store.delivery_insert(&new.team_id, &new.id, &message);
    assert!(inserted.await.unwrap());
}

/// A receiver that asks to be left alone gets nothing, whatever waits for it, until a user asks.
#[tokio::test]
async fn retry_after_holds_back_all_messages() {
    const EVENTS: usize = 20;
    let (_host, _ground, plane) = with_webhooks(WebhookSettings {
        delays: vec![Duration::from_secs(1); 9],
        ..quick()
    })
    .await;
    let client = plane.client();
    let busy = Receiver::start(&[Reply::RetryAfter(3600)]).await;
    let webhook = create(&client, &busy.url, &["key.created"]).await;
    make_key(&plane).await;
    busy.count(1).await;
    let paused = eventually("the attempt is noted", async || {
        let found = client.webhook(&webhook.id).await.unwrap();
        found.paused_until.is_some().then_some(found)
    })
    .await;
    assert!(paused.enabled && paused.failing_since.is_some());
    // It is served in the rounds in which the other one would be.
    let other = Receiver::start(&[]).await;
    create(&client, &other.url, &["key.created"]).await;
    for _ in 0..EVENTS {
        make_key(&plane).await;
    }
    other.count(EVENTS).await;
    assert_eq!(deliveries(&client, &webhook.id).await.len(), EVENTS + 1);
    assert_eq!(busy.requests().len(), 1);
    client.test_webhook(&webhook.id).await.unwrap();
    // The first one has a time of its own.
    busy.count(1 + EVENTS + 1).await;
    let well = client.webhook(&webhook.id).await.unwrap();
    assert_eq!((well.paused_until, well.failing_since), (None, None));
}

#[tokio::test]
async fn moved_webhook_sends_to_new_url() {
    let (_host, _ground, plane) = with_webhooks(WebhookSettings {
        timeout: Duration::from_secs(600),
        lease: Duration::from_secs(1200),
        ..quick()
    })
    .await;
    let client = plane.client();
    let silent = Receiver::start(&[Reply::Hang]).await;
    let webhook = create(&client, &silent.url, &["key.created"]).await;
    make_key(&plane).await;
    make_key(&plane).await;
    let first = silent.count(1).await.remove(0);
    let new = Receiver::start(&[]).await;
    let change = UpdateWebhook {
        url: Some(new.url.clone()),
        ..UpdateWebhook::default()
    };
    client.update_webhook(&webhook.id, &change).await.unwrap();
    let requests = new.count(2).await;
    assert_eq!((requests[0].id(), requests.len()), (first.id(), 2));
    assert_eq!(silent.requests().len(), 1);
}
