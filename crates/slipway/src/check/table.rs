//! A report for people: what was found, what to do about it rule by rule, and what is missing.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use clap::builder::styling::AnsiColor;
use slipway_migrate::{Report, Severity, Verdict};

use crate::client::table::{Cell, Table, printable};

/// How wide a line of text becomes, in columns.
const WIDTH: usize = 96;

/// The whole report as lines of text.
pub(super) fn render(report: &Report, colours: bool) -> String {
    let mut text = String::new();
    if !report.nodes.is_empty() {
        text.push_str(&nodes(report).render(colours));
        text.push('\n');
    }
    if !report.findings.is_empty() {
        text.push_str(&findings(report).render(colours));
        text.push_str("\nWhat to do:\n");
        for (rule, findings) in report.by_rule() {
            let _ = writeln!(text, "  {}", rule.id);
            let todos: BTreeSet<_> = findings.iter().map(|finding| &finding.todo).collect();
            for todo in todos {
                wrap(&mut text, todo, "    ");
            }
        }
        text.push('\n');
    }
    if !report.unseen.is_empty() {
        text.push_str("Not looked at:\n");
        let mut table = Table::new(["  WHAT", "WHY", "WHAT TO DO"]);
        for unseen in &report.unseen {
            table.push([
                format!("  {}", unseen.what).into(),
                unseen.why.as_str().into(),
                unseen.todo.as_str().into(),
            ]);
        }
        text.push_str(&table.render(colours));
        text.push('\n');
    }
    text.push_str(&summary(report));
    text
}

fn nodes(report: &Report) -> Table {
    let mut table = Table::new(["NODE", "RUNTIME", "KUBELET"]);
    for node in &report.nodes {
        let colour = if node.is_docker() {
            AnsiColor::Yellow
        } else {
            AnsiColor::Green
        };
        table.push([
            node.name.as_str().into(),
            Cell::coloured(&node.runtime, colour),
            node.kubelet.as_str().into(),
        ]);
    }
    table
}

fn findings(report: &Report) -> Table {
    let mut table = Table::new(["SEVERITY", "RULE", "WHERE", "FOUND"]);
    for finding in &report.findings {
        let colour = match finding.severity {
            Severity::Blocker => AnsiColor::Red,
            Severity::Warning => AnsiColor::Yellow,
            Severity::Note => AnsiColor::Cyan,
        };
        let mut evidence = finding.evidence.iter();
        table.push([
            Cell::coloured(finding.severity.name(), colour),
            finding.rule.into(),
            evidence
                .next()
                .map_or_else(String::new, ToString::to_string)
                .into(),
            finding.found.as_str().into(),
        ]);
        for more in evidence {
            table.push(["".into(), "".into(), more.to_string().into(), "".into()]);
        }
    }
    table
}

fn wrap(out: &mut String, text: &str, indent: &str) {
    let mut column = 0;
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if column == 0 {
            out.push_str(indent);
            column = indent.len();
        } else if column + 1 + width > WIDTH {
            out.push('\n');
            out.push_str(indent);
            column = indent.len();
        } else {
            out.push(' ');
            column += 1;
        }
        out.push_str(&printable(word));
        column += width;
    }
    out.push('\n');
}

fn summary(report: &Report) -> String {
    let count = |number: usize, what: &str| match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    };
    let counts = format!(
        "{}, {}, {}",
        count(report.count(Severity::Blocker), "blocker"),
        count(report.count(Severity::Warning), "warning"),
        count(report.count(Severity::Note), "note"),
    );
    let verdict = match report.verdict() {
        Verdict::Fine => "Nothing stands in the way.",
        Verdict::Warnings => "Docker can go once the warnings have been thought of.",
        Verdict::Blockers => "Docker must not go before the blockers have been seen to.",
        Verdict::CouldNotLook => "Not everything could be looked at: that may be fine or not.",
    };
    format!("{counts}. {verdict}\n")
}
