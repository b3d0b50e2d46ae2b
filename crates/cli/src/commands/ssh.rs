//! `wrenn ssh`, `wrenn ssh-proxy` and `wrenn ssh-config`.

use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::json;
use ssh::{DEFAULT_USER, Server};
use tokio_util::io::StreamReader;

use super::Session;
use crate::args::{ConnectionArgs, SshArgs, SshConfigArgs, SshProxyArgs};
use crate::openssh::config::{DOMAIN, ProxyCommand, format_configuration, path_text, ssh_options};
use crate::openssh::include::{add_include, remove_include};
use crate::openssh::start::replace_by_ssh;
use crate::openssh::state::{
    CONFIG, create_private_dir, prepare_host_key, replace_file, ssh_dir, user_dir,
};
use crate::settings::{Settings, env_var};
use crate::stdio::Stdio;
use crate::{failure, ids, output};

/// Starts ssh with what it needs for one sandbox. Returns only where that fails.
pub async fn start_ssh(
    session: &Session,
    connection: &ConnectionArgs,
    args: SshArgs,
) -> anyhow::Result<u8> {
    let (user, name) = match args.target.rsplit_once('@') {
        Some((user, name)) => (user, name),
        None => (DEFAULT_USER, args.target.as_str()),
    };
    let name = name.strip_suffix(DOMAIN).unwrap_or(name);
    let id = ids::resolve_id(&session.client, name).await?;
    // A mistake in the id is told now, and not by ssh.
    let id = session.client.get(&id).await?.id;
    let proxy = ProxyCommand {
        program: this_program()?,
        ..ProxyCommand::default()
    };
    let options = ssh_options(&proxy, &ssh_dir()?, &id)?;
    let words = ssh_words(&args, &options, user, &id);
    // The command that ssh starts asks the same server with the same key.
    let settings = Settings::load(connection)?;
    let envs = [
        ("WRENN_API_URL", settings.url.as_str()),
        ("WRENN_API_KEY", settings.key.as_str()),
    ];
    Err(replace_by_ssh(&words, &envs))
}

fn ssh_words(args: &SshArgs, options: &[(&str, String)], user: &str, id: &str) -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::new();
    let mut add = |flag: &str, value: &str| words.extend([flag, value].map(OsString::from));
    // The user's own come first: of two the first counts.
    for option in &args.options {
        add("-o", option);
    }
    for (name, value) in options {
        add("-o", &format!("{name}={value}"));
    }
    for (flag, forwards) in [
        ("-L", &args.local),
        ("-R", &args.remote),
        ("-D", &args.dynamic),
    ] {
        for forward in forwards {
            add(flag, forward);
        }
    }
    add("-l", user);
    let repeated = |flag: &'static str, count: u8| std::iter::repeat_n(flag, count.into());
    let flags = std::iter::repeat_n("-N", usize::from(args.no_command));
    let flags = flags
        .chain(repeated("-t", args.tty))
        .chain(repeated("-v", args.verbose));
    words.extend(flags.map(OsString::from));
    words.extend(["--".to_owned(), format!("{id}{DOMAIN}")].map(OsString::from));
    words.extend(args.command.iter().cloned());
    words
}

/// Serves the ssh that has started this process.
pub async fn serve_ssh(session: &Session, args: SshProxyArgs) -> anyhow::Result<()> {
    let name = args.id.strip_suffix(DOMAIN).unwrap_or(&args.id);
    let id = ids::resolve_id(&session.client, name).await?;
    let id = session.client.get(&id).await?.id;
    let server = Server {
        client: session.client.clone(),
        sandbox: id,
        key: prepare_host_key(&ssh_dir()?)?,
        report: |note| output::print_note(&output::printable(&format!("wrenn: {note}"))),
    };
    let input = StreamReader::new(Box::pin(Stdio::stdin()?.into_stream()));
    let served = server.serve_client(input, tokio::io::stdout()).await;
    served.context("the SSH connection to the sandbox broke off")
}

/// Checks that a program speaks to us and not a user.
pub fn check_proxy(json: bool) -> anyhow::Result<()> {
    if json {
        return Err(failure::usage_error(
            "ssh-proxy speaks SSH on standard output; leave out --json",
        ));
    }
    if io::stdin().is_terminal() {
        return Err(failure::usage_error(
            "ssh starts ssh-proxy and speaks SSH to it; `wrenn ssh SANDBOX` starts ssh",
        ));
    }
    Ok(())
}

/// Prints the configuration of ssh, installs it, or takes it out.
pub fn configure_ssh(
    connection: &ConnectionArgs,
    args: &SshConfigArgs,
    json: bool,
) -> anyhow::Result<()> {
    let dir = ssh_dir()?;
    let user_config = match &args.file {
        Some(file) => std::path::absolute(file)?,
        None => user_dir()?.join("config"),
    };
    let ours = dir.join(CONFIG);
    if args.remove {
        let is_changed = remove_include(&user_config, path_text(&ours)?)?;
        remove_if_there(&ours)?;
        let note = match is_changed {
            true => format!("{} includes it no more.", user_config.display()),
            false => format!("{} did not include it.", user_config.display()),
        };
        return told(json, &ours, &user_config, false, &note);
    }
    let configuration = format_configuration(&proxy_command(connection)?, &dir, &args.names)?;
    if !args.install {
        return match json {
            true => output::print_json(&json!({ "configuration": configuration })),
            false => output::print_line(configuration.trim_end()),
        };
    }
    create_private_dir(&dir)?;
    prepare_host_key(&dir)?;
    replace_file(&ours, configuration.as_bytes(), None)?;
    let is_changed = add_include(&user_config, path_text(&ours)?)?;
    let path = user_config.display();
    let note = match is_changed {
        true => format!("{path} includes it now. `ssh NAME{DOMAIN}` reaches a sandbox."),
        false => format!("{path} included it already. `ssh NAME{DOMAIN}` reaches a sandbox."),
    };
    told(json, &ours, &user_config, true, &note)
}

fn told(
    as_json: bool,
    ours: &Path,
    user_config: &Path,
    is_installed: bool,
    note: &str,
) -> anyhow::Result<()> {
    if as_json {
        return output::print_json(&json!({
            "installed": is_installed,
            "file": ours.display().to_string(),
            "included_by": user_config.display().to_string(),
        }));
    }
    let done = if is_installed { "written" } else { "removed" };
    output::print_line(&output::printable(&format!(
        "{} is {done}. {note}",
        ours.display()
    )))
}

fn remove_if_there(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Returns the command for a configuration that lasts: with the server and the place of the key as
/// they are now, but never with the key.
fn proxy_command(connection: &ConnectionArgs) -> anyhow::Result<ProxyCommand> {
    if connection.key.is_some() {
        return Err(failure::usage_error(
            "a key is not written into the configuration of ssh: put it into a file, and give \
             --key-file",
        ));
    }
    let key_file = connection.key_file.as_deref();
    if key_file.is_some_and(|file| file.as_os_str() == "-") {
        return Err(failure::usage_error(
            "ssh needs the key with each connection: put it into a file, and give --key-file FILE",
        ));
    }
    let url = connection.url.clone().or_else(|| env_var("WRENN_API_URL"));
    Ok(ProxyCommand {
        program: this_program()?,
        wrenn_dir: env_var("WRENN_DIR").map(std::path::absolute).transpose()?,
        url,
        key_file: key_file.map(std::path::absolute).transpose()?,
    })
}

fn this_program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("the file of this program is not known")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn flags_reach_ssh_before_target() {
        let line = "wrenn ssh -L 1:localhost:2 -N -vv -o A=b root@web -- ls -l";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Command::Ssh(args) = cli.command else {
            panic!("not ssh");
        };
        let options = [("HostKeyAlias", "x".to_owned())];
        let words = ssh_words(&args, &options, "root", "sb-1");
        let words: Vec<_> = words.iter().map(|word| word.to_str().unwrap()).collect();
        let expected = "-o A=b -o HostKeyAlias=x -L 1:localhost:2 -l root -N -v -v -- \
                        sb-1.wrenn ls -l";
        assert_eq!(words.join(" "), expected);
    }
}
