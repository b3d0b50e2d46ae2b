//! Sets whose elements come and go: addresses with a timeout, and links that rules keep count of.

use std::net::IpAddr;
use std::time::Duration;

use netlink_bindings::nftables::{PushSetelemListAttrs, SetFlags};
use netlink_bindings::utils::Pusher;

use super::transaction::{BOUNDS, IPV4_ADDR, IPV6_ADDR, Table, Transaction, header};

/// nft(8)'s number of the type `iface_index`, by which it lists a set as such.
const IFACE_INDEX: u32 = 20;

impl Transaction {
    /// Creates a set of at most `most` links, to which rules add. With `expire`, elements have a
    /// timeout, which the rule sets; otherwise each has a counter of connections, and goes when
    /// that is 0.
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

    /// Creates a set of at most `most` IPv4 addresses with timeouts.
    #[must_use]
    pub fn addresses4(self, table: Table, name: &str, most: u32) -> Self {
        self.addresses(table, name, (IPV4_ADDR, 4), most)
    }

    /// Creates a set of IPv6 addresses, as [`Transaction::addresses4`].
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

    /// Adds addresses with their timeouts to a set that contains none of them.
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

    /// Adds addresses with their timeouts to a set of the table; those that it contains already get
    /// the new timeout.
    #[must_use]
    pub fn hold_addresses(mut self, table: Table, set: &str, held: &[(IpAddr, Duration)]) -> Self {
        // The length of all elements of a change has 16 bits.
        for held in held.chunks(BOUNDS) {
            // An existing element keeps its timeout unless it is deleted first, and only an
            // existing element can be deleted: so add, delete, and add again.
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
