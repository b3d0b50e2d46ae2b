//! Server and key: from flags, else environment, else `$WRENN_DIR/credentials`.
//!
//! The file is written by `wrenn up` (mode 0600) and only read here.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::args::ConnectionArgs;
use crate::stdio::Stdio;

/// URL at which `wrenn up` serves by default.
pub const DEFAULT_URL: &str = "http://127.0.0.1:8000";

/// Directory of an installation of root, unless `WRENN_DIR` says otherwise.
const SYSTEM_DIR: &str = "/var/lib/wrenn";

/// Bytes of a file with a key that are read; a key has 44.
const MAX_KEY_FILE: u64 = 4096;

/// Content of a credentials file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    pub url: Option<String>,
    pub key: Option<String>,
}

/// Server and key in force.
#[derive(Debug, PartialEq, Eq)]
pub struct Settings {
    pub url: String,
    pub key: String,
}

#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error(
        "no API key: start a server here with `wrenn up`, which writes one to {}; \
         or pass --key-file, or set WRENN_API_KEY", .0.display()
    )]
    NoKey(PathBuf),

    #[error(
        "no API key for {url}: the one in {} is for this machine only and is not sent elsewhere; \
         pass --key-file or set WRENN_API_KEY", path.display()
    )]
    KeyOfAnother { url: String, path: PathBuf },

    #[error("{} cannot be read; run this as the user who runs `wrenn up` (sudo?), or set WRENN_API_KEY", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },

    #[error("no API key can be read from {}", path.display())]
    KeyFile {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },

    #[error("{}, line {line}: not of the form NAME=VALUE; correct it, or remove the file and start `wrenn up` again", path.display())]
    Malformed { path: PathBuf, line: usize },
}

/// The environment that settings depend on.
#[derive(Debug)]
pub struct Environment<'a> {
    pub var: fn(&str) -> Option<String>,
    pub is_root: bool,
    pub home: Option<&'a Path>,
}

/// Returns a variable of the environment if it is set and not empty.
pub fn env_var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Returns the directory of the installation: `WRENN_DIR`; else `~/.wrenn` where that is and the
/// user is not root; else the system's.
pub fn wrenn_dir(env: &Environment<'_>) -> PathBuf {
    if let Some(dir) = (env.var)("WRENN_DIR") {
        return dir.into();
    }
    let own = env
        .home
        .filter(|_| !env.is_root)
        .map(|home| home.join(".wrenn"));
    own.filter(|dir| dir.is_dir())
        .unwrap_or_else(|| SYSTEM_DIR.into())
}

/// Returns the directory of the installation for the user of this process.
pub fn dir_of_this_user() -> PathBuf {
    let home = std::env::home_dir();
    wrenn_dir(&Environment {
        var: env_var,
        is_root: rustix::process::geteuid().is_root(),
        home: home.as_deref(),
    })
}

impl Settings {
    /// Loads the settings from flags, the environment and the credentials file, in that order.
    pub fn load(flags: &ConnectionArgs) -> Result<Self, SettingsError> {
        let path = dir_of_this_user().join("credentials");
        let url = flags.url.clone().or_else(|| env_var("WRENN_API_URL"));
        let from_file = flags.key_file.as_deref().map(read_key).transpose()?;
        let key = from_file
            .or_else(|| flags.key.clone())
            .or_else(|| env_var("WRENN_API_KEY"));
        Self::merge(url, key, &path)
    }

    /// Adds missing values from the credentials file, which is opened only when something is
    /// missing.
    fn merge(url: Option<String>, key: Option<String>, path: &Path) -> Result<Self, SettingsError> {
        let (url, key) = match (url, key) {
            (Some(url), Some(key)) => return Ok(Self { url, key }),
            (url, Some(key)) => {
                let from_file = read_credentials(path).unwrap_or_default().url;
                return Ok(Self {
                    url: url.or(from_file).unwrap_or_else(|| DEFAULT_URL.to_owned()),
                    key,
                });
            }
            missing => missing,
        };
        debug_assert!(key.is_none());
        let file = read_credentials(path)?;
        let Some(key) = file.key else {
            return Err(SettingsError::NoKey(path.to_owned()));
        };
        let home_url = file.url.unwrap_or_else(|| DEFAULT_URL.to_owned());
        match url {
            Some(url) if url != home_url && !is_loopback(&url) => {
                Err(SettingsError::KeyOfAnother {
                    url,
                    path: path.to_owned(),
                })
            }
            url => Ok(Self {
                url: url.unwrap_or(home_url),
                key,
            }),
        }
    }
}

/// Returns true if an address can only mean this machine.
fn is_loopback(url: &str) -> bool {
    let authority = url
        .strip_prefix("http://")
        .unwrap_or(url)
        .split('/')
        .next()
        .unwrap_or_default();
    if authority.contains('@') {
        return false;
    }
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// Reads the one key that is in a file, or comes on standard input.
fn read_key(path: &Path) -> Result<String, SettingsError> {
    let refused = |source| SettingsError::KeyFile {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let read = match path.as_os_str() == "-" {
        true => Stdio::stdin().and_then(|stdin| stdin.take(MAX_KEY_FILE).read_to_string(&mut text)),
        false => {
            File::open(path).and_then(|file| file.take(MAX_KEY_FILE).read_to_string(&mut text))
        }
    };
    read.map_err(refused)?;
    match text.trim() {
        "" => Err(refused(std::io::Error::new(
            ErrorKind::InvalidData,
            "there is no key in it",
        ))),
        key => Ok(key.to_owned()),
    }
}

fn read_credentials(path: &Path) -> Result<Credentials, SettingsError> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse_credentials(&text).map_err(|line| SettingsError::Malformed {
            path: path.to_owned(),
            line,
        }),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(Credentials::default())
        }
        Err(source) => Err(SettingsError::Unreadable {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Parses `NAME=VALUE` lines as a shell reads them: `#` comments, `export`, one pair of quotes.
/// Other names are ignored. The error is the number of the first wrong line.
fn parse_credentials(text: &str) -> Result<Credentials, usize> {
    let mut found = Credentials::default();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=').ok_or(index + 1)?;
        let value = unquoted(value.trim()).to_owned();
        match name.trim() {
            "WRENN_API_URL" => found.url = Some(value).filter(|value| !value.is_empty()),
            "WRENN_API_KEY" => found.key = Some(value).filter(|value| !value.is_empty()),
            _ => {}
        }
    }
    Ok(found)
}

fn unquoted(value: &str) -> &str {
    let inside = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    inside('"').or_else(|| inside('\'')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn credentials_are_read_as_a_shell_would() {
        let file = "# of this machine\n\nexport WRENN_API_URL='http://127.0.0.1:9000'\nWRENN_API_KEY = \"wrn_1\"\nX=y\r\n";
        let expected = Credentials {
            url: text("http://127.0.0.1:9000"),
            key: text("wrn_1"),
        };
        assert_eq!(parse_credentials(file), Ok(expected));
        assert_eq!(
            parse_credentials("WRENN_API_KEY=\n"),
            Ok(Credentials::default())
        );
        assert_eq!(parse_credentials("A=b\nwrn_1\n"), Err(2));
    }

    #[test]
    fn the_nearest_source_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        assert!(matches!(
            Settings::merge(None, None, &path),
            Err(SettingsError::NoKey(_))
        ));
        std::fs::write(
            &path,
            "WRENN_API_URL=http://127.0.0.1:9000\nWRENN_API_KEY=wrn_file\n",
        )
        .unwrap();
        let merged = |url: &str, key: &str| {
            let given = |value: &str| Some(value.to_owned()).filter(|value| !value.is_empty());
            Settings::merge(given(url), given(key), &path)
                .map(|settings| (settings.url, settings.key))
        };
        let is = |url: &str, key: &str| (url.to_owned(), key.to_owned());
        assert_eq!(
            merged("", "").unwrap(),
            is("http://127.0.0.1:9000", "wrn_file")
        );
        assert_eq!(
            merged("", "wrn_flag").unwrap(),
            is("http://127.0.0.1:9000", "wrn_flag")
        );
        assert_eq!(
            merged("http://localhost:1", "").unwrap(),
            is("http://localhost:1", "wrn_file")
        );
        assert_eq!(
            merged("http://far.example", "wrn_flag").unwrap(),
            is("http://far.example", "wrn_flag")
        );
        assert!(matches!(
            merged("http://far.example", ""),
            Err(SettingsError::KeyOfAnother { .. })
        ));
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for url in [
            "http://127.0.0.1:8000",
            "http://localhost",
            "http://[::1]:80/",
            "http://127.9.9.9/x",
        ] {
            assert!(is_loopback(url), "{url}");
        }
        for url in [
            "http://10.0.0.1",
            "http://localhost.evil.example",
            "http://127.0.0.1:80@evil.example",
            "",
        ] {
            assert!(!is_loopback(url), "{url}");
        }
    }

    #[test]
    fn the_directory_follows_the_user() {
        let home = tempfile::tempdir().unwrap();
        let env = |var, is_root| Environment {
            var,
            is_root,
            home: Some(home.path()),
        };
        assert_eq!(
            wrenn_dir(&env(|_| Some("/x".to_owned()), false)),
            Path::new("/x")
        );
        assert_eq!(wrenn_dir(&env(|_| None, false)), Path::new(SYSTEM_DIR));
        std::fs::create_dir(home.path().join(".wrenn")).unwrap();
        assert_eq!(wrenn_dir(&env(|_| None, false)), home.path().join(".wrenn"));
        assert_eq!(wrenn_dir(&env(|_| None, true)), Path::new(SYSTEM_DIR));
    }
}
