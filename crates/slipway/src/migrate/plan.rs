//! `slipway migrate plan`: what would change, for people and for programs.

use std::fmt::Write as _;

use clap::Args;
use clap::builder::styling::AnsiColor;
use slipway_migrate::plan::{self, Plan, Step};

use super::{Format, Move};
use crate::check::NodeFiles;
use crate::client::output::{self, write_stdout};

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    to: Move,

    #[command(flatten)]
    node: NodeFiles,

    /// How the plan is written
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

impl PlanArgs {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let (root, node) = self.node.open()?;
        let plan = plan::make(&root, &self.to.options(node)).await?;
        match self.output {
            Format::Text => write_stdout(render(&plan, output::colours()).as_bytes()),
            Format::Json => output::print_structured(output::Format::Json, &plan),
            Format::Yaml => output::print_structured(output::Format::Yaml, &plan),
        }
    }
}

/// The whole plan as lines of text.
pub(super) fn render(plan: &Plan, colours: bool) -> String {
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
