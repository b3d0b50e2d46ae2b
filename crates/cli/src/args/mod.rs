//! Flags as the user types them. What the environment and files add to them is in `settings`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use client::types::OnTimeout;

mod attributes;
mod background;
mod diff;
mod events;
mod fs;
mod help;
mod images;
mod lifecycle;
mod mcp;
mod network;
mod ports;
mod ssh;
mod start;
mod stats;
mod webhooks;

pub use attributes::{AttributeArgs, KeepAliveArgs, RenameArgs, UpdateArgs, WaitArgs, WaitGoal};
pub use background::{AttachArgs, KillArgs, PsArgs, ShellArgs};
pub use diff::DiffArgs;
pub use events::EventsArgs;
pub use fs::{
    FsArgs, FsChmodArgs, FsChownArgs, FsCommand, FsFindArgs, FsGrepArgs, FsLsArgs, FsMkdirArgs,
    FsMvArgs, FsRmArgs, FsSearchArgs, FsStatArgs, FsTarget, FsWatchArgs,
};
pub use help::parse;
pub use images::{ImageArgs, ImageCommand, ImageImportArgs, ImagePullArgs};
pub use lifecycle::{
    AutoCheckpointArgs, CheckpointArgs, CheckpointsArgs, CheckpointsCommand, DfArgs, ForkArgs,
    RollbackArgs, SavedCommand, SnapshotArgs, SnapshotsArgs, SnapshotsCommand, UndoArgs,
    UndoTarget,
};
pub use mcp::McpArgs;
pub use ports::{Mapping, PortForwardArgs, UrlArgs};

pub use ssh::{SshArgs, SshConfigArgs, SshProxyArgs};
pub use start::StartArgs;
pub use stats::{StatsArgs, StatsFormat};
pub use webhooks::{
    WebhookArgs, WebhookCommand, WebhookCreateArgs, WebhookDeliveriesArgs, WebhookIdArgs,
    WebhookRedeliverArgs, WebhookRmArgs, WebhookRotateArgs, WebhookUpdateArgs,
};

pub use network::{NetworkArgs, RulesArgs};

use crate::values::{
    AutoCheckpointTime, EnvVar, on_timeout_parser, parse_filter, parse_memory, parse_seconds,
};

/// Runs untrusted code in microVMs.
#[derive(Debug, Parser)]
#[command(
    name = "wrenn",
    version,
    max_term_width = 100,
    disable_help_subcommand = true
)]
#[command(after_help = "Start a server with `wrenn up`, then try `wrenn run -- uname -a`.")]
pub struct Cli {
    #[command(flatten)]
    pub connection: ConnectionArgs,

    /// Print one JSON document instead of text; errors become JSON on stderr
    #[arg(long, global = true)]
    pub json: bool,

    #[command(subcommand)]
    pub command: Command,
}

/// Which server, and with which key.
#[derive(Debug, Clone, Default, Args)]
pub struct ConnectionArgs {
    /// Address of the server [env: WRENN_API_URL, else the credentials file, else
    /// http://127.0.0.1:8000]
    #[arg(long, global = true, value_name = "URL", help_heading = "Connection")]
    pub url: Option<String>,

    /// API key; others see it in the list of processes, so prefer --key-file [env: WRENN_API_KEY,
    /// else the credentials file in $WRENN_DIR]
    #[arg(
        long,
        global = true,
        value_name = "KEY",
        help_heading = "Connection",
        conflicts_with = "key_file"
    )]
    pub key: Option<String>,

    /// File with the API key; - for standard input
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection")]
    pub key_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a server on this machine: control plane and host agent in one process
    Up(UpArgs),
    /// Tell what this machine can do, what is missing, and what to type
    Doctor(DoctorArgs),
    /// Create a sandbox, run a command in it, and remove it
    Run(RunArgs),
    /// Create a sandbox and print its id
    Create(CreateArgs),
    /// List sandboxes
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Show one sandbox
    #[command(visible_alias = "inspect")]
    Info(InfoArgs),
    /// Change name, labels, end or timeout of a sandbox
    Update(UpdateArgs),
    /// Give a sandbox another name
    Rename(RenameArgs),
    /// Wait until a sandbox has a status
    Wait(WaitArgs),
    /// Ask whether the guest of a running sandbox answers; counts as use
    Ping(IdArgs),
    /// Count as use of a running sandbox, so that it is not paused for idleness
    KeepAlive(KeepAliveArgs),
    /// Run a command in a sandbox
    Exec(ExecArgs),
    /// Open a shell in a sandbox that outlives its connection
    Shell(ShellArgs),
    /// List the background commands of a sandbox
    Ps(PsArgs),
    /// Print the output of a background command, from its beginning and as it comes
    Attach(AttachArgs),
    /// Send a signal to a background command
    Kill(KillArgs),
    /// Copy files and directories into a sandbox and out of it
    Cp(CpArgs),
    /// List, move, remove and change files in a sandbox
    Fs(FsArgs),
    /// Remove sandboxes with everything in them
    Rm(RmArgs),
    /// Save a sandbox with its memory, and free what it uses of the host
    Pause(IdArgs),
    /// Resume a paused sandbox where it was
    Resume(IdArgs),
    /// Show or change where a sandbox may connect to
    Network(NetworkArgs),
    #[command(flatten)]
    Saved(SavedCommand),
    /// Print a link to a port of a sandbox, for a browser
    Url(UrlArgs),
    /// Make ports of a sandbox reachable as ports here
    PortForward(PortForwardArgs),
    /// Open an SSH session in a sandbox, with forwarded ports where they are asked for
    Ssh(SshArgs),
    /// Write the configuration of ssh, so that ssh, scp, rsync, git and editors reach sandboxes
    SshConfig(SshConfigArgs),
    /// Serve one SSH connection on standard input and output, for ssh
    SshProxy(SshProxyArgs),
    /// Print the address of the test console, with the key, for a browser
    #[command(after_help = CONSOLE_HELP)]
    Console,
    /// Show the console of a sandbox and what the host did with it
    Logs(LogsArgs),
    /// Show what sandboxes use: processor, memory, disk and network
    Stats(StatsArgs),
    /// Show what changed: sandboxes, commands, snapshots, keys
    Events(EventsArgs),
    /// Send events to URLs, and see what was sent
    Webhook(WebhookArgs),
    /// List what sandboxes can be created from
    Templates,
    /// Offer sandboxes as tools to a language model, over the Model Context Protocol
    Mcp(McpArgs),
    /// Import, pull, list and remove images, which sandboxes are created from
    Image(ImageArgs),
    /// Print completions for a shell, for example `source <(wrenn completions bash)`
    Completions { shell: clap_complete::Shell },
    /// Print the versions of this command and of the server
    Version,
}

/// Where a server of this machine listens unless told otherwise.
const LISTEN: &str = "127.0.0.1:8000";

#[derive(Debug, Args)]
#[command(after_help = "\
Runs in the foreground until Ctrl-C. Sandboxes go on running then, and the next `wrenn up` in the same directory finds
them again. The first start writes an API key to DIR/credentials, where the other commands find it.

Settings for experts come from the environment: DATABASE_URL (embedded SQLite in DIR where it is not set), AGENT_VMM,
AGENT_ACCEL, AGENT_KERNEL_PATH, AGENT_IMAGES_PATH and the others of docs/configuration.md. RUST_LOG sets what is logged.")]
pub struct UpArgs {
    /// Address and port to serve on
    #[arg(long, value_name = "ADDRESS:PORT", default_value = LISTEN)]
    pub listen: SocketAddr,

    /// Where everything is kept [env: WRENN_DIR, else /var/lib/wrenn]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Exits with 0 only if a sandbox can run here.")]
pub struct DoctorArgs {
    /// Directory of the installation [env: WRENN_DIR, else /var/lib/wrenn]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,

    /// Address and port that `wrenn up` is to serve on
    #[arg(long, value_name = "ADDRESS:PORT", default_value = LISTEN)]
    pub listen: SocketAddr,
}

/// What a new sandbox is to be.
#[derive(Debug, Clone, Args)]
pub struct ShapeArgs {
    /// What to create it from; `wrenn templates` lists them [default: minimal]
    #[arg(long, value_name = "NAME")]
    pub template: Option<String>,

    /// Virtual CPUs [default: 1, or as in the snapshot]
    #[arg(long, value_name = "N")]
    pub vcpus: Option<u32>,

    /// Memory in MiB, or with a unit as in 2g [default: 512, or as in the snapshot]
    #[arg(long, value_name = "MB", value_parser = parse_memory)]
    pub memory: Option<u32>,

    /// Disk in MiB, or with a unit as in 20g [default: the size of the template]
    #[arg(long, value_name = "MB", value_parser = parse_memory)]
    pub disk: Option<u32>,

    /// What to do after its timeout without activity [default: pause; `run`: kill]
    #[arg(long, value_name = "ACTION", value_parser = on_timeout_parser())]
    pub on_timeout: Option<OnTimeout>,

    /// Refuse commands, file transfers and connections while it is paused, instead of resuming it
    #[arg(long)]
    pub no_auto_resume: bool,

    #[command(flatten)]
    pub rules: RulesArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A command after -- is the start command: it runs from the start of the sandbox on, also after a resume, and again as
--restart says (1 second later, then twice as long each time up to a minute). `wrenn ps SANDBOX` shows it as `start`,
`wrenn attach SANDBOX start` its output, and `wrenn kill SANDBOX start` ends it for good.

  wrenn create --name web --restart on-failure:5 -- python3 -m http.server 8080")]
pub struct CreateArgs {
    #[command(flatten)]
    pub shape: ShapeArgs,

    /// Pause it (or --on-timeout) after so long without activity: seconds, or with a unit as in 10m
    /// [default: 300]
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    pub timeout: Option<u32>,

    #[command(flatten)]
    pub attributes: AttributeArgs,

    /// Print the id of the living sandbox of that name, if there is one, instead of failing
    #[arg(long, requires = "name")]
    pub or_existing: bool,

    /// Environment of everything that runs in it; NAME alone takes the value from here
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = OsStringValueParser::new().try_map(EnvVar::parse))]
    pub envs: Vec<EnvVar>,

    /// Make checkpoints automatically: before each `command`, or each so many seconds of use as in
    /// 60 or 10m. `wrenn undo` goes back to them, `wrenn auto-checkpoint` changes this [default: off]
    #[arg(long, value_name = "WHEN", value_parser = AutoCheckpointTime::parse)]
    pub auto_checkpoint: Option<AutoCheckpointTime>,

    /// Let anyone who knows the address of one of its ports use it, without a key or a link
    #[arg(long)]
    pub public_ports: bool,

    #[command(flatten)]
    pub start: StartArgs,
}

/// How to run a command.
#[derive(Debug, Clone, Args)]
pub struct ProcessArgs {
    /// Pass standard input on
    #[arg(short, long)]
    pub interactive: bool,

    /// Run it on a terminal
    #[arg(short, long, conflicts_with = "json")]
    pub tty: bool,

    /// Environment of the command; NAME alone takes the value from here
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = OsStringValueParser::new().try_map(EnvVar::parse))]
    pub envs: Vec<EnvVar>,

    /// Working directory [default: that of the image, else the user's home]
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<OsString>,

    /// User in the sandbox [default: the template's]
    #[arg(short, long)]
    pub user: Option<String>,

    /// End it after so long with SIGTERM, and 10 seconds later with SIGKILL; in the background with
    /// SIGKILL at once: seconds, or with a unit as in 10m [default: never]
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    pub timeout: Option<u32>,

    /// Time that it has to end after Ctrl-C or another signal, before SIGKILL
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, default_value = "10")]
    pub grace: u32,
}

/// Notes of `console`, for its help.
const CONSOLE_HELP: &str = "\
The key stands behind the #, which browsers send to no server; the page takes it out of its address. Anyone who sees the
printed address can use all that the key opens.

From another machine: ssh -L 8000:127.0.0.1:8000 HOST, and the same address works there.";

/// Exit codes of `run` and `exec`, for their help.
const EXIT_CODES: &str = "\
Exits with the command's own exit code (128 and the number of the signal that ended it); 127 when there is no such
command, 126 when it cannot be executed, 124 when its --timeout is over, 125 when wrenn itself failed. Ctrl-C and
SIGTERM go to the command; a second one kills it.";

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct RunArgs {
    #[command(flatten)]
    pub shape: ShapeArgs,

    #[command(flatten)]
    pub process: ProcessArgs,

    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// How to run a command in the background.
#[derive(Debug, Clone, Args)]
pub struct DetachArgs {
    /// Start it in the background and print its name or id: `wrenn attach` reads its output
    #[arg(short, long, conflicts_with = "grace")]
    pub detach: bool,

    /// Name of the background command [default: its id]
    #[arg(long, value_name = "NAME", requires = "detach")]
    pub name: Option<String>,

    /// Keep the sandbox from being paused for idleness while the background command runs
    #[arg(long, requires = "detach")]
    pub keep_alive: bool,
}

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct ExecArgs {
    #[command(flatten)]
    pub process: ProcessArgs,

    #[command(flatten)]
    pub detach: DetachArgs,

    /// Id or name of the sandbox, or the beginning of its id
    #[arg(value_name = "SANDBOX")]
    pub id: String,

    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct LsArgs {
    /// Only those with this label: KEY=VALUE, or KEY for any value; may come several times
    #[arg(short, long = "label", value_name = "KEY[=VALUE]")]
    pub labels: Vec<String>,

    /// Only these: status=STATUS, template=NAME, name=BEGINNING or label=KEY[=VALUE]; may come
    /// several times
    #[arg(short, long = "filter", value_name = "FIELD=VALUE", value_parser = parse_filter)]
    pub filters: Vec<(String, String)>,

    /// Print ids alone
    #[arg(short, long, conflicts_with = "json")]
    pub quiet: bool,

    /// Also those that are stopped or failed
    #[arg(short, long)]
    pub all: bool,

    /// Print their number alone
    #[arg(long, conflicts_with_all = ["quiet", "size"])]
    pub count: bool,

    /// With what each takes on disk, checkpoints included, and what removing it would free
    #[arg(short, long)]
    pub size: bool,
}

#[derive(Debug, Args)]
pub struct InfoArgs {
    /// Id of the sandbox, or the beginning of it
    #[arg(value_name = "SANDBOX")]
    pub id: String,

    /// With what it takes on disk
    #[arg(short, long)]
    pub size: bool,
}

#[derive(Debug, Args)]
pub struct IdArgs {
    /// Id or name of the sandbox, or the beginning of its id
    #[arg(value_name = "SANDBOX")]
    pub id: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A side in a sandbox is written SANDBOX:PATH; a local path with a colon in it as ./a:b. Directories are copied whole:
into the target where that is a directory, else as the target. SOURCE/. means what is in the directory.

  wrenn cp report.txt sb-4f2:/tmp/        wrenn cp sb-4f2:/home/user/out ./out
  wrenn cp - sb-4f2:notes.txt             wrenn cp sb-4f2:/etc/hosts -")]
pub struct CpArgs {
    /// What to copy: PATH, SANDBOX:PATH, or - for standard input
    pub source: PathBuf,

    /// Where to: PATH, SANDBOX:PATH, or - for standard output (a directory comes as a tar archive)
    pub target: PathBuf,

    /// User in the sandbox who reads or owns the files [default: the template's]
    #[arg(short, long)]
    pub user: Option<String>,
}

#[derive(Debug, Args)]
pub struct RmArgs {
    /// Ids or names, or the beginnings of ids
    #[arg(
        value_name = "SANDBOX",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    pub ids: Vec<String>,

    /// Every sandbox, in whatever state
    #[arg(short, long)]
    pub all: bool,
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Go on with what comes, until the sandbox ends
    #[arg(short, long)]
    pub follow: bool,

    /// Id or name of the sandbox, or the beginning of its id
    #[arg(value_name = "SANDBOX")]
    pub id: String,
}
