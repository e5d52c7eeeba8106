//! Signals by name, as images and CRI write them.

use slipway_cri_api::v1::Signal;

/// What ends a process that is not asked.
pub const SIGKILL: i32 = 9;

/// What stops a container of which nobody says more.
pub const SIGTERM: i32 = 15;

/// Names of signal(7) and their numbers on x86-64 and arm64, with the aliases that CRI lists.
const NAMES: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The number of `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3` or CRI's `SIGRTMINPLUS3`, in any case; none
/// for what is no signal.
pub fn parse(name: &str) -> Option<i32> {
    let upper = name.trim().to_ascii_uppercase();
    if let Ok(number) = upper.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        return real_time(RTMIN, offset, &["+", "PLUS"], 1);
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        return real_time(RTMAX, offset, &["-", "MINUS"], -1);
    }
    NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|&(_, number)| number)
}

/// The same signal as CRI calls it.
pub fn in_cri(number: i32) -> Signal {
    (1..=Signal::Sigrtmax as i32)
        .filter_map(|value| Signal::try_from(value).ok())
        .find(|signal| parse(signal.as_str_name()) == Some(number))
        .unwrap_or(Signal::RuntimeDefault)
}

fn real_time(base: i32, offset: &str, signs: &[&str], direction: i32) -> Option<i32> {
    if offset.is_empty() {
        return Some(base);
    }
    let digits = signs.iter().find_map(|sign| offset.strip_prefix(sign))?;
    let offset: i32 = digits.parse().ok().filter(|&offset| offset >= 0)?;
    let number = base.checked_add(offset.checked_mul(direction)?)?;
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_real_time_signals() {
        assert_eq!(parse("SIGTERM"), Some(15));
        assert_eq!(parse("quit"), Some(3));
        assert_eq!(parse("9"), Some(9));
        assert_eq!(parse("SIGRTMIN+3"), Some(37));
        assert_eq!(parse("SIGRTMAX-14"), Some(50));
        for bad in [
            "", "0", "65", "-9", "SIGNONE", "RTMIN+99", "RTMIN3", "RTMAX+1",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_signal_of_cri_has_a_number() {
        for value in 1..=65 {
            let name = Signal::try_from(value).unwrap().as_str_name();
            let number = parse(name);
            assert!(number.is_some(), "{name}");
            assert_eq!(parse(in_cri(number.unwrap()).as_str_name()), number);
        }
    }
}
