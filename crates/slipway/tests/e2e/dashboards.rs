//! `dist/grafana` and `dist/prometheus` against what the daemon really tells.

use std::collections::{BTreeMap, BTreeSet};

use promql_parser::label::{MatchOp, Matcher};
use promql_parser::parser::{self, Expr, LabelModifier, VectorSelector};
use serde_json::Value;
use slipway_testbed::{Image, pod};

use crate::prometheus::{Scrape, measured};

/// The labels that Prometheus itself puts on what it scrapes.
const OF_THE_SCRAPE: [&str; 2] = ["instance", "job"];

/// What Prometheus itself tells of a scrape.
const SCRAPES: &str = "up";

// Part of the program: it is also run where the tree is not.
const DASHBOARD: &str = include_str!("../../../../dist/grafana/slipway.json");
const RULES: &str = include_str!("../../../../dist/prometheus/slipway-alerts.yml");
const GUIDE: &str = include_str!("../../../../docs/monitoring.md");

/// What a daemon tells that has done a bit of everything that the files ask for.
async fn scrape() -> Scrape {
    let (node, metrics) = measured(|builder| builder).await;
    let image = node.provide("busybox:1", &Image::busybox()).await.unwrap();
    let (cri, config) = (node.cri(), node.pod("seen"));
    let pod_id = cri.run_pod(&config).await.unwrap();
    let container = pod::sleeper("main", &image.reference);
    let id = cri.launch(&pod_id, &config, &container).await.unwrap();
    cri.pods().await.unwrap();
    cri.containers().await.unwrap();
    cri.pod_status(&pod_id).await.unwrap();
    cri.container_status(&id).await.unwrap();
    cri.container_status("absent").await.unwrap_err();
    cri.exec("absent", &["true"]).await.unwrap_err();
    cri.create(&pod_id, &config, &pod::sleeper("", &image.reference))
        .await
        .unwrap_err();
    let scrape = Scrape::of(metrics);
    node.finish().await.unwrap();
    scrape
}

/// An expression as Prometheus gets it from Grafana.
fn without_variables(expression: &str) -> String {
    let variables = [
        ("$__rate_interval", "5m"),
        ("$__range", "6h"),
        ("$job", ".*"),
        ("$instance", ".*"),
    ];
    variables
        .iter()
        .fold(expression.to_owned(), |text, (name, value)| {
            text.replace(name, value)
        })
}

/// What is wrong with an expression, given what there is; and which labels its result has.
struct Checked<'a> {
    scrape: &'a Scrape,
    names: BTreeMap<&'a str, BTreeSet<&'a str>>,
    used: BTreeSet<String>,
    problems: Vec<String>,
}

impl<'a> Checked<'a> {
    fn new(scrape: &'a Scrape) -> Self {
        Self {
            scrape,
            names: scrape.names(),
            used: BTreeSet::new(),
            problems: Vec::new(),
        }
    }

    /// The labels of the result.
    fn expression(&mut self, text: &str) -> BTreeSet<String> {
        let text = without_variables(text);
        match parser::parse(&text) {
            Ok(parsed) => self.labels(&parsed),
            Err(error) => {
                self.problems.push(format!("{text}: {error}"));
                BTreeSet::new()
            }
        }
    }

    fn labels(&mut self, expression: &Expr) -> BTreeSet<String> {
        match expression {
            Expr::Aggregate(aggregate) => {
                if let Some(parameter) = &aggregate.param {
                    self.labels(parameter);
                }
                let inner = self.labels(&aggregate.expr);
                match &aggregate.modifier {
                    None => BTreeSet::new(),
                    Some(LabelModifier::Include(by)) => {
                        self.known(&by.labels, &inner);
                        by.labels.iter().cloned().collect()
                    }
                    Some(LabelModifier::Exclude(without)) => {
                        self.known(&without.labels, &inner);
                        let without: BTreeSet<_> = without.labels.iter().cloned().collect();
                        inner.difference(&without).cloned().collect()
                    }
                }
            }
            Expr::Unary(unary) => self.labels(&unary.expr),
            Expr::Paren(paren) => self.labels(&paren.expr),
            Expr::Subquery(subquery) => self.labels(&subquery.expr),
            Expr::Binary(binary) => {
                let (left, right) = (self.labels(&binary.lhs), self.labels(&binary.rhs));
                // Else no series of one side has a partner on the other.
                let vectors = !is_number(&binary.lhs) && !is_number(&binary.rhs);
                let plain = |modifier: &parser::BinModifier| modifier.matching.is_none();
                if vectors && left != right && binary.modifier.as_ref().is_none_or(plain) {
                    let problem = format!("{binary}: {left:?} and {right:?} do not match");
                    self.problems.push(problem);
                }
                if is_number(&binary.lhs) { right } else { left }
            }
            Expr::Call(call) => {
                let mut labels = BTreeSet::new();
                for argument in &call.args.args {
                    labels.extend(self.labels(argument));
                }
                if call.func.name == "histogram_quantile" && !labels.remove("le") {
                    self.problems.push(format!("{call}: it has no le"));
                }
                labels
            }
            Expr::VectorSelector(selector) => self.selector(selector),
            Expr::MatrixSelector(matrix) => self.selector(&matrix.vs),
            Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => BTreeSet::new(),
        }
    }

    fn known(&mut self, labels: &[String], inner: &BTreeSet<String>) {
        for label in labels.iter().filter(|&label| !inner.contains(label)) {
            let problem = format!("the label {label:?} is not among {inner:?}");
            self.problems.push(problem);
        }
    }

    fn selector(&mut self, selector: &VectorSelector) -> BTreeSet<String> {
        let name = selector.name.clone().unwrap_or_default();
        let of_the_scrape = OF_THE_SCRAPE.iter().map(|&label| label.to_owned());
        let mut labels: BTreeSet<_> = of_the_scrape.collect();
        if name != SCRAPES {
            match self.names.get(name.as_str()) {
                Some(own) => labels.extend(own.iter().map(|&label| label.to_owned())),
                None => self.problems.push(format!("there is no {name:?}")),
            }
        }
        for matcher in &selector.matchers.matchers {
            self.matcher(&name, &labels, matcher);
        }
        self.used.insert(name);
        labels
    }

    /// A label that is there, and at least one value that is or could be there.
    fn matcher(&mut self, name: &str, labels: &BTreeSet<String>, matcher: &Matcher) {
        if !labels.contains(&matcher.name) {
            let problem = format!("{name} has no label {:?}", matcher.name);
            self.problems.push(problem);
            return;
        }
        if OF_THE_SCRAPE.contains(&matcher.name.as_str()) {
            return;
        }
        let values = self.scrape.values(name, &matcher.name);
        // Each word of a choice, so that none is misspelt.
        let text = matcher.value.as_str();
        let words: Vec<_> = match matcher.op {
            MatchOp::Equal | MatchOp::NotEqual => vec![text],
            MatchOp::Re(_) | MatchOp::NotRe(_) => text.split('|').collect(),
        };
        for word in words {
            let is_code = matcher.name == "code" && grpc_codes().contains(&word.to_owned());
            if !values.contains(word) && !is_code {
                let problem = format!("{name} never has {} {word:?}: {values:?}", matcher.name);
                self.problems.push(problem);
            }
        }
    }
}

/// Whether an expression is of numbers alone.
fn is_number(expression: &Expr) -> bool {
    match expression {
        Expr::NumberLiteral(_) => true,
        Expr::Paren(paren) => is_number(&paren.expr),
        Expr::Unary(unary) => is_number(&unary.expr),
        Expr::Binary(binary) => is_number(&binary.lhs) && is_number(&binary.rhs),
        _ => false,
    }
}

/// As the label has them; a test would have a hard time to make each of them happen.
fn grpc_codes() -> Vec<String> {
    (0..17)
        .map(|code| format!("{:?}", tonic::Code::from(code)))
        .collect()
}

/// The values of a key, wherever it is.
fn collect<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get(key));
            map.values().for_each(|value| collect(value, key, found));
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, key, found)),
        _ => {}
    }
}

#[tokio::test]
async fn every_expression_asks_for_what_the_daemon_tells() {
    let scrape = scrape().await;
    let mut checked = Checked::new(&scrape);

    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut expressions = Vec::new();
    collect(&dashboard, "expr", &mut expressions);
    assert!(expressions.len() > 20);
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let labels = checked.expression(target["expr"].as_str().unwrap());
            let legend = target["legendFormat"].as_str().unwrap();
            for label in between(legend, "{{", "}}") {
                assert!(
                    labels.contains(label),
                    "{target}: {label} is not in {labels:?}"
                );
            }
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        checked.expression(annotation["expr"].as_str().unwrap());
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let Some(query) = variable["query"]["query"].as_str() else {
            continue;
        };
        let inner = between(query, "label_values(", ")").next().unwrap();
        let (selector, label) = inner.rsplit_once(", ").unwrap();
        let labels = checked.expression(selector);
        assert!(labels.contains(label), "{query}");
    }
    assert_eq!(checked.problems, [""; 0]);
    // What is told and shown nowhere might as well not be told.
    let shown = std::mem::take(&mut checked.used);
    let family = |name: &str| {
        let histogram = ["_bucket", "_count", "_sum"];
        let plain = histogram.iter().find_map(|end| name.strip_suffix(end));
        plain.unwrap_or(name).to_owned()
    };
    let families = |names: &mut dyn Iterator<Item = &str>| -> BTreeSet<String> {
        names
            .filter(|name| name.starts_with("slipway_"))
            .map(family)
            .collect()
    };
    let told = families(&mut checked.names.keys().copied());
    assert_eq!(families(&mut shown.iter().map(String::as_str)), told);
    let documented = between(GUIDE, "| `", "` |").map(|name| name.split('{').next().unwrap());
    let documented: BTreeSet<_> = documented.map(str::to_owned).collect();
    let process = checked
        .names
        .keys()
        .filter(|name| name.starts_with("process_"));
    let all: BTreeSet<_> = process.map(|&name| name.to_owned()).chain(told).collect();
    assert_eq!(documented, all, "docs/monitoring.md");

    let rules: Value = yaml_serde::from_str(RULES).unwrap();
    let mut names = BTreeSet::new();
    for group in rules["groups"].as_array().unwrap() {
        assert!(group["name"].is_string());
        for rule in group["rules"].as_array().unwrap() {
            let name = rule["alert"].as_str().unwrap();
            assert!(names.insert(name.to_owned()), "{name} is there twice");
            let labels = checked.expression(rule["expr"].as_str().unwrap());
            let severity = rule["labels"]["severity"].as_str().unwrap();
            assert!(
                ["critical", "warning", "info"].contains(&severity),
                "{name}"
            );
            for annotation in ["summary", "description"] {
                let text = rule["annotations"][annotation].as_str().unwrap();
                assert!(text.len() > 20, "{name}: {text:?}");
                for used in between(text, "$labels.", "}}") {
                    let label = used.split([' ', '|']).next().unwrap();
                    assert!(
                        labels.contains(label),
                        "{name}: {label} is not in {labels:?}"
                    );
                }
            }
        }
    }
    assert!(names.len() > 10);
    assert_eq!(checked.problems, [""; 0]);

    // That it would see what is wrong.
    for (wrong, words) in [
        ("rate(slipway_nothing_total[5m])", "slipway_nothing_total"),
        ("slipway_pods{phase=\"ready\"}", "phase"),
        ("slipway_pods{state=\"redy\"}", "redy"),
        ("sum by (method) (slipway_pods)", "method"),
        ("sum(slipway_pods", "slipway_pods"),
        ("slipway_pods / slipway_shims", "state"),
        (
            "histogram_quantile(0.5, slipway_cri_call_duration_seconds_sum)",
            "le",
        ),
    ] {
        checked.problems.clear();
        checked.expression(wrong);
        let found = checked.problems.join("; ");
        assert!(found.contains(words), "{wrong}: {found:?}");
    }
}

/// What is between two marks, each time.
fn between<'a>(text: &'a str, from: &'a str, to: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(from)
        .skip(1)
        .filter_map(move |rest| Some(rest.split_once(to)?.0))
}

#[test]
fn the_dashboard_is_what_grafana_imports() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    assert_eq!(dashboard["uid"], "slipway");
    assert_eq!(dashboard["title"], "Slipway");
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 36);
    // An id is the importing Grafana's to give.
    assert!(dashboard.get("id").is_none());
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert_eq!(variables[0]["name"], "datasource");
    assert_eq!(variables[0]["type"], "datasource");
    assert_eq!(variables[0]["query"], "prometheus");
    for variable in &variables[1..] {
        assert_eq!(variable["type"], "query");
        assert_eq!(variable["datasource"]["uid"], "${datasource}");
    }

    let mut ids = BTreeSet::new();
    let mut taken = BTreeMap::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(
            ids.insert(panel["id"].as_u64().unwrap()),
            "{title}: its id is taken"
        );
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{title} is beside the grid");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                let other = taken.insert((x, y), title);
                assert!(other.is_none(), "{title} is over {other:?}");
            }
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(["timeseries", "stat"].contains(&panel["type"].as_str().unwrap()));
        assert!(
            panel["fieldConfig"]["defaults"]["unit"].is_string(),
            "{title}"
        );
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title}");
        let mut references = BTreeSet::new();
        for target in targets {
            assert!(
                references.insert(target["refId"].as_str().unwrap()),
                "{title}"
            );
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
}
