//! `slipway migrate`: a node's move away from dockershim.

use std::fmt::Write as _;

use clap::builder::styling::AnsiColor;
use clap::{Args, Subcommand, ValueEnum};
use slipway_migrate::plan::{self, Plan, Step, Target};
use tokio::runtime;

use crate::check::NodeFiles;
use crate::client::output::{self, write_stdout};

/// What `slipway migrate` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  slipway migrate plan --to slipway")]
pub(crate) struct MigrateArgs {
    #[command(subcommand)]
    command: MigrateCommand,
}

#[derive(Debug, Subcommand)]
enum MigrateCommand {
    /// Say how this node would move: every file with its difference, every unit, every object
    #[command(after_help = "\
Nothing is changed. Without a plan, the exit code is 1 and the reason says what to do first.

Examples:
  slipway migrate plan --to containerd
  slipway migrate plan --to slipway --no-drain
  slipway migrate plan --to crio -o json | jq -r '.steps[] | select(.step == \"file\") | .diff'")]
    Plan(PlanArgs),
}

#[derive(Debug, Args)]
struct PlanArgs {
    /// What the node moves to: slipway, containerd, crio or cri-dockerd
    #[arg(long, value_name = "TARGET")]
    to: Target,

    /// Evict nothing: Slipway runs new pods, and Docker keeps those that it has until they end
    #[arg(long)]
    no_drain: bool,

    #[command(flatten)]
    node: NodeFiles,

    /// How the plan is written
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

/// How a plan is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One object, with all steps
    Json,
    /// The same as YAML
    Yaml,
}

impl MigrateArgs {
    /// Does what was asked for.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let MigrateCommand::Plan(args) = self.command;
        let (root, node) = args.node.open()?;
        let options = plan::Options {
            target: args.to,
            drain: !args.no_drain,
            node,
        };
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let plan = runtime.block_on(plan::make(&root, &options))?;
        match args.output {
            Format::Text => write_stdout(render(&plan, output::colours()).as_bytes()),
            Format::Json => output::print_structured(output::Format::Json, &plan),
            Format::Yaml => output::print_structured(output::Format::Yaml, &plan),
        }
    }
}

/// The whole plan as lines of text.
fn render(plan: &Plan, colours: bool) -> String {
    let mut text = format!(
        "This node (kubelet {}) moves to {} in {} steps:\n\n",
        plan.kubelet,
        plan.target,
        plan.steps.len()
    );
    for (number, step) in (1..).zip(&plan.steps) {
        let _ = writeln!(text, "{number:>3}. {step}");
        if let Step::File(change) = step {
            for line in change.diff().lines() {
                let _ = writeln!(text, "       {}", coloured(line, colours));
            }
        }
    }
    if !plan.remarks.is_empty() {
        text.push_str("\nTo be seen to by hand:\n");
        for remark in &plan.remarks {
            let _ = writeln!(text, "  - {remark}");
        }
    }
    text
}

/// A line of a difference, as terminals show them.
fn coloured(line: &str, colours: bool) -> String {
    let colour = match line.as_bytes().first() {
        Some(b'+') => AnsiColor::Green,
        Some(b'-') => AnsiColor::Red,
        Some(b'@') => AnsiColor::Cyan,
        _ => return line.to_owned(),
    };
    if !colours {
        return line.to_owned();
    }
    let style = colour.on_default();
    format!("{style}{line}{style:#}")
}
