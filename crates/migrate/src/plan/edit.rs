//! Small changes of files that leave all else as it is, to the byte.

use std::borrow::Cow;
use std::ops::Range;

use crate::document::{Edit, Node, Source};

/// The end of lines that a file has.
pub(super) fn line_end(source: &Source) -> &'static str {
    if source.text().contains("\r\n") {
        "\r\n"
    } else {
        "\n"
    }
}

/// The edits that take words out of command lines, with the space that they leave.
pub(super) fn without_words(source: &Source, mut words: Vec<Range<usize>>) -> Vec<Edit> {
    let text = source.text();
    words.sort_by_key(|word| word.start);
    words.dedup();
    let mut runs: Vec<Range<usize>> = Vec::new();
    for word in words {
        match runs.last_mut() {
            Some(run) if is_blank(&text[run.end.min(word.start)..word.start]) => {
                run.end = run.end.max(word.end);
            }
            _ => runs.push(word),
        }
    }
    let edits = runs.into_iter().map(|run| Edit {
        range: with_space(text, run),
        text: String::new(),
    });
    edits.collect()
}

/// Blanks, and continued lines.
fn is_blank(text: &str) -> bool {
    text.chars()
        .all(|letter| letter.is_ascii_whitespace() || letter == '\\')
}

/// A run of words with what would be left of its surroundings: its lines where nothing else is on
/// them, and otherwise the space in front of it, or behind it.
fn with_space(text: &str, run: Range<usize>) -> Range<usize> {
    let line_start = text[..run.start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[run.end..]
        .find('\n')
        .map_or(text.len(), |at| run.end + at + 1);
    let alone_before = text[line_start..run.start].trim().is_empty();
    let rest = text[run.end..line_end].trim();
    if alone_before && rest == "\\" {
        return line_start..line_end;
    }
    if alone_before && rest.is_empty() && text[..line_start].trim_end().ends_with('\\') {
        let continued = text[..line_start].trim_end();
        let kept = continued[..continued.len() - 1].trim_end().len();
        return kept..run.end;
    }
    let blank = |letter: char| matches!(letter, ' ' | '\t');
    let before = text[line_start..run.start].trim_end_matches(blank).len() + line_start;
    if before < run.start {
        return before..run.end;
    }
    let after = text[run.end..line_end].trim_start_matches(blank);
    run.start..line_end - after.len()
}

/// The edit that sets a key of a map at the top of a YAML file. Nothing where the map is none that
/// something can be put into.
pub(super) fn yaml_setting(source: &Source, map: &Node, key: &str, value: &str) -> Option<Edit> {
    // A map in brackets may be JSON, and others than the kubelet read it as that.
    let brackets = source.text()[map.range.start..].starts_with('{');
    let value = if brackets && value.parse::<f64>().is_err() {
        Cow::Owned(format!("{value:?}"))
    } else {
        Cow::Borrowed(value)
    };
    if let Some(entry) = map.entry(key) {
        if entry.value.range.is_empty() {
            let end = entry.key_range.end;
            let colon = source.text()[end..].find(':')?;
            let at = end + colon + 1;
            return Some(Edit {
                range: at..at,
                text: format!(" {value}"),
            });
        }
        return Some(Edit {
            range: entry.value.range.clone(),
            text: value.into_owned(),
        });
    }
    let entries = map.entries();
    let next = entries.iter().find(|entry| entry.key.as_str() > key);
    let next = next.or_else(|| entries.first())?;
    let text = source.text();
    let start = start_of_line(text, next.key_range.start);
    let indent = &text[start..next.key_range.start];
    let has_own_line = indent.trim().is_empty();
    let end = line_end(source);
    if brackets {
        let at = next.key_range.start;
        let gap = if has_own_line {
            format!("{end}{indent}")
        } else {
            " ".to_string()
        };
        return Some(Edit {
            range: at..at,
            text: format!("{key:?}: {value},{gap}"),
        });
    }
    if !has_own_line {
        return None;
    }
    let at = above_comments(text, start);
    Some(Edit {
        range: at..at,
        text: format!("{indent}{key}: {value}{end}"),
    })
}

/// The edit that puts a line behind all others.
pub(super) fn last_line(source: &Source, line: &str) -> Edit {
    let (text, end) = (source.text(), line_end(source));
    let before = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        end
    };
    Edit {
        range: text.len()..text.len(),
        text: format!("{before}{line}{end}"),
    }
}

fn start_of_line(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |end| end + 1)
}

/// The first of the comments that stand directly above a line: they belong to it.
fn above_comments(text: &str, mut start: usize) -> usize {
    while start > 0 {
        let above = start_of_line(text, start - 1);
        if !text[above..start].trim_start().starts_with('#') {
            break;
        }
        start = above;
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{self, Format};

    fn without(text: &str, words: &[&str]) -> String {
        let source = Source::new("/x", text);
        let ranges = words.iter().map(|word| {
            let at = text.find(word).unwrap();
            at..at + word.len()
        });
        let edits = without_words(&source, ranges.collect());
        String::from_utf8(source.edited(&edits)).unwrap()
    }

    #[test]
    fn words_go_with_their_space() {
        assert_eq!(without("A=\"--a --b --c\"\n", &["--b"]), "A=\"--a --c\"\n");
        assert_eq!(without("A=\"--a --b --c\"\n", &["--a"]), "A=\"--b --c\"\n");
        assert_eq!(without("A=\"--a --b --c\"\n", &["--c"]), "A=\"--a --b\"\n");
        assert_eq!(
            without("A=\"--a --b --c\"\n", &["--a", "--b"]),
            "A=\"--c\"\n"
        );
        assert_eq!(without("A=\"--a --b\"\n", &["--a", "--b"]), "A=\"\"\n");
    }

    #[test]
    fn a_word_with_a_line_of_its_own_takes_it_along() {
        let text = "ExecStart=/k \\\n  --a \\\n  --b \\\n  --c\nRestart=always\n";
        assert_eq!(
            without(text, &["--b"]),
            "ExecStart=/k \\\n  --a \\\n  --c\nRestart=always\n"
        );
        assert_eq!(
            without(text, &["--c"]),
            "ExecStart=/k \\\n  --a \\\n  --b\nRestart=always\n"
        );
        assert_eq!(
            without(text, &["--b", "--c"]),
            "ExecStart=/k \\\n  --a\nRestart=always\n"
        );
    }

    fn set(text: &str, key: &str, value: &str) -> String {
        let source = Source::new("/x", text);
        let documents = document::read(&source, Format::Yaml).unwrap();
        let is = documents[0].text_at(&[key]);
        let edit = (is != Some(value)).then(|| yaml_setting(&source, &documents[0], key, value));
        String::from_utf8(source.edited(edit.flatten().as_slice())).unwrap()
    }

    #[test]
    fn a_key_is_set_where_it_belongs() {
        assert_eq!(
            set("# of kubeadm\na: 1 # one\nc: 3\n", "a", "2"),
            "# of kubeadm\na: 2 # one\nc: 3\n"
        );
        assert_eq!(
            set("a: 1\n# about c\nc: 3\n", "b", "2"),
            "a: 1\nb: 2\n# about c\nc: 3\n"
        );
        assert_eq!(
            set("a: 1\r\nb:\r\n  - x\r\n", "c", "3"),
            "c: 3\r\na: 1\r\nb:\r\n  - x\r\n"
        );
        assert_eq!(set("---\na:\nb: 2\n", "a", "1"), "---\na: 1\nb: 2\n");
        assert_eq!(set("a: \"x\"\n", "a", "x"), "a: \"x\"\n");
    }

    #[test]
    fn json_stays_json() {
        let text = "{\n  \"a\": \"x\",\n  \"c\": {\"d\": 1}\n}\n";
        assert_eq!(set(text, "a", "y"), text.replace("\"x\"", "\"y\""));
        assert_eq!(
            set(text, "b", "10Mi"),
            "{\n  \"a\": \"x\",\n  \"b\": \"10Mi\",\n  \"c\": {\"d\": 1}\n}\n"
        );
        assert_eq!(set("{\"a\":1}", "b", "2"), "{\"b\": 2, \"a\":1}");
        assert_eq!(
            set("{a: 1, c: 3}\n", "b", "x"),
            "{a: 1, \"b\": \"x\", c: 3}\n"
        );
        for (text, key) in [(text, "b"), ("{\"a\":1}", "b")] {
            let source = Source::new("/x", set(text, key, "x"));
            let node = document::read(&source, Format::Json).unwrap();
            assert_eq!(node[0].text_at(&[key]), Some("x"));
        }
    }
}
