//! The CRI log format, a record on a line: `<RFC 3339 time> stdout|stderr P|F[:tag...] <content>`.
//!
//! A line of the container's that was too long is several records, all but the last tagged `P`
//! (partial). Defined in the kubelet's `kuberuntime/logs`, which also reads that of Docker: a JSON
//! object on a line, whose text ends with a line feed unless it is partial.

use std::borrow::Cow;

use serde::Deserialize;

/// Where a container wrote something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// One record of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// As it is written in the log.
    pub(super) time: Cow<'a, str>,
    pub(super) stream: Stream,
    /// Whether the container's line goes on in the next record of the same stream.
    pub(super) partial: bool,
    pub(super) content: Cow<'a, [u8]>,
}

/// Reads a record from its line, which comes without its line feed. `None` if it is no record.
pub(super) fn parse(line: &[u8]) -> Option<Record<'_>> {
    if line.starts_with(b"{") {
        return parse_docker(line);
    }
    let mut fields = line.splitn(4, |&byte| byte == b' ');
    let time = std::str::from_utf8(fields.next()?).ok()?;
    let stream = match fields.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let tags = fields.next()?;
    let partial = match tags.split(|&byte| byte == b':').next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    // A runtime may leave out the space before an empty content.
    let content = fields.next().unwrap_or_default();
    (!time.is_empty()).then_some(Record {
        time: Cow::Borrowed(time),
        stream,
        partial,
        content: Cow::Borrowed(content),
    })
}

/// A record as Docker's `json-file` has it.
#[derive(Deserialize)]
struct Entry<'a> {
    log: String,
    #[serde(borrow)]
    stream: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
}

fn parse_docker(line: &[u8]) -> Option<Record<'_>> {
    let Entry {
        mut log,
        stream,
        time,
    } = serde_json::from_slice(line).ok()?;
    let stream = match stream.as_ref() {
        "stdout" => Stream::Stdout,
        "stderr" => Stream::Stderr,
        _ => return None,
    };
    let partial = !log.ends_with('\n');
    if !partial {
        log.pop();
    }
    Some(Record {
        time,
        stream,
        partial,
        content: Cow::Owned(log.into_bytes()),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_has_four_fields() {
        assert_eq!(
            parse(b"2024-01-31T08:00:00.123456789Z stderr P:x  two  spaces "),
            Some(Record {
                time: "2024-01-31T08:00:00.123456789Z".into(),
                stream: Stream::Stderr,
                partial: true,
                content: Cow::Borrowed(b" two  spaces "),
            })
        );
        let empty = Record {
            time: "t".into(),
            stream: Stream::Stdout,
            partial: false,
            content: Cow::Borrowed(b""),
        };
        assert_eq!(parse(b"t stdout F ").as_ref(), Some(&empty));
        assert_eq!(parse(b"t stdout F"), Some(empty));
    }

    #[test]
    fn dockers_records_are_read_as_well() {
        let record = |text: &str, partial| {
            Some(Record {
                time: "2024-01-31T08:00:00.1Z".into(),
                stream: Stream::Stderr,
                partial,
                content: Cow::Owned(text.as_bytes().to_vec()),
            })
        };
        let line = br#"{"log":"a \"b\"\n","stream":"stderr","time":"2024-01-31T08:00:00.1Z"}"#;
        assert_eq!(parse(line), record("a \"b\"", false));
        let line = br#"{"log":"cut","stream":"stderr","time":"2024-01-31T08:00:00.1Z"}"#;
        assert_eq!(parse(line), record("cut", true));
        for line in [&b"{"[..], b"{}", br#"{"log":"a","stream":"x","time":"t"}"#] {
            assert_eq!(parse(line), None);
        }
    }

    #[test]
    fn what_is_no_record_is_not_taken_for_one() {
        for line in [
            "",
            "t",
            "t stdout",
            "t stdin F x",
            "t stdout Full x",
            " stdout F x",
        ] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
        assert_eq!(parse(b"\xff stdout F x"), None);
    }

    proptest! {
        #[test]
        fn any_content_comes_back(content: Vec<u8>, partial: bool, is_stderr: bool) {
            let (name, stream) =
                if is_stderr { ("stderr", Stream::Stderr) } else { ("stdout", Stream::Stdout) };
            let tag = if partial { "P" } else { "F" };
            let mut line = format!("2024-01-31T08:00:00Z {name} {tag} ").into_bytes();
            line.extend(&content);
            let record = parse(&line).unwrap();
            prop_assert_eq!(record.content.as_ref(), &content[..]);
            prop_assert_eq!((record.stream, record.partial), (stream, partial));
        }

        #[test]
        fn no_line_is_too_strange(line: Vec<u8>) {
            parse(&line);
        }
    }
}
