//! Commands of `wrenn-cp`.

use std::io::Write;

use anyhow::{Context, anyhow};
use clap::Subcommand;
use control::auth::{self, FirstKey};
use control::{Config, ControlPlane, Settings, config};
use model::Limits;
use runtime::shutdown::cancel_on_signal;
use store::{Actor, Store};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Subcommand)]
pub enum Key {
    /// Make a key and print it, this once
    Create {
        /// For you to know it by
        #[arg(long, default_value = "made by wrenn-cp")]
        name: String,
    },
    /// List the keys: id, time, name
    List,
    /// Make a key useless from now on
    Revoke {
        /// As `key list` shows it
        id: String,
    },
}

async fn open(config: &Config) -> anyhow::Result<Store> {
    Store::open(&config.database_url).await.with_context(|| {
        format!(
            "cannot open the database; set DATABASE_URL, or give this user the directory {} (WRENN_DIR)",
            config.dir.display()
        )
    })
}

async fn open_migrated(config: &Config) -> anyhow::Result<Store> {
    let store = open(config).await?;
    store.check_migrated().await?;
    Ok(store)
}

pub async fn serve(config: Config) -> anyhow::Result<()> {
    let store = open_migrated(&config).await?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {} (CP_LISTEN_ADDR)", config.listen))?;
    let listen = listener.local_addr()?;
    first_key(&store, &config, &config::local_url(listen)).await?;
    let Config {
        host,
        limits,
        max_upload_bytes,
        ports,
        listener: listener_limits,
        rate_limits,
        events,
        webhooks,
        metrics,
        drain,
        ..
    } = config;
    let settings = Settings {
        store: store.clone(),
        hosts: vec![host],
        limits,
        max_upload_bytes,
        ports,
        listener: listener_limits,
        rate_limits,
        events,
        drain,
        webhooks,
    };
    let shutdown = CancellationToken::new();
    cancel_on_signal(shutdown.clone())?;
    control::metrics::install();
    let metrics = metrics.bind().await;
    let metrics = metrics.context("cannot listen on the address of CP_METRICS_ADDR")?;
    let control = ControlPlane::start(settings).await?;
    if let Some(listener) = metrics {
        control.serve_metrics(listener);
    }
    control.export_metrics();
    tracing::info!(%listen, store = store.backend(), "the control plane serves; its API is shown at /docs");
    control
        .serve(listener, shutdown)
        .await
        .context("the listener failed")?;
    runtime::otlp::flush().await;
    store.close().await;
    tracing::info!("the control plane has ended; sandboxes go on running");
    Ok(())
}

/// Makes the first key if the store has none. A failure to write its file does not keep the server
/// from starting: `wrenn-cp key create` makes a key all the same.
async fn first_key(store: &Store, config: &Config, url: &str) -> anyhow::Result<()> {
    match auth::ensure_first_key(store, &config.dir, url).await {
        Ok(FirstKey::Made(path)) => tracing::info!("the first API key is in {}", path.display()),
        Ok(FirstKey::Kept(_)) => {}
        Ok(FirstKey::Elsewhere) => {
            tracing::info!(
                "no API key in {}; `wrenn-cp key create` makes one",
                config.dir.display()
            );
        }
        Err(error @ auth::FirstKeyError::File { .. }) => tracing::warn!("{error}"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

pub async fn migrate_database(config: &Config) -> anyhow::Result<()> {
    let store = open(config).await?;
    store.migrate().await?;
    store.close().await;
    say(format_args!("the {} database is ready", store.backend()))
}

pub async fn manage_keys(config: &Config, command: Key) -> anyhow::Result<()> {
    let store = open_migrated(config).await?;
    let store = store.acting_for(Actor::local(Actor::OPERATOR));
    match command {
        Key::Create { name } => {
            let (key, text) = auth::create_key(&store, &name).await.map_err(said)?;
            tracing::info!(id = key.id, "made; the key itself is shown only now");
            say(format_args!("{}", text.expose()))
        }
        Key::List => {
            for key in store.key_list().await? {
                say(format_args!(
                    "{}  {}  {}",
                    key.id,
                    control::api::format_time(key.created_at),
                    key.name
                ))?;
            }
            Ok(())
        }
        Key::Revoke { id } => {
            auth::revoke_key(&store, &id).await.map_err(said)?;
            say(format_args!("{id} is revoked"))
        }
    }
}

fn said(error: control::error::Error) -> anyhow::Error {
    match error.cause.clone() {
        Some(cause) => anyhow!(cause).context(error.message),
        None => anyhow!(error.message),
    }
}

/// Prints the API document with the default limits, as it is committed.
pub fn print_openapi() -> anyhow::Result<()> {
    let document = control::api::openapi(&Limits::default());
    say(format_args!("{}", serde_json::to_string_pretty(&document)?))
}

fn say(text: std::fmt::Arguments<'_>) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}
