//! Checks that a guest that announced a halt has really stopped for good: its vCPUs then never run
//! again.

use std::fs;
use std::io;
use std::time::Duration;

/// Prefix of the names of Firecracker's threads that run the guest.
const VCPU: &str = "fc_vcpu";

/// Interval between two looks at the vCPUs, the number of quiet ones in a row that prove a halt,
/// and the maximum number of looks.
const LOOK: Duration = Duration::from_millis(100);
const STILL: u32 = 3;
const LOOKS: u32 = 30;

/// Returns true if the vCPUs have stopped. Takes 300 ms if so, otherwise at most 3 s.
pub(super) async fn is_true(pid: u32) -> bool {
    let mut before = switches(pid);
    let mut still = 0;
    for _ in 0..LOOKS {
        tokio::time::sleep(LOOK).await;
        match (&before, switches(pid)) {
            (Ok(old), Ok(new)) if *old == new => still += 1,
            (_, new) => (before, still) = (new, 0),
        }
        if still == STILL {
            return true;
        }
    }
    false
}

/// Returns how often the vCPUs were put onto a processor or taken off it (proc(5), status).
fn switches(pid: u32) -> io::Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let of = |name| fs::read_to_string(task.path().join(name));
        if of("comm")?.starts_with(VCPU) {
            let status = of("status")?;
            let counts = status
                .lines()
                .filter(|line| line.contains("voluntary_ctxt_switches:"));
            sum += counts
                .filter_map(|line| line.rsplit('\t').next()?.trim().parse::<u64>().ok())
                .sum::<u64>();
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `work` over and over in a thread that looks like a vCPU.
    fn vcpu(work: impl Fn() + Send + 'static) {
        std::thread::Builder::new()
            .name("fc_vcpu 0".into())
            .spawn(move || {
                loop {
                    work();
                }
            })
            .unwrap();
    }

    #[tokio::test]
    async fn waking_vcpu_has_not_halted() {
        let pid = std::process::id();
        vcpu(std::thread::park);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(is_true(pid).await);
        vcpu(|| std::thread::sleep(Duration::from_millis(20)));
        assert!(!is_true(pid).await);
        assert!(!is_true(u32::MAX).await);
    }
}
