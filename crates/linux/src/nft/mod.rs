//! nftables, in the network namespace of the calling thread: changes are a [`Transaction`], which
//! goes to the kernel over netlink. No program is started for it: `nft` takes some 25 ms to start,
//! the kernel's own messages take less than one.

mod action;
mod count;
mod look;
mod rule;
mod send;
mod sets;
mod transaction;

use std::io;

use stdx::io::OptionalExt;

pub use look::{BaseChain, base_chains, chain_exists};
pub use rule::{ARP, ESTABLISHED, INVALID, IP, IPV6, NEW, RELATED, Rule, UNTRACKED};
pub use transaction::{Family, Hook, Table, Transaction};

/// Removes a table with its content. A table that does not exist is no error.
///
/// # Errors
/// The kernel's error.
pub fn remove(table: Table) -> io::Result<()> {
    Transaction::new()
        .delete_table(table)
        .commit()
        .optional()
        .map(drop)
}

#[cfg(test)]
mod tests;
