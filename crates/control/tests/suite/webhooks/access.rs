//! Access of keys to deliveries.

use api_types::{DeliveryStatus, UpdateWebhook};
use client::Client;
use control::auth;
use model::{Scopes, TeamId};

use super::receiver::Receiver;
use super::{create, deliveries, make_key, newest, quick, with_webhooks};
use crate::support::{Plane, eventually};

async fn client_with(plane: &Plane, scopes: &str) -> Client {
    let scopes: Scopes = scopes.parse().unwrap();
    let created = auth::create_team_key(&plane.store, TeamId::default(), scopes, "limited").await;
    Client::new(&plane.url, &created.unwrap().1.expose()).unwrap()
}

/// Events of hosts, which a webhook of the operator gets, are for operators alone.
#[tokio::test]
async fn installation_events_leak_to_no_key() {
    let (host, _ground, plane) = with_webhooks(quick()).await;
    let operator = plane.client();
    let receiver = Receiver::start(&[]).await;
    let webhook = create(&operator, &receiver.url, &["host.*", "key.created"]).await;
    let user = client_with(&plane, "webhooks:write events:read").await;
    host.stop();
    let of_host = eventually("the host is lost", async || {
        let all = deliveries(&operator, &webhook.id).await;
        all.into_iter()
            .find(|delivery| delivery.kind == "host.lost")
    })
    .await;
    make_key(&plane).await;
    newest(&operator, &webhook.id, DeliveryStatus::Delivered).await;
    let seen = operator.webhook_delivery(&webhook.id, &of_host.id).await;
    assert!(seen.unwrap().payload.is_some());
    let listed = deliveries(&user, &webhook.id).await;
    assert!(!listed.is_empty() && listed.iter().all(|it| it.kind == "key.created"));
    let hidden = [
        user.webhook_delivery(&webhook.id, &of_host.id).await,
        user.redeliver(&webhook.id, &of_host.id).await,
    ];
    for refused in hidden {
        let refused = refused.unwrap_err();
        assert!(refused.is_not_found(), "{refused}");
    }
    // Where the user's key leads it to, none of them is sent, nor is left to be.
    let elsewhere = Receiver::start(&[]).await;
    let change = UpdateWebhook {
        url: Some(elsewhere.url.clone()),
        ..UpdateWebhook::default()
    };
    user.update_webhook(&webhook.id, &change).await.unwrap();
    user.redeliver_dead_letters(&webhook.id).await.unwrap();
    host.restart();
    make_key(&plane).await;
    let left = deliveries(&operator, &webhook.id).await;
    assert!(left.iter().all(|it| it.kind == "key.created"), "{left:?}");
    // The last event is sent after all before it.
    elsewhere.count(1).await;
    let last = newest(&operator, &webhook.id, DeliveryStatus::Delivered).await;
    let requests = elsewhere.requests();
    assert!(requests.iter().any(|it| it.id() == last.id), "{requests:?}");
    for request in requests {
        assert_eq!(request.json()["type"], "key.created", "{request:?}");
    }
}
