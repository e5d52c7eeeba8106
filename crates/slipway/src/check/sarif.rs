//! A report as SARIF 2.1.0 (OASIS), which code review tools show beside the lines of files.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use slipway_migrate::{Evidence, Finding, Report, Severity, rules};

/// The whole log.
pub(super) fn render(report: &Report) -> Value {
    let results: Vec<_> = report.findings.iter().map(result).collect();
    let rules: Vec<_> = rules::ALL
        .iter()
        .map(|rule| {
            json!({
                "id": rule.id,
                "shortDescription": { "text": rule.title },
                "defaultConfiguration": { "level": level(rule.severity) },
            })
        })
        .collect();
    let unseen: Vec<_> = report
        .unseen
        .iter()
        .map(|unseen| {
            let text = format!(
                "Not looked at: {}: {}; {}",
                unseen.what, unseen.why, unseen.todo
            );
            json!({ "level": "error", "message": { "text": text } })
        })
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "slipway check",
                "version": env!("CARGO_PKG_VERSION"),
                "informationUri": env!("CARGO_PKG_REPOSITORY"),
                "rules": rules,
            } },
            "columnKind": "unicodeCodePoints",
            "invocations": [{
                "executionSuccessful": unseen.is_empty(),
                "toolExecutionNotifications": unseen,
            }],
            "results": results,
        }],
    })
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Blocker => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    }
}

/// A result has one place; what else is evidence is related to it. Where the first is no file, a
/// file is preferred: that is what tools can show.
fn result(finding: &Finding) -> Value {
    let is_file = |one: &&Evidence| matches!(one, Evidence::File { .. });
    let files = finding.evidence.iter().filter(is_file);
    let others = finding.evidence.iter().filter(|one| !is_file(one));
    let logical: Vec<_> = others
        .map(|one| json!({ "fullyQualifiedName": one.to_string() }))
        .collect();
    let mut physical = files.map(physical);
    let mut location = json!({});
    if let Some(first) = physical.next() {
        location["physicalLocation"] = first;
    }
    if !logical.is_empty() {
        location["logicalLocations"] = logical.into();
    }
    let related: Vec<_> = physical
        .map(|place| json!({ "physicalLocation": place }))
        .collect();
    let rule = rules::ALL.iter().position(|rule| rule.id == finding.rule);
    let mut result = json!({
        "ruleId": finding.rule,
        "ruleIndex": rule,
        "level": level(finding.severity),
        "message": { "text": format!("{}. {}", finding.found, finding.todo) },
        "locations": [location],
    });
    if !related.is_empty() {
        result["relatedLocations"] = related.into();
    }
    result
}

fn physical(evidence: &Evidence) -> Value {
    let Evidence::File { path, line, column } = evidence else {
        return Value::Null;
    };
    let mut place = json!({ "artifactLocation": { "uri": uri(path) } });
    if let Some(line) = line {
        place["region"] = json!({ "startLine": line, "startColumn": column });
    }
    place
}

/// A path as a URI reference (RFC 3986): an absolute one as `file:`.
fn uri(path: &Path) -> String {
    let mut uri = if path.is_absolute() { "file://" } else { "" }.to_string();
    for byte in path.to_string_lossy().bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_result_at_its_line() {
        let mut report = Report::default();
        let file = |path: &str| Evidence::File {
            path: path.into(),
            line: Some(3),
            column: Some(7),
        };
        let object = Evidence::Object {
            kind: "Pod".into(),
            namespace: "default".into(),
            name: "a".into(),
            field: "spec".into(),
        };
        report.find(
            &rules::MOUNTS_DOCKER_SOCKET,
            [file("a b/x.yaml"), object, file("/etc/y")],
            "found",
            "Do",
        );
        report.miss("/z", "denied", "be root");
        let log = render(&report);
        let run = &log["runs"][0];
        let result = &run["results"][0];
        let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(
            run["tool"]["driver"]["rules"][index]["id"],
            "mounts-docker-socket"
        );
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "a%20b/x.yaml");
        assert_eq!(place["region"]["startLine"], 3);
        let logical = &result["locations"][0]["logicalLocations"][0];
        assert_eq!(logical["fullyQualifiedName"], "Pod default/a spec");
        let related = &result["relatedLocations"][0]["physicalLocation"];
        assert_eq!(related["artifactLocation"]["uri"], "file:///etc/y");
        assert_eq!(run["invocations"][0]["executionSuccessful"], false);
    }
}
