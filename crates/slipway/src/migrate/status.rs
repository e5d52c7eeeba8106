//! `slipway migrate status`: how far the last move has come.

use std::fmt::Write as _;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use slipway_migrate::Root;
use slipway_migrate::apply::{self, Phase, Progress, Record};

use super::Format;
use crate::client::output::{self, write_stdout};
use crate::client::table::printable_lines;

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// How it is written
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

/// A move, for programs.
#[derive(Serialize)]
struct Shown {
    /// `none`, `applying`, `applied`, `cleaning`, `rolling-back` or `rolled-back`.
    phase: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'static str>,
    /// Seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    begun: Option<u64>,
    /// Why it is taken back.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    steps: Vec<ShownStep>,
}

#[derive(Serialize)]
struct ShownStep {
    what: String,
    /// `pending`, `begun`, `done` or `undone`.
    progress: &'static str,
}

impl StatusArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut record = apply::last(&Root::new("/")).map_err(anyhow::Error::from);
        if !rustix::process::geteuid().is_root() {
            record = record.context("how far a move has come is for root alone to read");
        }
        let record = record?;
        let shown = Shown::of(record.as_ref());
        match self.output {
            Format::Text => write_stdout(printable_lines(&shown.render()).as_bytes()),
            Format::Json => output::print_structured(output::Format::Json, &shown),
            Format::Yaml => output::print_structured(output::Format::Yaml, &shown),
        }
    }
}

impl Shown {
    fn of(record: Option<&Record>) -> Self {
        let Some(record) = record else {
            return Self {
                phase: "none",
                target: None,
                begun: None,
                reason: None,
                steps: Vec::new(),
            };
        };
        let (phase, reason) = match &record.phase {
            Phase::Applying => ("applying", None),
            Phase::Applied => ("applied", None),
            Phase::Cleaning => ("cleaning", None),
            Phase::RollingBack { reason } => ("rolling-back", Some(reason.clone())),
            Phase::RolledBack { reason } => ("rolled-back", Some(reason.clone())),
        };
        let steps = record.steps.iter().map(|(step, progress)| ShownStep {
            what: step.to_string(),
            progress: match progress {
                Progress::Pending => "pending",
                Progress::Begun(_) => "begun",
                Progress::Done(_) => "done",
                Progress::Undone(_) => "undone",
            },
        });
        Self {
            phase,
            target: Some(record.begun.plan.target.name()),
            begun: Some(record.at),
            reason,
            steps: steps.collect(),
        }
    }

    fn render(&self) -> String {
        let Some(target) = self.target else {
            return "This node has not begun to move.\n".to_owned();
        };
        let mut text = match self.phase {
            "applying" => format!(
                "The move to {target} is not over: go on with slipway migrate resume, or take it back with slipway migrate rollback.\n"
            ),
            "applied" => format!("This node has moved to {target}.\n"),
            "cleaning" => format!(
                "This node has moved to {target}, and what Docker has left is being removed: finish that with slipway migrate clean --yes.\n"
            ),
            "rolling-back" => format!(
                "The move to {target} is being taken back: go on with slipway migrate rollback.\n"
            ),
            _ => format!("The move to {target} was taken back.\n"),
        };
        if let Some(reason) = &self.reason {
            let _ = writeln!(text, "Why it is taken back: {reason}");
        }
        text.push('\n');
        for (number, step) in (1..).zip(&self.steps) {
            let _ = writeln!(text, "{number:>3}. {:<8} {}", step.progress, step.what);
        }
        text
    }
}
