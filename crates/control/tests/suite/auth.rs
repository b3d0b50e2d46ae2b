//! Who may ask.

use control::auth;
use reqwest::Method;

use crate::support::{one, refused};

#[tokio::test]
async fn every_documented_operation_but_the_public_ones_wants_a_key() {
    let (_host, _ground, plane) = one().await;
    let document: serde_json::Value = plane
        .bare(Method::GET, "/openapi.json")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let mut public = Vec::new();
    let mut guarded = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let place = path.replace("{id}", "sb-00000000000000000000");
            if operation["security"] == serde_json::json!([]) {
                let answer = plane.bare(method, &place).send().await.unwrap();
                assert!(answer.status().is_success(), "{path}: {}", answer.status());
                public.push(path.as_str());
                continue;
            }
            guarded += 1;
            for place in [place.clone(), place.replace("/sandboxes", "/capsules")] {
                if method == Method::HEAD {
                    // Has no body.
                    let answer = plane.bare(method.clone(), &place).send().await.unwrap();
                    assert_eq!(answer.status(), 401, "{path}");
                    continue;
                }
                let message =
                    refused(plane.bare(method.clone(), &place), 401, "unauthorized").await;
                assert!(message.contains("X-API-Key"), "{message}");
                let wrong = plane
                    .bare(method.clone(), &place)
                    .header("x-api-key", format!("wrn_{}", "0".repeat(40)));
                refused(wrong, 401, "unauthorized").await;
            }
        }
    }
    assert_eq!(
        public,
        ["/health", "/openapi.json", "/openapi.yaml", "/ready"]
    );
    assert!(guarded >= 17, "{guarded}");
    refused(plane.bare(Method::GET, "/v1/nothing"), 401, "unauthorized").await;
}

#[tokio::test]
async fn a_key_has_two_spellings_and_two_headers() {
    let (_host, _ground, plane) = one().await;
    let e2b = plane.key.replace("wrn_", "e2b_");
    let list = || plane.bare(Method::GET, "/v1/sandboxes");
    for request in [
        list().header("x-api-key", &plane.key),
        list().header("x-api-key", &e2b),
        list().header("authorization", format!("Bearer {}", plane.key)),
        list().header("authorization", format!("bearer {e2b}")),
    ] {
        assert_eq!(request.send().await.unwrap().status(), 200);
    }
    let answer = list()
        .header("authorization", "Basic eDp5")
        .send()
        .await
        .unwrap();
    assert_eq!(
        (
            answer.status().as_u16(),
            answer.headers()["www-authenticate"].to_str().unwrap()
        ),
        (401, "Bearer")
    );
    for wrong in [
        "",
        "wrn_",
        "wrn_XYZ",
        &plane.key.to_uppercase(),
        &format!("{}0", plane.key),
    ] {
        let message = refused(list().header("x-api-key", wrong), 401, "unauthorized").await;
        assert!(message.contains("key"), "{message}");
    }
}

#[tokio::test]
async fn a_revoked_key_opens_nothing_and_the_last_one_stays() {
    let (_host, ground, plane) = one().await;
    let last = auth::revoke_key(&plane.store, &ground.key_id)
        .await
        .unwrap_err();
    assert!(last.message.contains("key create"), "{}", last.message);
    let (second, text) = auth::create_key(&plane.store, "second").await.unwrap();
    let list = || {
        plane
            .bare(Method::GET, "/v1/sandboxes")
            .header("x-api-key", text.expose())
    };
    assert_eq!(list().send().await.unwrap().status(), 200);
    auth::revoke_key(&plane.store, &second.id).await.unwrap();
    refused(list(), 401, "unauthorized").await;
    assert!(auth::revoke_key(&plane.store, &second.id).await.is_err());
    assert!(auth::create_key(&plane.store, "").await.is_err());
}
