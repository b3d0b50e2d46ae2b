//! Flags of the commands about SSH.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "\
Starts the ssh of this machine with all that it needs: no key, no port and no SSH server in the sandbox. Exits with what
ssh exits with: the exit code of the command, 255 when the connection failed.

  wrenn ssh web                             wrenn ssh root@web -- systemctl status
  wrenn ssh -L 8080:localhost:80 web        wrenn ssh -N -D 1080 web

For `ssh`, `scp`, `rsync`, git and editors by themselves: wrenn ssh-config --install")]
pub struct SshArgs {
    /// Forward a port here, as in 8080:localhost:80; can be given several times
    #[arg(short = 'L', value_name = "FORWARD")]
    pub local: Vec<String>,

    /// Forward a port of the sandbox to here, as in 9000:localhost:3000; can be given several times
    #[arg(short = 'R', value_name = "FORWARD")]
    pub remote: Vec<String>,

    /// Serve SOCKS on a port here, whose connections the sandbox makes
    #[arg(short = 'D', value_name = "[ADDRESS:]PORT")]
    pub dynamic: Vec<String>,

    /// Run no command: only forward
    #[arg(short = 'N')]
    pub no_command: bool,

    /// Run the command on a terminal; twice even if there is none here
    #[arg(short = 't', action = clap::ArgAction::Count)]
    pub tty: u8,

    /// Option of ssh_config(5), as in -o ServerAliveInterval=30; can be given several times
    #[arg(short = 'o', value_name = "OPTION")]
    pub options: Vec<String>,

    /// Show what ssh does; up to three times
    #[arg(short = 'v', action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Id or name of the sandbox, or the beginning of its id, with a user in front of an @
    /// [default: the user of the template]
    #[arg(value_name = "[USER@]SANDBOX")]
    pub target: String,

    /// Command for the shell of the user [default: a login shell]
    #[arg(trailing_var_arg = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
ssh starts it, as its ProxyCommand; `wrenn ssh-config` writes that down. It speaks SSH on standard input and output, and
keeps the host key in ~/.ssh/wrenn, or in $WRENN_DIR/ssh where that is set.")]
pub struct SshProxyArgs {
    /// Id or name of the sandbox, or the beginning of its id; .wrenn at its end is left out
    #[arg(value_name = "SANDBOX")]
    pub id: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Prints the configuration of ssh for sandboxes, or installs it: then `ssh NAME.wrenn`, `scp`, `sftp`, `rsync`, git and
editors reach every sandbox by its name or id. Named sandboxes are in it by name, too, for editors that list hosts.

  wrenn ssh-config --install                ssh web.wrenn
  wrenn ssh-config --install web db         ssh root@sb-4f2.wrenn")]
pub struct SshConfigArgs {
    /// Sandboxes to name, for programs that list hosts
    #[arg(value_name = "SANDBOX")]
    pub names: Vec<String>,

    /// Write it to a file of its own, which the configuration of ssh then includes
    #[arg(long, conflicts_with = "remove")]
    pub install: bool,

    /// Take out what --install has written
    #[arg(long, conflicts_with = "names")]
    pub remove: bool,

    /// Configuration of ssh that includes it [default: ~/.ssh/config]
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}
