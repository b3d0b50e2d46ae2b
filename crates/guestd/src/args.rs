//! Command line of `envd`.

use std::path::PathBuf;

use clap::Parser;
use guest_rpc::{ENVD_VERSION, PORT};

/// The guest agent.
#[derive(Debug, Clone, Parser)]
#[command(name = "envd", version = ENVD_VERSION, about = "The guest agent of a sandbox: processes and files over HTTP")]
pub struct Args {
    /// TCP port to serve on; 0 picks a free one and prints it.
    #[arg(long, default_value_t = PORT)]
    pub port: u16,
    /// Let every call in without a token.
    #[arg(long)]
    pub no_auth: bool,
    /// Run on an ordinary machine, for tests: nothing is mounted or configured, loopback only.
    #[arg(long)]
    pub not_guest: bool,
    /// Mounted cgroup2 below which the group of user processes is made.
    /// [default: /sys/fs/cgroup in a guest, none elsewhere]
    #[arg(long, value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// Print the commit that this was built from, and end.
    #[arg(long)]
    pub commit: bool,
}

impl Args {
    /// Returns those of this process. PID 1 gets words of the kernel command line that it never
    /// asked for, and must not end over them.
    pub fn read(first_process: bool) -> Self {
        if !first_process {
            return Self::parse();
        }
        Self::try_parse().unwrap_or_else(|_| Self::parse_from(["envd"]))
    }

    /// Returns the directory of cgroups; `None` outside a guest, unless a flag names it.
    pub fn cgroups(&self) -> Option<PathBuf> {
        let of_guest = || (!self.not_guest).then(|| PathBuf::from(crate::boot::CGROUP_ROOT));
        self.cgroup_root.clone().or_else(of_guest)
    }
}
