//! Pulls from Debian's registry.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use registry::{
    Credentials, ImageReference, PullProgress, Puller, RegistryError, RegistryPolicy,
    RegistrySettings, RemoteImage,
};
use testkit::registry::{PASSWORD, TestLayout, TestRegistry, USER};
use tokio::sync::watch;

pub(crate) const ARCHITECTURE: &str = "amd64";

/// Returns a policy that allows loopback, with settings for a registry.
pub(crate) fn loopback_policy(name: &str, settings: RegistrySettings) -> RegistryPolicy {
    RegistryPolicy {
        networks: vec!["127.0.0.0/8".parse().unwrap()],
        registries: [(name.to_owned(), settings)].into(),
    }
}

pub(crate) async fn resolve(
    policy: &RegistryPolicy,
    reference: &str,
    credentials: Option<Credentials>,
) -> Result<RemoteImage, RegistryError> {
    let reference: ImageReference = reference.parse().unwrap();
    let puller = Puller::new(policy.clone());
    puller
        .resolve_image(&reference, credentials, ARCHITECTURE)
        .await
}

/// Pulls an image into `file`, and returns the last progress.
pub(crate) async fn download(
    image: &RemoteImage,
    file: &Path,
) -> Result<PullProgress, RegistryError> {
    let (progress, changes) = watch::channel(PullProgress::default());
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .open(file)
        .unwrap();
    image.download_archive(file, &progress).await?;
    Ok(*changes.borrow())
}

fn user() -> Option<Credentials> {
    Some(Credentials::Password {
        username: USER.to_owned(),
        password: PASSWORD.to_owned(),
    })
}

#[tokio::test]
async fn pulled_archive_is_the_image() {
    let registry = TestRegistry::start_plain();
    let content: Vec<u8> = (0..3_000_000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let layout = TestLayout::with_content(&content);
    registry.push_image(&layout, "team/app:1");
    let policy = loopback_policy("other", RegistrySettings::default());
    let name = registry.name();
    let by_digest = format!("{name}/team/app@{}", layout.digest());
    let dir = tempfile::tempdir().unwrap();
    for reference in [&format!("{name}/team/app:1"), &by_digest] {
        let image = resolve(&policy, reference, None).await.unwrap();
        assert_eq!(image.digest.to_string(), layout.digest());
        let file = dir.path().join("pulled.tar");
        let progress = download(&image, &file).await.unwrap();
        assert_eq!(progress.layers, progress.layers_done);
        assert_eq!(progress.bytes, progress.total_bytes);
        assert!(
            progress.bytes > 500_000 && file.metadata().unwrap().len() == image.archive_bytes()
        );
        // Skopeo reads it, and finds every blob.
        let copied = Command::new("skopeo")
            .args(["copy", "--insecure-policy", "--quiet"])
            .arg(format!("oci-archive:{}", file.display()))
            .arg(format!("dir:{}", dir.path().join("copy").display()))
            .output()
            .unwrap();
        assert!(copied.status.success(), "{copied:?}");
    }
    for reference in [
        format!("{name}/team/app:2"),
        format!("{name}/team/app@sha256:{}", "0".repeat(64)),
        format!("{name}/missing"),
    ] {
        let missing = resolve(&policy, &reference, None).await.unwrap_err();
        assert!(matches!(missing, RegistryError::NotFound(_)), "{missing}");
    }
}

#[tokio::test]
async fn secure_registry_wants_certificate_and_user() {
    let registry = TestRegistry::start_secure();
    registry.push_image(&TestLayout::with_content(b"secret"), "app:1");
    let name = registry.name();
    let reference = format!("{name}/app:1");
    let settings = RegistrySettings {
        ca: Some(registry.ca_file()),
        ..RegistrySettings::default()
    };
    let policy = loopback_policy(&name, settings);
    let image = resolve(&policy, &reference, user()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    download(&image, &dir.path().join("pulled.tar"))
        .await
        .unwrap();
    let anonymous = resolve(&policy, &reference, None).await.unwrap_err();
    assert!(matches!(anonymous, RegistryError::Denied(_)), "{anonymous}");
    assert!(
        anonymous.to_string().contains("docker login"),
        "{anonymous}"
    );
    let wrong = Credentials::Password {
        username: USER.to_owned(),
        password: "wrong".to_owned(),
    };
    let wrong = resolve(&policy, &reference, Some(wrong)).await.unwrap_err();
    assert!(matches!(wrong, RegistryError::Denied(_)), "{wrong}");
    let other = TestRegistry::start_secure();
    let settings = RegistrySettings {
        ca: Some(other.ca_file()),
        ..RegistrySettings::default()
    };
    let unknown = loopback_policy(&name, settings);
    let unknown = resolve(&unknown, &reference, user()).await.unwrap_err();
    assert!(
        matches!(unknown, RegistryError::Unreachable(_)),
        "{unknown}"
    );
    assert!(unknown.to_string().contains("certificate"), "{unknown}");
    let plain = loopback_policy("other", RegistrySettings::default());
    let plain = resolve(&plain, &reference, user()).await.unwrap_err();
    assert!(
        matches!(
            plain,
            RegistryError::Refused(_) | RegistryError::Unreachable(_)
        ),
        "{plain}"
    );
}

#[tokio::test]
async fn private_addresses_must_be_allowed() {
    let registry = TestRegistry::start_plain();
    let strict = RegistryPolicy::default();
    let reference = format!("{}/app", registry.name());
    let refused = resolve(&strict, &reference, user()).await.unwrap_err();
    assert!(matches!(refused, RegistryError::Forbidden(_)), "{refused}");
    assert!(
        refused.to_string().contains("AGENT_REGISTRY_NETWORKS"),
        "{refused}"
    );
    let metadata = "169.254.169.254/latest/app";
    let policy = loopback_policy(
        "169.254.169.254",
        RegistrySettings {
            plain_http: true,
            ..RegistrySettings::default()
        },
    );
    let refused = resolve(&policy, metadata, None).await.unwrap_err();
    assert!(matches!(refused, RegistryError::Forbidden(_)), "{refused}");
}
