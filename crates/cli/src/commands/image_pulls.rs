//! `wrenn image pull`.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::PathBuf;

use anyhow::Context;
use client::types::{PullImage, PullMessage, PullPhase, RegistryCredentials, Template};
use docker_credential::{CredentialRetrievalError, DockerCredential};
use registry::ImageReference;

use super::Session;
use crate::args::ImagePullArgs;
use crate::failure::usage_error;
use crate::output::{self, Progress, printable};

/// Name of Docker Hub in files of credentials.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// Longest password that is read.
const MAX_PASSWORD: u64 = 64 << 10;

pub async fn pull_image(session: &Session, args: ImagePullArgs) -> anyhow::Result<()> {
    let reference: ImageReference = args
        .reference
        .parse()
        .map_err(|error| usage_error(format!("{error}")))?;
    let name = args
        .name
        .clone()
        .unwrap_or_else(|| reference.template_name());
    let pull = PullImage {
        reference: reference.to_string(),
        credentials: find_credentials(&reference, &args)?,
        replace: args.replace.then_some(true),
    };
    let template = follow_pull(session, &name, &pull).await?;
    if session.json {
        output::print_json(&template)
    } else {
        output::print_line(&printable(&template.name))
    }
}

async fn follow_pull(session: &Session, name: &str, pull: &PullImage) -> anyhow::Result<Template> {
    let mut shown = Progress::spinner("asking the registry", session.json);
    let mut phase = None;
    let mut messages = session.client.pull_image(name, pull).await?;
    while let Some(message) = messages.next().await? {
        match message {
            PullMessage::Progress {
                phase: now,
                bytes,
                total_bytes,
                ..
            } => {
                if phase.replace(now) != Some(now) {
                    shown = match now {
                        PullPhase::Downloading => Progress::bytes(Some(total_bytes), session.json),
                        PullPhase::Unpacking => Progress::spinner("unpacking", session.json),
                    };
                }
                if now == PullPhase::Downloading {
                    shown.set(bytes);
                }
            }
            PullMessage::Done { image } => return Ok(*image),
            PullMessage::Error { error } => {
                return Err(client::Error::Api {
                    status: 0,
                    code: error.code,
                    message: error.message,
                }
                .into());
            }
        }
    }
    anyhow::bail!("the server ended the pull before its end; look with `wrenn image ls`")
}

fn find_credentials(
    reference: &ImageReference,
    args: &ImagePullArgs,
) -> anyhow::Result<Option<RegistryCredentials>> {
    if args.anonymous {
        return Ok(None);
    }
    if let Some(username) = &args.username {
        let mut password = String::new();
        let mut input = std::io::stdin().take(MAX_PASSWORD);
        input
            .read_to_string(&mut password)
            .context("reading the password")?;
        let password = password.trim_end_matches(['\n', '\r']).to_owned();
        if password.is_empty() {
            return Err(usage_error("there is no password on standard input"));
        }
        return Ok(Some(RegistryCredentials {
            username: Some(username.clone()),
            password: Some(password),
            identity_token: None,
        }));
    }
    stored_credentials(reference.registry())
}

/// Returns the file in which `docker login` stores credentials.
fn docker_config() -> Option<PathBuf> {
    let dir = variable("DOCKER_CONFIG").or_else(|| Some(variable("HOME")?.join(".docker")));
    Some(dir?.join("config.json"))
}

/// Returns the file in which `podman login` does (containers-auth.json(5)).
fn podman_config() -> Option<PathBuf> {
    let runtime = || Some(variable("XDG_RUNTIME_DIR")?.join("containers/auth.json"));
    variable("REGISTRY_AUTH_FILE").or_else(runtime)
}

fn variable(name: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name)?;
    Some(PathBuf::from(value)).filter(|path| !path.as_os_str().is_empty())
}

/// Returns what `docker login` has stored for a registry, or else `podman login`.
fn stored_credentials(registry: &str) -> anyhow::Result<Option<RegistryCredentials>> {
    let server = if registry == "docker.io" {
        DOCKER_HUB
    } else {
        registry
    };
    let mut found = Err(CredentialRetrievalError::NoCredentialConfigured);
    for (file, name) in [(docker_config(), server), (podman_config(), registry)] {
        // A missing file has no credentials.
        if let Some(Ok(file)) = file.map(File::open) {
            found = docker_credential::get_credential_from_reader(BufReader::new(file), name);
        }
        if found.is_ok() {
            break;
        }
    }
    let credentials = match found {
        Ok(DockerCredential::UsernamePassword(username, password)) => RegistryCredentials {
            username: Some(username),
            password: Some(password),
            identity_token: None,
        },
        Ok(DockerCredential::IdentityToken(token)) => RegistryCredentials {
            identity_token: Some(token),
            ..RegistryCredentials::default()
        },
        Err(
            CredentialRetrievalError::ConfigNotFound
            | CredentialRetrievalError::NoCredentialConfigured,
        ) => {
            return Ok(None);
        }
        // A helper has none for a registry of which it was never told.
        Err(CredentialRetrievalError::HelperFailure { stdout, .. })
            if stdout.contains("credentials not found") =>
        {
            return Ok(None);
        }
        Err(CredentialRetrievalError::HelperFailure { helper, stderr, .. }) => {
            let stderr = printable(stderr.trim()).into_owned();
            anyhow::bail!(
                "the credential helper {helper} of docker's configuration failed ({stderr}); --anonymous goes without it"
            )
        }
        Err(error) => {
            let registry = printable(registry).into_owned();
            return Err(error).with_context(|| {
                format!(
                    "reading the stored credentials for {registry}; --anonymous goes without them"
                )
            });
        }
    };
    Ok(Some(credentials))
}
