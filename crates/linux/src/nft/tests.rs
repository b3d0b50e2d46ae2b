//! What the kernel has made of the rules, as nft(8) lists it.

use std::net::{Ipv4Addr, Ipv6Addr};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBuf;

use super::transaction::MOST_CHANGES;
use super::*;
use crate::{link, netns, programs, tap};

const TABLE: Table = (Family::Inet, "wtest");

const SIX: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);

fn listed() -> io::Result<String> {
    let output = programs::command(&programs::find("nft").unwrap())
        .args(["list", "ruleset"])
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" "))
}

fn inside<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> T {
    let name = format!("wtest-nft-{name}-{}", std::process::id());
    netns::create(&name).unwrap();
    let done = netns::enter(&name, work);
    netns::remove(&name).unwrap();
    done.unwrap()
}

#[test]
fn transaction_applies_whole_or_nothing() {
    let list = inside("whole", || {
        Transaction::new()
            .table(TABLE)
            .chain(TABLE, "c", Hook::filter(Hook::INPUT, 0))
            .commit()?;
        let before = listed()?;
        // The last change is about a chain that is not there.
        let made = Transaction::new()
            .table((Family::Inet, "other"))
            .rule(TABLE, "none", &Rule::new().drop())
            .commit();
        let refused = made.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::NotFound, "{refused}");
        assert!(
            refused.to_string().contains("refused the nftables rules"),
            "{refused}"
        );
        assert_eq!(listed()?, before);
        remove(TABLE)?;
        remove(TABLE)?;
        listed()
    });
    assert_eq!(list, "");
}

#[test]
fn matches_read_back_by_nft() {
    let address = Ipv4Addr::new(169, 254, 0, 21);
    let questions = [
        (Rule::new().iif("wrv-*").drop(), "iifname \"wrv-*\" drop"),
        (Rule::new().oif("tap0").accept(), "oifname \"tap0\" accept"),
        (
            Rule::new().oif_not("tap0").accept(),
            "oifname != \"tap0\" accept",
        ),
        (Rule::new().ipv6().drop(), "meta nfproto ipv6 drop"),
        (Rule::new().l4(1).accept(), "meta l4proto icmp accept"),
        (
            Rule::new().mark(0x77).accept(),
            "meta mark 0x00000077 accept",
        ),
        (
            Rule::new().ct_state(ESTABLISHED | RELATED).accept(),
            "ct state established,related accept",
        ),
        (
            Rule::new().ct_state(INVALID | UNTRACKED).drop(),
            "ct state invalid,untracked drop",
        ),
        (
            Rule::new().ipv4().saddr_in(address, 16).drop(),
            "ip saddr 169.254.0.0/16 drop",
        ),
        (
            Rule::new().ipv4().saddr_not_in(address, 32).drop(),
            "ip saddr != 169.254.0.21 drop",
        ),
        (
            Rule::new().ipv4().daddr(address).drop(),
            "ip daddr 169.254.0.21 drop",
        ),
        (
            Rule::new().ipv4().daddr_within("some").drop(),
            "ip daddr @some drop",
        ),
        (
            Rule::new().ipv6().saddr_in(SIX, 64).drop(),
            "ip6 saddr 2001:db8::/64 drop",
        ),
        (
            Rule::new().ipv6().saddr_not_in(SIX, 128).drop(),
            "ip6 saddr != 2001:db8::7 drop",
        ),
        (
            Rule::new().ipv6().daddr(SIX).drop(),
            "ip6 daddr 2001:db8::7 drop",
        ),
        (
            Rule::new().ipv6().daddr_not_in(SIX, 3).drop(),
            "ip6 daddr != 2000::/3 drop",
        ),
        (
            Rule::new().ipv6().daddr6_within("more").drop(),
            "ip6 daddr @more drop",
        ),
        (
            Rule::new().daddr_local().drop(),
            "fib daddr type local drop",
        ),
        (
            Rule::new().saddr_from_elsewhere().drop(),
            "fib saddr . iif oif 0 drop",
        ),
    ];
    let expected: Vec<&str> = questions.iter().map(|(_, text)| *text).collect();
    let expected = expected.join(" ");
    let list = inside("questions", move || {
        let networks = [
            (Ipv4Addr::new(224, 0, 0, 0), 4),
            (Ipv4Addr::new(240, 0, 0, 0), 4),
        ];
        let one = (Ipv4Addr::new(10, 0, 0, 0), 8);
        let changes = Transaction::new().table(TABLE).networks4(
            TABLE,
            "some",
            &[one, networks[0], networks[1]],
        );
        let of = |first: u16, prefix| (Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), prefix);
        let changes = changes.networks6(
            TABLE,
            "more",
            &[of(0x8000, 1), of(0, 3), of(0x4000, 2), of(0x2002, 16)],
        );
        let changes = changes.chain(TABLE, "c", Hook::filter(Hook::PREROUTING, -150).or_drop());
        questions
            .iter()
            .fold(changes, |changes, (rule, _)| changes.rule(TABLE, "c", rule))
            .commit()?;
        listed()
    });
    assert!(list.contains(&expected), "{list}\n is not\n{expected}");
    assert!(
        list.contains("elements = { 10.0.0.0/8, 224.0.0.0/3 }"),
        "{list}"
    );
    assert!(
        list.contains(
            "elements = { ::/3, 2002::/16, 4000::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff }"
        ),
        "{list}"
    );
    assert!(
        list.contains("type filter hook prerouting priority mangle; policy drop;"),
        "{list}"
    );
}

#[test]
fn translations_read_back_by_nft() {
    let address = Ipv4Addr::new(169, 254, 0, 21);
    let mac = [2, 0xfc, 0, 0, 0, 5];
    let frames = inside("frames", move || {
        tap::create("tap0", 0)?;
        let nat = (Family::Ip, "wtest");
        let nat6 = (Family::Ip6, "wtest");
        let frames = (Family::Netdev, "wtest");
        let to = Rule::new()
            .ether(mac, [2, 0xfc, 0, 0, 0, 6])
            .carries(IP)
            .saddr_in(address, 32)
            .accept();
        let arp = Rule::new()
            .ether_from(mac)
            .carries(ARP)
            .arp(mac, address, Ipv4Addr::new(169, 254, 0, 22))
            .accept();
        Transaction::new()
            .table(frames)
            .chain(frames, "c", Hook::ingress("tap0").or_drop())
            .rule(frames, "c", &to)
            .rule(frames, "c", &arp)
            .table(nat)
            .chain(nat, "pre", Hook::nat(Hook::PREROUTING))
            .rule(nat, "pre", &Rule::new().iif("tap0").dnat(address))
            .chain(nat, "post", Hook::nat(Hook::POSTROUTING))
            .rule(nat, "post", &Rule::new().oif("tap0").snat(address))
            .rule(nat, "post", &Rule::new().masquerade())
            .table(nat6)
            .chain(nat6, "pre", Hook::nat(Hook::PREROUTING))
            .rule(nat6, "pre", &Rule::new().iif("tap0").dnat(SIX))
            .chain(nat6, "post", Hook::nat(Hook::POSTROUTING))
            .rule(nat6, "post", &Rule::new().oif("tap0").snat(SIX))
            .rule(
                frames,
                "c",
                &Rule::new().carries(IPV6).saddr_in(SIX, 128).accept(),
            )
            .commit()?;
        assert_eq!(link::list("tap")?, ["tap0"]);
        listed()
    });
    for part in [
        "type filter hook ingress device \"tap0\" priority -500; policy drop;",
        "@ll,0,96 0x2fc0000000602fc00000005 ip saddr 169.254.0.21 accept",
        "arp saddr ether 02:fc:00:00:00:05 arp saddr ip 169.254.0.21 arp daddr ip 169.254.0.22 accept",
        "dnat to 169.254.0.21",
        "snat to 169.254.0.21",
        "masquerade",
        "ip6 saddr 2001:db8::7 accept",
        "dnat to 2001:db8::7",
        "snat to 2001:db8::7",
    ] {
        assert!(frames.contains(part), "{part:?} is not in {frames}");
    }
}

#[test]
fn connection_counts_read_back_by_nft() {
    let list = inside("counted", || {
        let limit = Rule::new().iif("tap0").begins_connection();
        Transaction::new()
            .table(TABLE)
            .links(TABLE, "links", 100, false)
            .links(TABLE, "held", 100, true)
            .inner_chain(TABLE, "full")
            .rule(
                TABLE,
                "full",
                &Rule::new().limit_per_second(2, 7).log(7, 64),
            )
            .rule(TABLE, "full", &Rule::new().hold_link("held", 100).drop())
            .chain(TABLE, "c", Hook::filter(Hook::PREROUTING, -150))
            .rule(TABLE, "c", &Rule::new().dport(17, 53).accept())
            .rule(TABLE, "c", &Rule::new().link_in("held").drop())
            .rule(TABLE, "c", &limit.clone().connections_over(10).goto("full"))
            .rule(
                TABLE,
                "c",
                &limit.connections_over_by_link("links", 12).drop(),
            )
            .chain(TABLE, "f", Hook::filter(Hook::FORWARD, 0))
            .rule(TABLE, "f", &Rule::new().tcp_syn().clamp_mss())
            .commit()?;
        assert!(chain_exists(TABLE, "full")? && !chain_exists(TABLE, "none")?);
        assert!(!chain_exists((Family::Ip, "wtest"), "full")?);
        listed()
    });
    for part in [
        "set links { type iface_index size 100 flags dynamic }",
        "set held { type iface_index size 100 flags dynamic,timeout }",
        "add @held { iif timeout 100ms } drop",
        "udp dport 53 accept iif @held drop",
        "limit rate 2/second burst 7 packets log group 7 snaplen 64",
        "iifname \"tap0\" ct state new ct status ! confirmed ct count over 10 goto full",
        "iifname \"tap0\" ct state new ct status ! confirmed add @links { iif ct count over 12 } drop",
        "tcp flags syn / syn,rst tcp option maxseg size set rt mtu",
    ] {
        assert!(list.contains(part), "{part:?} is not in {list}");
    }
}

#[test]
fn held_addresses_get_a_new_time() {
    let list = inside("held", || {
        Transaction::new()
            .table(TABLE)
            .addresses4(TABLE, "held", 5000)
            .addresses6(TABLE, "held6", 5000)
            .commit()?;
        let seconds = |seconds| std::time::Duration::from_secs(seconds);
        let four = |last, time| (Ipv4Addr::new(8, 8, 8, last).into(), seconds(time));
        let changes =
            Transaction::new().hold_addresses(TABLE, "held", &[four(1, 300), four(2, 300)]);
        changes
            .hold_addresses(TABLE, "held6", &[(SIX.into(), seconds(300))])
            .commit()?;
        Transaction::new()
            .hold_addresses(TABLE, "held", &[four(1, 3600)])
            .commit()?;
        let many: Vec<_> = (0..3000)
            .map(|last: u32| (Ipv4Addr::from(last + (9 << 24)).into(), seconds(7)))
            .collect();
        Transaction::new()
            .hold_addresses(TABLE, "held", &many)
            .commit()?;
        listed()
    });
    for part in [
        "8.8.8.1 timeout 1h",
        "8.8.8.2 timeout 5m",
        "2001:db8::7 timeout 5m",
        "9.0.11.183 timeout 7s",
    ] {
        assert!(list.contains(part), "{part:?} is not in {list}");
    }
}

#[test]
fn rejects_and_marks_read_back() {
    let list = inside("actions", || {
        let nat = Hook::nat(Hook::PREROUTING);
        Transaction::new()
            .table(TABLE)
            .chain(TABLE, "n", nat)
            .rule(TABLE, "n", &Rule::new().iif_not("tap0").accept())
            .rule(TABLE, "n", &Rule::new().dport(17, 53).redirect(5353))
            .chain(TABLE, "f", Hook::filter(Hook::FORWARD, 0))
            .rule(TABLE, "f", &Rule::new().ct_reply().accept())
            .rule(TABLE, "f", &Rule::new().ct_mark(7).accept())
            .rule(TABLE, "f", &Rule::new().set_ct_mark(8).accept())
            .rule(TABLE, "f", &Rule::new().dport(6, 80).set_mark(9))
            .rule(TABLE, "f", &Rule::new().l4(6).reject_with_reset())
            .rule(TABLE, "f", &Rule::new().reject_as_prohibited())
            .commit()?;
        listed()
    });
    let expected = "iifname != \"tap0\" accept udp dport 53 redirect to :5353 } chain f { \
        type filter hook forward priority filter; policy accept; ct direction reply accept \
        ct mark 0x00000007 accept ct mark set 0x00000008 accept \
        tcp dport 80 meta mark set 0x00000009 meta l4proto tcp reject with tcp reset \
        reject with icmpx admin-prohibited";
    assert!(list.contains(expected), "{list}\n has not\n{expected}");
}

/// Whatever their number, all answers of the kernel are waited for: the last change is refused.
#[test]
fn refusal_of_last_change_is_seen() {
    inside("length", || {
        for changes in 58..=132 {
            let made = (1..changes).fold(Transaction::new(), |made, _| made.table(TABLE));
            let refused = made.delete_table((Family::Ip, "none")).commit();
            assert_eq!(
                refused.unwrap_err().kind(),
                io::ErrorKind::NotFound,
                "{changes} changes"
            );
        }
        Ok(())
    });
}

#[test]
fn oversized_transaction_is_not_sent() {
    let many = (0..=MOST_CHANGES).fold(Transaction::new(), |changes, _| changes.table(TABLE));
    assert_eq!(
        many.commit().unwrap_err().kind(),
        io::ErrorKind::InvalidInput
    );
}

/// As on a host with small net.core.rmem_default.
#[test]
fn full_transaction_fits_small_receive_buffer() {
    let smallest = 2304;
    inside("buffer", move || {
        let begin = Transaction::new()
            .table(TABLE)
            .chain(TABLE, "c", Hook::filter(Hook::INPUT, 0));
        let rules = MOST_CHANGES - 2;
        let full = (0..rules).fold(begin, |changes, _| {
            changes.rule(TABLE, "c", &Rule::new().accept())
        });
        let socket = send::open_socket()?;
        setsockopt(&socket, RcvBuf, &smallest)?;
        full.commit_over(socket)?;
        assert_eq!(listed()?.matches("accept").count(), rules as usize + 1);
        Ok(())
    });
}
