//! Commands of `wrenn-cp`.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use clap::Subcommand;
use control::auth::{self, FirstKey};
use control::hosts::Hosts;
use control::orphans::{Orphan, adopt_orphan, list_orphans, remove_orphan};
use control::{Config, ControlPlane, Settings, config};
use model::{Limits, SandboxId, TeamId};
use runtime::shutdown::{cancel_on_signal, cancel_on_signals};
use stdx::time::now_ms;
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

#[derive(Debug, Subcommand)]
pub enum Orphans {
    /// List them: id, state, time, template, vCPUs, MiB of memory, and what becomes of them
    List {
        /// Only the ids of those that are held, one a line
        #[arg(short, long)]
        quiet: bool,
    },
    /// Give them a row, to use them as before
    Adopt {
        /// As `orphans list` shows them
        #[arg(required = true, value_name = "SANDBOX")]
        ids: Vec<SandboxId>,
        /// Team that they are to belong to
        #[arg(long, default_value = TeamId::DEFAULT)]
        team: TeamId,
    },
    /// Remove them from the host, with everything in them
    Remove {
        /// As `orphans list` shows them
        #[arg(required = true, value_name = "SANDBOX")]
        ids: Vec<SandboxId>,
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
        guide,
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
        guide,
    };
    let shutdown = CancellationToken::new();
    let at_once = CancellationToken::new();
    cancel_on_signals(shutdown.clone(), at_once.clone())?;
    control::metrics::install();
    let metrics = metrics.bind().await;
    let metrics = metrics.context("cannot listen on the address of CP_METRICS_ADDR")?;
    let control = ControlPlane::start(settings).await?;
    let mut metrics_address = None;
    if let Some(listener) = metrics {
        metrics_address = listener.local_addr().ok().map(tracing::field::display);
        control.serve_metrics(listener);
    }
    control.export_metrics();
    control.skip_drain_on(at_once);
    tracing::info!(%listen, metrics = metrics_address, store = store.backend(), "the control plane serves; its API is shown at /docs");
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

/// Writes a backup. Ctrl-C and SIGTERM leave no file.
pub async fn back_up(config: &Config, file: &Path) -> anyhow::Result<()> {
    let store = open_migrated(config).await?;
    let interrupted = CancellationToken::new();
    cancel_on_signal(interrupted.clone())?;
    let written = interrupted.run_until_cancelled(store.backup(file)).await;
    written.context("interrupted; there is no backup")??;
    store.close().await;
    say(format_args!("{} has the database", file.display()))
}

/// Restores a backup of SQLite, or finishes what the tools of PostgreSQL have restored.
pub async fn restore(config: &Config, file: Option<&Path>) -> anyhow::Result<()> {
    let is_sqlite = config.database_url.starts_with("sqlite://");
    let restored = match file {
        Some(file) => Store::restore(&config.database_url, file, now_ms()).await?,
        None if is_sqlite => bail!("name the file that `wrenn-cp backup` wrote"),
        None => {
            let finished = Store::finish_restore(&config.database_url, now_ms()).await;
            finished.context("the restore is not finished")?
        }
    };
    if let Some(before) = restored.before {
        say(format_args!(
            "{} has the database from before",
            before.display()
        ))?;
    }
    if restored.postponed_ends > 0 {
        say(format_args!(
            "{} sandboxes whose end (ends_at) is over live for another hour",
            restored.postponed_ends
        ))?;
    }
    if restored.disabled_webhooks > 0 {
        say(format_args!(
            "{} webhooks are disabled: their URLs and secrets are those of the backup; `wrenn webhook update ID --enable` enables one",
            restored.disabled_webhooks
        ))?;
    }
    say(format_args!(
        "a snapshot that was deleted since the backup and made again by another team belongs to the team of before: \
         compare the times in `wrenn snapshots` with that of the backup before other teams get their keys back"
    ))?;
    say(format_args!(
        "restored; start the control plane, then see `wrenn-cp orphans list` for sandboxes that are newer than the backup"
    ))
}

/// Lists, adopts or removes orphans. Those that cannot be adopted or removed are told, and keep none
/// of the others back.
pub async fn manage_orphans(config: &Config, command: Orphans) -> anyhow::Result<()> {
    let store = open_migrated(config).await?;
    let store = store.acting_for(Actor::local(Actor::OPERATOR));
    let hosts = Hosts::new(vec![config.host.clone()]);
    let mut failed = 0;
    let mut tell = |id: &SandboxId, error| {
        failed += 1;
        eprintln!("wrenn-cp: {id}: {:#}", said(error));
    };
    for host in hosts.all() {
        match &command {
            Orphans::List { quiet } => {
                for orphan in list_orphans(&store, host).await.map_err(said)? {
                    say_orphan(&orphan, *quiet)?;
                }
            }
            Orphans::Adopt { ids, team } => {
                warn_without_keys(&store, team).await?;
                for id in ids {
                    match adopt_orphan(&store, host, id, team).await {
                        Ok(row) => say(format_args!(
                            "{id} is {} and belongs to the team {team}",
                            row.state
                        ))?,
                        Err(error) => tell(id, error),
                    }
                }
            }
            Orphans::Remove { ids } => {
                for id in ids {
                    match remove_orphan(&store, host, id).await {
                        Ok(()) => say(format_args!("{id} is removed"))?,
                        Err(error) => tell(id, error),
                    }
                }
            }
        }
    }
    match failed {
        0 => Ok(()),
        1 => bail!("one sandbox is left as it was"),
        _ => bail!("{failed} sandboxes are left as they were"),
    }
}

/// Warns of a team that no key belongs to, which may be one that was mistyped.
async fn warn_without_keys(store: &Store, team: &TeamId) -> anyhow::Result<()> {
    let keys = store.key_list().await?;
    if !keys.iter().any(|key| key.team_id == *team) {
        eprintln!("wrenn-cp: no key belongs to the team {team}: nobody can use its sandboxes");
    }
    Ok(())
}

fn say_orphan(orphan: &Orphan, quiet: bool) -> anyhow::Result<()> {
    let report = &orphan.record.report;
    let id = &report.id;
    if quiet {
        return match orphan.is_held {
            true => say(format_args!("{id}")),
            false => Ok(()),
        };
    }
    let fate = match orphan.is_held {
        true => "held: adopt or remove it",
        false => "was deleted: the control plane removes it",
    };
    let state = report.state;
    let created = control::api::format_time(orphan.record.created_at);
    match &orphan.record.spec {
        Some(spec) => say(format_args!(
            "{id}  {state}  {created}  {}  {}  {}  {fate}",
            spec.template_name(),
            spec.vcpus,
            spec.memory_mb
        )),
        None => say(format_args!("{id}  {state}  {created}  -  -  -  {fate}")),
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
