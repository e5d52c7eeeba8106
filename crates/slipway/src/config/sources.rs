//! The files: read, laid over each other, and found again when something is wrong in one of them.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::bail;
use serde::Deserialize as _;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Config;
use super::keys::{Key, dotted};
use super::mistake::{Comparison, Mistake, Mistakes, Place};

/// The configuration file and its drop-ins, as far as they are there. A position is one in all of
/// them together: each file begins where the one before it ends.
#[derive(Debug)]
pub(super) struct Sources(Vec<Source>);

#[derive(Debug)]
struct Source {
    path: PathBuf,
    start: usize,
    text: String,
}

impl Sources {
    /// Reads a file and its drop-ins.
    ///
    /// # Errors
    ///
    /// When there is one that cannot be read.
    pub(super) fn read(file: &Path) -> anyhow::Result<Self> {
        let mut sources = Vec::new();
        let mut start = 0;
        for path in [vec![file.to_owned()], drop_ins(file)?].concat() {
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => bail!("{} cannot be read: {error}", path.display()),
            };
            let text = text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned();
            let end = start + text.len() + 1;
            sources.push(Source { path, start, text });
            start = end;
        }
        Ok(Self(sources))
    }

    /// Whether a file is there.
    pub(super) fn has(&self, file: &Path) -> bool {
        self.0.iter().any(|source| source.path == file)
    }

    /// Those that are there.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.0.iter().map(|source| source.path.clone()).collect()
    }

    /// What all of them say together, and where each key is set.
    pub(super) fn parse(&self) -> Result<(Config, BTreeMap<String, Place>), Mistakes> {
        let keys = Key::all();
        // So that positions are what they are in all files together.
        let in_place = |source: &Source| " ".repeat(source.start) + &source.text;
        let texts: Vec<_> = self.0.iter().map(in_place).collect();
        let mut merged = DeTable::new();
        let mut mistakes = Vec::new();
        for (source, text) in self.0.iter().zip(&texts) {
            let found = match DeTable::parse(text) {
                Ok(table) => {
                    let table = table.into_inner();
                    let mut comparison = Comparison {
                        all: &keys,
                        found: Vec::new(),
                    };
                    comparison.table(&table, &keys, "");
                    merge(&mut merged, table);
                    comparison.found
                }
                Err(error) => vec![(start_of(&error, source.start), error.message().to_owned())],
            };
            mistakes.extend(
                found
                    .into_iter()
                    .map(|(at, message)| Mistake::new(self.place(at), message)),
            );
        }
        Mistakes::none_of(mistakes)?;
        let mut positions = BTreeMap::new();
        collect_positions(&merged, "", &mut positions);
        let document = toml::Deserializer::from(Spanned::new(0..0, merged));
        let config = Config::deserialize(document).map_err(|error| {
            let at = start_of(&error, 0);
            let around = positions.iter().filter(|(_, key)| key.all.contains(&at));
            let key = around.max_by_key(|(name, key)| (key.all.start, name.len()));
            let key = key.map(|(name, _)| name);
            Mistakes::none_of(vec![match key {
                Some(key) => Mistake::of_key(self.place(at), key, error.message()),
                None => Mistake::new(self.place(at), error.message().to_owned()),
            }])
            .expect_err("there is a mistake")
        })?;
        let places = positions
            .into_iter()
            .map(|(name, position)| (name, self.place(position.name)));
        Ok((config, places.collect()))
    }

    fn place(&self, at: usize) -> Place {
        let order = self.0.iter().rposition(|source| source.start <= at);
        let Some(order) = order else {
            return Place::Default;
        };
        let Source { path, start, text } = &self.0[order];
        let mut end = (at - start).min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &text[..end];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        Place::File {
            order,
            path: path.clone(),
            line,
            column,
        }
    }
}

fn start_of(error: &toml::de::Error, otherwise: usize) -> usize {
    error.span().map_or(otherwise, |span| span.start)
}

fn drop_ins(file: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let directory = file.with_file_name("conf.d");
    let listed = match std::fs::read_dir(&directory) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => bail!("{} cannot be read: {error}", directory.display()),
    };
    let mut files: Vec<PathBuf> = listed
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    files.sort();
    Ok(files)
}

/// Puts a document over another: tables are merged, everything else is replaced.
fn merge<'t>(below: &mut DeTable<'t>, over: DeTable<'t>) {
    for (key, value) in over {
        let span = value.span();
        let value = match (
            below.remove(&key).map(Spanned::into_inner),
            value.into_inner(),
        ) {
            (Some(DeValue::Table(mut table)), DeValue::Table(over)) => {
                merge(&mut table, over);
                DeValue::Table(table)
            }
            (_, value) => value,
        };
        below.insert(key, Spanned::new(span, value));
    }
}

/// Where a key is.
struct Position {
    /// Where its name begins.
    name: usize,
    /// The name, the value and the header of a table.
    all: Range<usize>,
}

fn collect_positions(table: &DeTable<'_>, above: &str, positions: &mut BTreeMap<String, Position>) {
    for (key, value) in table {
        let name = dotted(above, key.get_ref());
        if let DeValue::Table(table) = value.get_ref() {
            collect_positions(table, &name, positions);
        }
        let (key, value) = (key.span(), value.span());
        let position = Position {
            name: key.start,
            all: key.start.min(value.start)..key.end.max(value.end),
        };
        positions.insert(name, position);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_is_written_is_taken_or_refused_at_a_place_in_its_file(
            texts in proptest::collection::vec("([a-z_]{1,9}( = |\\.|\\[|\\]|'|\"|#|\n|ü|[0-9]|true|\\{|\\}|, ){0,3}){0,6}", 1..4),
        ) {
            let mut start = 0;
            let sources = texts.into_iter().enumerate().map(|(index, text)| {
                let source = Source { path: PathBuf::from(index.to_string()), start, text };
                start += source.text.len() + 1;
                source
            });
            let sources = Sources(sources.collect());
            if let Err(mistakes) = sources.parse() {
                for line in mistakes.to_string().lines().filter(|line| !line.contains(" mistakes in ")) {
                    let mut parts = line.splitn(4, ':');
                    let mut number = || parts.next().unwrap().parse::<usize>().unwrap();
                    let (file, line, column) = (number(), number(), number());
                    let line = sources.0[file].text.split('\n').nth(line - 1).unwrap();
                    prop_assert!(column <= line.chars().count() + 1);
                }
            }
        }
    }
}
