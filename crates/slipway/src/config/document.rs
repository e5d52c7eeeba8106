//! Documents that are made of the keys: the file to begin with, the configuration that is in force,
//! the reference.

use std::fmt::Write as _;

use toml::Value;

use super::Loaded;
use super::keys::{Key, Need, Reload, Shape, dotted};

/// The columns of a comment.
const WIDTH: usize = 100;

const HEAD: &str = "\
The configuration of slipway. Each key has its default here; take the # away from what you change, \
or put it into a file of its own in conf.d beside this one: drop-ins are read in the order of their \
names, later ones win, and flags of `slipway serve` win over all. `slipway config check` looks for \
mistakes, `slipway config show` prints what counts. SIGHUP (`systemctl reload slipway`) puts \
changes into force while pods run, but for keys that take a restart, which they say.";

/// A file with every key, commented out.
pub(super) fn default(keys: &[Key]) -> String {
    let mut text = comment(HEAD);
    default_table(&mut text, keys, "", "");
    text
}

fn default_table(text: &mut String, keys: &[Key], name: &str, commented: &str) {
    for key in keys {
        match &key.shape {
            Shape::Table(keys) => {
                let name = dotted(name, &key.name);
                let _ = write!(
                    text,
                    "\n{}{commented}[{name}]\n",
                    comment(&key.documentation)
                );
                default_table(text, keys, &name, commented);
            }
            Shape::Named { example, keys, .. } => {
                let name = dotted(&dotted(name, &key.name), example);
                let _ = write!(text, "\n{}#[{name}]\n", comment(&key.documentation));
                default_table(text, keys, &name, "#");
            }
            _ => {
                let mut documentation = key.documentation.clone();
                if let Shape::Word(words) = &key.shape {
                    for (word, meaning) in words {
                        let _ = write!(documentation, " {word:?}: {meaning}");
                    }
                }
                if key.reload == Reload::TakesRestart {
                    documentation += " Takes a restart.";
                }
                documentation += match (&key.default, key.need) {
                    (Some(_), _) => "",
                    (None, Need::Optional) => " Not set by default; for example:",
                    (None, Need::Required) => " Has to be set; for example:",
                };
                let value = key.default.as_ref().or(key.example.as_ref());
                let value = value.map_or_else(String::new, Value::to_string);
                let _ = write!(
                    text,
                    "\n{}#{} = {value}\n",
                    comment(&documentation),
                    key.name
                );
            }
        }
    }
}

/// The configuration as one file, with the place of each key that is not default.
pub(super) fn effective(keys: &[Key], loaded: &Loaded) -> String {
    let mut text = String::new();
    effective_table(&mut text, keys, "", &loaded.config.table(), loaded);
    text
}

fn effective_table(
    text: &mut String,
    keys: &[Key],
    name: &str,
    table: &toml::Table,
    loaded: &Loaded,
) {
    for key in keys {
        let full = dotted(name, &key.name);
        match (&key.shape, table.get(&key.name)) {
            (_, None) => {}
            (Shape::Table(keys), Some(Value::Table(table))) => {
                let _ = write!(text, "\n[{full}]\n");
                effective_table(text, keys, &full, table, loaded);
            }
            (Shape::Named { keys, .. }, Some(Value::Table(named))) => {
                for (given, value) in named {
                    let Value::Table(table) = value else { continue };
                    let given = Value::from(given.as_str());
                    let _ = write!(text, "\n[{full}.{given}]\n");
                    let given = given.as_str().unwrap_or_default();
                    effective_table(text, keys, &dotted(&full, given), table, loaded);
                }
            }
            (_, Some(value)) => {
                let _ = write!(text, "{} = {value}", key.name);
                match loaded.places.get(&full) {
                    Some(place) => {
                        let _ = writeln!(text, "  # {place}");
                    }
                    None => text.push('\n'),
                }
            }
        }
    }
}

/// A text as comment lines.
fn comment(text: &str) -> String {
    let mut lines = String::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + word.chars().count() + 3 > WIDTH {
            let _ = writeln!(lines, "#{line}");
            line.clear();
        }
        let _ = write!(line, " {word}");
    }
    if !line.is_empty() {
        let _ = writeln!(lines, "#{line}");
    }
    lines
}
