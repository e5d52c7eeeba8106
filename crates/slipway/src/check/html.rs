//! A report as one HTML file that needs nothing else: no script, no font, no picture from
//! elsewhere. It is read on a phone, and printed.

mod nodes;

use std::fmt::{self, Write as _};

use slipway_migrate::{Finding, Report, Rule, Severity, Verdict};

const STYLE: &str = include_str!("html/report.css");

/// What a browser holds the page to: it loads nothing, runs nothing and sends nothing.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// The severities with the title of their section, the worst first.
const SEVERITIES: [(Severity, &str); 3] = [
    (Severity::Blocker, "Blockers"),
    (Severity::Warning, "Warnings"),
    (Severity::Note, "Notes"),
];

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
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
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
        "<header>\n<h1>{}</h1>\n<p class=\"verdict {class}\">{verdict}</p>",
        Text(&title)
    )?;
    counts(page, report)?;
    writeln!(
        page,
        "<p class=\"small\">slipway {} · {}</p>\n</header>",
        env!("CARGO_PKG_VERSION"),
        Text(time)
    )?;
    first(page, report)?;
    nodes::draw(page, report)?;
    findings(page, report)?;
    unseen(page, report)?;
    writeln!(page, "</main>\n</body>\n</html>")
}

/// How many there are of each, as numbers that lead there and as a bar.
fn counts(page: &mut String, report: &Report) -> fmt::Result {
    let counts = [
        ("blocker", "blocker", report.count(Severity::Blocker)),
        ("warning", "warning", report.count(Severity::Warning)),
        ("note", "note", report.count(Severity::Note)),
        ("unseen", "not looked at", report.unseen.len()),
    ];
    writeln!(page, "<ul class=\"counts\">")?;
    for (class, name, count) in counts {
        let plural = if count == 1 || class == "unseen" {
            ""
        } else {
            "s"
        };
        let words = format!("<b>{count}</b> {name}{plural}");
        if count == 0 {
            writeln!(page, "<li class=\"none\">{words}</li>")?;
        } else {
            writeln!(
                page,
                "<li class=\"{class}\"><a href=\"#all-{class}\">{words}</a></li>"
            )?;
        }
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

/// A number and what there are so many of.
fn counted(count: usize, name: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {name}{plural}")
}

/// The rules that have found something to be done, blockers first, each with its first piece of
/// advice. Notes are no work.
fn first(page: &mut String, report: &Report) -> fmt::Result {
    let mut groups = report.by_rule();
    groups.retain(|(rule, _)| rule.severity != Severity::Note);
    if groups.is_empty() {
        return Ok(());
    }
    writeln!(
        page,
        "<section>\n<h2>What to do first</h2>\n<ol class=\"first\">"
    )?;
    for (rule, findings) in groups {
        let advice = advice(&findings);
        let Some((todo, _)) = advice.first() else {
            continue;
        };
        let more = match advice.len() - 1 {
            0 => String::new(),
            more => format!(" <span class=\"small\">and {more} more</span>"),
        };
        writeln!(
            page,
            "<li class=\"{severity}\"><a href=\"#{id}\"><span class=\"tag\">{severity}</span> \
             <span class=\"title\">{title}</span></a>\
             <p>{todo}{more}</p></li>",
            id = rule.id,
            severity = rule.severity.name(),
            title = Text(rule.title),
            todo = Text(todo),
        )?;
    }
    writeln!(page, "</ol>\n</section>")
}

fn findings(page: &mut String, report: &Report) -> fmt::Result {
    let groups = report.by_rule();
    for (severity, title) in SEVERITIES {
        let name = severity.name();
        let mut rules = groups
            .iter()
            .filter(|(rule, _)| rule.severity == severity)
            .peekable();
        if rules.peek().is_none() {
            continue;
        }
        writeln!(
            page,
            "<section id=\"all-{name}\">\n<h2><span class=\"{name}\">{title}</span> \
             <span class=\"small\">{}</span></h2>",
            report.count(severity)
        )?;
        for (rule, findings) in rules {
            write_rule(page, rule, findings)?;
        }
        writeln!(page, "</section>")?;
    }
    Ok(())
}

fn write_rule(page: &mut String, rule: &Rule, findings: &[&Finding]) -> fmt::Result {
    writeln!(
        page,
        "<article id=\"{id}\" class=\"{severity}\">\n<h3>{title}</h3>\n\
         <p class=\"small\">{severity} <code>{id}</code></p>",
        id = rule.id,
        severity = rule.severity.name(),
        title = Text(rule.title)
    )?;
    for (todo, findings) in advice(findings) {
        writeln!(page, "<ul>")?;
        for finding in findings {
            writeln!(page, "<li>{}", Text(&finding.found))?;
            for evidence in &finding.evidence {
                writeln!(page, "<br><code>{}</code>", Text(&evidence.to_string()))?;
            }
            writeln!(page, "</li>")?;
        }
        writeln!(page, "</ul>\n<p class=\"todo\">{}</p>", Text(todo))?;
    }
    writeln!(page, "</article>")
}

/// What is to be done, each with the findings that it is for.
fn advice<'a>(findings: &[&'a Finding]) -> Vec<(&'a str, Vec<&'a Finding>)> {
    let mut groups: Vec<(&str, Vec<&Finding>)> = Vec::new();
    for finding in findings {
        match groups.iter_mut().find(|(todo, _)| *todo == finding.todo) {
            Some((_, same)) => same.push(finding),
            None => groups.push((&finding.todo, vec![finding])),
        }
    }
    groups
}

fn unseen(page: &mut String, report: &Report) -> fmt::Result {
    if report.unseen.is_empty() {
        return Ok(());
    }
    writeln!(
        page,
        "<section id=\"all-unseen\">\n<h2><span class=\"unseen\">Not looked at</span> \
         <span class=\"small\">{}</span></h2>",
        report.unseen.len()
    )?;
    for unseen in &report.unseen {
        writeln!(
            page,
            "<article class=\"unseen\">\n<h3>{}</h3>\n<p>{}</p>\n<p class=\"todo\">{}</p>\n</article>",
            Text(&unseen.what),
            Text(&unseen.why),
            Text(&unseen.todo)
        )?;
    }
    writeln!(page, "</section>")
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
    use slipway_migrate::{Evidence, NodeRuntime, rules};

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
            "html", "head", "body", "main", "section", "article", "div", "ul", "ol", "li", "svg",
            "p", "a", "span", "header", "h2", "h3",
        ] {
            let open = page.matches(&format!("<{tag}>")).count()
                + page.matches(&format!("<{tag} ")).count();
            assert_eq!(open, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }
}
