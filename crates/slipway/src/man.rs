//! `slipway man`.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Command};
use clap_mangen::Man;

use crate::client::output;

/// What `slipway man` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  slipway man | man -l -
  slipway man /usr/local/share/man/man1")]
pub(crate) struct ManArgs {
    /// Directory to write a page for every command into; it is made if it is not there
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

impl ManArgs {
    /// Prints the page of `command`, or writes that of each of its subcommands too.
    pub(crate) fn run(self, command: Command) -> anyhow::Result<()> {
        let command = command.disable_help_subcommand(true);
        if let Some(directory) = self.directory {
            return std::fs::create_dir_all(&directory)
                .and_then(|()| clap_mangen::generate_to(command, &directory))
                .with_context(|| format!("write manual pages into {}", directory.display()));
        }
        let mut page = Vec::new();
        Man::new(command).render(&mut page)?;
        output::write_stdout(&page)
    }
}
