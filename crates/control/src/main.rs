//! `wrenn-cp`: the control plane as a program of its own.

mod commands;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use control::Config;

/// Serves the Wrenn API and tells host agents what to do. Needs no privileges.
///
/// Settings come from the environment and from `.env` in the working directory: DATABASE_URL,
/// WRENN_DIR, CP_LISTEN_ADDR, CP_HOST_AGENT_ADDR, AGENT_TOKEN, CP_MAX_VCPUS, CP_MAX_MEMORY_MB,
/// CP_MAX_DISK_MB, CP_MAX_TIMEOUT_SEC, CP_MAX_UPLOAD_MB, CP_MAX_REQUESTS_PER_SEC,
/// CP_MAX_CREATES_PER_MIN, CP_DOMAIN, CP_PUBLIC_URL, CP_EVENTS_KEEP_DAYS, CP_EVENTS_MAX_ROWS,
/// CP_METRICS_ADDR, CP_DRAIN_SEC, CP_DOCS_PATH, OTEL_EXPORTER_OTLP_ENDPOINT.
/// `docs/configuration.md` explains each.
#[derive(Debug, Parser)]
#[command(name = "wrenn-cp", version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API (also without any command)
    Serve,
    /// Bring the database to what this version needs
    Migrate,
    /// Make, list and revoke API keys
    #[command(subcommand)]
    Key(commands::Key),
    /// Write a copy of the database to a new file, while it is in use
    Backup {
        /// File that is not there yet
        file: PathBuf,
    },
    /// Replace the database by a backup, or finish what pg_restore has restored; no control plane
    /// may run
    Restore {
        /// File that `backup` wrote; none for PostgreSQL
        file: Option<PathBuf>,
    },
    /// List, adopt and remove sandboxes of the host that the database does not know
    #[command(subcommand)]
    Orphans(commands::Orphans),
    /// Print the API document
    Openapi,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wrenn-cp: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    runtime::environment::load_dotenv()?;
    let args = Args::parse();
    runtime::telemetry::start_service("wrenn-cp", true);
    match args.command {
        None | Some(Command::Serve) => commands::serve(Config::from_env()?).await,
        Some(Command::Migrate) => commands::migrate_database(&Config::from_env()?).await,
        Some(Command::Key(command)) => commands::manage_keys(&Config::from_env()?, command).await,
        Some(Command::Backup { file }) => commands::back_up(&Config::from_env()?, &file).await,
        Some(Command::Restore { file }) => {
            commands::restore(&Config::from_env()?, file.as_deref()).await
        }
        Some(Command::Orphans(command)) => {
            commands::manage_orphans(&Config::from_env()?, command).await
        }
        Some(Command::Openapi) => commands::print_openapi(),
    }
}
