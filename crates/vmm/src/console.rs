//! Serial console of a guest: bounded, hostile, and searched for the reason of its end.

use std::collections::VecDeque;

/// Maximum unread output that is kept, bytes; the oldest is dropped first.
pub(crate) const LIMIT: usize = 64 * 1024;

/// Bytes of one line that are searched, and of a text that is handed on.
const LINE_LIMIT: usize = 400;

const PANIC: &str = "Kernel panic - not syncing";
const OUT_OF_MEMORY: [&str; 2] = [
    "Out of memory: Killed process",
    "Memory cgroup out of memory: Killed process",
];
const RESTART: &str = "reboot: Restarting system";
/// Messages of a kernel that has no means to switch the machine off.
const HALT: [&str; 2] = ["reboot: System halted", "reboot: Power off not available"];
/// Message of a kernel that has shut down every device and switches the machine off, even if it
/// cannot.
const POWER_DOWN: &str = "reboot: Power down";
const MARKERS: [&str; 7] = [
    PANIC,
    OUT_OF_MEMORY[0],
    OUT_OF_MEMORY[1],
    RESTART,
    HALT[0],
    HALT[1],
    POWER_DOWN,
];

/// Unread output, and the kernel's messages in all output so far, read or not.
#[derive(Debug, Default)]
pub(crate) struct Console {
    unread: VecDeque<u8>,
    line: Vec<u8>,
    panic: Option<String>,
    out_of_memory: Option<String>,
    restarting: bool,
    halted: bool,
    powered_down: bool,
}

impl Console {
    pub(crate) fn push(&mut self, output: &[u8]) {
        let kept = &output[output.len().saturating_sub(LIMIT)..];
        let surplus = (self.unread.len() + kept.len()).saturating_sub(LIMIT);
        self.unread.drain(..surplus);
        self.unread.extend(kept);
        for &byte in output {
            if byte == b'\n' {
                self.end_line();
            } else {
                self.line.push(byte);
                self.shorten_line();
            }
        }
    }

    /// Returns the unread output and clears it.
    pub(crate) fn take_unread(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.unread).into()
    }

    /// Returns the first line of the kernel's panic message, if there was one; with the victim of
    /// the out-of-memory killer, if there was one before.
    pub(crate) fn panic_message(&mut self) -> Option<String> {
        self.end_line();
        let panic = self.panic.clone()?;
        Some(match &self.out_of_memory {
            Some(victim) => format!("{panic} (after: {victim})"),
            None => panic,
        })
    }

    /// Returns true if the kernel announced a restart, as opposed to a power-off.
    pub(crate) fn is_restarting(&mut self) -> bool {
        self.end_line();
        self.restarting
    }

    /// Returns true if the kernel announced that it stops for good, in a whole line.
    pub(crate) fn is_halted(&self) -> bool {
        self.halted
    }

    /// Returns true if the kernel announced, in a whole line, that it has shut down every device to
    /// switch the machine off.
    pub(crate) fn is_powered_down(&self) -> bool {
        self.powered_down
    }

    /// Forgets the announcement of a halt that did not happen.
    pub(crate) fn forget_halt(&mut self) {
        self.halted = false;
    }

    /// Shortens a long line. A guest can write any amount before the kernel's message on the same
    /// line: the part from that message on is kept, or else the newest part.
    fn shorten_line(&mut self) {
        if self.line.len() < LINE_LIMIT {
            return;
        }
        let at = |marker: &&str| {
            self.line
                .windows(marker.len())
                .position(|window| window == marker.as_bytes())
        };
        match MARKERS.iter().filter_map(at).min() {
            Some(0) => self.end_line(),
            Some(start) => drop(self.line.drain(..start)),
            None => drop(self.line.drain(..LINE_LIMIT / 2)),
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        self.restarting |= text.contains(RESTART);
        self.halted |= HALT.iter().any(|marker| text.contains(marker));
        self.powered_down |= text.contains(POWER_DOWN);
        if self.panic.is_none() {
            self.panic = from_marker(&text, PANIC);
            let victim = OUT_OF_MEMORY
                .iter()
                .find_map(|marker| from_marker(&text, marker));
            self.out_of_memory = victim.or(self.out_of_memory.take());
        }
    }
}

/// Returns the text from `marker` on, without the kernel's time stamp, as one printable line.
fn from_marker(line: &str, marker: &str) -> Option<String> {
    line.find(marker)
        .map(|start| printable(&line.as_bytes()[start..], LINE_LIMIT))
}

/// Returns at most `limit` characters from the end of `bytes`, on one line, without control
/// characters.
pub(crate) fn printable(bytes: &[u8], limit: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let clean: Vec<char> = text
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    clean[clean.len().saturating_sub(limit)..].iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_is_found_across_pieces() {
        let mut console = Console::default();
        console.push(b"[    1.0] Kernel panic - not syn");
        assert_eq!(console.take_unread(), b"[    1.0] Kernel panic - not syn");
        console.push(b"cing: sysrq\x1b[31m triggered crash\r\n[    1.1] Kernel panic - not syncing: second\n");
        assert_eq!(
            console.panic_message().unwrap(),
            "Kernel panic - not syncing: sysrq [31m triggered crash"
        );
    }

    #[test]
    fn panic_is_found_behind_endless_line() {
        for before in 0..2 * LINE_LIMIT {
            let mut console = Console::default();
            console.push(&vec![b'x'; before]);
            console.push(b"[    1.0] Kernel panic - not syncing: Attempted to kill init!\n");
            assert_eq!(
                console.panic_message().unwrap(),
                "Kernel panic - not syncing: Attempted to kill init!"
            );
            assert!(console.line.len() <= LINE_LIMIT);
        }
    }

    #[test]
    fn panic_names_the_memory_hog() {
        let mut console = Console::default();
        console.push(b"[2] Out of memory: Killed process 7 (python3)\n[3] Kernel panic - not syncing: no init\n");
        let text = console.panic_message().unwrap();
        assert!(
            text.starts_with("Kernel panic - not syncing: no init")
                && text.contains("process 7 (python3)")
        );
        console = Console::default();
        console.push(b"Out of memory: Killed process 7 (python3)\n");
        assert_eq!(console.panic_message(), None);
    }

    #[test]
    fn only_the_newest_output_is_kept() {
        let mut console = Console::default();
        console.push(&vec![b'a'; LIMIT]);
        console.push(b"end");
        let output = console.take_unread();
        assert_eq!((output.len(), output.ends_with(b"aend")), (LIMIT, true));
        console.push(&vec![b'b'; 3 * LIMIT]);
        assert_eq!(console.take_unread().len(), LIMIT);
        assert!(console.take_unread().is_empty() && console.line.len() <= LINE_LIMIT);
    }

    #[test]
    fn restart_is_told_from_power_off() {
        let mut console = Console::default();
        console.push(b"[1] reboot: Power down");
        assert!(!console.is_restarting());
        console.push(b"\n[1] reboot: Restarting system");
        assert!(console.is_restarting());
    }

    #[test]
    fn halt_needs_a_whole_line() {
        let mut console = Console::default();
        console.push(b"[1] reboot: System halted");
        assert!(!console.is_halted());
        console.push(b"\r\n");
        assert!(console.is_halted());
        console.forget_halt();
        console.push(b"[1] reboot: Power off not available: System halted instead\n");
        assert!(console.is_halted() && !console.is_restarting() && !console.is_powered_down());
        console.push(b"[2] reboot: Power down\r\n");
        assert!(console.is_powered_down());
    }

    #[test]
    fn shown_text_is_bounded_and_printable() {
        assert_eq!(printable(b" one\ntwo\0\xff ", 100), "one two \u{fffd}");
        assert_eq!(printable(b"abcdef", 3), "def");
    }
}
