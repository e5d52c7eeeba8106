//! A record of Docker's `json-file` as a line of CRI's.

use std::borrow::Cow;

use serde::Deserialize;
use slipway_log::{Stream, Tag, write_line};

/// What Docker has written of one piece of a line. It leaves out what is empty, and puts a newline
/// at the end of the last piece.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(default)]
    log: String,
    #[serde(borrow, default)]
    stream: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
}

/// How a record begins that has a text.
const BEGINNING: &[u8] = br#"{"log":""#;

/// A record that was not written whole, as when Docker was killed over it, or its disk was full.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damaged;

/// Writes a record, given without its newline, behind other lines.
///
/// # Errors
///
/// Where something of it is missing. The whole record is written that follows on the same line.
pub(super) fn convert(record: &[u8], lines: &mut Vec<u8>) -> Result<(), Damaged> {
    if record.is_empty() || write(record, lines).is_some() {
        return Ok(());
    }
    // No text of a record has this in it, for it would be escaped there.
    let beginnings = record.windows(BEGINNING.len()).enumerate().skip(1);
    let mut beginnings = beginnings.filter(|(_, window)| *window == BEGINNING);
    let _whole = beginnings.find_map(|(at, _)| write(&record[at..], lines));
    Err(Damaged)
}

/// None where it is no record.
fn write(record: &[u8], lines: &mut Vec<u8>) -> Option<()> {
    let Entry { log, stream, time } = serde_json::from_slice(record).ok()?;
    // All nine digits of the nanoseconds, so that times sort as text.
    let time: jiff::Timestamp = time.parse().ok()?;
    let time = format!("{time:.9}");
    let stream = match stream.as_ref() {
        "stderr" => Stream::Error,
        _ => Stream::Out,
    };
    for piece in log.split_inclusive('\n') {
        let (tag, text) = match piece.strip_suffix('\n') {
            Some(text) => (Tag::Full, text),
            None => (Tag::Partial, piece),
        };
        write_line(lines, time.as_bytes(), stream, tag, [text.as_bytes(), &[]]);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIME: &str = "2026-01-02T03:04:05.000000006Z";

    fn converted(record: &str) -> (String, bool) {
        let mut lines = Vec::new();
        let whole = convert(record.as_bytes(), &mut lines).is_ok();
        (String::from_utf8(lines).unwrap(), whole)
    }

    #[test]
    fn records_are_lines() {
        for (record, expected) in [
            (
                r#"{"log":"a \"b\"\u003c\n","stream":"stdout","time":"2026-01-02T03:04:05.000000006Z"}"#,
                "2026-01-02T03:04:05.000000006Z stdout F a \"b\"<\n",
            ),
            // Docker leaves out zeros, and what is not valid UTF-8 is a replacement character each.
            (
                r#"{"log":"\ufffd\ufffd\r\n","stream":"stderr","time":"2026-01-02T03:04:05.1Z"}"#,
                "2026-01-02T03:04:05.100000000Z stderr F \u{fffd}\u{fffd}\r\n",
            ),
            (
                r#"{"log":"part","stream":"stdout","attrs":{"log":"x"},"time":"2026-01-02T03:04:05Z"}"#,
                "2026-01-02T03:04:05.000000000Z stdout P part\n",
            ),
            (
                r#"{"log":"\n","stream":"stdout","time":"2026-01-02T04:04:05+01:00"}"#,
                "2026-01-02T03:04:05.000000000Z stdout F \n",
            ),
            (r#"{"stream":"stdout","time":"2026-01-02T03:04:05Z"}"#, ""),
            ("", ""),
        ] {
            assert_eq!(converted(record), (expected.to_owned(), true), "{record}");
        }
    }

    #[test]
    fn what_is_glued_to_a_torn_record_is_found() {
        let whole = format!(r#"{{"log":"whole\n","stream":"stdout","time":"{TIME}"}}"#);
        for torn in [
            "{\"log\":\"to",
            "{",
            "\0\0",
            r#"{"log":"a","attrs":{"log":"x"#,
        ] {
            let glued = format!("{torn}{whole}");
            let expected = format!("{TIME} stdout F whole\n");
            assert_eq!(converted(&glued), (expected, false), "{glued}");
        }
        for damaged in ["x", "{}", "[1]", r#"{"log":"a\n","time":"yesterday"}"#] {
            assert_eq!(converted(damaged), (String::new(), false));
        }
    }

    proptest! {
        #[test]
        fn texts_come_through(text in "\\PC*", ends: bool, error: bool) {
            let log = format!("{text}{}", if ends { "\n" } else { "" });
            let stream = if error { "stderr" } else { "stdout" };
            let record = serde_json::json!({ "log": log, "stream": stream, "time": TIME });
            let tag = if ends { "F" } else { "P" };
            let expected = if log.is_empty() {
                String::new()
            } else {
                format!("{TIME} {stream} {tag} {text}\n")
            };
            prop_assert_eq!(converted(&record.to_string()), (expected, true));
        }

        #[test]
        fn any_bytes_are_taken(record: Vec<u8>) {
            let mut lines = Vec::new();
            let _ = convert(&record, &mut lines);
            prop_assert!(lines.is_empty() || lines.ends_with(b"\n"));
        }
    }
}
