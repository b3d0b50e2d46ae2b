//! Text of the configuration of ssh for sandboxes.

use std::path::{Path, PathBuf};

use ssh::DEFAULT_USER;

use super::state::{HOST_ALIAS, KNOWN_HOSTS};
use crate::failure;

/// End of the names by which ssh reaches sandboxes.
pub const DOMAIN: &str = ".wrenn";

/// Command that serves the connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyCommand {
    /// File of this program.
    pub program: PathBuf,
    /// Directory of the installation, where the environment names it.
    pub wrenn_dir: Option<PathBuf>,
    pub url: Option<String>,
    pub key_file: Option<PathBuf>,
}

impl ProxyCommand {
    /// Returns the line that the user's shell runs. `sandbox` is one, or ssh's token for one.
    fn line(&self, sandbox: &str) -> anyhow::Result<String> {
        let mut words = Vec::new();
        if let Some(dir) = &self.wrenn_dir {
            words.push("env".to_owned());
            words.push(quote_for_shell(&format!("WRENN_DIR={}", path_text(dir)?)));
        }
        words.push(quote_for_shell(path_text(&self.program)?));
        if let Some(url) = &self.url {
            words.extend(["--url".to_owned(), quote_for_shell(url)]);
        }
        if let Some(file) = &self.key_file {
            words.extend(["--key-file".to_owned(), quote_for_shell(path_text(file)?)]);
        }
        let words = words.join(" ").replace('%', "%%");
        Ok(format!("{words} ssh-proxy -- {sandbox}"))
    }
}

/// Returns the options of ssh for a connection to `sandbox`, with values as ssh_config(5) has them.
pub fn ssh_options(
    proxy: &ProxyCommand,
    dir: &Path,
    sandbox: &str,
) -> anyhow::Result<Vec<(&'static str, String)>> {
    let known_hosts = path_text(&dir.join(KNOWN_HOSTS))?.replace('%', "%%");
    let fixed = |name, value: &str| (name, value.to_owned());
    Ok(vec![
        ("ProxyCommand", proxy.line(sandbox)?),
        fixed("HostKeyAlias", HOST_ALIAS),
        ("UserKnownHostsFile", format!("\"{known_hosts}\"")),
        fixed("GlobalKnownHostsFile", "/dev/null"),
        fixed("StrictHostKeyChecking", "yes"),
        fixed("CheckHostIP", "no"),
        fixed("UpdateHostKeys", "no"),
        fixed("ForwardAgent", "no"),
        fixed("ForwardX11", "no"),
    ])
}

/// Returns the configuration for every sandbox, in which `names` stand by themselves, too.
pub fn format_configuration(
    proxy: &ProxyCommand,
    dir: &Path,
    names: &[String],
) -> anyhow::Result<String> {
    let mut hosts = Vec::new();
    for name in names {
        let bare = name.strip_suffix(DOMAIN).unwrap_or(name);
        let is_name = !bare.is_empty()
            && bare
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if !is_name {
            return Err(failure::usage_error(format!(
                "{name:?} is no name or id of a sandbox: they have letters a-z, digits and '-'"
            )));
        }
        hosts.push(format!("{bare}{DOMAIN}"));
    }
    hosts.push(format!("*{DOMAIN}"));
    let mut lines = vec![
        "# Written by `wrenn ssh-config`; the next one writes it anew.".to_owned(),
        format!("Host {}", hosts.join(" ")),
        format!("    User {DEFAULT_USER}"),
    ];
    // As the user types it: the other token is in lower case, and may be another host's.
    for (name, value) in ssh_options(proxy, dir, "'%n'")? {
        lines.push(format!("    {name} {value}"));
    }
    Ok(lines.join("\n") + "\n")
}

/// Quotes a word for a shell.
fn quote_for_shell(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Returns a path as text that a line of a configuration can have.
pub fn path_text(path: &Path) -> anyhow::Result<&str> {
    path.to_str()
        .filter(|text| !text.contains(['"', '\n', '\r']))
        .ok_or_else(|| {
            failure::usage_error(format!(
                "{} cannot stand in a configuration of ssh: it has a quotation mark, a line break \
                 or bytes that are not UTF-8",
                path.display()
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy() -> ProxyCommand {
        ProxyCommand {
            program: "/opt/it's 100%/wrenn".into(),
            wrenn_dir: Some("/srv/w".into()),
            url: Some("http://127.0.0.1:1".to_owned()),
            key_file: None,
        }
    }

    #[test]
    fn configuration_names_every_sandbox() {
        let names = ["web".to_owned(), "db.wrenn".to_owned()];
        let text = format_configuration(&proxy(), Path::new("/home/a b/w"), &names).unwrap();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert_eq!(lines[1], "Host web.wrenn db.wrenn *.wrenn");
        let program = r"env 'WRENN_DIR=/srv/w' '/opt/it'\''s 100%%/wrenn'";
        let command =
            format!("ProxyCommand {program} --url 'http://127.0.0.1:1' ssh-proxy -- '%n'");
        assert!(lines.contains(&command.as_str()), "{text}");
        assert!(lines.contains(&"UserKnownHostsFile \"/home/a b/w/known_hosts\""));
        assert!(lines.contains(&"StrictHostKeyChecking yes"));
    }

    #[test]
    fn text_that_breaks_lines_is_refused() {
        for name in ["", "a b", "*", "web\nHost x", "A"] {
            let refused = format_configuration(&proxy(), Path::new("/w"), &[name.to_owned()]);
            assert!(refused.is_err(), "{name:?}");
        }
        assert!(format_configuration(&proxy(), Path::new("/w\"x"), &[]).is_err());
        let broken = ProxyCommand {
            program: "/a\nb".into(),
            ..proxy()
        };
        assert!(format_configuration(&broken, Path::new("/w"), &[]).is_err());
    }
}
