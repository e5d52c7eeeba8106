//! What JSON, YAML and TOML have in common: values with the bytes that they are written with.

use std::fmt::Write as _;
use std::ops::Range;

/// A value, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The bytes of the file that it is written with.
    pub range: Range<usize>,
    /// What it is.
    pub value: Value,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `null`, `~`, or nothing behind a key.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number as it is written.
    Number(String),
    /// Text, without quotes.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// Keys and values in their order.
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Without quotes.
    pub key: String,
    /// The bytes that it is written with.
    pub key_range: Range<usize>,
    /// What it stands for.
    pub value: Node,
}

impl Node {
    /// The entries of a map; none where it is something else.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; none where it is something else.
    pub fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// The entry of a key. The last one counts, as it does for those who read such files.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().rev().find(|entry| entry.key == key)
    }

    /// What is behind keys, one inside of the other.
    pub fn get(&self, keys: &[&str]) -> Option<&Self> {
        keys.iter()
            .try_fold(self, |node, key| node.entry(key).map(|entry| &entry.value))
    }

    /// Its text; also that of a number or a truth value, as it is written.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) | Value::Number(text) => Some(text),
            Value::Bool(true) => Some("true"),
            Value::Bool(false) => Some("false"),
            _ => None,
        }
    }

    /// Text behind keys.
    pub fn text_at(&self, keys: &[&str]) -> Option<&str> {
        self.get(keys)?.text()
    }

    /// `true` or `false`.
    pub fn truth(&self) -> Option<bool> {
        match self.value {
            Value::Bool(truth) => Some(truth),
            _ => None,
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        match &self.value {
            Value::Null => true,
            Value::Text(text) => text.is_empty(),
            Value::List(items) => items.is_empty(),
            Value::Map(entries) => entries.is_empty(),
            _ => false,
        }
    }

    /// On one line, for people.
    pub fn brief(&self) -> String {
        let mut text = String::new();
        self.write_brief(&mut text);
        text
    }

    fn write_brief(&self, out: &mut String) {
        match &self.value {
            Value::List(items) => {
                for (at, item) in items.iter().enumerate() {
                    out.push_str(if at == 0 { "" } else { ", " });
                    item.write_brief(out);
                }
            }
            Value::Map(entries) => {
                for (at, entry) in entries.iter().enumerate() {
                    let comma = if at == 0 { "" } else { ", " };
                    let _ = write!(out, "{comma}{}=", entry.key);
                    entry.value.write_brief(out);
                }
            }
            _ => out.push_str(self.text().unwrap_or("null")),
        }
    }

    /// Calls `see` with each text in it and the path of fields that leads there
    /// (`spec.containers[0].image`).
    pub fn walk<'a>(&'a self, see: &mut dyn FnMut(&str, &'a Node)) {
        self.walk_from(&mut String::new(), see);
    }

    fn walk_from<'a>(&'a self, path: &mut String, see: &mut dyn FnMut(&str, &'a Node)) {
        see(path, self);
        let length = path.len();
        for entry in self.entries() {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(&entry.key);
            entry.value.walk_from(path, see);
            path.truncate(length);
        }
        for (at, item) in self.items().iter().enumerate() {
            let _ = write!(path, "[{at}]");
            item.walk_from(path, see);
            path.truncate(length);
        }
    }
}
