//! The cluster, drawn: its nodes as marks, in a box for each runtime.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use slipway_migrate::{Evidence, NodeRuntime, Report, Severity};

use super::{Text, counted};

/// The marks, each of one colour: a server with a sign, so that they differ without colours, too.
const MARKS: &str = include_str!("marks.svg");

/// A box for each runtime, Docker first; nothing where no cluster was looked at.
pub(super) fn draw(page: &mut String, report: &Report) -> fmt::Result {
    if report.nodes.is_empty() {
        return Ok(());
    }
    let mut groups: BTreeMap<_, Vec<&NodeRuntime>> = BTreeMap::new();
    for node in &report.nodes {
        let engine = node.runtime.split("://").next().unwrap_or_default();
        let group = groups.entry((!node.is_docker(), engine)).or_default();
        group.push(node);
    }
    let all = report.nodes.len();
    writeln!(page, "<section>\n<h2>The nodes</h2>\n{MARKS}")?;
    writeln!(page, "<div class=\"bar\" aria-hidden=\"true\">")?;
    for ((moved, _), nodes) in &groups {
        let (class, share) = (class(*moved), nodes.len());
        writeln!(
            page,
            "<span class=\"{class}\" style=\"flex-grow:{share}\"></span>"
        )?;
    }
    writeln!(page, "</div>")?;
    for ((moved, engine), nodes) in groups {
        writeln!(
            page,
            "<div class=\"runtime {}\" data-runtime=\"{engine}\">\n\
             <h3>{engine} <span class=\"small\">{} of {all} nodes</span></h3>\n<ul class=\"nodes\">",
            class(moved),
            nodes.len(),
            engine = Text(engine),
        )?;
        for node in nodes {
            draw_node(page, node, &Found::about(node, report))?;
        }
        writeln!(page, "</ul>\n</div>")?;
    }
    writeln!(page, "</section>")
}

fn class(moved: bool) -> &'static str {
    if moved { "fine" } else { "warning" }
}

fn draw_node(page: &mut String, node: &NodeRuntime, found: &Found) -> fmt::Result {
    writeln!(
        page,
        "<li><svg class=\"mark {class}\" role=\"img\" viewBox=\"0 0 32 32\">\
         <title>{name}: {runtime}, {found}</title><use href=\"#mark-{class}\"/></svg>\
         <div><b>{name}</b><br><span class=\"small\">{runtime}<br>kubelet {kubelet}<br>{found}</span></div></li>",
        class = found.class(),
        name = Text(&node.name),
        runtime = Text(&node.runtime),
        kubelet = Text(&node.kubelet),
    )
}

/// How many findings name a node, by severity.
struct Found {
    blockers: usize,
    warnings: usize,
    notes: usize,
}

impl Found {
    fn about(node: &NodeRuntime, report: &Report) -> Self {
        let names = |evidence: &Evidence| {
            matches!(evidence, Evidence::Object { kind, name, .. }
                if kind == "Node" && *name == node.name)
        };
        let count = |severity| {
            let findings = report.findings.iter();
            let of_it = findings.filter(|one| one.severity == severity);
            of_it
                .filter(|finding| finding.evidence.iter().any(names))
                .count()
        };
        Self {
            blockers: count(Severity::Blocker),
            warnings: count(Severity::Warning),
            notes: count(Severity::Note),
        }
    }

    /// That of the worst.
    fn class(&self) -> &'static str {
        match self {
            Self { blockers: 1.., .. } => "blocker",
            Self { warnings: 1.., .. } => "warning",
            Self { notes: 1.., .. } => "note",
            _ => "fine",
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.blockers, "blocker"),
            (self.warnings, "warning"),
            (self.notes, "note"),
        ];
        let some = counts.into_iter().filter(|(count, _)| *count > 0);
        let words: Vec<_> = some.map(|(count, name)| counted(count, name)).collect();
        if words.is_empty() {
            out.write_str("nothing found")
        } else {
            out.write_str(&words.join(", "))
        }
    }
}
