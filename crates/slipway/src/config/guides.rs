//! That what the documents for operators say of commands and keys is so.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};

use super::Loaded;
use super::keys::{Key, Shape};
use crate::Cli;
use crate::serve::ServeArgs;

/// Every document of the repository's root and of docs/, and the alert rules, whose descriptions
/// name commands.
fn documents() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = vec![root.join("dist/prometheus/slipway-alerts.yml")];
    for directory in [root.clone(), root.join("docs")] {
        let entries = fs::read_dir(directory).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        files.extend(paths.filter(|path| path.extension().is_some_and(|end| end == "md")));
    }
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (path, text)
    };
    files.into_iter().map(read).collect()
}

/// The fenced blocks of a language.
fn fenced<'a>(text: &'a str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<(&'a str, String)> = None;
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => {
                let (of, block) = open.take().unwrap();
                if of == language {
                    blocks.push(block);
                }
            }
            (Some(of), None) => open = Some((of, String::new())),
            (None, Some((_, block))) => {
                block.push_str(line.trim_start());
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

/// What is between backticks in a line.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.starts_with("    ") && !line.trim_start().starts_with("```"))
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The command lines of Slipway's own in a document, without what a shell would take out.
fn commands(text: &str) -> BTreeSet<String> {
    let indented = text.lines().filter_map(|line| line.strip_prefix("    "));
    let whole = indented.chain(spans(text));
    let parts = whole.flat_map(|line| {
        let line = line.split("  #").next().unwrap_or_default();
        line.split(" | ").flat_map(|part| part.split("&&"))
    });
    let parts = parts.map(|part| part.split(" > ").next().unwrap_or_default().trim());
    // What xargs(1) puts behind a command.
    let parts = parts.map(|part| match part.strip_prefix("xargs ") {
        Some(command) => format!("{command} ARGUMENT"),
        None => part.replace(" …", ""),
    });
    parts.filter(|part| part.starts_with("slipway ")).collect()
}

/// What clap has against a command line.
fn mistake(command: &str) -> Option<String> {
    let words: Vec<_> = command.split_whitespace().collect();
    // A choice of subcommands, `slipway pull|run`.
    if words[1].contains('|') {
        let cli = Cli::command();
        let mut named = words[1].split('|');
        let unknown = named.find(|name| cli.find_subcommand(name).is_none());
        return unknown.map(|name| format!("{command}: there is no {name}"));
    }
    match Cli::try_parse_from(words) {
        Ok(_) => None,
        Err(error)
            if matches!(
                error.kind(),
                // The last is for commands that are named together (`slipway check`).
                ErrorKind::DisplayHelp
                    | ErrorKind::DisplayVersion
                    | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            ) =>
        {
            None
        }
        Err(error) => Some(format!("{command}: {error}")),
    }
}

#[test]
fn every_command_of_the_documents_is_one() {
    let mut seen = 0;
    let mut mistakes = Vec::new();
    for (file, text) in documents() {
        for command in commands(&text) {
            seen += 1;
            let mistake = mistake(&command);
            mistakes.extend(mistake.map(|mistake| format!("{}: {mistake}", file.display())));
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
    assert!(seen > 30, "{seen}");
    for wrong in ["slipway pul x", "slipway ps --nope", "slipway pull|rnu"] {
        assert!(mistake(wrong).is_some(), "{wrong}");
    }
}

#[test]
fn every_example_of_a_configuration_can_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    let check = |text: &str| {
        fs::write(&file, text).unwrap();
        Loaded::new(&ServeArgs::of_file(Some(file.clone()))).map(drop)
    };
    let mut seen = 0;
    for (document, text) in documents() {
        for block in fenced(&text, "toml") {
            seen += 1;
            if let Err(error) = check(&block) {
                panic!("{}: {error:#}\n{block}", document.display());
            }
        }
    }
    assert!(seen >= 4, "{seen}");
    assert!(check("rooot = \"/\"\n").is_err());
}

/// All dotted names, with NAME for what is to be given.
fn names(keys: &[Key], above: &str, found: &mut BTreeSet<String>) {
    for key in keys {
        let name = super::keys::dotted(above, &key.name);
        match &key.shape {
            Shape::Table(keys) => names(keys, &name, found),
            Shape::Named { keys, .. } => names(keys, &format!("{name}.NAME"), found),
            _ => {}
        }
        found.insert(name);
    }
}

#[test]
fn every_key_that_the_documents_name_is_one() {
    let mut known = BTreeSet::new();
    let keys = Key::all();
    names(&keys, "", &mut known);
    let tables: Vec<_> = keys.iter().filter(|key| key.is_table()).collect();
    let mut seen = 0;
    for (document, text) in documents() {
        for span in spans(&text) {
            let name = span.split(" = ").next().unwrap_or_default();
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_' || byte == b'.';
            let of_table = tables.iter().any(|table| {
                let rest = name.strip_prefix(table.name.as_str());
                rest.is_some_and(|rest| rest.starts_with('.'))
            });
            if of_table && name.bytes().all(plain) {
                seen += 1;
                assert!(known.contains(name), "{}: `{name}`", document.display());
            }
        }
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn every_link_to_a_file_leads_to_one() {
    for (document, text) in documents() {
        for target in text.split("](").skip(1) {
            let target = target.split([')', '#']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let path = document.parent().unwrap().join(target);
            assert!(path.exists(), "{}: {target}", document.display());
        }
    }
}
