//! Rules in nft(8)'s own language, for use outside the product: other programs' rules, and what the
//! kernel has made of ours. In the network namespace of the calling thread.

use std::io::{self, Write};
use std::process::{Command, Stdio};

/// Applies a ruleset. All of it takes effect, or nothing.
///
/// # Errors
/// When `nft` is not installed; its refusal.
pub fn apply(ruleset: &str) -> io::Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
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
    Err(io::Error::other(
        String::from_utf8_lossy(&output.stderr).into_owned(),
    ))
}

/// Lists all rules, with one blank between two words.
///
/// # Errors
/// When `nft` is not installed.
pub fn list() -> io::Result<String> {
    let output = Command::new("nft").args(["list", "ruleset"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
}
