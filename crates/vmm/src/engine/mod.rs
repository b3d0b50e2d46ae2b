//! Chooses the program that runs virtual machines here, and its accelerator.
//!
//! [`choose`] is called once, when the agent starts. It blocks for up to two seconds where KVM is
//! slow.

use std::cell::LazyCell;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use stdx::error::chain;

use crate::Driver;
use crate::firecracker::{self, Firecracker};
use crate::pager;
use crate::qemu::{Accel, Qemu};
pub use linux::jail::Enforcement;

mod adopting_driver;
mod kvm;

use adopting_driver::AdoptingDriver;
pub use kvm::{KvmReport, probe_kvm};

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

/// Value of a setting that is not one of the known words.
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
            _ => Err(UnknownChoice {
                text: text.into(),
                known: &["auto", "firecracker", "qemu"],
            }),
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
            _ => Err(UnknownChoice {
                text: text.into(),
                known: &["auto", "kvm", "tcg"],
            }),
        }
    }
}

/// Options for [`choose`], all of them from settings.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub vmm: Choice,
    pub accel: AccelChoice,
    /// Path of Firecracker (`FIRECRACKER_BIN`); `None` to search the PATH.
    pub firecracker: Option<PathBuf>,
    /// File with a custom CPU template for Firecracker (`AGENT_CPU_TEMPLATE`).
    pub cpu_template: Option<PathBuf>,
    /// Path of QEMU; `None` to search the PATH.
    pub qemu: Option<PathBuf>,
    /// Program that serves memory in layers ([`pager`]); `None` for the running program.
    pub pager: Option<PathBuf>,
    /// Treatment of system calls of QEMU that are not on its list (`AGENT_SYSCALL_FILTER`).
    pub enforcement: Enforcement,
}

/// Reason why no engine can be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Firecracker(#[from] firecracker::VersionError),
    #[error("Firecracker needs KVM, and {0}; set AGENT_VMM to qemu or auto")]
    FirecrackerNeedsKvm(String),
    #[error("the CPU template {} (AGENT_CPU_TEMPLATE) cannot be used", path.display())]
    CpuTemplate {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{PROGRAM} is not installed; type: apt-get install {PACKAGE}")]
    QemuMissing,
    #[error("KVM was asked for but cannot be used: {0}; set AGENT_ACCEL to tcg or auto")]
    KvmUnusable(String),
}

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";
const FIRECRACKER: &str = "firecracker";

/// Program that runs virtual machines, with its driver.
#[derive(Debug, Clone)]
pub struct Engine {
    pub driver: Arc<dyn Driver>,
    /// `firecracker` or `qemu`.
    pub vmm: &'static str,
    /// `kvm` or `tcg`.
    pub accel: &'static str,
    /// Text for people on why it was chosen.
    pub why: String,
}

/// Chooses the engine, as configured or by what works: Firecracker where it is installed, has no
/// known vulnerabilities, and KVM works; otherwise QEMU.
///
/// # Errors
/// When the configured engine, or QEMU, is missing, or the CPU template cannot be read.
pub fn choose(wanted: &Wanted) -> Result<Engine, Error> {
    let kvm = LazyCell::new(probe_kvm);
    match wanted.vmm {
        Choice::Firecracker => firecracker(wanted, || kvm.clone()),
        Choice::Qemu => qemu(wanted, "QEMU was asked for", || kvm.clone()),
        Choice::Auto => match firecracker(wanted, || kvm.clone()) {
            Err(Error::Firecracker(firecracker::VersionError::Missing)) => {
                qemu(wanted, "Firecracker is not installed", || kvm.clone())
            }
            Err(Error::Firecracker(error)) => qemu(wanted, &chain(&error), || kvm.clone()),
            Err(Error::FirecrackerNeedsKvm(_)) => {
                qemu(wanted, "Firecracker needs KVM", || kvm.clone())
            }
            chosen => chosen,
        },
    }
}

/// Returns the installed Firecracker and its version.
///
/// # Errors
/// When there is none, or one that is refused.
pub fn find_firecracker(wanted: &Wanted) -> Result<(PathBuf, String), firecracker::VersionError> {
    let program = wanted
        .firecracker
        .clone()
        .or_else(|| linux::programs::find(FIRECRACKER));
    let program = program.ok_or(firecracker::VersionError::Missing)?;
    let version = firecracker::check(&program)?;
    Ok((program, version.to_string()))
}

fn firecracker(wanted: &Wanted, probe: impl FnOnce() -> KvmReport) -> Result<Engine, Error> {
    let (program, version) = find_firecracker(wanted)?;
    if wanted.accel == AccelChoice::Tcg {
        return Err(Error::FirecrackerNeedsKvm(
            "emulation (TCG) was asked for".into(),
        ));
    }
    let report = probe();
    if !report.usable {
        return Err(Error::FirecrackerNeedsKvm(report.detail));
    }
    let (pager, layers) = match pager::find_program(wanted.pager.as_deref()) {
        Ok(pager) => (
            Some(pager),
            "memory in layers is served on demand".to_owned(),
        ),
        Err(error) => (
            None,
            format!(
                "memory in layers is merged before it is used, since {}",
                chain(&error)
            ),
        ),
    };
    let why = format!(
        "{} is version {version}; {}; {layers}",
        program.display(),
        report.detail
    );
    let template = wanted
        .cpu_template
        .as_deref()
        .map(read_template)
        .transpose()?;
    // VMs that another run started with QEMU are still found.
    let other = Qemu::new(PROGRAM.into(), Accel::Kvm, wanted.enforcement);
    let driver = Arc::new(AdoptingDriver::new(
        Firecracker::new(program, template, pager),
        other,
    ));
    Ok(Engine {
        driver,
        vmm: "firecracker",
        accel: "kvm",
        why,
    })
}

fn qemu(wanted: &Wanted, reason: &str, probe: impl FnOnce() -> KvmReport) -> Result<Engine, Error> {
    let program = wanted
        .qemu
        .clone()
        .or_else(|| linux::programs::find(PROGRAM))
        .ok_or(Error::QemuMissing)?;
    let (accel, found) = decide(wanted.accel, probe)?;
    let other = Firecracker::new(FIRECRACKER.into(), None, None);
    let driver = Arc::new(AdoptingDriver::new(
        Qemu::new(program, accel, wanted.enforcement),
        other,
    ));
    Ok(Engine {
        driver,
        vmm: "qemu",
        accel: accel.name(),
        why: format!("{reason}; {found}"),
    })
}

/// Reads the template, and checks only that it is JSON; Firecracker checks the rest when a VM
/// starts.
fn read_template(path: &Path) -> Result<serde_json::Value, Error> {
    let read = std::fs::read(path).and_then(|content| Ok(serde_json::from_slice(&content)?));
    read.map_err(|source| Error::CpuTemplate {
        path: path.to_owned(),
        source,
    })
}

fn decide(
    wanted: AccelChoice,
    probe: impl FnOnce() -> KvmReport,
) -> Result<(Accel, String), Error> {
    if wanted == AccelChoice::Tcg {
        return Ok((Accel::Tcg, "emulation (TCG) was asked for".into()));
    }
    let report = probe();
    match (wanted, report.usable) {
        (_, true) => Ok((Accel::Kvm, report.detail)),
        (AccelChoice::Kvm, false) => Err(Error::KvmUnusable(report.detail)),
        (_, false) => Ok((
            Accel::Tcg,
            format!("guests are emulated (TCG), since {}", report.detail),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ::linux::kvm::Error as KvmError;

    use super::kvm::judge_exits;
    use super::*;

    #[test]
    fn emulation_is_fallback_unless_kvm_demanded() {
        let unusable = || judge_exits(Err(KvmError::Missing));
        let usable = || judge_exits(Ok(Duration::from_micros(300)));
        assert_eq!(decide(AccelChoice::Auto, unusable).unwrap().0, Accel::Tcg);
        assert_eq!(decide(AccelChoice::Auto, usable).unwrap().0, Accel::Kvm);
        assert_eq!(decide(AccelChoice::Kvm, usable).unwrap().0, Accel::Kvm);
        assert!(matches!(
            decide(AccelChoice::Kvm, unusable),
            Err(Error::KvmUnusable(_))
        ));
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

    /// A program that says that it is a Firecracker.
    fn pretender(dir: &Path, version: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.join("firecracker");
        std::fs::write(&path, format!("#!/bin/sh\necho 'Firecracker {version}'\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    fn working() -> KvmReport {
        judge_exits(Ok(Duration::from_micros(300)))
    }

    #[test]
    fn firecracker_needs_good_version_and_kvm() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = Wanted {
            firecracker: Some(pretender(dir.path(), "v1.16.1")),
            ..Wanted::default()
        };
        let engine = firecracker(&wanted, working).unwrap();
        assert!(
            engine.driver.name() == "firecracker" && engine.why.contains("1.16.1"),
            "{}",
            engine.why
        );
        let slow = || judge_exits(Ok(Duration::from_millis(107)));
        assert!(matches!(
            firecracker(&wanted, slow),
            Err(Error::FirecrackerNeedsKvm(_))
        ));
        let emulated = Wanted {
            accel: AccelChoice::Tcg,
            ..wanted.clone()
        };
        let never = || unreachable!("asked for emulation, so KVM does not matter");
        assert!(matches!(
            firecracker(&emulated, never),
            Err(Error::FirecrackerNeedsKvm(_))
        ));
    }

    #[test]
    fn a_firecracker_with_holes_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = Wanted {
            firecracker: Some(pretender(dir.path(), "v1.14.0")),
            ..Wanted::default()
        };
        let text = firecracker(&wanted, working).unwrap_err().to_string();
        assert!(
            text.contains("CVE-2026-5747") && text.contains("AGENT_VMM=qemu"),
            "{text}"
        );
    }

    #[test]
    fn unreadable_cpu_template_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let template = dir.path().join("template.json");
        let firecracker_bin = Some(pretender(dir.path(), "v1.16.1"));
        let wanted = Wanted {
            firecracker: firecracker_bin,
            cpu_template: Some(template.clone()),
            ..Wanted::default()
        };
        assert!(matches!(
            firecracker(&wanted, working),
            Err(Error::CpuTemplate { .. })
        ));
        std::fs::write(&template, "no JSON").unwrap();
        assert!(matches!(
            firecracker(&wanted, working),
            Err(Error::CpuTemplate { .. })
        ));
        std::fs::write(&template, "{\"cpuid_modifiers\": []}").unwrap();
        assert!(firecracker(&wanted, working).is_ok());
    }
}
