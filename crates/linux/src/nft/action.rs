//! Marks, redirections and refusals: what becomes of packets beyond accepting and dropping them.
//! Written as the kernel reads them (linux/netfilter/nf_tables.h): the library's own types have
//! other names for these attributes.

use netlink_bindings::nftables::{CmpOps, CtKeys, MetaKeys};

use super::count::{REGISTER, attribute};
use super::rule::{Rule, Step};

/// `IP_CT_DIR_REPLY` (linux/netfilter/nf_conntrack_tuple_common.h).
const REPLY: u8 = 1;
/// Ways to refuse (`nft_reject_types`), and what errors say (`nft_reject_inet_code`).
const TCP_RESET: u32 = 1;
const ICMPX_UNREACHABLE: u32 = 2;
const ADMIN_PROHIBITED: u8 = 3;

impl Rule {
    /// Goes against the direction of its connection's first packet.
    #[must_use]
    pub fn ct_reply(self) -> Self {
        self.then(Step::Ct(CtKeys::Direction))
            .compare(CmpOps::Eq, vec![REPLY])
    }

    /// Belongs to a connection that carries this mark.
    #[must_use]
    pub fn ct_mark(self, mark: u32) -> Self {
        self.then(Step::Ct(CtKeys::Mark))
            .compare(CmpOps::Eq, mark.to_ne_bytes().to_vec())
    }

    /// Marks the packet's connection.
    #[must_use]
    pub fn set_ct_mark(self, mark: u32) -> Self {
        self.set("ct", CtKeys::Mark as u32, 4, mark)
    }

    /// Marks the packet.
    #[must_use]
    pub fn set_mark(self, mark: u32) -> Self {
        self.set("meta", MetaKeys::Mark as u32, 3, mark)
    }

    /// Loads the value, and has an expression take it from the register; `source` is the attribute
    /// that names the register, which differs.
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

    /// Goes to that port of this host instead; for TCP and UDP, in a chain of type `nat`.
    #[must_use]
    pub fn redirect(self, port: u16) -> Self {
        const PORT_REGISTER: u16 = 1;
        self.then(Step::Load(port.to_be_bytes().to_vec()))
            .then(Step::Other {
                name: "redir",
                attributes: attribute(PORT_REGISTER, &REGISTER.to_be_bytes()),
            })
    }

    /// Ends the TCP connection of the packet: tells its sender that nobody listens.
    #[must_use]
    pub fn reject_with_reset(self) -> Self {
        self.reject(&attribute(1, &TCP_RESET.to_be_bytes()))
    }

    /// Tells the sender that the way is prohibited.
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
