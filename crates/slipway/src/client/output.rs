//! Answers on standard output: as a table for people, as JSON or YAML for programs.

use std::io::{self, IsTerminal, Write};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::failure::OutputClosed;
use super::table::Table;

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// The CRI message as crictl's -o json has it
    Json,
    /// The same as YAML
    Yaml,
}

/// How a list is written.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// How the list is written
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,

    /// Only the IDs
    #[arg(short, long, conflicts_with = "output")]
    quiet: bool,

    /// Whole IDs
    #[arg(long)]
    no_trunc: bool,
}

impl ListArgs {
    /// Writes a list: `message` for programs, `ids` for scripts, `table` for people.
    pub(super) fn print<'a, M: Serialize>(
        &self,
        message: &M,
        ids: impl Iterator<Item = &'a str>,
        table: impl FnOnce() -> Table,
    ) -> anyhow::Result<()> {
        if self.quiet {
            let lines: String = ids.flat_map(|id| [self.id(id), "\n"]).collect();
            return write_stdout(lines.as_bytes());
        }
        match self.output {
            Format::Table => print_table(&table()),
            format => print_structured(format, message),
        }
    }

    /// An ID as this list shows it.
    pub(super) fn id<'a>(&self, id: &'a str) -> &'a str {
        if self.no_trunc || self.quiet {
            id
        } else {
            short_id(id)
        }
    }
}

/// The first 13 characters, by which crictl's users know containers; without the algorithm where an
/// ID is a digest.
pub(super) fn short_id(id: &str) -> &str {
    let id = id.strip_prefix("sha256:").unwrap_or(id);
    id.get(..13).unwrap_or(id)
}

/// Writes a table, with colours where a terminal shows it and NO_COLOR does not forbid them.
pub(super) fn print_table(table: &Table) -> anyhow::Result<()> {
    write_stdout(table.render(colours()).as_bytes())
}

/// Whether standard output takes colours.
pub(crate) fn colours() -> bool {
    let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !forbidden && io::stdout().is_terminal()
}

/// Writes `value` for programs; as JSON where `format` has none of its own.
pub(crate) fn print_structured<T: Serialize>(format: Format, value: &T) -> anyhow::Result<()> {
    let text = match format {
        Format::Yaml => yaml_serde::to_string(value)?,
        Format::Json | Format::Table => serde_json::to_string_pretty(value)? + "\n",
    };
    write_stdout(text.as_bytes())
}

/// Writes a line.
pub(super) fn print_line(line: &str) -> anyhow::Result<()> {
    write_stdout(format!("{line}\n").as_bytes())
}

/// Writes all of `bytes`. A reader that is gone is [`OutputClosed`].
pub(crate) fn write_stdout(bytes: &[u8]) -> anyhow::Result<()> {
    write_all(io::stdout().lock(), bytes)
}

/// The same on standard error.
pub(super) fn write_stderr(bytes: &[u8]) -> anyhow::Result<()> {
    write_all(io::stderr().lock(), bytes)
}

fn write_all(mut stream: impl Write, bytes: &[u8]) -> anyhow::Result<()> {
    match stream.write_all(bytes).and_then(|()| stream.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        Err(error) => Err(error.into()),
    }
}
