//! Signals of Linux by name and number, as `docker stop --signal` and the `StopSignal` of images
//! name them.

/// Names of signals 1 to 31, without `SIG` (signal(7); x86-64 and arm64 have the same numbers).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// Second names of signals.
const ALIASES: [(&str, u32); 4] = [("IOT", 6), ("CLD", 17), ("POLL", 29), ("UNUSED", 31)];
/// First real-time signal that programs have: glibc keeps 32 and 33 for itself, as docker counts.
const RTMIN: u32 = 34;
const RTMAX: u32 = 64;

/// Returns the number of a signal: `SIGTERM`, `term`, `15`, `SIGRTMIN+3`, `RTMAX-1`. `None` for
/// what is no signal.
pub(crate) fn signal_number(text: &str) -> Option<u32> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text
            .parse()
            .ok()
            .filter(|number| (1..=RTMAX).contains(number));
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let named = (1..).zip(NAMES).map(|(number, name)| (name, number));
    let mut all = named.chain(ALIASES);
    let found = all.find(|(known, _)| *known == name);
    found
        .map(|(_, number)| number)
        .or_else(|| real_time_number(name))
}

fn real_time_number(name: &str) -> Option<u32> {
    let offset = |text: &str, sign: char| match text {
        "" => Some(0),
        text => text.strip_prefix(sign)?.parse::<u32>().ok(),
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        RTMIN.checked_add(offset(rest, '+')?)?
    } else {
        RTMAX.checked_sub(offset(name.strip_prefix("RTMAX")?, '-')?)?
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_signals() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("15", 15),
            ("SIGSYS", 31),
            ("SIGHUP", 1),
            ("SIGWINCH", 28),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("64", 64),
            ("POLL", 29),
        ] {
            assert_eq!(signal_number(text), Some(number), "{text}");
        }
        for bad in [
            "",
            "0",
            "65",
            "-1",
            "SIG",
            "SIGNO",
            "RTMIN-1",
            "RTMIN+31",
            "RTMAX+1",
            "RTMAX-31",
            "TERM ",
            "4294967311",
        ] {
            assert_eq!(signal_number(bad), None, "{bad}");
        }
    }
}
