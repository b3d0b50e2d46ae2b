//! Flags of rules for where a sandbox may connect to.

use clap::Args;

#[derive(Debug, Clone, Default, Args)]
pub struct RulesArgs {
    /// Let it connect there, whatever else is denied: address, network as in 192.0.2.0/24, or name as in *.example.com
    #[arg(long, value_name = "WHERE", value_delimiter = ',', help_heading = "Network")]
    pub allow_out: Vec<String>,

    /// Keep it from connecting there; 0.0.0.0/0 is everywhere
    #[arg(long, value_name = "WHERE", value_delimiter = ',', help_heading = "Network")]
    pub deny_out: Vec<String>,

    /// Keep it from everything that --allow-out does not name
    #[arg(long, help_heading = "Network")]
    pub no_internet: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Without flags it shows the rules. With any it replaces all of them, and connections that are denied then end. What was
denied is in `wrenn logs SANDBOX`. Private addresses, the host and other sandboxes are never reached.

  wrenn network sb-4f2 --no-internet --allow-out '*.pypi.org,files.pythonhosted.org'
  wrenn network sb-4f2 --open")]
pub struct NetworkArgs {
    /// Id of the sandbox, or the beginning of it
    #[arg(value_name = "SANDBOX")]
    pub id: String,

    #[command(flatten)]
    pub rules: RulesArgs,

    /// Take all rules away: the internet is open
    #[arg(long, conflicts_with_all = ["allow_out", "deny_out", "no_internet"], help_heading = "Network")]
    pub open: bool,
}
