//! nftables rulesets, applied as one transaction by `nft` in the network namespace of the calling thread.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use crate::programs;

/// Applies a ruleset in nft(8) syntax. All of it takes effect, or nothing.
///
/// # Errors
/// `NotFound` when `nft` is not installed; otherwise the text names what nft refused.
pub fn apply(ruleset: &str) -> io::Result<()> {
    let program = programs::find("nft").ok_or_else(|| programs::missing("nft"))?;
    let mut child = Command::new(program)
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
    Err(io::Error::other(format!("nft refused the rules: {}", said.lines().next().unwrap_or("no reason given"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns;

    #[test]
    fn rules_apply_whole_or_not_at_all() {
        let name = format!("wtest-nft-{}", std::process::id());
        netns::create(&name).unwrap();
        netns::enter(&name, || apply("table inet a { chain c { type filter hook input priority 0; }; }")).unwrap();
        let refused = netns::enter(&name, || apply("table inet b { }\nnonsense\n")).unwrap_err();
        assert!(refused.to_string().contains("nft refused"), "{refused}");
        netns::enter(&name, || apply("delete table inet a")).unwrap();
        assert!(netns::enter(&name, || apply("delete table inet b")).is_err());
        netns::remove(&name).unwrap();
    }
}
