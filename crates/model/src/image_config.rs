//! Configuration of an image: what its author says about programs that run in it.
//!
//! It is the object `config` of an OCI image configuration (image-spec, config.md), under the same
//! names in files, records and REST; `Healthcheck` is Docker's. Unknown fields are ignored, `null`
//! is an absent field, and an absent field is empty. Reading checks only the form, so that a record
//! of an earlier version is always read; [`ImageConfig::check`] is called where one comes in.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::InvalidValue;
use crate::signal::signal_number;
use crate::spec::Limits;

/// Configuration of an image. [`ImageConfig::check`] holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// User of programs: `USER` or `USER:GROUP`, each by name or number; root where it is empty.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub user: String,
    /// Ports that its programs listen on: `PORT` or `PORT/PROTOCOL`, as keys of empty objects.
    #[serde(with = "keys", skip_serializing_if = "BTreeSet::is_empty")]
    #[cfg_attr(feature = "schema", schema(value_type = BTreeMap<String, Object>))]
    pub exposed_ports: BTreeSet<String>,
    /// Environment of programs: `NAME=VALUE`. The last one of a name counts.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// First arguments of its start command.
    #[serde(
        deserialize_with = "one_or_many",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub entrypoint: Vec<String>,
    /// Further arguments of its start command.
    #[serde(
        deserialize_with = "one_or_many",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub cmd: Vec<String>,
    /// Directories for data, as keys of empty objects. They are directories as others here.
    #[serde(with = "keys", skip_serializing_if = "BTreeSet::is_empty")]
    #[cfg_attr(feature = "schema", schema(value_type = BTreeMap<String, Object>))]
    pub volumes: BTreeSet<String>,
    /// Absolute path of the directory that programs start in; `/` where it is empty.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub working_dir: String,
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// Signal that asks its start command to end, by name or number; SIGTERM where it is empty.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub stop_signal: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
}

/// Check that its start command works, as in a Dockerfile. Times are nanoseconds; 0 is a default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", program, args…]` or `["CMD-SHELL", command]`.
    #[serde(deserialize_with = "or_default")]
    pub test: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

impl ImageConfig {
    /// Bytes of all its strings together. It stands in the record of each sandbox and in lists of
    /// templates; labels of build tools take some 50 KiB.
    pub const MAX_BYTES: usize = 256 * 1024;
    /// Environment variables: as many as a sandbox may have of its own, and of the same size.
    pub const MAX_ENV: usize = Limits::MAX_ENVS;
    /// Bytes of a user: two names as long as useradd(8) makes them, and more.
    pub const MAX_USER: usize = 256;
    /// Bytes of a path: Linux' `PATH_MAX` without the NUL.
    pub const MAX_PATH: usize = 4095;
    /// Signal that ends a program where an image names none: SIGTERM.
    pub const DEFAULT_STOP_SIGNAL: u32 = 15;

    /// Checks each field.
    ///
    /// # Errors
    /// Names the field, what is wrong with it, and the bound.
    pub fn check(&self) -> Result<(), InvalidValue> {
        let bytes = self.bytes();
        if bytes > Self::MAX_BYTES {
            let problem = format!(
                "must have at most {} bytes of text in all, not {bytes}",
                Self::MAX_BYTES
            );
            return Err(InvalidValue::new("config", problem));
        }
        self.check_user()?;
        self.check_env()?;
        for (field, texts) in [("Entrypoint", &self.entrypoint), ("Cmd", &self.cmd)] {
            if texts.iter().any(|text| text.contains('\0')) {
                return Err(InvalidValue::new(field, "must be strings without NUL"));
            }
        }
        check_paths("WorkingDir", [self.working_dir.as_str()])?;
        check_paths("Volumes", self.volumes.iter().map(String::as_str))?;
        for port in &self.exposed_ports {
            if parse_port(port).is_none() {
                let problem = format!(
                    "has {:?}: a port is a number up to 65535, with /tcp, /udp or /sctp or without",
                    shorten(port)
                );
                return Err(InvalidValue::new("ExposedPorts", problem));
            }
        }
        if !self.stop_signal.is_empty() && signal_number(&self.stop_signal).is_none() {
            let problem = format!(
                "must be a signal by name or number (SIGTERM, 15, SIGRTMIN+3), not {:?}",
                shorten(&self.stop_signal)
            );
            return Err(InvalidValue::new("StopSignal", problem));
        }
        Ok(())
    }

    /// Returns the environment by name.
    #[must_use]
    pub fn environment(&self) -> BTreeMap<String, String> {
        let pairs = self.env.iter().filter_map(|text| text.split_once('='));
        pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// Returns its user; root where it names none, as with Docker.
    #[must_use]
    pub fn user(&self) -> &str {
        or(&self.user, "root")
    }

    /// Returns its working directory; `/` where it names none, as with Docker.
    #[must_use]
    pub fn working_dir(&self) -> &str {
        or(&self.working_dir, "/")
    }

    /// Returns its start command: entry point and arguments; empty where it has none.
    #[must_use]
    pub fn start_command(&self) -> Vec<String> {
        [self.entrypoint.as_slice(), &self.cmd].concat()
    }

    /// Returns the number of the signal that asks its start command to end.
    #[must_use]
    pub fn stop_signal(&self) -> u32 {
        signal_number(&self.stop_signal).unwrap_or(Self::DEFAULT_STOP_SIGNAL)
    }

    /// Returns the number of bytes of all its strings.
    fn bytes(&self) -> usize {
        let fields = [&self.user, &self.working_dir, &self.stop_signal];
        let lists = [&self.env, &self.entrypoint, &self.cmd];
        let sets = [&self.exposed_ports, &self.volumes];
        let labels = self.labels.iter().flat_map(|(name, value)| [name, value]);
        let test = self.healthcheck.iter().flat_map(|check| &check.test);
        let all = fields
            .into_iter()
            .chain(lists.into_iter().flatten())
            .chain(sets.into_iter().flatten())
            .chain(labels)
            .chain(test);
        // Each with its quotes and a comma, so that many empty ones count, too.
        all.map(|text| text.len() + 3).sum()
    }

    fn check_user(&self) -> Result<(), InvalidValue> {
        let problem = if self.user.len() > Self::MAX_USER {
            format!("must have at most {} bytes", Self::MAX_USER)
        } else if self.user.chars().any(char::is_control) {
            "must be without control characters".to_owned()
        } else if self.user.starts_with(':') || self.user.matches(':').count() > 1 {
            format!(
                "must be USER or USER:GROUP, each a name or a number, not {:?}",
                self.user
            )
        } else {
            return Ok(());
        };
        Err(InvalidValue::new("User", problem))
    }

    fn check_env(&self) -> Result<(), InvalidValue> {
        let bytes: usize = self.env.iter().map(|text| text.len() + 1).sum();
        if self.env.len() > Self::MAX_ENV || bytes > Limits::MAX_ENVS_BYTES {
            let problem = format!(
                "must have at most {} variables and {} bytes in all, not {} and {bytes}",
                Self::MAX_ENV,
                Limits::MAX_ENVS_BYTES,
                self.env.len()
            );
            return Err(InvalidValue::new("Env", problem));
        }
        for text in &self.env {
            let has_name = text.find('=').is_some_and(|at| at > 0);
            if !has_name || text.contains('\0') {
                let problem = format!(
                    "has {:?}: each must be NAME=VALUE, without NUL",
                    shorten(text)
                );
                return Err(InvalidValue::new("Env", problem));
            }
        }
        Ok(())
    }
}

fn or<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}

/// Returns the beginning of a text, for an error.
fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}

fn check_paths<'a>(
    field: &'static str,
    paths: impl IntoIterator<Item = &'a str>,
) -> Result<(), InvalidValue> {
    for path in paths.into_iter().filter(|path| !path.is_empty()) {
        let is_valid =
            path.starts_with('/') && !path.contains('\0') && path.len() <= ImageConfig::MAX_PATH;
        if !is_valid {
            let problem = format!(
                "must be absolute, of at most {} bytes and without NUL, not {:?}",
                ImageConfig::MAX_PATH,
                shorten(path)
            );
            return Err(InvalidValue::new(field, problem));
        }
    }
    Ok(())
}

/// Parses `PORT` or `PORT/PROTOCOL`; without a protocol it is TCP.
fn parse_port(text: &str) -> Option<(u16, &str)> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    let is_known = ["tcp", "udp", "sctp"].contains(&protocol);
    port.parse()
        .ok()
        .filter(|_| is_number && is_known)
        .map(|port| (port, protocol))
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
const fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Reads `null` as the default: Go writes it for empty lists and maps.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads a list, or one string as early versions of Docker wrote it.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a list of strings")]
    enum OneOrMany {
        Many(Vec<String>),
        One(String),
    }
    Ok(match Option::deserialize(deserializer)? {
        Some(OneOrMany::Many(texts)) => texts,
        Some(OneOrMany::One(text)) => vec![text],
        None => Vec::new(),
    })
}

/// A set as Go writes it: a map whose values are empty objects.
mod keys {
    use std::collections::{BTreeMap, BTreeSet};

    use serde::de::IgnoredAny;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize)]
    struct Empty {}

    pub(super) fn serialize<S: Serializer>(
        keys: &BTreeSet<String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(keys.iter().map(|key| (key, Empty {})))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeSet<String>, D::Error> {
        let map = Option::<BTreeMap<String, IgnoredAny>>::deserialize(deserializer)?;
        Ok(map.unwrap_or_default().into_keys().collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, btree_set, vec};
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<ImageConfig, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn config_of_docker_is_read() {
        let config = parse(
            r#"{"Hostname": "", "User": "1000:app", "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
                "Env": ["PATH=/go/bin:/bin", "EMPTY=", "A=1", "A=b=c"], "Cmd": ["serve"], "Image": "sha256:1",
                "Volumes": null, "WorkingDir": "/srv/app", "Entrypoint": ["/entry", "-x"], "OnBuild": [],
                "Labels": {"a": "b"}, "StopSignal": "SIGQUIT", "ArgsEscaped": true,
                "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 5000000000, "Retries": 3}}"#,
        )
        .unwrap();
        config.check().unwrap();
        assert_eq!(config.user(), "1000:app");
        assert_eq!(config.working_dir(), "/srv/app");
        assert_eq!(config.start_command(), ["/entry", "-x", "serve"]);
        assert_eq!(config.stop_signal(), 3);
        assert_eq!(config.environment()["A"], "b=c");
        assert_eq!(config.environment()["EMPTY"], "");
        assert_eq!(
            config.exposed_ports,
            ["53/udp".to_owned(), "80/tcp".to_owned()].into()
        );
        let check = config.healthcheck.unwrap();
        assert_eq!((check.interval, check.retries), (5_000_000_000, 3));
    }

    #[test]
    fn absent_and_null_are_empty() {
        let nulls = r#"{"User": null, "ExposedPorts": null, "Env": null, "Entrypoint": null, "Cmd": null,
            "Volumes": null, "WorkingDir": null, "Labels": null, "StopSignal": null, "Healthcheck": null}"#;
        for text in ["{}", nulls] {
            let config = parse(text).unwrap();
            config.check().unwrap();
            assert_eq!(config, ImageConfig::default(), "{text}");
            assert_eq!((config.user(), config.working_dir()), ("root", "/"));
            assert_eq!(config.stop_signal(), 15);
            assert!(config.start_command().is_empty());
        }
        assert_eq!(
            serde_json::to_string(&ImageConfig::default()).unwrap(),
            "{}"
        );
        let old = parse(r#"{"Entrypoint": "/entry"}"#).unwrap();
        assert_eq!(old.start_command(), ["/entry"]);
    }

    #[test]
    fn wrong_fields_are_named() {
        let many = |field: &str, text: &str, count: usize| {
            let texts = vec![format!("\"{text}\""); count].join(",");
            format!(r#"{{"{field}": [{texts}]}}"#)
        };
        for (text, expected) in [
            (r#"{"User": ":5"}"#, "User must be USER or USER:GROUP"),
            (r#"{"User": "a:b:c"}"#, "User must be USER or USER:GROUP"),
            (r#"{"User": "a\nb"}"#, "User must be without control"),
            (
                r#"{"Env": ["A"]}"#,
                "Env has \"A\": each must be NAME=VALUE",
            ),
            (r#"{"Env": ["=A"]}"#, "Env has \"=A\""),
            (r#"{"Env": ["A=\u0000"]}"#, "Env has"),
            (r#"{"Cmd": ["\u0000"]}"#, "Cmd must be strings without NUL"),
            (r#"{"WorkingDir": "app"}"#, "WorkingDir must be absolute"),
            (r#"{"Volumes": {"data": {}}}"#, "Volumes must be absolute"),
            (
                r#"{"ExposedPorts": {"http": {}}}"#,
                "ExposedPorts has \"http\"",
            ),
            (r#"{"ExposedPorts": {"+1/tcp": {}}}"#, "ExposedPorts has"),
            (r#"{"ExposedPorts": {"65536/tcp": {}}}"#, "ExposedPorts has"),
            (r#"{"StopSignal": "SIGNO"}"#, "StopSignal must be a signal"),
            (&many("Env", "A=1", 257), "Env must have at most 256"),
            (
                &many("Env", &format!("A={}", "x".repeat(9000)), 8),
                "65536 bytes",
            ),
            (&many("Cmd", "", 100_000), "config must have at most 262144"),
        ] {
            let error = parse(text).unwrap().check().unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        for text in [r#"{"Env": "A=1"}"#, r#"{"Cmd": [1]}"#, r#"{"Volumes": []}"#] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    fn any_config() -> impl Strategy<Value = ImageConfig> {
        let text = ".{0,12}";
        // Mostly right, so that many pass the check.
        let fields = (
            "[a-z0-9]{0,8}(:[a-z0-9]{1,3})?",
            "(/.{0,12})?",
            "|SIGTERM|(SIG)?RTM(IN\\+|AX-)[0-9]{1,2}|[0-9]{1,2}",
        );
        let lists = (
            vec("[A-C]{1,2}=.{0,4}|.{0,4}", 0..3),
            vec(text, 0..4),
            vec(text, 0..4),
        );
        let sets = (
            btree_set("[0-9]{1,5}(/tcp|/udp)?", 0..2),
            btree_set("/.{0,6}", 0..4),
            btree_map(text, text, 0..4),
        );
        let check = proptest::option::of((vec(text, 0..3), any::<i64>(), any::<i64>()));
        (fields, lists, sets, check).prop_map(|(fields, lists, sets, check)| ImageConfig {
            user: fields.0,
            working_dir: fields.1,
            stop_signal: fields.2,
            env: lists.0,
            entrypoint: lists.1,
            cmd: lists.2,
            exposed_ports: sets.0,
            volumes: sets.1,
            labels: sets.2,
            healthcheck: check.map(|(test, interval, retries)| Healthcheck {
                test,
                interval,
                retries,
                ..Healthcheck::default()
            }),
        })
    }

    proptest! {
        #[test]
        fn config_comes_back_as_written(config in any_config()) {
            let text = serde_json::to_string(&config).unwrap();
            prop_assert_eq!(parse(&text).unwrap(), config);
        }

        /// What passes the check can be given to execve(2), chdir(2) and kill(2).
        #[test]
        fn checked_config_can_be_used(config in any_config()) {
            prop_assume!(config.check().is_ok());
            let envs = config.environment();
            for text in &config.env {
                let (name, _) = text.split_once('=').unwrap();
                prop_assert!(!name.is_empty() && envs.contains_key(name));
            }
            prop_assert!(envs.values().all(|value| !value.contains('\0')));
            prop_assert!(config.working_dir().starts_with('/'));
            prop_assert!((1..=64).contains(&config.stop_signal()));
            prop_assert!(!config.user().is_empty());
        }

        /// Reading never fails in another way than by an error, whatever the text is.
        #[test]
        fn any_text_is_config_or_error(text in r#"[{}\[\]",:a-zA-Z0-9]{0,60}"#) {
            if let Ok(config) = parse(&text) {
                let _ = config.check();
            }
        }
    }
}
