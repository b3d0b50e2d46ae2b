//! Commands, one file each.

mod checkpoint;
mod completions;
mod console;
mod cp;
mod create;
mod doctor;
mod exec;
mod info;
mod logs;
mod ls;
mod network;
mod pause;
mod ports;
mod rm;
mod run;
mod snapshot;
mod templates;
mod up;
mod version;

use client::Client;

use crate::args::{Cli, Command, ConnectionArgs};
use crate::copy::Direction;
use crate::failure;
use crate::settings::Settings;

/// Context of every command that talks to a server.
#[derive(Debug)]
pub struct Session {
    pub client: Client,
    pub json: bool,
}

impl Session {
    fn open(connection: &ConnectionArgs, json: bool) -> anyhow::Result<Self> {
        let settings = Settings::load(connection)?;
        Ok(Self {
            client: Client::new(&settings.url, &settings.key)?,
            json,
        })
    }
}

/// Runs the command and gives the exit code.
pub async fn dispatch(cli: Cli) -> anyhow::Result<u8> {
    let connection = cli.connection;
    let json = cli.json;
    check(&cli.command, json)?;
    if connection
        .key_file
        .as_deref()
        .is_some_and(|path| path.as_os_str() == "-")
        && reads_stdin(&cli.command)
    {
        return Err(failure::usage(
            "the key and the command both want standard input: put the key into a file",
        ));
    }
    let session = || Session::open(&connection, json);
    match cli.command {
        Command::Up(args) => up::up(args, json).await,
        Command::Doctor(args) => doctor::doctor(args, json).await,
        Command::Run(args) => run::run(&session()?, args).await,
        Command::Exec(args) => exec::exec(&session()?, args).await,
        Command::Create(args) => create::create(&session()?, args).await.map(succeeded),
        Command::Ls(args) => ls::ls(&session()?, &args).await.map(succeeded),
        Command::Info(args) => info::info(&session()?, &args).await.map(succeeded),
        Command::Cp(args) => cp::cp(&session()?, args).await.map(succeeded),
        Command::Rm(args) => rm::rm(&session()?, args).await,
        Command::Pause(args) => pause::pause(&session()?, &args).await.map(succeeded),
        Command::Resume(args) => pause::resume(&session()?, &args).await.map(succeeded),
        Command::Network(args) => network::network(&session()?, args).await.map(succeeded),
        Command::Fork(args) => pause::fork(&session()?, &args).await.map(succeeded),
        Command::Snapshot(args) => snapshot::snapshot(&session()?, args).await.map(succeeded),
        Command::Snapshots(args) => snapshot::snapshots(&session()?, args).await,
        Command::Checkpoint(args) => checkpoint::checkpoint(&session()?, &args)
            .await
            .map(succeeded),
        Command::Checkpoints(args) => checkpoint::checkpoints(&session()?, args).await,
        Command::Rollback(args) => checkpoint::rollback(&session()?, &args)
            .await
            .map(succeeded),
        Command::Url(args) => ports::url(&session()?, &args).await.map(succeeded),
        Command::PortForward(args) => ports::port_forward(&session()?, args).await.map(succeeded),
        Command::Console => console::console(&connection, json).map(succeeded),
        Command::Logs(args) => logs::logs(&session()?, &args).await.map(succeeded),
        Command::Templates => templates::templates(&session()?).await.map(succeeded),
        Command::Completions { shell } => completions::completions(shell).map(succeeded),
        Command::Version => version::version(session().ok(), json).await.map(succeeded),
    }
}

/// Checks the arguments before any server or key is looked for.
fn check(command: &Command, json: bool) -> anyhow::Result<()> {
    match command {
        Command::Run(args) => exec::check(&args.process, json),
        Command::Exec(args) => exec::check(&args.process, json),
        Command::Cp(args) => Direction::of(&args.source, &args.target).map(drop),
        _ => Ok(()),
    }
}

fn reads_stdin(command: &Command) -> bool {
    match command {
        Command::Run(args) => args.process.interactive,
        Command::Exec(args) => args.process.interactive,
        Command::Cp(args) => args.source.as_os_str() == "-",
        _ => false,
    }
}

fn succeeded((): ()) -> u8 {
    0
}
