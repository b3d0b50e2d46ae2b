//! Commands, one file each.

mod background;
mod checkpoint;
mod completions;
mod console;
mod cp;
mod create;
mod description;
mod df;
mod diff;
mod doctor;
mod events;
mod exec;
mod fs;
mod fs_path;
mod fs_search;
mod fs_watch;
mod image_pulls;
mod images;
mod info;
mod logs;
mod ls;
mod mcp;
mod network;
mod pause;
mod ping;
mod ports;
mod rm;
mod run;
mod shell;
mod snapshot;
mod ssh;
mod stats;
mod templates;
mod undo;
mod up;
mod update;
mod version;
mod webhooks;

use client::Client;

use crate::args::{Cli, Command, ConnectionArgs, ImageArgs, ImageCommand, SavedCommand};
use crate::copy::Direction;
use crate::failure;
use crate::settings::{Settings, env_var};

/// Context of every command that talks to a server.
#[derive(Debug)]
pub struct Session {
    pub client: Client,
    pub json: bool,
}

impl Session {
    fn open(connection: &ConnectionArgs, json: bool) -> anyhow::Result<Self> {
        let settings = Settings::load(connection)?;
        let client = Client::new(&settings.url, &settings.key)?;
        // Continues the trace of the program that starts this command.
        let client = match env_var("TRACEPARENT") {
            Some(trace) => client.with_traceparent(&trace),
            None => client,
        };
        Ok(Self { client, json })
    }
}

/// Runs the command and gives the exit code.
pub async fn dispatch(cli: Cli) -> anyhow::Result<u8> {
    let connection = cli.connection;
    let json = cli.json;
    check(&cli.command, json)?;
    check_stdin(&connection, &cli.command)?;
    let session = || Session::open(&connection, json);
    let done = match cli.command {
        Command::Up(args) => return up::run_server(args, json).await,
        Command::Doctor(args) => return doctor::examine_machine(args, json).await,
        Command::Run(args) => return run::run_in_new_sandbox(&session()?, args).await,
        Command::Exec(args) if args.detach.detach => {
            background::start_command(&session()?, args).await
        }
        Command::Ps(args) => background::list_commands(&session()?, &args).await,
        Command::Attach(args) => return background::attach_background(&session()?, args).await,
        Command::Shell(args) => return shell::open_shell(&session()?, args).await,
        Command::Kill(args) => background::signal_command(&session()?, &args).await,
        Command::Exec(args) => return exec::exec_command(&session()?, args).await,
        Command::Create(args) => create::create_sandbox(&session()?, args).await,
        Command::Ls(args) => ls::list_sandboxes(&session()?, &args).await,
        Command::Info(args) => info::show_sandbox(&session()?, &args).await,
        Command::Update(args) => update::update_sandbox(&session()?, args).await,
        Command::Rename(args) => update::rename_sandbox(&session()?, args).await,
        Command::Wait(args) => return update::wait_for_status(&session()?, &args).await,
        Command::Ping(args) => ping::ping_sandbox(&session()?, &args).await,
        Command::KeepAlive(args) => ping::keep_sandbox_alive(&session()?, &args).await,
        Command::Cp(args) => cp::copy_files(&session()?, args).await,
        Command::Fs(args) => return fs::manage_files(&session()?, args).await,
        Command::Rm(args) => return rm::remove_sandboxes(&session()?, args).await,
        Command::Pause(args) => pause::pause_sandbox(&session()?, &args).await,
        Command::Resume(args) => pause::resume_sandbox(&session()?, &args).await,
        Command::Network(args) => network::manage_network(&session()?, args).await,
        Command::Saved(command) => return dispatch_saved(&session()?, command).await,
        Command::Url(args) => ports::print_url(&session()?, &args).await,
        Command::PortForward(args) => ports::port_forward(&session()?, args).await,
        Command::Ssh(args) => return ssh::start_ssh(&session()?, &connection, args).await,
        Command::SshConfig(args) => ssh::configure_ssh(&connection, &args, json),
        Command::SshProxy(args) => ssh::serve_ssh(&session()?, args).await,
        Command::Console => console::print_console_url(&connection, json),
        Command::Logs(args) => logs::print_logs(&session()?, &args).await,
        Command::Stats(args) => stats::show_stats(&session()?, &args).await,
        Command::Webhook(args) => return webhooks::manage_webhooks(&session()?, args).await,
        Command::Events(args) => events::print_events(&session()?, &args).await,
        Command::Mcp(args) => mcp::serve_client(&session()?, args).await,
        Command::Templates => templates::list_templates(&session()?).await,
        Command::Image(args) => return images::manage_images(&session()?, args).await,
        Command::Completions { shell } => completions::print_completions(shell),
        Command::Version => version::print_versions(session().ok(), json).await,
    };
    done.map(|()| 0)
}

/// Runs a command about saved states and gives the exit code.
async fn dispatch_saved(session: &Session, command: SavedCommand) -> anyhow::Result<u8> {
    let done = match command {
        SavedCommand::Snapshots(args) => return snapshot::manage_snapshots(session, args).await,
        SavedCommand::Checkpoints(args) => {
            return checkpoint::manage_checkpoints(session, args).await;
        }
        SavedCommand::Diff(args) => return diff::print_diff(session, args).await,
        SavedCommand::Fork(args) => pause::fork_sandbox(session, &args).await,
        SavedCommand::Snapshot(args) => snapshot::create_snapshot(session, args).await,
        SavedCommand::Checkpoint(args) => checkpoint::create_checkpoint(session, &args).await,
        SavedCommand::Rollback(args) => checkpoint::rollback_sandbox(session, &args).await,
        SavedCommand::Undo(args) => undo::undo_sandbox(session, args).await,
        SavedCommand::AutoCheckpoint(args) => undo::set_policy(session, args).await,
        SavedCommand::Df(args) => df::print_usage(session, &args).await,
    };
    done.map(|()| 0)
}

/// Checks that key and command do not both want standard input.
fn check_stdin(connection: &ConnectionArgs, command: &Command) -> anyhow::Result<()> {
    if connection
        .key_file
        .as_deref()
        .is_some_and(|path| path.as_os_str() == "-")
        && reads_stdin(command)
    {
        return Err(failure::usage_error(
            "the key and the command both want standard input: put the key into a file",
        ));
    }
    Ok(())
}

/// Checks the arguments before any server or key is looked for.
fn check(command: &Command, json: bool) -> anyhow::Result<()> {
    match command {
        Command::Run(args) => exec::check_process_args(&args.process, false, json),
        Command::Exec(args) => exec::check_process_args(&args.process, args.detach.detach, json),
        Command::Attach(_) if json => Err(failure::usage_error(
            "attach prints output as it comes; leave out --json",
        )),
        Command::Shell(_) => shell::check_terminal(json),
        Command::Mcp(_) if json => Err(failure::usage_error(
            "mcp speaks JSON on standard output by itself; leave out --json",
        )),
        Command::Ssh(_) if json => Err(failure::usage_error(
            "ssh prints what the command does; leave out --json",
        )),
        Command::SshProxy(_) => ssh::check_proxy(json),
        Command::Cp(args) => Direction::of(&args.source, &args.target).map(drop),
        _ => Ok(()),
    }
}

fn reads_stdin(command: &Command) -> bool {
    match command {
        Command::Run(args) => args.process.interactive,
        Command::Exec(args) => args.process.interactive && !args.detach.detach,
        Command::Attach(args) => args.interactive,
        Command::Shell(_) | Command::Mcp(_) | Command::Ssh(_) | Command::SshProxy(_) => true,
        Command::Cp(args) => args.source.as_os_str() == "-",
        Command::Image(ImageArgs {
            command: ImageCommand::Import(args),
        }) => args.source.as_os_str() == "-",
        _ => false,
    }
}
