//! The keys that there are, from the one place that knows: the types that are read, their comments
//! and their defaults, as schemars sees them.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::Config;

/// A key of the configuration file.
#[derive(Debug)]
pub(crate) struct Key {
    pub(super) name: String,
    /// What it is for, in Markdown without links.
    pub(super) documentation: String,
    pub(super) shape: Shape,
    /// None where nothing is the default.
    pub(super) default: Option<toml::Value>,
    /// Where there is no default that shows what is meant.
    pub(super) example: Option<toml::Value>,
    pub(super) need: Need,
    pub(super) reload: Reload,
}

/// Whether a key has to be there, in a table that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Optional,
    Required,
}

/// Whether a change is in force at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reload {
    OnHangup,
    TakesRestart,
}

/// What a key's value is.
#[derive(Debug)]
pub(super) enum Shape {
    /// A table of keys, `[name]`.
    Table(Vec<Key>),
    /// A table for each name that is given, `[name.given]`.
    Named {
        /// The names that can be given; empty for any.
        names: Vec<String>,
        /// One of them.
        example: String,
        keys: Vec<Key>,
    },
    /// One of some words, each with what it means.
    Word(Vec<(String, String)>),
    Text,
    Number,
    Flag,
    Texts,
}

impl Shape {
    /// In an administrator's words.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Table(_) | Self::Named { .. } => "a table",
            Self::Word(_) | Self::Text => "a string",
            Self::Number => "a whole number",
            Self::Flag => "true or false",
            Self::Texts => "a list of strings",
        }
    }
}

impl Key {
    /// All keys of the configuration file, tables last.
    pub(crate) fn all() -> Vec<Self> {
        let generator = SchemaSettings::draft2020_12()
            .with(|settings| settings.inline_subschemas = true)
            .into_generator();
        let schema = generator.into_root_schema_for::<Config>();
        let schema = schema.as_object().expect("a struct's schema is an object");
        Self::of_table(schema)
    }

    fn of_table(schema: &Map<String, Value>) -> Vec<Self> {
        let properties = schema["properties"].as_object().into_iter().flatten();
        let required = schema.get("required").and_then(Value::as_array);
        let need = |name: &String| match required {
            Some(required) if required.iter().any(|required| required == name) => Need::Required,
            _ => Need::Optional,
        };
        let mut keys: Vec<_> = properties
            .map(|(name, schema)| {
                let schema = schema.as_object().expect("a key has a schema");
                Self::new(name, schema, need(name))
            })
            .collect();
        keys.sort_by_key(Self::is_table);
        keys
    }

    fn new(name: &str, schema: &Map<String, Value>, need: Need) -> Self {
        let toml = |value: &Value| toml::Value::try_from(value).ok();
        let shape =
            shape(schema).unwrap_or_else(|| panic!("{name} is of a kind that is not known"));
        Self {
            name: name.to_owned(),
            documentation: text(schema, "description"),
            default: match shape {
                Shape::Table(_) | Shape::Named { .. } => None,
                _ => schema.get("default").and_then(toml),
            },
            shape,
            example: schema.get("examples").and_then(|list| toml(list.get(0)?)),
            need,
            reload: match schema.get("x-restart") {
                Some(_) => Reload::TakesRestart,
                None => Reload::OnHangup,
            },
        }
    }

    pub(super) fn is_table(&self) -> bool {
        matches!(self.shape, Shape::Table(_) | Shape::Named { .. })
    }
}

fn text(schema: &Map<String, Value>, key: &str) -> String {
    let text = schema.get(key).and_then(Value::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn shape(schema: &Map<String, Value>) -> Option<Shape> {
    let list = |key: &str| schema.get(key).and_then(Value::as_array);
    // Something or nothing: that there may be nothing is seen from the default.
    if let Some(choice) = list("anyOf") {
        return choice.iter().filter_map(Value::as_object).find_map(shape);
    }
    if let Some(words) = list("oneOf") {
        let words = words.iter().filter_map(Value::as_object);
        return Some(Shape::Word(
            words
                .map(|word| (text(word, "const"), text(word, "description")))
                .collect(),
        ));
    }
    let kind = match schema.get("type")? {
        Value::String(kind) => kind,
        Value::Array(kinds) => kinds.first()?.as_str()?,
        _ => return None,
    };
    match kind {
        "string" => Some(Shape::Text),
        "integer" => Some(Shape::Number),
        "boolean" => Some(Shape::Flag),
        "array" => (schema["items"]["type"] == "string").then_some(Shape::Texts),
        "object" => Some(match schema.get("additionalProperties") {
            Some(Value::Object(each)) => {
                let names = schema.get("propertyNames");
                let listed = |key: &str| -> Vec<String> {
                    let listed = names.and_then(|names| names.get(key)?.as_array());
                    let listed = listed.into_iter().flatten();
                    listed
                        .filter_map(Value::as_str)
                        .map(str::to_owned)
                        .collect()
                };
                Shape::Named {
                    names: listed("enum"),
                    example: listed("examples").into_iter().next()?,
                    keys: Key::of_table(each),
                }
            }
            _ => Shape::Table(Key::of_table(schema)),
        }),
        _ => None,
    }
}

/// The dotted names of the keys whose values are not the same: those whose change is in force after
/// a reload, and those that take a restart.
pub(crate) fn changes(before: &Config, after: &Config) -> Changes {
    let mut changes = Changes::default();
    changes.collect(&Key::all(), "", &before.table(), &after.table());
    changes
}

/// What distinguishes two configurations.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) on_hangup: Vec<String>,
    pub(crate) by_restart: Vec<String>,
}

impl Changes {
    fn collect(&mut self, keys: &[Key], above: &str, before: &toml::Table, after: &toml::Table) {
        for key in keys {
            let name = dotted(above, &key.name);
            let (before, after) = (before.get(&key.name), after.get(&key.name));
            match (&key.shape, before, after) {
                (
                    Shape::Table(keys),
                    Some(toml::Value::Table(before)),
                    Some(toml::Value::Table(after)),
                ) => {
                    self.collect(keys, &name, before, after);
                }
                _ if before == after => {}
                _ => match key.reload {
                    Reload::OnHangup => self.on_hangup.push(name),
                    Reload::TakesRestart => self.by_restart.push(name),
                },
            }
        }
    }
}

/// The name of a key in a table.
pub(super) fn dotted(table: &str, key: &str) -> String {
    if table.is_empty() {
        key.to_owned()
    } else {
        format!("{table}.{key}")
    }
}
