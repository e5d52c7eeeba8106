//! YAML with positions, on granit's parser.

use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use super::source::{Malformed, Source};
use super::tree::{Entry, Node, Value};

/// No object is deeper.
const MAX_DEPTH: usize = 128;

/// Reads the documents of a stream; an empty one is left out.
pub(super) fn read(source: &Source) -> Result<Vec<Node>, Malformed> {
    let text = source.text();
    let body = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader {
        source,
        parser: Parser::new_from_str(body).keep_tags(true),
        skipped: text.len() - body.len(),
        anchors: Vec::new(),
        nodes: 0,
    };
    let mut documents = Vec::new();
    while let Some(next) = reader.parser.next_event() {
        let (event, span) = next.map_err(|error| reader.wrong(&error))?;
        if event.is_node() {
            let node = reader.node(event, &span, 0)?;
            documents.extend((node.value != Value::Null).then_some(node));
        }
    }
    Ok(documents)
}

struct Reader<'a> {
    source: &'a Source,
    parser: Parser<'a, StrInput<'a>>,
    /// How long the byte order mark is, which the parser has not seen.
    skipped: usize,
    anchors: Vec<(usize, Node)>,
    /// How many nodes there are, those that aliases repeat included.
    nodes: usize,
}

/// A file of aliases of aliases is small and means millions of nodes.
const MAX_NODES: usize = 1_000_000;

/// A large file has more of its own, each written with some bytes.
const BYTES_OF_NODE: usize = 4;

impl<'a> Reader<'a> {
    fn wrong(&self, error: &ScanError) -> Malformed {
        let at = error.marker().byte_offset().unwrap_or_default();
        self.source.malformed(at + self.skipped, error.info())
    }

    /// A parser of a string knows the bytes of all that it returns.
    fn range(&self, span: &Span) -> Range<usize> {
        let range = span.byte_range().unwrap_or_default();
        range.start + self.skipped..range.end + self.skipped
    }

    fn event(&mut self) -> Result<(Event<'a>, Span), Malformed> {
        loop {
            match self.parser.next_event() {
                // Where others ask the parser for comments, they come as events.
                Some(Ok((event, span)))
                    if event.is_node()
                        || matches!(event, Event::SequenceEnd | Event::MappingEnd) =>
                {
                    return Ok((event, span));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(self.wrong(&error)),
                None => {
                    let end = self.source.text().len();
                    return Err(self
                        .source
                        .malformed(end, "the file ends inside of a value"));
                }
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Node, Malformed> {
        let range = self.range(span);
        self.nodes += 1;
        let most = MAX_NODES.max(self.source.text().len() / BYTES_OF_NODE);
        if depth == MAX_DEPTH || self.nodes > most {
            let problem = format!("more than {MAX_DEPTH} levels or {most} values");
            return Err(self.source.malformed(range.start, problem));
        }
        let (value, end, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar(&text, style, tag.as_deref());
                (value, range.end, anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                let mut items = Vec::new();
                let end = loop {
                    let (event, span) = self.event()?;
                    if event == Event::SequenceEnd {
                        break self.range(&span);
                    }
                    items.push(self.node(event, &span, depth + 1)?);
                };
                let last = items.last().map(|item| item.range.end);
                // Most are short, and a large file has millions.
                items.shrink_to_fit();
                (Value::List(items), own_end(&end, last), anchor)
            }
            Event::MappingStart(_, anchor, _) => {
                let (entries, end) = self.map(depth)?;
                (Value::Map(entries), end, anchor)
            }
            Event::Alias(anchor) => {
                let found = self.anchors.iter().rev().find(|(id, _)| *id == anchor);
                let Some((_, node)) = found else {
                    let problem = "an alias of something that is not complete yet";
                    return Err(self.source.malformed(range.start, problem));
                };
                let node = node.clone();
                self.nodes += count(&node);
                (node.value, range.end, 0)
            }
            other => {
                let problem = format!("{other:?} inside of a value");
                return Err(self.source.malformed(range.start, problem));
            }
        };
        let node = Node {
            range: range.start..end.max(range.start),
            value,
        };
        if anchor != 0 {
            self.anchors.push((anchor, node.clone()));
        }
        Ok(node)
    }

    fn map(&mut self, depth: usize) -> Result<(Vec<Entry>, usize), Malformed> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merged: Vec<Entry> = Vec::new();
        let end = loop {
            let (event, span) = self.event()?;
            if event == Event::MappingEnd {
                break self.range(&span);
            }
            let key = self.node(event, &span, depth + 1)?;
            let (event, span) = self.event()?;
            let value = self.node(event, &span, depth + 1)?;
            if key.text() == Some("<<") {
                merged.extend(value.entries().iter().cloned());
                let lists = value.items().iter();
                merged.extend(lists.flat_map(|item| item.entries().iter().cloned()));
                continue;
            }
            entries.push(Entry {
                key: key.text().map_or_else(|| key.brief(), str::to_string),
                key_range: key.range,
                value,
            });
        };
        let last = entries.iter().map(|entry| entry.value.range.end).max();
        // What a map says itself counts, and of what it is merged with the first.
        for entry in merged {
            if entries.iter().all(|own| own.key != entry.key) {
                entries.push(entry);
            }
        }
        entries.shrink_to_fit();
        Ok((entries, own_end(&end, last)))
    }
}

/// A bracket ends what it closes. A block ends with the last that is in it: what comes before the
/// next token is not its own.
fn own_end(end: &Range<usize>, last: Option<usize>) -> usize {
    match last {
        Some(last) if end.is_empty() => last,
        _ => end.end,
    }
}

fn count(node: &Node) -> usize {
    let entries = node.entries().iter().map(|entry| count(&entry.value) + 1);
    1 + entries.sum::<usize>() + node.items().iter().map(count).sum::<usize>()
}

/// As the core schema and Kubernetes' own reader resolve a plain scalar.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Value {
    if style != ScalarStyle::Plain || tag.is_some_and(|tag| tag.suffix() == "str") {
        return Value::Text(text.to_string());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ if is_number(text) => Value::Number(text.to_string()),
        _ => Value::Text(text.to_string()),
    }
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    digits.starts_with(|first: char| first.is_ascii_digit()) && text.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn one(text: &str) -> (Source, Node) {
        let source = Source::new("/x", text);
        let mut documents = read(&source).unwrap();
        assert_eq!(documents.len(), 1);
        (source, documents.remove(0))
    }

    #[test]
    fn values_are_where_they_are_written() {
        let (source, node) = one(
            "# \u{e4}\u{e4}\napiVersion: v1 # c\nauthentication:\n  anonymous:\n    enabled: false\ncgroupDriver: \"systemd\"\r\nlist:\n- a\n- 1\n\n# end\n",
        );
        let at = |keys: &[&str]| {
            let range = node.get(keys).unwrap().range.clone();
            (source.place(range.start).line, &source.text()[range])
        };
        assert_eq!(at(&["apiVersion"]), (2, "v1"));
        assert_eq!(at(&["cgroupDriver"]), (6, "\"systemd\""));
        assert_eq!(
            at(&["authentication", "anonymous", "enabled"]),
            (5, "false")
        );
        assert_eq!(at(&["list"]), (8, "a\n- 1"));
        let enabled = node
            .get(&["authentication", "anonymous", "enabled"])
            .unwrap();
        assert_eq!(enabled.truth(), Some(false));
        assert_eq!(node.get(&["list"]).unwrap().items()[1].text(), Some("1"));
    }

    #[test]
    fn a_stream_has_documents_and_empty_ones_are_none() {
        let source = Source::new("/x", "---\na: 1\n---\n# nothing\n---\nb: ~\n...\n");
        let documents = read(&source).unwrap();
        assert_eq!(documents.len(), 2);
        assert_eq!(documents[1].get(&["b"]).unwrap().value, Value::Null);
        assert_eq!(source.place(documents[1].range.start).line, 6);
        assert!(read(&Source::new("/x", "")).unwrap().is_empty());
    }

    #[test]
    fn anchors_and_merges_are_what_they_mean() {
        let (_, node) = one("a: &x {p: 1, q: 2}\nb:\n  <<: *x\n  q: 3\nc: *x\n");
        assert_eq!(node.text_at(&["b", "p"]), Some("1"));
        assert_eq!(node.text_at(&["b", "q"]), Some("3"));
        assert_eq!(node.text_at(&["c", "q"]), Some("2"));
    }

    #[test]
    fn a_bomb_is_refused() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..9 {
            let above = format!("*a{}", level - 1);
            let items = vec![above; 10].join(",");
            writeln!(text, "a{level}: &a{level} [{items}]").unwrap();
        }
        assert!(read(&Source::new("/x", text)).is_err());
        assert!(read(&Source::new("/x", "[".repeat(5000))).is_err());
    }

    #[test]
    fn mistakes_are_named_at_their_place() {
        let error = read(&Source::new("/x", "a: 1\n  b: 2\n")).unwrap_err();
        assert_eq!(error.place.line, 2, "{error}");
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "([a-z]: |- |[&*!<>|]|[a-z\u{e4}]|[{}\\[\\],:\"'#%\\\\]|[ \t\r\n]|---\n|0)*") {
            let source = Source::new("/x", text);
            if let Ok(documents) = read(&source) {
                for document in documents {
                    document.walk(&mut |_, node| {
                        assert!(source.text().get(node.range.clone()).is_some());
                    });
                }
            }
        }
    }
}
