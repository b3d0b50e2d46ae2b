//! Marks, redirections and refusals: actions other than accepting and dropping packets. Written as
//! the kernel reads them (linux/netfilter/nf_tables.h): the library's own types have other names
//! for these attributes.

use netlink_bindings::nftables::{CmpOps, CtKeys, MetaKeys};

use super::count::{REGISTER, attribute};
use super::rule::{Rule, Step};

/// `IP_CT_DIR_REPLY` (linux/netfilter/nf_conntrack_tuple_common.h).
const REPLY: u8 = 1;
/// Kinds of refusal (`nft_reject_types`), and the reason in ICMP errors (`nft_reject_inet_code`).
const TCP_RESET: u32 = 1;
const ICMPX_UNREACHABLE: u32 = 2;
const ADMIN_PROHIBITED: u8 = 3;

impl Rule {
    /// Matches packets against the direction of their connection's first packet.
    #[must_use]
    pub fn ct_reply(self) -> Self {
        self.then(Step::Ct(CtKeys::Direction))
            .compare(CmpOps::Eq, vec![REPLY])
    }

    /// Matches packets of a connection that carries this mark.
    #[must_use]
    pub fn ct_mark(self, mark: u32) -> Self {
        self.then(Step::Ct(CtKeys::Mark))
            .compare(CmpOps::Eq, mark.to_ne_bytes().to_vec())
    }

    /// Sets the mark of the packet's connection.
    #[must_use]
    pub fn set_ct_mark(self, mark: u32) -> Self {
        self.set("ct", CtKeys::Mark as u32, 4, mark)
    }

    /// Sets the mark of the packet.
    #[must_use]
    pub fn set_mark(self, mark: u32) -> Self {
        self.set("meta", MetaKeys::Mark as u32, 3, mark)
    }

    /// Loads the value into the register and sets a key from it. `source` is the number of the
    /// attribute that names the register: it differs between expressions.
    fn set(self, name: &'static str, key: u32, source: u16, value: u32) -> Self {
        const KEY: u16 = 2;
        let attributes = [
            attribute(KEY, &key.to_be_bytes()),
            attribute(source, &REGISTER.to_be_bytes()),
        ];
        self.then(Step::Load(value.to_ne_bytes().to_vec()))
            .then(Step::Other {
                name,
                attributes: attributes.concat(),
            })
    }

    /// Redirects the packet to that port of this host; for TCP and UDP, in a chain of type `nat`.
    #[must_use]
    pub fn redirect(self, port: u16) -> Self {
        const PORT_REGISTER: u16 = 1;
        self.then(Step::Load(port.to_be_bytes().to_vec()))
            .then(Step::Other {
                name: "redir",
                attributes: attribute(PORT_REGISTER, &REGISTER.to_be_bytes()),
            })
    }

    /// Ends the TCP connection of the packet with a reset, as if its port were closed.
    #[must_use]
    pub fn reject_with_reset(self) -> Self {
        self.reject(&attribute(1, &TCP_RESET.to_be_bytes()))
    }

    /// Refuses the packet with an ICMP error that the destination is administratively prohibited.
    #[must_use]
    pub fn reject_as_prohibited(self) -> Self {
        let kind = attribute(1, &ICMPX_UNREACHABLE.to_be_bytes());
        self.reject(&[kind, attribute(2, &[ADMIN_PROHIBITED])].concat())
    }

    fn reject(self, attributes: &[u8]) -> Self {
        self.then(Step::Other {
            name: "reject",
            attributes: attributes.to_vec(),
        })
    }
}
