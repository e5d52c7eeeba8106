//! `slipway config`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::document;
use super::{DEFAULT_FILE, Key, Loaded};
use crate::client::output::write_stdout;
use crate::serve::ServeArgs;

/// What `slipway config` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  slipway config default > /etc/slipway/config.toml
  slipway config show
  slipway config check && systemctl reload slipway")]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print a configuration file with every key, commented out, with its default and what it is for
    #[command(after_help = "\
Examples:
  slipway config default
  slipway config default > /etc/slipway/config.toml")]
    Default,

    /// Print the configuration that the daemon would be started with: file, drop-ins and flags
    #[command(after_help = "\
Examples:
  slipway config show
  slipway config show --config /tmp/config.toml --root /tmp/root
  slipway config show -o json | jq .runtime.handlers")]
    Show(Box<ShowArgs>),

    /// Check configuration files without starting anything; each mistake is printed with its place
    #[command(after_help = "\
Examples:
  slipway config check
  slipway config check /tmp/config.toml
  slipway config check /etc/slipway/conf.d/*.toml")]
    Check(CheckArgs),
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// How it is written
    #[arg(short, long, value_name = "FORMAT", default_value = "toml")]
    output: ShowFormat,

    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ShowFormat {
    /// As in the configuration file, with the place of what is set
    Toml,
    /// One object; what is not set is null
    Json,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// Files, each taken as `slipway serve --config FILE` would, with the drop-ins in conf.d beside
    /// it [default: /etc/slipway/config.toml]
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl ConfigArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.command {
            ConfigCommand::Default => write_stdout(document::default(&Key::all()).as_bytes()),
            ConfigCommand::Show(args) => args.run(),
            ConfigCommand::Check(args) => args.run(),
        }
    }
}

impl ShowArgs {
    fn run(self) -> anyhow::Result<()> {
        let loaded = Loaded::new(&self.serve)?;
        let text = match self.output {
            ShowFormat::Toml => document::effective(&Key::all(), &loaded),
            ShowFormat::Json => serde_json::to_string_pretty(&loaded.config)? + "\n",
        };
        write_stdout(text.as_bytes())
    }
}

impl CheckArgs {
    /// Prints the files that were read and can be used; all that is wrong, in all files, is the
    /// error.
    fn run(self) -> anyhow::Result<()> {
        let files: Vec<_> = if self.files.is_empty() {
            vec![None]
        } else {
            self.files.into_iter().map(Some).collect()
        };
        let mut wrong = Vec::new();
        for file in files {
            match Loaded::new(&ServeArgs::of_file(file)) {
                Ok(loaded) if loaded.files.is_empty() => {
                    let line = format!("{DEFAULT_FILE}: not there, so that all keys are default\n");
                    write_stdout(line.as_bytes())?;
                }
                Ok(loaded) => {
                    for file in loaded.files {
                        write_stdout(format!("{}: can be used\n", file.display()).as_bytes())?;
                    }
                }
                Err(error) => wrong.push(format!("{error:#}")),
            }
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            anyhow::bail!("{}", wrong.join("\n"))
        }
    }
}
