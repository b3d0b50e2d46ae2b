//! Flags of what reaches ports of sandboxes.

use std::net::IpAddr;
use std::str::FromStr;

use clap::Args;

use crate::values::parse_seconds;

#[derive(Debug, Args)]
#[command(after_help = "\
Anyone with the link can use the port until it expires or the sandbox is removed. Programs may also send an API key in
the header X-API-Key to the same address without the link.

  wrenn url sb-4f2 3000        xdg-open $(wrenn url sb-4f2 8080 --expires 8h)")]
pub struct UrlArgs {
    /// Id of the sandbox, or the beginning of it
    #[arg(value_name = "SANDBOX")]
    pub id: String,

    /// Port in the sandbox
    #[arg(value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,

    /// How long the link works: seconds, or with a unit as in 8h [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    pub expires: Option<u32>,

    /// Print the address on the server's own name, for where `*.localhost` or the server's domain
    /// does not work
    #[arg(long)]
    pub path: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Runs until Ctrl-C. Any protocol over TCP works; a paused sandbox is resumed by the first connection.

  wrenn port-forward sb-4f2 5432        wrenn port-forward sb-4f2 8080:80 2222:22")]
pub struct PortForwardArgs {
    /// Id of the sandbox, or the beginning of it
    #[arg(value_name = "SANDBOX")]
    pub id: String,

    /// Port here, and port in the sandbox where that is another; 0 here takes a free one
    #[arg(value_name = "PORT[:PORT]", required = true)]
    pub mappings: Vec<Mapping>,

    /// Address here to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub address: IpAddr,
}

/// A port here and one in the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    pub local: u16,
    /// Never 0.
    pub remote: u16,
}

impl FromStr for Mapping {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (local, remote) = text.split_once(':').unwrap_or((text, text));
        match (local.parse(), remote.parse()) {
            (Ok(local), Ok(remote)) if remote > 0 => Ok(Self { local, remote }),
            _ => Err("a mapping is a port from 1 to 65535, or two as in 8080:80".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_have_one_port_or_two() {
        let mapping = |local, remote| Ok(Mapping { local, remote });
        assert_eq!("80".parse(), mapping(80, 80));
        assert_eq!("8080:80".parse(), mapping(8080, 80));
        assert_eq!("0:80".parse(), mapping(0, 80));
        for wrong in ["", "0", "80:0", "80:", ":80", "a", "65536", "1:2:3", "-1"] {
            assert!(wrong.parse::<Mapping>().is_err(), "{wrong}");
        }
    }
}
