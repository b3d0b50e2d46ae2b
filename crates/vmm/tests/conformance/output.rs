//! The console of a guest that talks a lot: 256 KiB, four times what is kept. Over an emulated
//! port, each byte costs.

use std::time::Duration;

use vmm::Exit;

use crate::lab::on_every_driver;

/// What one look at the console may bring, bytes.
const BOUND: usize = 64 * 1024;

#[test]
fn unread_output_neither_blocks_nor_grows() {
    on_every_driver(async |lab| {
        let mut machine = lab.boot(lab.config("vm", "flood")).await;
        assert_eq!(machine.end().await, Exit::Shutdown);
        assert!(
            machine.text.len() <= BOUND,
            "{} bytes are left",
            machine.text.len()
        );
        assert!(
            machine.text.contains("flood over\r\n"),
            "the newest output is what is kept"
        );
        assert!(
            machine.vm.console().await.is_empty(),
            "reading takes it away"
        );
        let on_disk: u64 = std::fs::read_dir(&machine.config.dir)
            .expect("its directory")
            .flatten()
            .filter(|entry| entry.file_name() != "memory")
            .map(|entry| entry.metadata().expect("a file").len())
            .sum();
        assert!(on_disk < 1 << 17, "{on_disk} bytes of it went to disk");
    });
}

#[test]
fn console_reads_are_bounded() {
    on_every_driver(async |lab| {
        let mut machine = lab.boot(lab.config("vm", "flood")).await;
        let mut largest = 0;
        let exit = loop {
            largest = largest.max(machine.read().await);
            if let Ok(exit) =
                tokio::time::timeout(Duration::from_millis(5), machine.vm.wait()).await
            {
                break exit;
            }
        };
        machine.read().await;
        assert_eq!(exit, Exit::Shutdown);
        assert!(
            largest > 0 && largest <= BOUND,
            "{largest} bytes in one piece"
        );
        assert!(machine.text.contains("flood over\r\n"));
    });
}

#[test]
fn many_readers_get_every_byte_once() {
    on_every_driver(async |lab| {
        let mut machine = lab.counting("vm").await;
        machine.vm.pause().await.expect("it can be paused");
        let vm = &machine.vm;
        let pieces = futures::future::join_all((0..8).map(|_| vm.console())).await;
        for piece in &pieces {
            machine.text.push_str(&String::from_utf8_lossy(piece));
        }
        assert!(
            pieces.iter().filter(|piece| !piece.is_empty()).count() <= 1,
            "the guest stood still"
        );
        machine.goes_on().await;
        machine.kill().await;
    });
}
