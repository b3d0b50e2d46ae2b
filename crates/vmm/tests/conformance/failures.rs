//! Starts that fail or are given up leave nothing that runs.

use std::fs;
use std::time::Duration;

use vmm::{Disk, DiskFormat, Error, VmConfig};

use crate::lab::{Lab, on_every_driver};

async fn refused(lab: &Lab, config: VmConfig) -> String {
    let error = lab.driver.boot(&config).await.expect_err("it cannot boot");
    lab.assert_no_process();
    assert!(
        matches!(
            error,
            Error::EndedEarly { .. } | Error::Refused { .. } | Error::Io { .. }
        ),
        "{error:?}"
    );
    assert!(
        lab.driver
            .adopt(&config.dir)
            .await
            .expect("the directory can be looked at")
            .is_none()
    );
    error.to_string()
}

#[test]
fn a_kernel_that_is_none() {
    on_every_driver(async |lab| {
        let config = lab.config("missing", "count");
        let text = refused(
            lab,
            VmConfig {
                kernel: "/nonexistent/kernel".into(),
                ..config
            },
        )
        .await;
        assert!(text.contains("/nonexistent/kernel"), "{text}");
        let config = lab.config("garbage", "count");
        let garbage = config.dir.join("garbage");
        fs::write(&garbage, [0x5a; 4096]).expect("a file");
        refused(
            lab,
            VmConfig {
                kernel: garbage,
                ..config
            },
        )
        .await;
    });
}

#[test]
fn missing_or_foreign_disk_is_refused() {
    on_every_driver(async |lab| {
        let config = lab.config("missing", "count");
        fs::remove_file(&config.disk.path).expect("the disk");
        let path = config.disk.path.display().to_string();
        let text = refused(lab, config).await;
        assert!(text.contains(&path), "{text}");
        if lab.driver.supports(DiskFormat::Qcow2) {
            let config = lab.config("raw", "count");
            let disk = Disk {
                path: config.disk.path.clone(),
                format: DiskFormat::Qcow2,
                base: None,
                size_bytes: 4 << 20,
            };
            refused(lab, VmConfig { disk, ..config }).await;
        }
    });
}

#[test]
fn sizes_that_cannot_be() {
    on_every_driver(async |lab| {
        let config = || lab.config("vm", "count");
        refused(
            lab,
            VmConfig {
                memory_mb: u32::MAX,
                ..config()
            },
        )
        .await;
        refused(
            lab,
            VmConfig {
                memory_mb: 0,
                ..config()
            },
        )
        .await;
        refused(
            lab,
            VmConfig {
                vcpus: 100_000,
                ..config()
            },
        )
        .await;
        refused(
            lab,
            VmConfig {
                vcpus: 0,
                ..config()
            },
        )
        .await;
        // The directory is as good as new.
        let machine = &mut lab.boot(config()).await;
        machine.until_printed("count 0").await;
        machine.kill().await;
    });
}

#[test]
fn a_directory_that_is_missing() {
    on_every_driver(async |lab| {
        let config = VmConfig {
            dir: "/nonexistent/vm".into(),
            ..lab.config("vm", "count")
        };
        refused(lab, config).await;
    });
}

#[test]
fn a_network_namespace_that_is_missing() {
    on_every_driver(async |lab| {
        let net = vmm::Net {
            netns: "wtest-none".into(),
            tap: "tap0".into(),
            mac: [2, 0, 0, 0, 0, 1],
        };
        let config = VmConfig {
            net: Some(net),
            ..lab.config("vm", "count")
        };
        let error = lab.driver.boot(&config).await.expect_err("it cannot boot");
        let is_named = match &error {
            Error::Start { hint, .. } => hint.contains("wtest-none"),
            Error::Io { path, .. } => path.ends_with("wtest-none"),
            _ => false,
        };
        assert!(is_named, "{error:?}");
        lab.assert_no_process();
    });
}

#[test]
fn abandoned_start_can_be_destroyed() {
    on_every_driver(async |lab| {
        let source = lab.young("source").await;
        let snapshot = lab.empty_dir("snapshot");
        source.snapshot(&snapshot).await;
        source.kill().await;
        for millis in [0, 1, 5, 20, 50, 100] {
            let limit = Duration::from_millis(millis);
            let config = lab.config("booted", "count");
            let boot = tokio::time::timeout(limit, lab.driver.boot(&config)).await;
            drop(boot);
            clear_away(lab, &config).await;
            let config = lab.config_of_copy("restored", &source.config);
            let restore = tokio::time::timeout(limit, lab.driver.restore(&config, &snapshot)).await;
            drop(restore);
            clear_away(lab, &config).await;
        }
    });
}

/// Nothing may be left, nor come later.
async fn clear_away(lab: &Lab, config: &VmConfig) {
    lab.driver
        .destroy(&config.dir)
        .await
        .expect("what was started can be destroyed");
    lab.assert_no_process();
    tokio::time::sleep(Duration::from_millis(150)).await;
    lab.assert_no_process();
}

#[test]
fn abandoned_start_can_be_adopted() {
    on_every_driver(async |lab| {
        let config = lab.config("vm", "count");
        drop(tokio::time::timeout(Duration::ZERO, lab.driver.boot(&config)).await);
        // Whether the start got anywhere is a matter of luck; that afterwards it is known is not.
        match lab
            .driver
            .adopt(&config.dir)
            .await
            .expect("the directory can be looked at")
        {
            Some(vm) => {
                assert_eq!(lab.processes().len(), 1);
                vm.kill().await.expect("it can be killed");
            }
            None => lab.assert_no_process(),
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
        lab.assert_no_process();
    });
}
