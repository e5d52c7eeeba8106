//! `docs/configuration.md`, made of the keys, and the test that it is what they say.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use clap::CommandFactory as _;

use super::keys::{Key, Need, Reload, Shape, dotted};

const HEAD: &str = "\
# Configuration

<!-- Made of the code's own comments by `REGENERATE=1 cargo test -p slipway reference`; do not edit. -->

Slipway needs no configuration: every key has a default. What is to be different is said, the later
winning, in

1. `/etc/slipway/config.toml`, or the file that `slipway serve --config FILE` names,
2. `conf.d/*.toml` beside that file, in the order of their names: tables are merged, anything else is
   replaced as a whole,
3. flags of `slipway serve`.

`slipway config default` prints a file with every key, commented out; `slipway config show` what the
daemon would be started with, and where each key is set; `slipway config check` looks for mistakes
without starting anything. A key that is not there, a value of the wrong kind and values that
contradict each other are errors, each with its file, line and column, and the daemon does not start
with them.

SIGHUP (`systemctl reload slipway`) makes a running daemon read its configuration again. What has
changed is in force for what begins from then on; pods and containers that are there keep what they
were made with. Keys that take a restart are named in the log when they have changed. With a mistake
in it, the new configuration is not taken and the old one stays in force; the log says why. A restart
does no harm to pods either.
";

fn reference(keys: &[Key], flags: &BTreeMap<String, String>) -> String {
    let mut text = HEAD.to_owned();
    text += "\n## The daemon\n";
    table(&mut text, keys, "", flags);
    text
}

fn table(text: &mut String, keys: &[Key], name: &str, flags: &BTreeMap<String, String>) {
    for key in keys {
        let full = dotted(name, &key.name);
        match &key.shape {
            Shape::Table(keys) => {
                let _ = write!(text, "\n## `[{full}]`\n\n{}\n", key.documentation);
                table(text, keys, &full, flags);
            }
            Shape::Named { names, keys, .. } => {
                let _ = write!(text, "\n## `[{full}.NAME]`\n\n{}\n", key.documentation);
                if !names.is_empty() {
                    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
                    let _ = write!(text, "\nNames: {}.\n", names.join(", "));
                }
                table(text, keys, &format!("{full}.NAME"), flags);
            }
            shape => {
                let _ = write!(text, "\n### `{full}`\n\n{}\n\n", key.documentation);
                match shape {
                    Shape::Word(words) => {
                        for (word, meaning) in words {
                            let _ = writeln!(text, "- `{word:?}`: {meaning}");
                        }
                    }
                    shape => {
                        let _ = writeln!(text, "- Value: {}", shape.describe());
                    }
                }
                let _ = match (&key.default, &key.example) {
                    (Some(default), _) => writeln!(text, "- Default: `{default}`"),
                    (None, example) => {
                        let example = example
                            .as_ref()
                            .expect("what has no default has an example");
                        let need = match key.need {
                            Need::Optional => "Not set by default",
                            Need::Required => "Has to be set",
                        };
                        writeln!(text, "- {need}. For example: `{example}`")
                    }
                };
                if let Some(flag) = flags.get(&full) {
                    let _ = writeln!(text, "- Flag: `--{flag}`");
                }
                if key.reload == Reload::TakesRestart {
                    text.push_str("- Takes a restart\n");
                }
            }
        }
    }
}

/// The flags of `slipway serve` by the key that the help of each names, with the default it names.
fn flags() -> BTreeMap<String, (String, String)> {
    let cli = crate::Cli::command();
    let serve = cli.find_subcommand("serve").unwrap();
    let flags = serve.get_arguments().filter_map(|flag| {
        let help = flag.get_help()?.to_string();
        let (key, default) = help
            .split_once("[key: ")?
            .1
            .trim_end_matches(']')
            .split_once("; default: ")?;
        let flag = flag.get_long()?.to_owned();
        Some((key.to_owned(), (flag, default.to_owned())))
    });
    flags.collect()
}

#[test]
fn the_reference_is_what_the_code_says() {
    let flags = flags();
    let flags = flags
        .iter()
        .map(|(key, (flag, _))| (key.clone(), flag.clone()));
    let made = reference(&Key::all(), &flags.collect());
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    if std::env::var_os("REGENERATE").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, &made).unwrap();
    }
    let there = std::fs::read_to_string(&file).unwrap();
    assert!(
        there == made,
        "docs/configuration.md is not what the code says: run \
         `REGENERATE=1 cargo test -p slipway reference`"
    );
}

#[test]
fn every_flag_names_its_key_and_the_keys_default() {
    fn find<'a>(keys: &'a [Key], name: &str) -> Option<&'a Key> {
        match name.split_once('.') {
            None => keys.iter().find(|key| key.name == name),
            Some((table, rest)) => match &find(keys, table)?.shape {
                Shape::Table(keys) => find(keys, rest),
                _ => None,
            },
        }
    }
    let (keys, flags) = (Key::all(), flags());
    let cli = crate::Cli::command();
    let serve = cli.find_subcommand("serve").unwrap();
    // All but --config.
    assert_eq!(flags.len(), serve.get_arguments().count() - 1, "{flags:?}");
    for (name, (flag, said)) in flags {
        let key = find(&keys, &name).unwrap_or_else(|| panic!("--{flag} names no key: {name}"));
        let Some(default) = &key.default else {
            continue;
        };
        let words: Vec<_> = match default {
            toml::Value::Array(list) => list.iter().filter_map(toml::Value::as_str).collect(),
            default => default.as_str().into_iter().collect(),
        };
        assert_eq!(said, words.join(" and "), "--{flag}");
    }
}
