//! Starting the ssh of this machine in place of this process, so that terminal, signals and exit
//! code are its own. It is the user's program, with the user's environment.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Replaces this process by ssh. Returns only where that fails.
pub fn replace_by_ssh(args: &[OsString], envs: &[(&str, &str)]) -> anyhow::Error {
    let mut ssh = Command::new("ssh");
    let error = ssh.args(args).envs(envs.iter().copied()).exec();
    let what = match error.kind() {
        io::ErrorKind::NotFound => {
            "there is no ssh on this machine: install OpenSSH's client (on Debian \
             `apt install openssh-client`), or use `wrenn shell` and `wrenn exec`"
        }
        _ => "ssh cannot be started",
    };
    anyhow::Error::new(error).context(what)
}
