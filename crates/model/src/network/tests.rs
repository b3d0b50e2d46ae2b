//! Rules against random names and addresses, and the answers that users are promised.

use proptest::prelude::*;

use super::*;

fn spec(allow: &[&str], deny: &[&str], allow_internet: bool) -> NetworkSpec {
    let list = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    NetworkSpec::parse(&list(allow), &list(deny), allow_internet).unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn refusal(allow: &str) -> String {
    NetworkSpec::parse(&[allow.to_owned()], &[], true)
        .unwrap_err()
        .to_string()
}

#[test]
fn allow_beats_deny() {
    let spec = spec(&["1.1.1.1", "*.pypi.org"], &["0.0.0.0/0"], true);
    assert_eq!(spec.judge_address(address("1.1.1.1")), Access::Allowed);
    assert_eq!(spec.judge_address(address("8.8.8.8")), Access::Denied);
    assert_eq!(
        (
            spec.judge_name("files.PyPI.org."),
            spec.judge_name("pypi.org")
        ),
        (Access::Allowed, Access::Denied)
    );
    assert!(
        spec.name_reaches("files.pypi.org", address("8.8.8.8"))
            && !spec.name_reaches("pypi.org", address("8.8.8.8"))
    );
}

#[test]
fn without_internet_only_what_is_allowed_is_left() {
    let spec = spec(&["9.9.9.0/24"], &[], false);
    assert!(spec.is_closed() && !spec.has_names());
    assert_eq!(spec.judge_address(address("9.9.9.9")), Access::Allowed);
    assert_eq!(
        (
            spec.judge_address(address("9.9.8.9")),
            spec.judge_name("example.com")
        ),
        (Access::Denied, Access::Denied)
    );
}

#[test]
fn two_halves_close_the_internet_too() {
    let spec = spec(&[], &["0.0.0.0/1", "128.0.0.0/1"], true);
    assert!(spec.is_closed());
}

#[test]
fn resolvers_over_https_are_no_way_around_names() {
    assert_eq!(
        spec(&[], &["evil.com"], true).judge_name("dns.google"),
        Access::Denied
    );
    assert_eq!(
        spec(&["dns.google"], &["evil.com"], true).judge_name("dns.google"),
        Access::Allowed
    );
    assert_eq!(
        spec(&[], &["9.9.9.9"], true).judge_name("dns.google"),
        Access::Open
    );
}

#[test]
fn an_allowed_name_opens_no_floor() {
    let spec = spec(&["*"], &[], true);
    let v4 = [
        "10.0.0.1",
        "169.254.169.254",
        "127.0.0.1",
        "100.64.1.1",
        "168.63.129.16",
        "224.0.0.1",
    ];
    for never in v4.into_iter().chain(NEVER6) {
        assert_eq!(spec.judge_address(address(never)), Access::Blocked);
        assert!(!spec.name_reaches("example.com", address(never)), "{never}");
    }
}

#[test]
fn what_could_never_be_reached_is_refused() {
    for never in [
        "10.1.2.3",
        "192.168.0.0/24",
        "169.254.169.254",
        "100.64.0.0/10",
        "127.0.0.1/8",
    ] {
        assert!(
            refusal(never).contains("no sandbox can reach, whatever its rules"),
            "{never}"
        );
    }
    assert!(
        NEVER6
            .into_iter()
            .chain(["fc00::/7", "64:ff9b::/96"])
            .all(|never| refusal(never).contains("can reach"))
    );
    // Wider than the floor: the rest of it counts.
    spec(&["0.0.0.0/0", "::/0", "2000::/3"], &[], false);
}

/// Loopback, unspecified, IPv4 in many forms (mapped, compatible, NAT64 twice, 6to4, Teredo),
/// documentation, private, metadata of Amazon and Google, site-local, link-local, multicast, and
/// unassigned.
const NEVER6: [&str; 22] = [
    "::1",
    "::",
    "::ffff:10.0.0.1",
    "::10.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::10.0.0.1",
    "2002:a00:1::1",
    "2001::1",
    "2001:1ff:ffff::1",
    "2001:db8::1",
    "3fff:fff::1",
    "5f00::1",
    "fc00::1",
    "fd77:7265:6e6e::16",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fec0::1",
    "fe80::1",
    "ff02::1",
    "ff0e::1",
    "100::1",
    "4000::1",
];

#[test]
fn what_is_public_over_ipv6_is_reached() {
    for public in [
        "2606:4700:4700::1111",
        "2001:4860:4860::8888",
        "2001:200::1",
        "2a00:1450:4001::1",
        "3ffe::1",
    ] {
        assert_eq!(
            NetworkSpec::default().judge_address(address(public)),
            Access::Open,
            "{public}"
        );
    }
}

/// `0.0.0.0/0` is what everybody writes for the whole internet. It closes all of it, and opens only
/// what it says.
#[test]
fn the_whole_internet_of_ipv4_closes_ipv6_and_does_not_open_it() {
    let v4 = address("8.8.8.8");
    let v6 = address("2606:4700::1111");
    let closed = spec(&[], &["0.0.0.0/0"], true);
    assert_eq!(
        (closed.judge_address(v4), closed.judge_address(v6)),
        (Access::Denied, Access::Denied)
    );
    let open = spec(&["0.0.0.0/0"], &[], false);
    assert_eq!(
        (open.judge_address(v4), open.judge_address(v6)),
        (Access::Allowed, Access::Denied)
    );
    assert_eq!(
        spec(&["0.0.0.0/0", "::/0"], &[], false).judge_address(v6),
        Access::Allowed
    );
    let half = spec(&[], &["::/0"], true);
    assert_eq!(
        (
            half.judge_address(v4),
            half.judge_address(v6),
            half.is_closed()
        ),
        (Access::Open, Access::Denied, false)
    );
    assert_eq!(half.judge_name("example.com"), Access::Open);
    // However an IPv4 address is written.
    assert_eq!(
        spec(&[], &["::ffff:8.8.8.8"], true).judge_address(v4),
        Access::Denied
    );
}

#[test]
fn entries_that_are_none_are_told_with_what_is_right() {
    for (text, said) in [
        ("", "is no address"),
        ("10.0.0", "four parts"),
        ("1.2.3.4/33", "written as in 192.0.2.0/24"),
        ("a.*.com", "asterisk"),
        ("*evil.com", "asterisk"),
        ("bücher.de", "xn--"),
        ("::1", "no sandbox can reach"),
        ("2001:db8", "no IPv6 address"),
        ("2606:4700::/129", "no IPv6 address"),
        ("::ffff:1.2.3.0/120", "IPv4 network that it is"),
        ("example.com:443", "no port"),
        ("https://example.com", "no port"),
        ("a b", "is no address"),
        (&"a".repeat(64), "is no address"),
    ] {
        let refused = refusal(text);
        assert!(
            refused.starts_with("network.allow_out has ") && refused.contains(said),
            "{text}: {refused}"
        );
    }
    let many = vec!["a.com".to_owned(); 257];
    assert!(
        NetworkSpec::parse(&[], &many, true)
            .unwrap_err()
            .to_string()
            .contains("at most 256")
    );
}

#[test]
fn what_was_written_before_there_were_rules_is_open() {
    let spec: NetworkSpec = serde_json::from_str("{}").unwrap();
    assert_eq!(spec, NetworkSpec::default());
    assert_eq!(spec.judge_address(address("8.8.8.8")), Access::Open);
}

fn label() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9-]{0,8}[a-z])?".prop_filter("no number", |label| {
        !label.bytes().all(|b| b.is_ascii_digit())
    })
}

fn name() -> impl Strategy<Value = String> {
    prop::collection::vec(label(), 1..4).prop_map(|labels| labels.join("."))
}

/// Of IPv6 mostly public ones: there are so many others.
fn any_address() -> impl Strategy<Value = IpAddr> {
    let public = |bits: u128| IpAddr::from(Ipv6Addr::from(bits >> 3 | 1 << 125));
    prop_oneof![
        any::<u32>().prop_map(|bits| Ipv4Addr::from(bits).into()),
        any::<u128>().prop_map(public),
        any::<u128>().prop_map(|bits| Ipv6Addr::from(bits).into()),
    ]
}

fn net() -> impl Strategy<Value = IpNet> {
    let of = |(address, len): (IpAddr, u8)| {
        IpNet::new_assert(address, if address.is_ipv4() { len % 33 } else { len }).trunc()
    };
    (any_address(), 0_u8..=128).prop_map(of)
}

proptest! {
    #[test]
    fn a_wildcard_matches_what_is_below_and_nothing_else(below in name(), of in name(), other in name()) {
        let pattern: Target = format!("*.{of}").parse().unwrap();
        let inside = format!("{below}.{of}");
        let beside = format!("{below}{of}");
        prop_assert!(pattern.has_name(&inside) && !pattern.has_name(&of) && !pattern.has_name(&beside));
        prop_assert_eq!(pattern.has_name(&other), other.ends_with(&format!(".{of}")));
    }

    #[test]
    fn entries_come_back_as_they_were(name in name(), wild: bool, net in net()) {
        for text in [net.to_string(), if wild { format!("*.{name}") } else { name }] {
            let target: Target = text.parse().unwrap();
            prop_assert_eq!(&target, &target.to_string().parse().unwrap());
            let json = serde_json::to_string(&target).unwrap();
            prop_assert_eq!(&target, &serde_json::from_str(&json).unwrap());
        }
    }

    /// With any rules, no blocked range is reached, and what is allowed is allowed.
    #[test]
    fn the_floor_holds_and_allow_beats_deny(
        allow in prop::collection::vec(net(), 0..6),
        deny in prop::collection::vec(net(), 0..6),
        allow_internet: bool,
        address in any_address(),
        name in name(),
    ) {
        let nets = |list: Vec<IpNet>| -> Vec<Target> { list.into_iter().map(Target::Net).collect() };
        let spec = NetworkSpec { allow_out: nets(allow), deny_out: nets(deny), allow_internet, ..NetworkSpec::default() };
        let within = |targets: &[Target]| targets.iter().any(|target| target.has_address(address));
        let access = spec.judge_address(address);
        prop_assert_eq!(access == Access::Blocked, is_blocked(address));
        if !is_blocked(address) {
            prop_assert_eq!(access == Access::Allowed, within(&spec.allow_out));
            let denied = within(&spec.deny_out) || !allow_internet;
            prop_assert!(within(&spec.allow_out) || spec.is_closed() || denied == (access == Access::Denied));
            // The lists for the kernel say the same.
            let kernel = |nets: Vec<IpNet>| nets.iter().any(|net| net.contains(&address));
            prop_assert_eq!(kernel(spec.allowed_nets()), within(&spec.allow_out));
            prop_assert_eq!(kernel(spec.denied_nets()), within(&spec.deny_out));
        }
        prop_assert!(!is_blocked(address) || !spec.name_reaches(&name, address));
        prop_assert_eq!(spec.judge_name(&name), spec.judge_name(&name.to_ascii_uppercase()));
    }

    #[test]
    fn no_text_makes_the_parser_fail_otherwise_than_with_an_answer(text in ".{0,300}") {
        if let Ok(target) = text.parse::<Target>() {
            prop_assert_eq!(&target, &target.to_string().parse().unwrap());
        }
    }
}
