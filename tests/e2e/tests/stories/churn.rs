//! Many sandboxes come and go; every one is right, and nothing is left.

use std::sync::atomic::{AtomicUsize, Ordering};

use e2e::Platform;

/// Cycles in all, and how many run side by side.
const CYCLES: usize = 200;
const WORKERS: usize = 8;

#[test]
fn two_hundred_cycles_eight_at_a_time() {
    let platform = Platform::start();
    let wrenn = platform.cli();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let cycle = next.fetch_add(1, Ordering::Relaxed);
                    if cycle >= CYCLES {
                        return;
                    }
                    let id = wrenn.create(&["--memory", "192"]);
                    let said = wrenn
                        .run(["exec", &id, "--", "echo", &format!("cycle {cycle}")])
                        .succeeded();
                    assert_eq!(said.text(), format!("cycle {cycle}"));
                    wrenn.rm(&id);
                    assert!(wrenn.info(&id).is_none());
                }
            });
        }
    });
    assert!(wrenn.all().is_empty(), "no row is left: {:?}", wrenn.all());
    platform.finish();
}
