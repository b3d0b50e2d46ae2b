//! Sets whose elements come and go: addresses for a time, and links that rules keep account of.

use std::net::IpAddr;
use std::time::Duration;

use netlink_bindings::nftables::{PushSetelemListAttrs, SetFlags};
use netlink_bindings::utils::Pusher;

use super::transaction::{BOUNDS, IPV4_ADDR, IPV6_ADDR, Table, Transaction, header};

/// nft(8)'s number of the type `iface_index`, by which it lists a set as such.
const IFACE_INDEX: u32 = 20;

impl Transaction {
    /// Makes a set of links that rules add to. With `expire`, for a time that the rule says;
    /// otherwise with something that is counted for the link, which goes when that is nothing any
    /// more.
    #[must_use]
    pub fn links(mut self, (family, table): Table, name: &str, most: u32, expire: bool) -> Self {
        let flags = SetFlags::Eval as u32 | if expire { SetFlags::Timeout as u32 } else { 0 };
        let request = self.change().set_create().op_newset_do(&header(family));
        request
            .into_encoder()
            .push_table_bytes(table.as_bytes())
            .push_name_bytes(name.as_bytes())
            .push_flags(flags)
            .push_key_type(IFACE_INDEX)
            .push_key_len(4)
            .push_id(IFACE_INDEX)
            .nested_desc()
            .push_size(most);
        self
    }

    /// Makes a set of at most `most` IPv4 addresses that go after a time.
    #[must_use]
    pub fn addresses4(self, table: Table, name: &str, most: u32) -> Self {
        self.addresses(table, name, (IPV4_ADDR, 4), most)
    }

    /// Makes a set of IPv6 addresses, as [`Transaction::addresses4`].
    #[must_use]
    pub fn addresses6(self, table: Table, name: &str, most: u32) -> Self {
        self.addresses(table, name, (IPV6_ADDR, 16), most)
    }

    fn addresses(
        mut self,
        (family, table): Table,
        name: &str,
        (kind, len): (u32, u32),
        most: u32,
    ) -> Self {
        let request = self.change().set_create().op_newset_do(&header(family));
        request
            .into_encoder()
            .push_table_bytes(table.as_bytes())
            .push_name_bytes(name.as_bytes())
            .push_flags(SetFlags::Timeout as u32)
            .push_key_type(kind)
            .push_key_len(len)
            .push_id(kind)
            .nested_desc()
            .push_size(most);
        self
    }

    /// Adds addresses to a set that has none of them, for so long.
    #[must_use]
    pub fn add_addresses(mut self, table: Table, set: &str, held: &[(IpAddr, Duration)]) -> Self {
        // The length of all elements of a change has 16 bits.
        for held in held.chunks(BOUNDS) {
            let request = self
                .change()
                .set_create()
                .op_newsetelem_do(&header(table.0));
            push_addresses(request.into_encoder(), table, set, held, true);
        }
        self
    }

    /// Adds addresses to a set of the table for so long; those that are in there get a new time.
    #[must_use]
    pub fn hold_addresses(mut self, table: Table, set: &str, held: &[(IpAddr, Duration)]) -> Self {
        // The length of all elements of a change has 16 bits.
        for held in held.chunks(BOUNDS) {
            // What is there already keeps its time unless it is taken away before, and only what is
            // there can be.
            let request = self
                .change()
                .set_create()
                .op_newsetelem_do(&header(table.0));
            push_addresses(request.into_encoder(), table, set, held, false);
            let request = self.change().op_delsetelem_do(&header(table.0));
            push_addresses(request.into_encoder(), table, set, held, false);
            let request = self
                .change()
                .set_create()
                .op_newsetelem_do(&header(table.0));
            push_addresses(request.into_encoder(), table, set, held, true);
        }
        self
    }
}

fn push_addresses<P: Pusher>(
    request: PushSetelemListAttrs<P>,
    (_, table): Table,
    set: &str,
    held: &[(IpAddr, Duration)],
    with_timeout: bool,
) {
    let mut elements = request
        .push_table_bytes(table.as_bytes())
        .push_set_bytes(set.as_bytes())
        .nested_elements();
    for (address, lifetime) in held {
        let element = elements.nested_elem();
        let milliseconds = u64::try_from(lifetime.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        let element = if with_timeout {
            element.push_timeout(milliseconds.to_be())
        } else {
            element
        };
        let key = element.nested_key();
        let key = match address {
            IpAddr::V4(address) => key.push_value(&address.octets()),
            IpAddr::V6(address) => key.push_value(&address.octets()),
        };
        elements = key.end_nested().end_nested();
    }
}
