//! The API document and the page that shows it.

use reqwest::Method;
use serde_json::Value;

use crate::support::one;

fn committed() -> (std::path::PathBuf, Value) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../api/openapi.json");
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    (path, serde_json::from_str(&text).unwrap_or_default())
}

#[test]
fn the_committed_document_is_up_to_date() {
    let (path, committed) = committed();
    let current = control::api::openapi(&model::Limits::default());
    assert!(
        committed == current,
        "{} is not what the code says; run `make openapi` (or `wrenn-cp openapi > api/openapi.json`)",
        path.display()
    );
}

#[test]
fn every_operation_is_described() {
    let document = control::api::openapi(&model::Limits::default());
    let mut ids = std::collections::BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = format!("{method} {path}");
            assert!(
                operation["summary"]
                    .as_str()
                    .is_some_and(|summary| !summary.is_empty()),
                "{name}"
            );
            assert!(
                ids.insert(operation["operationId"].as_str().unwrap().to_owned()),
                "{name}: operation id"
            );
            let responses = operation["responses"].as_object().unwrap();
            assert!(
                responses.contains_key("400") && responses.contains_key("500"),
                "{name}"
            );
            let named_elsewhere = matches!(
                path.as_str(),
                "/v1/sandboxes" | "/v1/sandboxes/metrics" | "/v1/snapshots"
            );
            assert_eq!(
                path.contains('{'),
                responses.contains_key("404") && !named_elsewhere,
                "{name}"
            );
            for (status, response) in responses
                .iter()
                .filter(|(status, _)| status.as_str() >= "400")
            {
                let schema = &response["content"]["application/json"]["schema"]["$ref"];
                assert_eq!(schema, "#/components/schemas/ErrorBody", "{name} {status}");
            }
        }
    }
    assert_references(&document, &document);
}

/// Whatever is named is there, and nothing is null.
fn assert_references(document: &Value, part: &Value) {
    match part {
        Value::Null => panic!("something is null"),
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                assert!(
                    document
                        .pointer(reference.trim_start_matches('#'))
                        .is_some(),
                    "{reference}"
                );
            }
            fields
                .values()
                .for_each(|part| assert_references(document, part));
        }
        Value::Array(parts) => parts
            .iter()
            .for_each(|part| assert_references(document, part)),
        _ => {}
    }
}

#[tokio::test]
async fn both_forms_say_the_same() {
    let (_host, _ground, plane) = one().await;
    let get = async |path: &str| {
        plane
            .bare(Method::GET, path)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
    };
    let json: Value = serde_json::from_str(&get("/openapi.json").await).unwrap();
    let yaml: Value = yaml_serde::from_str(&get("/openapi.yaml").await).unwrap();
    assert!(json == yaml);
    assert!(json == committed().1);
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let (_host, _ground, plane) = one().await;
    let page = plane.bare(Method::GET, "/docs").send().await.unwrap();
    assert_eq!((page.status().as_u16(), page.url().path()), (200, "/docs/"));
    assert!(
        page.headers()["content-security-policy"]
            .to_str()
            .unwrap()
            .contains("default-src 'self'")
    );
    let html = page.text().await.unwrap();
    assert!(
        !html.contains("http://") && !html.contains("https://"),
        "{html}"
    );
    let mut files = 0;
    for part in html
        .split(['"', '\''])
        .filter(|part| part.starts_with("./"))
    {
        let file = plane
            .bare(Method::GET, &format!("/docs/{}", &part[2..]))
            .send()
            .await
            .unwrap();
        assert_eq!(file.status(), 200, "{part}");
        files += 1;
    }
    assert!(files >= 3, "{html}");
    let initializer = plane
        .bare(Method::GET, "/docs/swagger-initializer.js")
        .send()
        .await
        .unwrap();
    assert!(initializer.text().await.unwrap().contains("/openapi.json"));
}
