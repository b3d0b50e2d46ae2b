//! What the operator allows: networks, mirrors, certificates, registries without TLS.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use http::Uri;
use ipnet::IpNet;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;

/// Settings of one registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistrySettings {
    /// URLs that are asked first, in this order, each with the path of its copy if it has one.
    #[serde(default)]
    pub mirrors: Vec<String>,
    /// File of certificates (PEM) that are trusted beside those of the host, when images of this
    /// registry are pulled.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// The registry speaks HTTP without TLS.
    #[serde(default)]
    pub plain_http: bool,
}

/// Rules of the operator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryPolicy {
    /// Networks that may be connected to beside the public internet.
    pub networks: Vec<IpNet>,
    /// By name, with the port if it has one.
    pub registries: BTreeMap<String, RegistrySettings>,
}

impl RegistryPolicy {
    /// Reads the operator's file: a JSON object of [`RegistrySettings`] by registry. A file that is
    /// not there has none.
    ///
    /// # Errors
    /// With the mistake, to follow the path of the file.
    pub fn read_registries(file: &Path) -> Result<BTreeMap<String, RegistrySettings>, String> {
        let text = match fs::read(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(format!("it cannot be read: {error}")),
        };
        let registries: BTreeMap<String, RegistrySettings> =
            serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        for (name, settings) in &registries {
            check_settings(name, settings).map_err(|error| format!("{name:?}: {error}"))?;
        }
        Ok(registries)
    }

    /// Returns true if a connection to this address is allowed.
    #[must_use]
    pub fn may_connect(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let is_allowed = self
            .networks
            .iter()
            .any(|network| network.contains(&address));
        is_allowed || !model::network::is_blocked(address)
    }

    /// Returns true if requests to this host and port may go without TLS.
    pub(crate) fn allows_plain(&self, authority: &str) -> bool {
        let is_plain = |name: &str, settings: &RegistrySettings| {
            settings.plain_http && name == authority
                || settings
                    .mirrors
                    .iter()
                    .any(|mirror| is_plain_url_of(mirror, authority))
        };
        let host = host_of(authority);
        let is_loopback = host == "localhost"
            || host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.to_canonical().is_loopback());
        is_loopback
            || self
                .registries
                .iter()
                .any(|(name, settings)| is_plain(name, settings))
    }

    /// Returns true if a registry is asked without TLS: where the operator says so, and on loopback
    /// without a certificate of its own.
    pub(crate) fn is_plain(&self, registry: &str) -> bool {
        match self.registries.get(registry) {
            Some(settings) if settings.ca.is_some() || settings.plain_http => settings.plain_http,
            _ => self.allows_plain(registry),
        }
    }
}

/// Returns the host of `HOST[:PORT]`, without the brackets of an IPv6 address.
pub(crate) fn host_of(authority: &str) -> &str {
    if let Some((host, _)) = authority
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        return host;
    }
    authority.split(':').next().unwrap_or(authority)
}

fn is_plain_url_of(url: &str, authority: &str) -> bool {
    let rest = url.strip_prefix("http://").unwrap_or_default();
    rest.split('/').next() == Some(authority)
}

fn check_settings(name: &str, settings: &RegistrySettings) -> Result<(), String> {
    if name.contains('/') || name.parse::<http::uri::Authority>().is_err() {
        return Err("a registry is named as in references, HOST or HOST:PORT".to_owned());
    }
    for mirror in &settings.mirrors {
        let url = mirror.parse::<Uri>().ok();
        let is_url =
            |url: &Uri| matches!(url.scheme_str(), Some("http" | "https")) && url.query().is_none();
        if !url.as_ref().is_some_and(is_url) {
            return Err(format!(
                "mirrors are URLs, as https://mirror.example.com, not {mirror:?}"
            ));
        }
    }
    if let Some(ca) = &settings.ca {
        add_certificates(&mut RootCertStore::empty(), ca)?;
    }
    Ok(())
}

/// Adds the certificates of a file to those that are trusted.
pub(crate) fn add_certificates(roots: &mut RootCertStore, file: &Path) -> Result<(), String> {
    let failed = |error: String| {
        format!(
            "the certificates of {} cannot be used: {error}",
            file.display()
        )
    };
    let found = CertificateDer::pem_file_iter(file).map_err(|error| failed(error.to_string()))?;
    let mut count = 0;
    for certificate in found {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| failed(error.to_string()))?;
        count += 1;
    }
    match count {
        0 => Err(failed("there is none in it (PEM)".to_owned())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<BTreeMap<String, RegistrySettings>, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("registries.json");
        fs::write(&file, text).unwrap();
        RegistryPolicy::read_registries(&file)
    }

    #[test]
    fn only_allowed_networks_are_connected_to() {
        let policy = RegistryPolicy {
            networks: vec!["10.1.0.0/16".parse().unwrap()],
            ..RegistryPolicy::default()
        };
        for (address, may_connect) in [
            ("1.1.1.1", true),
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("10.2.0.1", false),
            ("169.254.169.254", false),
            ("::ffff:169.254.169.254", false),
            ("127.0.0.1", false),
            ("::1", false),
            ("fd00::1", false),
            ("2606:4700::1111", true),
        ] {
            assert_eq!(
                policy.may_connect(address.parse().unwrap()),
                may_connect,
                "{address}"
            );
        }
    }

    #[test]
    fn plain_http_is_for_named_ones() {
        let registries = read(
            r#"{"plain.example:80": {"plain_http": true},
                "docker.io": {"mirrors": ["http://mirror.example:5000/hub", "https://other.example"]}}"#,
        );
        let policy = RegistryPolicy {
            registries: registries.unwrap(),
            ..RegistryPolicy::default()
        };
        for (authority, is_plain) in [
            ("plain.example:80", true),
            ("plain.example", false),
            ("mirror.example:5000", true),
            ("other.example", false),
            ("localhost:5000", true),
            ("127.9.0.1", true),
            ("[::1]:5000", true),
            ("docker.io", false),
        ] {
            assert_eq!(policy.allows_plain(authority), is_plain, "{authority}");
        }
    }

    #[test]
    fn mistakes_name_registry() {
        for (text, expected) in [
            ("[]", "expected a map"),
            (r#"{"a": {"mirror": []}}"#, "unknown field `mirror`"),
            (r#"{"https://a": {}}"#, "HOST:PORT"),
            (
                r#"{"a": {"mirrors": ["mirror.example"]}}"#,
                "mirrors are URLs",
            ),
            (r#"{"a": {"ca": "/no/such.pem"}}"#, "/no/such.pem"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(
            RegistryPolicy::read_registries(Path::new("/no/such"))
                .unwrap()
                .is_empty()
        );
    }
}
