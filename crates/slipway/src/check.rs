//! `slipway check`: what depends on Docker, before it is taken away.

mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use slipway_migrate::node::{self, Version};
use slipway_migrate::{Finding, Report, Root, Severity, Unseen, Verdict};
use tokio::runtime;

use crate::client;
use crate::client::output::{self, write_stdout};

/// What `slipway check` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Nothing is changed. What could not be looked at is listed, and never taken for fine.

Exit codes:
  0   nothing stands in the way
  1   warnings: something has to be carried over, or behaves in another way afterwards
  2   blockers: something is lost or does not start, unless it is seen to first
  3   no blocker was found, but not everything could be looked at

Examples:
  slipway check node
  slipway check node -o json | jq '.findings[] | select(.severity == \"blocker\")'")]
pub(crate) struct CheckArgs {
    #[command(subcommand)]
    command: CheckCommand,
}

#[derive(Debug, Subcommand)]
enum CheckCommand {
    /// Look at this node: its kubelet, its runtimes, and all that calls or needs Docker
    #[command(after_help = "\
Examples:
  slipway check node
  slipway check node --root /mnt/node-7 --kubelet-version 1.23")]
    Node(NodeArgs),
}

#[derive(Debug, Args)]
struct NodeArgs {
    /// Directory below which the node's files are, /proc among them
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,

    /// The kubelet's version, where it cannot be found out
    #[arg(long, value_name = "VERSION")]
    kubelet_version: Option<Version>,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
struct OutputArgs {
    /// How the report is written
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// One object, with findings and what could not be looked at
    Json,
    /// The same as YAML
    Yaml,
}

/// A report as programs get it.
#[derive(Debug, Serialize)]
struct Document<'a> {
    verdict: Verdict,
    blockers: usize,
    warnings: usize,
    notes: usize,
    findings: &'a [Finding],
    unseen: &'a [Unseen],
}

impl CheckArgs {
    /// Looks, prints, and ends as the report says.
    pub(crate) fn run(self) -> ExitCode {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let result = runtime
            .map_err(anyhow::Error::from)
            .and_then(|runtime| runtime.block_on(self.command.run()));
        // What cannot even begin has not looked.
        result.unwrap_or_else(|error| client::fail(&error, Verdict::CouldNotLook.exit_code()))
    }
}

impl CheckCommand {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let (report, output) = match self {
            Self::Node(args) => {
                anyhow::ensure!(
                    args.root.is_dir(),
                    "--root {}: there is no such directory",
                    args.root.display()
                );
                let options = node::Options {
                    kubelet_version: args.kubelet_version,
                };
                let report = node::check(&Root::new(args.root), &options).await;
                (report, args.output)
            }
        };
        output.print(&report)?;
        Ok(ExitCode::from(report.verdict().exit_code()))
    }
}

impl OutputArgs {
    fn print(&self, report: &Report) -> anyhow::Result<()> {
        let document = || Document {
            verdict: report.verdict(),
            blockers: report.count(Severity::Blocker),
            warnings: report.count(Severity::Warning),
            notes: report.count(Severity::Note),
            findings: &report.findings,
            unseen: &report.unseen,
        };
        match self.output {
            Format::Table => {
                let text = table::render(report, output::colours());
                write_stdout(text.as_bytes())
            }
            Format::Json => output::print_structured(output::Format::Json, &document()),
            Format::Yaml => output::print_structured(output::Format::Yaml, &document()),
        }
    }
}
