//! nftables, in the network namespace of the calling thread.
//!
//! Rules that are known at build time are a [`Transaction`], which goes to the kernel over netlink.
//! Text in nft(8)'s language is applied by `nft`, which takes some 25 ms to start; the kernel's own
//! messages take less than one.

mod count;
mod look;
mod rule;
mod sets;
mod transaction;

use std::io::{self, Write};
use std::process::Stdio;

use stdx::io::OptionalExt;

use crate::programs;

pub use look::{BaseChain, base_chains, chain_exists};
pub use rule::{ARP, ESTABLISHED, INVALID, IP, IPV6, NEW, RELATED, Rule, UNTRACKED};
pub use transaction::{Family, Hook, Table, Transaction};

/// Applies a ruleset in nft(8) syntax. All of it takes effect, or nothing.
///
/// # Errors
/// `NotFound` when `nft` is not installed; otherwise the text names what nft refused.
pub fn apply(ruleset: &str) -> io::Result<()> {
    let program = programs::find("nft").ok_or_else(|| programs::missing("nft"))?;
    let mut child = programs::command(&program)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // That nft ends before it has read everything shows in its status.
        let _ = stdin.write_all(ruleset.as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "nft refused the rules: {}",
        said.lines().next().unwrap_or("no reason given")
    )))
}

/// Takes a table away with all that is in it. That there is none is fine.
///
/// # Errors
/// What the kernel refused.
pub fn remove(table: Table) -> io::Result<()> {
    Transaction::new()
        .delete_table(table)
        .commit()
        .optional()
        .map(drop)
}

#[cfg(test)]
mod tests;
