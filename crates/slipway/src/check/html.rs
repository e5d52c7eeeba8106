//! A report as one HTML file that needs nothing else: no script, no font, no picture from
//! elsewhere. It is read on a phone, and printed.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use slipway_migrate::{NodeRuntime, Report, Severity, Verdict};

const STYLE: &str = include_str!("report.css");

/// The whole page. `subject` is what was looked at, `time` when.
pub(super) fn render(report: &Report, subject: &str, time: &str) -> String {
    let mut page = String::new();
    // A String takes whatever is written to it.
    let _ = write(&mut page, report, subject, time);
    page
}

fn write(page: &mut String, report: &Report, subject: &str, time: &str) -> fmt::Result {
    let title = format!("Leaving Docker: {subject}");
    writeln!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>",
        Text(&title)
    )?;
    let (class, verdict) = match report.verdict() {
        Verdict::Fine => ("fine", "Nothing stands in the way."),
        Verdict::Warnings => (
            "warning",
            "Docker can go once the warnings have been thought of.",
        ),
        Verdict::Blockers => (
            "blocker",
            "Docker must not go before the blockers have been seen to.",
        ),
        Verdict::CouldNotLook => (
            "unseen",
            "Not everything could be looked at: that may be fine or not.",
        ),
    };
    writeln!(
        page,
        "<header>\n<h1>{}</h1>\n<p class=\"verdict {class}\">{verdict}</p>\n\
         <p class=\"small\">slipway {} · {}</p>\n</header>",
        Text(&title),
        env!("CARGO_PKG_VERSION"),
        Text(time)
    )?;
    counts(page, report)?;
    first(page, report)?;
    nodes(page, report)?;
    unseen(page, report)?;
    findings(page, report)?;
    writeln!(page, "</main>\n</body>\n</html>")
}

/// How many there are of each, as numbers and as a bar.
fn counts(page: &mut String, report: &Report) -> fmt::Result {
    let counts = [
        ("blocker", "blockers", report.count(Severity::Blocker)),
        ("warning", "warnings", report.count(Severity::Warning)),
        ("note", "notes", report.count(Severity::Note)),
        ("unseen", "not looked at", report.unseen.len()),
    ];
    writeln!(page, "<ul class=\"counts\">")?;
    for (class, name, count) in counts {
        writeln!(page, "<li class=\"{class}\"><b>{count}</b> {name}</li>")?;
    }
    writeln!(page, "</ul>\n<div class=\"bar\" aria-hidden=\"true\">")?;
    for (class, _, count) in counts.into_iter().filter(|(_, _, count)| *count > 0) {
        writeln!(
            page,
            "<span class=\"{class}\" style=\"flex-grow:{count}\"></span>"
        )?;
    }
    writeln!(page, "</div>")
}

/// The cluster: its nodes by runtime, Docker first.
fn nodes(page: &mut String, report: &Report) -> fmt::Result {
    if report.nodes.is_empty() {
        return Ok(());
    }
    let mut groups: BTreeMap<_, Vec<&NodeRuntime>> = BTreeMap::new();
    for node in &report.nodes {
        let engine = node.runtime.split("://").next().unwrap_or_default();
        groups
            .entry((!node.is_docker(), engine))
            .or_default()
            .push(node);
    }
    writeln!(page, "<section>\n<h2>The nodes</h2>")?;
    for ((leaves, engine), nodes) in groups {
        let class = if leaves { "fine" } else { "warning" };
        writeln!(
            page,
            "<h3><span class=\"{class}\">{}</span> <span class=\"small\">{} of {}</span></h3>\n<ul class=\"nodes\">",
            Text(engine),
            nodes.len(),
            report.nodes.len()
        )?;
        for node in nodes {
            writeln!(
                page,
                "<li class=\"{class}\"><b>{}</b><br><span class=\"small\">{}<br>kubelet {}</span></li>",
                Text(&node.name),
                Text(&node.runtime),
                Text(&node.kubelet)
            )?;
        }
        writeln!(page, "</ul>")?;
    }
    writeln!(page, "</section>")
}

fn first(page: &mut String, report: &Report) -> fmt::Result {
    let groups = report.by_rule();
    if groups.is_empty() {
        return Ok(());
    }
    writeln!(
        page,
        "<section>\n<h2>What to do first</h2>\n<ol class=\"first\">"
    )?;
    for (rule, findings) in groups {
        writeln!(
            page,
            "<li><span class=\"tag {severity}\">{severity}</span> <a href=\"#{id}\">{title}</a> \
             <span class=\"small\">{count}×</span></li>",
            id = rule.id,
            severity = rule.severity.name(),
            title = Text(rule.title),
            count = findings.len()
        )?;
    }
    writeln!(page, "</ol>\n</section>")
}

fn unseen(page: &mut String, report: &Report) -> fmt::Result {
    if report.unseen.is_empty() {
        return Ok(());
    }
    writeln!(page, "<section>\n<h2>Not looked at</h2>\n<dl>")?;
    for unseen in &report.unseen {
        writeln!(
            page,
            "<dt>{}</dt><dd>{}; {}.</dd>",
            Text(&unseen.what),
            Text(&unseen.why),
            Text(&unseen.todo)
        )?;
    }
    writeln!(page, "</dl>\n</section>")
}

fn findings(page: &mut String, report: &Report) -> fmt::Result {
    for (rule, findings) in report.by_rule() {
        writeln!(
            page,
            "<section id=\"{id}\" class=\"rule {severity}\">\n\
             <h2><span class=\"tag {severity}\">{severity}</span> {title}</h2>\n\
             <p class=\"small\"><code>{id}</code></p>\n<ul>",
            id = rule.id,
            severity = rule.severity.name(),
            title = Text(rule.title)
        )?;
        let mut todos: Vec<&str> = Vec::new();
        for finding in findings {
            writeln!(page, "<li>{}", Text(&finding.found))?;
            for evidence in &finding.evidence {
                writeln!(page, "<br><code>{}</code>", Text(&evidence.to_string()))?;
            }
            writeln!(page, "</li>")?;
            if !todos.contains(&finding.todo.as_str()) {
                todos.push(&finding.todo);
            }
        }
        writeln!(page, "</ul>")?;
        for todo in todos {
            writeln!(page, "<p class=\"todo\">{}</p>", Text(todo))?;
        }
        writeln!(page, "</section>")?;
    }
    Ok(())
}

/// Text that is nothing but text, in an element as in an attribute.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '&' => out.write_str("&amp;")?,
                '<' => out.write_str("&lt;")?,
                '>' => out.write_str("&gt;")?,
                '"' => out.write_str("&quot;")?,
                '\'' => out.write_str("&#39;")?,
                letter if letter.is_control() => out.write_char('\u{fffd}')?,
                letter => out.write_char(letter)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use slipway_migrate::{Evidence, rules};

    use super::*;

    #[test]
    fn the_page_is_whole_and_loads_nothing() {
        let mut report = Report::default();
        report.find(
            &rules::SCRIPT_CALLS_DOCKER,
            [Evidence::file("/x")],
            "<script>alert('1')</script>",
            "Do & \"be\" done",
        );
        report.miss("/y", "denied", "be root");
        for (name, runtime) in [("a&b", "docker://20.10.8"), ("c", "containerd://1.7.2")] {
            report.nodes.push(NodeRuntime {
                name: name.to_string(),
                runtime: runtime.to_string(),
                kubelet: "v1.23.1".to_string(),
            });
        }
        report.sort();
        let page = render(&report, "node <a>", "today");
        assert!(page.contains("&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;"));
        let docker = page.find("<b>a&amp;b</b>").unwrap();
        assert!(docker < page.find("<b>c</b>").unwrap(), "Docker first");
        assert!(page.contains("Do &amp; &quot;be&quot; done"));
        assert!(page.contains("<title>Leaving Docker: node &lt;a&gt;</title>"));
        assert!(
            page.contains("href=\"#script-calls-docker\"")
                && page.contains("id=\"script-calls-docker\"")
        );
        for loads in [
            "<script", "<link", "<img", "src=", "url(", "@import", "http://", "https://",
        ] {
            assert!(!page.contains(loads), "{loads}");
        }
        for tag in [
            "html", "head", "body", "main", "section", "ul", "ol", "li", "dl", "header", "h3",
        ] {
            let open = page.matches(&format!("<{tag}>")).count()
                + page.matches(&format!("<{tag} ")).count();
            assert_eq!(open, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }
}
