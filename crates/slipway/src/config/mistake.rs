//! What is wrong with a configuration, and where that is written.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{Key, Shape, dotted};

/// Where a key is set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// In a file; counted from 1, columns in characters.
    File {
        /// Where the file stands among those that were read.
        order: usize,
        path: PathBuf,
        line: usize,
        column: usize,
    },
    /// On the command line.
    Flag(&'static str),
    /// Nowhere: it has its default.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File {
                path, line, column, ..
            } => {
                write!(f, "{}:{line}:{column}", path.display())
            }
            Self::Flag(flag) => f.write_str(flag),
            Self::Default => f.write_str("default"),
        }
    }
}

/// The place of a key, or of the innermost table around it that is written anywhere.
pub(super) fn place(places: &BTreeMap<String, Place>, key: &str) -> Place {
    let mut name = key;
    loop {
        match (places.get(name), name.rsplit_once('.')) {
            (Some(place), _) => return place.clone(),
            (None, Some((table, _))) => name = table,
            (None, None) => return Place::Default,
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mistake {
    place: Place,
    message: String,
}

impl Mistake {
    pub(super) fn new(place: Place, message: String) -> Self {
        Self { place, message }
    }

    /// With a key's value.
    pub(super) fn of_key(place: Place, key: &str, message: &str) -> Self {
        if message.starts_with(key) {
            return Self::new(place, message.to_owned());
        }
        Self::new(place, format!("{key}: {message}"))
    }
}

/// All that is wrong, in the order in which it was read; a line for each if there are several.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// An error unless there are none.
    pub(super) fn none_of(mut mistakes: Vec<Mistake>) -> Result<(), Self> {
        mistakes.sort();
        mistakes.dedup();
        if mistakes.is_empty() {
            Ok(())
        } else {
            Err(Self(mistakes))
        }
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() > 1 {
            write!(f, "{} mistakes in the configuration", self.0.len())?;
        }
        for Mistake { place, message } in &self.0 {
            if self.0.len() > 1 {
                f.write_str("\n")?;
            }
            match place {
                Place::Default => write!(f, "{message}")?,
                place => write!(f, "{place}: {message}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// Compares one file with the keys that there are: names, words and kinds of values. What it finds
/// is told with its position in the file.
pub(super) struct Comparison<'a> {
    pub(super) all: &'a [Key],
    pub(super) found: Vec<(usize, String)>,
}

impl Comparison<'_> {
    pub(super) fn table(&mut self, table: &DeTable<'_>, keys: &[Key], above: &str) {
        for (key, value) in table {
            let name: &str = key.get_ref();
            if let Some(known) = keys.iter().find(|known| known.name == name) {
                self.value(value, &known.shape, &dotted(above, name));
            } else {
                let advice = self.advice(name, keys, above);
                let name = dotted(above, name);
                let message = format!("there is no key {name:?}; {advice}");
                self.say(key.span().start, message);
            }
        }
    }

    fn value(&mut self, value: &Spanned<DeValue<'_>>, shape: &Shape, name: &str) {
        let at = value.span().start;
        match (shape, value.get_ref()) {
            (Shape::Table(keys), DeValue::Table(table)) => self.table(table, keys, name),
            (Shape::Named { names, keys, .. }, DeValue::Table(table)) => {
                for (given, value) in table {
                    let text: &str = given.get_ref();
                    let full = dotted(name, text);
                    if !names.is_empty() && !names.iter().any(|name| name == text) {
                        let advice = choice(text, names.iter().map(String::as_str));
                        self.say(
                            given.span().start,
                            format!("there is no {full:?}; {advice}"),
                        );
                    }
                    match value.get_ref() {
                        DeValue::Table(table) => self.table(table, keys, &full),
                        other => self.wrong_kind(value.span().start, &full, shape, other),
                    }
                }
            }
            (Shape::Word(words), DeValue::String(given)) => {
                if !words.iter().any(|(word, _)| word == given) {
                    let advice = choice(given, words.iter().map(|(word, _)| word.as_str()));
                    self.say(at, format!("{name} cannot be {given:?}; {advice}"));
                }
            }
            (Shape::Text, DeValue::String(_))
            | (Shape::Number, DeValue::Integer(_))
            | (Shape::Flag, DeValue::Boolean(_)) => {}
            (Shape::Texts, DeValue::Array(list))
                if list.iter().all(|item| item.get_ref().is_str()) => {}
            (_, other) => self.wrong_kind(at, name, shape, other),
        }
    }

    fn wrong_kind(&mut self, at: usize, name: &str, shape: &Shape, given: &DeValue<'_>) {
        let given = match given {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) if matches!(shape, Shape::Texts) => "a list of something else",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.say(
            at,
            format!("{name} is {}, and here it is {given}", shape.describe()),
        );
    }

    /// What somebody may have meant by a key that is not there.
    fn advice(&self, name: &str, keys: &[Key], above: &str) -> String {
        if nearest(name, keys.iter().map(|key| key.name.as_str())).is_none()
            && let Some(elsewhere) = find(self.all, "", name).filter(|found| found != above)
        {
            return format!("did you mean {elsewhere:?}?");
        }
        choice(name, keys.iter().map(|key| key.name.as_str()))
    }

    fn say(&mut self, at: usize, message: String) {
        self.found.push((at, message));
    }
}

/// A key of this name, in whatever table.
fn find(keys: &[Key], above: &str, name: &str) -> Option<String> {
    keys.iter().find_map(|key| {
        let full = dotted(above, &key.name);
        match &key.shape {
            _ if key.name == name => Some(full),
            Shape::Table(keys) => find(keys, &full, name),
            _ => None,
        }
    })
}

fn choice<'a>(given: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    if let Some(word) = nearest(given, known.clone()) {
        return format!("did you mean {word:?}?");
    }
    let known: Vec<_> = known.map(|word| format!("{word:?}")).collect();
    format!("there are {}", known.join(", "))
}

/// The word that was meant, if one comes near: with a typing error in every third letter at most.
fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let given = given.to_lowercase().replace('-', "_");
    let near = known.map(|word| {
        let typing_errors = strsim::damerau_levenshtein(&given, word);
        // A part of the name is as good as a typing error.
        let part = given.len() > 3 && (word.contains(&given) || given.contains(word));
        (
            if part {
                typing_errors.min(1)
            } else {
                typing_errors
            },
            word,
        )
    });
    near.min_by_key(|(distance, _)| *distance)
        .filter(|(distance, word)| *distance <= word.len().max(3) / 3)
        .map(|(_, word)| word)
}
