//! `slipway migrate plan`: what would change, for people and for programs.

use std::fmt::Write as _;

use clap::Args;
use clap::builder::styling::AnsiColor;
use slipway_migrate::plan::{self, Plan, Shown, Step};

use super::{Format, Move};
use crate::check::NodeFiles;
use crate::client::output::{self, write_stdout};
use crate::client::table::{printable, printable_lines};

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
            Format::Json => output::print_structured(output::Format::Json, &Shown(&plan)),
            Format::Yaml => output::print_structured(output::Format::Yaml, &Shown(&plan)),
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
        let _ = writeln!(text, "{number:>3}. {}", printable(&step.to_string()));
        if let Step::File(change) = step {
            for line in change.diff().lines() {
                let line = printable_lines(line);
                let _ = writeln!(text, "       {}", coloured(&line, colours));
            }
        }
    }
    if !plan.remarks.is_empty() {
        text.push_str("\nTo be seen to by hand:\n");
        for remark in &plan.remarks {
            let _ = writeln!(text, "  - {}", printable(remark));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As a journal has it.
    fn plan(text: &str) -> Plan {
        let plan = serde_json::json!({
            "target": "containerd",
            "node": null,
            "from": "docker://",
            "kubelet": "1.23",
            "drain": false,
            "steps": [
                {"step": "file", "path": format!("/etc/{text}"), "before": text, "after": "a\tb\n"},
                {"step": "annotate", "key": "k", "value": text},
            ],
            "remarks": [text],
        });
        serde_json::from_value(plan).unwrap()
    }

    #[test]
    fn no_file_steers_the_terminal_of_whoever_reads_the_plan() {
        let text = render(&plan("x\u{1b}[31my\u{1b}]0;z\u{7}\u{9b}"), false);
        let steers = |letter: char| letter.is_control() && !matches!(letter, '\n' | '\t');
        assert!(!text.contains(steers), "{text:?}");
        let shown = "x\u{fffd}[31my\u{fffd}]0;z\u{fffd}\u{fffd}";
        for line in [
            format!("       -{shown}\n"),
            format!("  2. annotate the Node: k={shown}\n"),
            format!("  - {shown}\n"),
            "       +a\tb\n".to_owned(),
        ] {
            assert!(text.contains(&line), "{line:?} is not in {text:?}");
        }
    }
}
