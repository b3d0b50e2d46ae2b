//! Reads the existing rules, also those of other programs, in the network namespace of the calling
//! thread.

use std::io;

use netlink_bindings::nftables::{Nfgenmsg, Request};
use netlink_socket2::{NetlinkSocket, ReplyError};

use super::{Family, Table};

const POLICY_DROP: u32 = 0;

/// Chain at a hook of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    pub table: String,
    pub name: String,
    /// Drops packets that no rule accepts (policy `drop`).
    pub drops: bool,
    /// Names of all chains of the same table.
    pub beside: Vec<String>,
    /// True if a rule of its table contains the bytes that were asked for, for example the name of
    /// a link.
    pub mentions: bool,
}

/// Returns the chains at a hook that see packets of `family`, and for each whether a rule of its
/// table contains `bytes`.
///
/// # Errors
/// The kernel's error.
pub fn base_chains(hook: u32, family: Family, bytes: &[u8]) -> io::Result<Vec<BaseChain>> {
    let mut socket = NetlinkSocket::new();
    let chains = chains(&mut socket)?;
    let mentioning = tables_with(&mut socket, bytes)?;
    let seeing = [Family::Inet as u8, family as u8];
    let at_hook = chains
        .iter()
        .filter(|chain| chain.hook == Some(hook) && seeing.contains(&chain.family));
    Ok(at_hook
        .map(|chain| {
            let same =
                |other: &&Chain| (other.family, &other.table) == (chain.family, &chain.table);
            BaseChain {
                table: chain.table.clone(),
                name: chain.name.clone(),
                drops: chain.policy == Some(POLICY_DROP),
                beside: chains
                    .iter()
                    .filter(same)
                    .map(|other| other.name.clone())
                    .collect(),
                mentions: mentioning.contains(&(chain.family, chain.table.clone())),
            }
        })
        .collect())
}

/// Returns true if the table is there and has a chain of that name.
///
/// # Errors
/// The kernel's error.
pub fn chain_exists((family, table): Table, name: &str) -> io::Result<bool> {
    let mut header = Nfgenmsg::new();
    header.nfgen_family = family as u8;
    let mut request = Request::new().op_getchain_do(&header);
    request
        .encode()
        .push_table_bytes(table.as_bytes())
        .push_name_bytes(name.as_bytes());
    let mut socket = NetlinkSocket::new();
    match socket.request(&request)?.recv_one() {
        Ok(_) => Ok(true),
        Err(error) if error.as_io_error().kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(said(error)),
    }
}

struct Chain {
    family: u8,
    table: String,
    name: String,
    hook: Option<u32>,
    policy: Option<u32>,
}

fn chains(socket: &mut NetlinkSocket) -> io::Result<Vec<Chain>> {
    let request = Request::new().op_getchain_dump(&Nfgenmsg::new());
    let mut answers = socket.request(&request)?;
    let mut found = Vec::new();
    while let Some(answer) = answers.recv() {
        let (header, chain) = answer.map_err(said)?;
        let text =
            |name: Option<&std::ffi::CStr>| name.unwrap_or_default().to_string_lossy().into_owned();
        found.push(Chain {
            family: header.nfgen_family,
            table: text(chain.get_table().ok()),
            name: text(chain.get_name().ok()),
            hook: chain.get_hook().ok().and_then(|hook| hook.get_num().ok()),
            policy: chain.get_policy().ok(),
        });
    }
    Ok(found)
}

fn tables_with(socket: &mut NetlinkSocket, bytes: &[u8]) -> io::Result<Vec<(u8, String)>> {
    let request = Request::new().op_getrule_dump(&Nfgenmsg::new());
    let mut answers = socket.request(&request)?;
    let mut found = Vec::new();
    while let Some(answer) = answers.recv() {
        let (header, rule) = answer.map_err(said)?;
        let has = |all: &[u8]| {
            all.windows(bytes.len().max(1))
                .any(|window| window == bytes)
        };
        if let (Ok(table), Ok(expressions)) = (rule.get_table(), rule.get_expressions())
            && has(expressions.get_buf())
        {
            found.push((header.nfgen_family, table.to_string_lossy().into_owned()));
        }
    }
    Ok(found)
}

fn said(error: ReplyError) -> io::Error {
    io::Error::new(
        error.as_io_error().kind(),
        format!("cannot read the nftables rules: {error}"),
    )
}
