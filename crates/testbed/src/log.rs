//! Container logs in CRI's format.

use std::path::Path;

/// A line of a log: `<RFC 3339 time> stdout|stderr P|F <text>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// RFC 3339 with nanoseconds.
    pub time: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// False for a part (`P`) of a longer line.
    pub full: bool,
    /// What the container wrote, without the newline.
    pub text: String,
}

/// The whole lines of a log file; none while there is no such file.
///
/// # Panics
/// On a line that is not in this format.
pub fn read_log(path: &Path) -> Vec<LogLine> {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n'))
        .map(|line| {
            parse(line)
                .unwrap_or_else(|| panic!("{}: not a CRI log line: {line:?}", path.display()))
        })
        .collect()
}

fn parse(line: &str) -> Option<LogLine> {
    let mut parts = line.splitn(4, ' ');
    let (time, stream, tag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let well_formed =
        time.contains('T') && matches!(stream, "stdout" | "stderr") && matches!(tag, "P" | "F");
    well_formed.then(|| LogLine {
        time: time.to_owned(),
        stream: stream.to_owned(),
        full: tag == "F",
        text: text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_split_into_its_four_parts() {
        let line = parse("2024-01-02T03:04:05.000000006Z stderr P two  words").unwrap();
        assert_eq!((line.stream.as_str(), line.full), ("stderr", false));
        assert_eq!(line.text, "two  words");
        assert_eq!(parse("2024-01-02T03:04:05Z stdout F ").unwrap().text, "");
        assert_eq!(parse("2024-01-02T03:04:05Z stdout X a"), None);
    }
}
