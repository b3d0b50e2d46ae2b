//! Flags of rules for where a sandbox may connect to, and how fast.

use clap::Args;

#[derive(Debug, Clone, Default, Args)]
pub struct RulesArgs {
    /// Let it connect there, whatever else is denied: address, network as in 192.0.2.0/24 or
    /// 2001:db8::/32, or name as in *.example.com
    #[arg(
        long,
        value_name = "WHERE",
        value_delimiter = ',',
        help_heading = "Network"
    )]
    pub allow_out: Vec<String>,

    /// Keep it from connecting there; 0.0.0.0/0 is everywhere, ::/0 all of IPv6
    #[arg(
        long,
        value_name = "WHERE",
        value_delimiter = ',',
        help_heading = "Network"
    )]
    pub deny_out: Vec<String>,

    /// Keep it from everything that --allow-out does not name
    #[arg(long, help_heading = "Network")]
    pub no_internet: bool,

    /// Let it send at most this much, in Mbit/s
    #[arg(long, value_name = "MBPS", help_heading = "Network", value_parser = mbps())]
    pub egress_mbps: Option<u32>,

    /// Let it receive at most this much, in Mbit/s
    #[arg(long, value_name = "MBPS", help_heading = "Network", value_parser = mbps())]
    pub ingress_mbps: Option<u32>,
}

fn mbps() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=100_000)
}

#[derive(Debug, Args)]
#[command(after_help = "\
Without flags it shows the rules. With any it replaces all of them, and connections that are denied then end. What was
denied is in `wrenn logs SANDBOX`. Private addresses, the host and other sandboxes are never reached.

  wrenn network sb-4f2 --no-internet --allow-out '*.pypi.org,files.pythonhosted.org'
  wrenn network sb-4f2 --egress-mbps 10 --ingress-mbps 50
  wrenn network sb-4f2 --open")]
pub struct NetworkArgs {
    /// Id of the sandbox, or the beginning of it
    #[arg(value_name = "SANDBOX")]
    pub id: String,

    #[command(flatten)]
    pub rules: RulesArgs,

    /// Take all rules away: the internet is open
    #[arg(long, conflicts_with = "RulesArgs", help_heading = "Network")]
    pub open: bool,
}
