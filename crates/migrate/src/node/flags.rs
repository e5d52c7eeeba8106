//! Flags of a command line, as Go's pflag reads them.

use super::look::Origin;
use super::systemd::Argument;

/// `--name=value`, `--name value`, or `--name`.
#[derive(Debug, Clone)]
pub struct Flag {
    /// Without dashes in front, and with dashes where underscores were written.
    pub name: String,
    /// `true` where none is given.
    pub value: String,
    /// Where it is written.
    pub origin: Origin,
}

/// The flags among arguments, of which the first is the program.
pub(crate) fn parse(arguments: &[Argument]) -> Vec<Flag> {
    let mut flags = Vec::new();
    let mut rest = arguments.iter().skip(1).peekable();
    while let Some(argument) = rest.next() {
        let Some(flag) = argument.text.strip_prefix('-') else {
            continue;
        };
        let flag = flag.strip_prefix('-').unwrap_or(flag);
        if flag.is_empty() {
            continue;
        }
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, value.to_string()),
            // Without the list of all flags, a word behind one is its value: there are no others.
            None => match rest.next_if(|next| !next.text.starts_with('-')) {
                Some(value) => (flag, value.text.clone()),
                None => (flag, "true".to_string()),
            },
        };
        flags.push(Flag {
            name: name.replace('_', "-"),
            value,
            origin: argument.origin.clone(),
        });
    }
    flags
}

/// The flags of a process, each at its place in the files that would give it the same.
pub(crate) fn located(running: Vec<Flag>, planned: &[Flag]) -> Vec<Flag> {
    let place = |flag: Flag| {
        let same = planned
            .iter()
            .rev()
            .find(|one| one.name == flag.name && one.value == flag.value);
        same.cloned().unwrap_or(flag)
    };
    running.into_iter().map(place).collect()
}

/// The flag that counts: the last of its name.
pub(crate) fn find<'a>(flags: &'a [Flag], name: &str) -> Option<&'a Flag> {
    flags.iter().rev().find(|flag| flag.name == name)
}
