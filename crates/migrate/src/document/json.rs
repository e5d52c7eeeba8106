//! JSON with positions. Its errors are for people who edited a daemon.json by hand.

use std::ops::Range;

use super::source::{Malformed, Source};
use super::tree::{Entry, Node, Value};

/// No configuration is deeper.
const MAX_DEPTH: usize = 128;

/// Reads the one value of a file; an empty file has none, which is an error.
pub(super) fn read(source: &Source) -> Result<Node, Malformed> {
    let mut reader = Reader {
        source,
        text: source.text(),
        at: 0,
        depth: 0,
    };
    // A byte order mark, as dockerd skips it.
    if reader.text.starts_with('\u{feff}') {
        reader.at = '\u{feff}'.len_utf8();
    }
    reader.skip_space();
    let node = reader.value()?;
    reader.skip_space();
    match reader.peek() {
        None => Ok(node),
        Some(byte) => Err(reader.wrong(format!("{} behind the end", shown(byte)))),
    }
}

struct Reader<'a> {
    source: &'a Source,
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn wrong(&self, problem: impl Into<String>) -> Malformed {
        self.source.malformed(self.at, problem)
    }

    fn expected(&self, what: &str) -> Malformed {
        match self.peek() {
            None => self.wrong(format!("the file ends where {what} is expected")),
            Some(b'#' | b'/') => self.wrong("JSON has no comments"),
            Some(byte) => self.wrong(format!("{} where {what} is expected", shown(byte))),
        }
    }

    fn value(&mut self) -> Result<Node, Malformed> {
        let start = self.at;
        let value = match self.peek() {
            Some(b'{') => self.nested(Self::map)?,
            Some(b'[') => self.nested(Self::list)?,
            Some(b'"') => Value::Text(self.string()?),
            Some(b'-' | b'0'..=b'9') => Value::Number(self.number()?),
            Some(b'a'..=b'z') => self.word()?,
            _ => return Err(self.expected("a value")),
        };
        Ok(Node {
            range: start..self.at,
            value,
        })
    }

    fn nested(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<Value, Malformed>,
    ) -> Result<Value, Malformed> {
        if self.depth == MAX_DEPTH {
            return Err(self.wrong(format!("more than {MAX_DEPTH} levels")));
        }
        self.depth += 1;
        self.at += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn map(&mut self) -> Result<Value, Malformed> {
        let mut entries = Vec::new();
        self.sequence(b'}', |reader| {
            if reader.peek() != Some(b'"') {
                return Err(reader.expected("a key in double quotes"));
            }
            let start = reader.at;
            let key = reader.string()?;
            let key_range = start..reader.at;
            reader.skip_space();
            if reader.peek() != Some(b':') {
                return Err(reader.expected("a colon"));
            }
            reader.at += 1;
            reader.skip_space();
            let value = reader.value()?;
            entries.push(Entry {
                key,
                key_range,
                value,
            });
            Ok(())
        })?;
        entries.shrink_to_fit();
        Ok(Value::Map(entries))
    }

    fn list(&mut self) -> Result<Value, Malformed> {
        let mut items = Vec::new();
        self.sequence(b']', |reader| {
            items.push(reader.value()?);
            Ok(())
        })?;
        // Most are short, and a large file has millions.
        items.shrink_to_fit();
        Ok(Value::List(items))
    }

    /// What is between brackets, with commas in between.
    fn sequence(
        &mut self,
        end: u8,
        mut item: impl FnMut(&mut Self) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        self.skip_space();
        if self.peek() == Some(end) {
            self.at += 1;
            return Ok(());
        }
        loop {
            item(self)?;
            self.skip_space();
            match self.peek() {
                Some(byte) if byte == end => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b',') => {
                    let comma = self.at;
                    self.at += 1;
                    self.skip_space();
                    if self.peek() == Some(end) {
                        let problem = format!("a comma before {}", shown(end));
                        return Err(self.source.malformed(comma, problem));
                    }
                }
                _ => return Err(self.expected(&format!("a comma or {}", shown(end)))),
            }
        }
    }

    fn word(&mut self) -> Result<Value, Malformed> {
        for (word, value) in [
            ("true", Value::Bool(true)),
            ("false", Value::Bool(false)),
            ("null", Value::Null),
        ] {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.expected("a value"))
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.expected("a digit"));
        }
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<String, Malformed> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(self.text[start..self.at].to_string())
    }

    fn string(&mut self) -> Result<String, Malformed> {
        let open = self.at;
        self.at += 1;
        let mut text = String::new();
        loop {
            let rest = &self.text[self.at..];
            let plain = rest
                .find(|letter: char| letter == '"' || letter == '\\' || letter < ' ')
                .unwrap_or(rest.len());
            text.push_str(&rest[..plain]);
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => text.push(self.escape()?),
                Some(b'\n' | b'\r') | None => {
                    return Err(self.source.malformed(open, "a quote that is not closed"));
                }
                Some(byte) => {
                    let problem = format!("the control character {byte:#04x} in a string");
                    return Err(self.wrong(problem));
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, Malformed> {
        self.at += 1;
        let letter = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(),
            _ => {
                self.at -= 1;
                return Err(self.wrong("a backslash that escapes nothing"));
            }
        };
        self.at += 1;
        Ok(letter)
    }

    /// `uXXXX`, and the other half of a pair; a half without the other is U+FFFD, as Go has it.
    fn unicode(&mut self) -> Result<char, Malformed> {
        let first = self.hex()?;
        if (0xd800..0xdc00).contains(&first) && self.text[self.at..].starts_with("\\u") {
            let back = self.at;
            self.at += 1;
            let second = self.hex()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = back;
        }
        Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex(&mut self) -> Result<u32, Malformed> {
        let range: Range<usize> = self.at + 1..self.at + 5;
        let digits = self.text.get(range.clone());
        let code = digits
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|digits| u32::from_str_radix(digits, 16).ok());
        match code {
            Some(code) => {
                self.at = range.end;
                Ok(code)
            }
            None => Err(self.wrong("\\u without four hexadecimal digits")),
        }
    }
}

fn shown(byte: u8) -> String {
    match byte {
        b'"' => "a double quote".to_string(),
        b'\'' => "a single quote".to_string(),
        byte if byte.is_ascii_graphic() => format!("{:?}", char::from(byte)),
        byte if byte.is_ascii() => format!("the control character {byte:#04x}"),
        _ => "a letter that is not ASCII".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wrong(text: &str) -> String {
        read(&Source::new("/x", text)).unwrap_err().to_string()
    }

    #[test]
    fn mistakes_are_named_at_their_place() {
        assert_eq!(
            wrong("{\n  \"a\": 1,\n}\n"),
            "line 2, column 9: a comma before '}'"
        );
        assert_eq!(wrong("[1, ]"), "line 1, column 3: a comma before ']'");
        assert_eq!(
            wrong("{\n  \"a\": 1\n  \"b\": 2\n}"),
            "line 3, column 3: a double quote where a comma or '}' is expected"
        );
        assert_eq!(wrong("{ // x\n}"), "line 1, column 3: JSON has no comments");
        assert_eq!(
            wrong("{'a': 1}"),
            "line 1, column 2: a single quote where a key in double quotes is expected"
        );
        assert_eq!(
            wrong(""),
            "line 1, column 1: the file ends where a value is expected"
        );
        assert_eq!(wrong("{} x"), "line 1, column 4: 'x' behind the end");
        assert_eq!(
            wrong("{\"a: 1}\n"),
            "line 1, column 2: a quote that is not closed"
        );
        assert_eq!(
            wrong("[truth]"),
            "line 1, column 2: 't' where a value is expected"
        );
        assert!(wrong(&"[".repeat(1000)).contains("128 levels"));
    }

    #[test]
    fn values_are_where_they_are_written() {
        let source = Source::new(
            "/x",
            "\u{feff}{\r\n \"a\" : [ 1, \"\\u00e4\\ud83d\\ude00\" ] }",
        );
        let node = read(&source).unwrap();
        let entry = node.entry("a").unwrap();
        assert_eq!(&source.text()[entry.key_range.clone()], "\"a\"");
        let items = entry.value.items();
        assert_eq!(items[1].text(), Some("\u{e4}\u{1f600}"));
        assert_eq!(&source.text()[items[0].range.clone()], "1");
        assert_eq!(source.place(items[0].range.start).line, 2);
    }

    /// What serde_json has of the same text.
    fn same(node: &Node, value: &serde_json::Value) -> bool {
        use serde_json::Value as Json;
        match (&node.value, value) {
            (Value::Null, Json::Null) => true,
            (Value::Bool(a), Json::Bool(b)) => a == b,
            (Value::Number(a), Json::Number(b)) => a.parse::<i64>().ok() == b.as_i64(),
            (Value::Text(a), Json::String(b)) => a == b,
            (Value::List(a), Json::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
            }
            (Value::Map(_), Json::Object(b)) => b
                .iter()
                .all(|(key, value)| node.entry(key).is_some_and(|one| same(&one.value, value))),
            _ => false,
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value as Json;
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i32>().prop_map(Json::from),
            ".{0,8}".prop_map(Json::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
                proptest::collection::hash_map(".{0,4}", inner, 0..4)
                    .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_reads_what_serde_json_writes(value in json(), pretty: bool) {
            let text = if pretty {
                serde_json::to_string_pretty(&value).unwrap()
            } else {
                value.to_string()
            };
            let node = read(&Source::new("/x", text)).unwrap();
            prop_assert!(same(&node, &value), "{node:?}");
        }

        #[test]
        fn it_refuses_what_serde_json_refuses(text in "([{}\\[\\],: \n]|\"[a\\\\u0\n]{0,3}\"?|true|nul|-?[0-9.e]{1,3})*") {
            let own = read(&Source::new("/x", text.clone())).is_ok();
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            // A number that no float can hold is refused there and kept as text here.
            let theirs = theirs.map_or_else(|error| error.to_string().contains("out of range") || error.to_string().contains("surrogate"), |_| true);
            prop_assert_eq!(own, theirs, "{}", text);
        }
    }
}
