//! TOML with positions, on toml_edit.

use std::ops::Range;

use toml_edit::{Document, Item, TableLike, Value as Toml};

use super::source::{Malformed, Source};
use super::tree::{Entry, Node, Value};

/// Reads a file as one table.
pub(super) fn read(source: &Source) -> Result<Node, Malformed> {
    let document = Document::parse(source.text()).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        source.malformed(at, error.message().replace('\n', "; "))
    })?;
    let whole = 0..source.text().len();
    Ok(Node {
        value: table(document.as_table(), &whole),
        range: whole,
    })
}

/// What has no place of its own has that of what it is in.
fn table(table: &dyn TableLike, around: &Range<usize>) -> Value {
    let entries = table.iter().map(|(name, item)| {
        let key = table.key(name).and_then(toml_edit::Key::span);
        let key_range = key.or_else(|| item.span()).unwrap_or(around.clone());
        Entry {
            key: name.to_string(),
            value: node(item, &key_range),
            key_range,
        }
    });
    Value::Map(entries.collect())
}

fn node(item: &Item, around: &Range<usize>) -> Node {
    let range = item.span().unwrap_or(around.clone());
    let value = match item {
        Item::None => Value::Null,
        Item::Value(one) => value(one, &range),
        Item::Table(one) => table(one, &range),
        Item::ArrayOfTables(tables) => {
            let node = |one: &toml_edit::Table| {
                let range = one.span().unwrap_or(range.clone());
                Node {
                    value: table(one, &range),
                    range,
                }
            };
            Value::List(tables.iter().map(node).collect())
        }
    };
    Node { range, value }
}

fn value(value: &Toml, range: &Range<usize>) -> Value {
    match value {
        Toml::String(text) => Value::Text(text.value().clone()),
        Toml::Integer(number) => Value::Number(number.value().to_string()),
        Toml::Float(number) => Value::Number(number.value().to_string()),
        Toml::Boolean(truth) => Value::Bool(*truth.value()),
        Toml::Datetime(time) => Value::Text(time.value().to_string()),
        Toml::Array(items) => {
            let node = |one: &Toml| {
                let range = one.span().unwrap_or(range.clone());
                Node {
                    value: self::value(one, &range),
                    range,
                }
            };
            Value::List(items.iter().map(node).collect())
        }
        Toml::InlineTable(one) => table(one, range),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_where_they_are_written() {
        let text = "version = 2\ndisabled_plugins = [\"cri\"]\n\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\r\n  SystemdCgroup = true # yes\r\n";
        let source = Source::new("/x", text);
        let node = read(&source).unwrap();
        let disabled = &node.get(&["disabled_plugins"]).unwrap().items()[0];
        assert_eq!(&text[disabled.range.clone()], "\"cri\"");
        let systemd = node
            .get(&[
                "plugins",
                "io.containerd.grpc.v1.cri",
                "containerd",
                "runtimes",
                "runc",
                "options",
                "SystemdCgroup",
            ])
            .unwrap();
        assert_eq!(systemd.truth(), Some(true));
        assert_eq!(source.place(systemd.range.start).line, 5);
    }

    #[test]
    fn mistakes_are_named_at_their_place() {
        let error = read(&Source::new("/x", "a = 1\nb = = 2\n")).unwrap_err();
        assert_eq!(error.place.line, 2, "{error}");
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "(\\[[a-z.]*\\]|[a-z]+ ?= ?|[a-z\u{e4}0-9\"'{}\\[\\],.#\\\\]|[ \r\n])*") {
            let source = Source::new("/x", text);
            if let Ok(node) = read(&source) {
                node.walk(&mut |_, node| {
                    assert!(source.text().get(node.range.clone()).is_some());
                });
            }
        }
    }
}
