//! Which program runs virtual machines here, and with what help from the processor.
//!
//! [`choose`] is asked once, when the agent starts. It blocks for up to two seconds where KVM is slow.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use linux::kvm;
use serde::Serialize;

use crate::Driver;
use crate::qemu::{Accel, Qemu};

/// Program that is wanted (`AGENT_VMM`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    #[default]
    Auto,
    Firecracker,
    Qemu,
}

/// Accelerator that is wanted (`AGENT_ACCEL`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccelChoice {
    #[default]
    Auto,
    Kvm,
    Tcg,
}

/// Not one of the words that a setting knows.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is none of: {}", known.join(", "))]
pub struct UnknownChoice {
    pub text: String,
    pub known: &'static [&'static str],
}

impl FromStr for Choice {
    type Err = UnknownChoice;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "firecracker" => Ok(Self::Firecracker),
            "qemu" => Ok(Self::Qemu),
            _ => Err(UnknownChoice { text: text.into(), known: &["auto", "firecracker", "qemu"] }),
        }
    }
}

impl FromStr for AccelChoice {
    type Err = UnknownChoice;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Tcg),
            _ => Err(UnknownChoice { text: text.into(), known: &["auto", "kvm", "tcg"] }),
        }
    }
}

/// Why no engine can be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("Firecracker is not built into this version; set AGENT_VMM to qemu or auto")]
    FirecrackerNotBuilt,
    #[error("{PROGRAM} is not installed; type: apt-get install {PACKAGE}")]
    QemuMissing,
    #[error("KVM was asked for but cannot be used: {0}; set AGENT_ACCEL to tcg or auto")]
    KvmUnusable(String),
}

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";

/// What runs virtual machines.
#[derive(Debug, Clone)]
pub struct Engine {
    pub driver: Arc<dyn Driver>,
    /// `qemu`.
    pub vmm: &'static str,
    /// `kvm` or `tcg`.
    pub accel: &'static str,
    /// For people: what was found that led to this.
    pub why: String,
}

/// Chooses, as asked for or by what works.
///
/// # Errors
/// When what is asked for, or QEMU, is not there.
pub fn choose(vmm: Choice, accel: AccelChoice) -> Result<Engine, Error> {
    if vmm == Choice::Firecracker {
        return Err(Error::FirecrackerNotBuilt);
    }
    let program = linux::programs::find(PROGRAM).ok_or(Error::QemuMissing)?;
    let (accel, found) = decide(accel, probe_kvm)?;
    let why = match vmm {
        Choice::Qemu => format!("QEMU was asked for; {found}"),
        Choice::Auto | Choice::Firecracker => format!("QEMU is the engine that this version has; {found}"),
    };
    Ok(Engine { driver: Arc::new(Qemu::new(program, accel)), vmm: "qemu", accel: accel.name(), why })
}

fn decide(wanted: AccelChoice, probe: impl FnOnce() -> KvmReport) -> Result<(Accel, String), Error> {
    if wanted == AccelChoice::Tcg {
        return Ok((Accel::Tcg, "emulation (TCG) was asked for".into()));
    }
    let report = probe();
    match (wanted, report.usable) {
        (_, true) => Ok((Accel::Kvm, report.detail)),
        (AccelChoice::Kvm, false) => Err(Error::KvmUnusable(report.detail)),
        (_, false) => Ok((Accel::Tcg, format!("guests are emulated (TCG), since {}", report.detail))),
    }
}

/// Whether KVM can be used, found by running a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KvmReport {
    pub usable: bool,
    /// Time that the test guest took, microseconds; absent if it could not be run.
    pub loop_micros: Option<u64>,
    /// For people: what was found.
    pub detail: String,
}

/// Longest time of the test guest with which KVM counts as usable. Real hardware takes well under 1 ms, hosts
/// that interpret guest code 107 ms.
const USABLE: Duration = Duration::from_millis(10);

/// The best of so many attempts counts, within the limit for all of them.
const ATTEMPTS: u32 = 5;
const LIMIT: Duration = Duration::from_secs(2);

/// Runs a tiny guest and judges KVM by its speed. Blocks for at most two seconds.
#[must_use]
pub fn probe_kvm() -> KvmReport {
    judge(kvm::measure(ATTEMPTS, LIMIT))
}

fn judge(measured: Result<Duration, kvm::Error>) -> KvmReport {
    match measured {
        Ok(took) => {
            let usable = took <= USABLE;
            let verdict =
                if usable { "KVM runs guests at full speed" } else { "KVM is there but too slow to boot Linux" };
            let detail = format!(
                "{verdict}: a loop of {} rounds took {:.2} ms, where up to {} ms are good",
                kvm::ROUNDS,
                took.as_secs_f64() * 1000.0,
                USABLE.as_millis()
            );
            KvmReport { usable, loop_micros: u64::try_from(took.as_micros()).ok(), detail }
        }
        Err(error) => KvmReport { usable: false, loop_micros: None, detail: with_causes(&error) },
    }
}

/// The report is the edge: nobody prints this error later.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_is_judged_by_speed() {
        assert!(judge(Ok(Duration::from_micros(300))).usable);
        let slow = judge(Ok(Duration::from_millis(107)));
        assert!(!slow.usable && slow.loop_micros == Some(107_000) && slow.detail.contains("too slow"));
        let missing = judge(Err(kvm::Error::Missing));
        assert!(!missing.usable && missing.loop_micros.is_none() && missing.detail.contains("/dev/kvm"));
    }

    #[test]
    fn emulation_is_the_way_out_unless_kvm_was_asked_for() {
        let unusable = || judge(Err(kvm::Error::Missing));
        let usable = || judge(Ok(Duration::from_micros(300)));
        assert_eq!(decide(AccelChoice::Auto, unusable).unwrap().0, Accel::Tcg);
        assert_eq!(decide(AccelChoice::Auto, usable).unwrap().0, Accel::Kvm);
        assert_eq!(decide(AccelChoice::Kvm, usable).unwrap().0, Accel::Kvm);
        assert!(matches!(decide(AccelChoice::Kvm, unusable), Err(Error::KvmUnusable(_))));
        let never = || unreachable!("asked for emulation, so KVM does not matter");
        assert_eq!(decide(AccelChoice::Tcg, never).unwrap().0, Accel::Tcg);
    }

    #[test]
    fn settings_are_words() {
        assert_eq!("qemu".parse::<Choice>().unwrap(), Choice::Qemu);
        assert_eq!("auto".parse::<AccelChoice>().unwrap(), AccelChoice::Auto);
        let error = "xen".parse::<Choice>().unwrap_err().to_string();
        assert_eq!(error, r#""xen" is none of: auto, firecracker, qemu"#);
    }

    #[test]
    fn firecracker_is_honestly_missing() {
        assert!(matches!(choose(Choice::Firecracker, AccelChoice::Auto), Err(Error::FirecrackerNotBuilt)));
    }
}
