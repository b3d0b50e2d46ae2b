//! Snapshots that cannot be restored are refused, and nothing is left that runs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use vmm::{Error, VmConfig};

use crate::lab::{Lab, on_every_driver};
use crate::machine::Machine;

/// A snapshot of `source`, which is no more then.
async fn snapshot_of(lab: &Lab, source: &Machine) -> PathBuf {
    let dir = lab.empty_dir("snapshot");
    source.snapshot(&dir).await;
    source.kill().await;
    dir
}

async fn is_bad(lab: &Lab, source: &VmConfig, snapshot: &Path) {
    let config = lab.config_of_copy("bad", source);
    let error = lab
        .driver
        .restore(&config, snapshot)
        .await
        .expect_err("it cannot be restored");
    lab.assert_no_process();
    assert!(
        matches!(&error, Error::BadSnapshot { dir, .. } if dir == snapshot),
        "{error:?}"
    );
    assert!(
        lab.driver
            .adopt(&config.dir)
            .await
            .expect("the directory can be looked at")
            .is_none()
    );
}

fn copy(lab: &Lab, snapshot: &Path) -> PathBuf {
    let dir = lab.root().join("damaged");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir(&dir).expect("a directory");
    for entry in fs::read_dir(snapshot).expect("the snapshot").flatten() {
        linux::sparse::copy(&entry.path(), &dir.join(entry.file_name())).expect("a copy");
    }
    dir
}

#[test]
fn files_of_wrong_length_are_noticed() {
    on_every_driver(async |lab| {
        let mut machine = lab.counting("source").await;
        machine.pause().await;
        let snapshot = snapshot_of(lab, &machine).await;
        let Machine {
            config: source,
            text,
            ..
        } = machine;
        let names: Vec<_> = fs::read_dir(&snapshot)
            .expect("the snapshot")
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        assert!(!names.is_empty());
        for name in names {
            let length = fs::metadata(snapshot.join(&name)).expect("a file").len();
            for changed in [
                None,
                Some(0),
                Some(length / 2),
                Some(length - 1),
                Some(length + 1),
            ] {
                let damaged = copy(lab, &snapshot);
                let path = damaged.join(&name);
                match changed {
                    Some(length) => {
                        File::options()
                            .write(true)
                            .open(&path)
                            .and_then(|file| file.set_len(length))
                            .expect("a file");
                    }
                    None => fs::remove_file(&path).expect("a file"),
                }
                is_bad(lab, &source, &damaged).await;
            }
        }
        is_bad(lab, &source, &lab.empty_dir("empty")).await;
        is_bad(lab, &source, Path::new("/nonexistent/snapshot")).await;
        // The snapshot itself is as good as before.
        let mut restored = lab.restore("restored", &source, &snapshot).await;
        restored.goes_on_after(&text).await;
        restored.kill().await;
    });
}

#[test]
fn garbage_device_state_is_noticed() {
    on_every_driver(async |lab| {
        let machine = lab.young("source").await;
        let snapshot = snapshot_of(lab, &machine).await;
        let source = machine.config;
        let state = snapshot.join("state");
        let good = fs::read(&state).expect("the state of the devices");
        let mut backwards = good.clone();
        backwards.reverse();
        let mut cut = good.clone();
        let half = cut.len() / 2;
        cut[half..].fill(0);
        for bad in [vec![0; good.len()], backwards, cut] {
            fs::write(&state, bad).expect("the file can be written");
            is_bad(lab, &source, &snapshot).await;
        }
    });
}

#[test]
fn snapshot_fits_only_equal_machines() {
    on_every_driver(async |lab| {
        let machine = lab.young("source").await;
        let snapshot = snapshot_of(lab, &machine).await;
        let source = machine.config;
        is_bad(
            lab,
            &VmConfig {
                vcpus: 2,
                ..source.clone()
            },
            &snapshot,
        )
        .await;
        is_bad(
            lab,
            &VmConfig {
                memory_mb: source.memory_mb + 1,
                ..source.clone()
            },
            &snapshot,
        )
        .await;
        is_bad(
            lab,
            &VmConfig {
                memory_mb: source.memory_mb / 2,
                ..source.clone()
            },
            &snapshot,
        )
        .await;
    });
}
