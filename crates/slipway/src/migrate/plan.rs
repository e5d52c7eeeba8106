//! `slipway migrate plan`: what would change, for people and for programs.

use std::fmt::Write as _;

use clap::Args;
use clap::builder::styling::AnsiColor;
use slipway_migrate::control_plane::Live;
use slipway_migrate::host::Units;
use slipway_migrate::plan::{self, Step};
use slipway_migrate::preview::{Outlook, PATIENCE, Preview};

use super::how::ClusterArgs;
use super::{Format, Move, host_name};
use crate::check::NodeFiles;
use crate::client;
use crate::client::output::{self, write_stdout};
use crate::client::table::{printable, printable_lines};

/// Why nobody is asked about a node whose files are somewhere else.
const UNITS_ELSEWHERE: &str =
    "--root has a node's files alone: on the node itself its units are looked at as well";
const OBJECTS_ELSEWHERE: &str = "--root has a node's files alone: with --kubeconfig and --node its objects are looked at as well";

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    to: Move,

    #[command(flatten)]
    files: NodeFiles,

    #[command(flatten)]
    cluster: ClusterArgs,

    /// The Node's name; by default what the kubelet is told, or the host name
    #[arg(long, value_name = "NAME")]
    node: Option<String>,

    /// How the plan is written
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

impl PlanArgs {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let (root, options) = self.files.open()?;
        let plan = plan::make(&root, &self.to.options(options)).await?;
        let node = self.node.or_else(|| plan.node.clone());
        let preview = if root.is_live() {
            let node = node.map_or_else(host_name, Ok)?;
            let units = Units::with_patience(PATIENCE);
            let cluster = connect(self.cluster, &node).await?;
            Preview::look(
                plan,
                Some(node),
                Ok(&units),
                cluster.as_ref().map_err(Clone::clone),
            )
            .await
        } else {
            let cluster = match &node {
                _ if !self.cluster.is_given() => Err(OBJECTS_ELSEWHERE.to_owned()),
                None => Err("the Node's name is not known: give it with --node".to_owned()),
                Some(node) => connect(self.cluster, node).await?,
            };
            let units = Err::<&Units, _>(UNITS_ELSEWHERE.to_owned());
            Preview::look(plan, node, units, cluster.as_ref().map_err(Clone::clone)).await
        };
        match self.output {
            Format::Text => write_stdout(render(&preview, output::colours()).as_bytes()),
            Format::Json => output::print_structured(output::Format::Json, &preview),
            Format::Yaml => output::print_structured(output::Format::Yaml, &preview),
        }
    }
}

/// The Node in its cluster, or why there is no way there: the plan comes all the same.
///
/// # Errors
///
/// Where a kubeconfig was named that is not there.
async fn connect(cluster: ClusterArgs, node: &str) -> anyhow::Result<Result<Live, String>> {
    let access = cluster.access()?;
    let live = Live::connect(&access, node).await;
    let live = live.map(|live| live.with_patience(PATIENCE));
    Ok(live.map_err(|error| client::describe(&anyhow::Error::from(error))))
}

/// The whole plan as lines of text.
pub(super) fn render(preview: &Preview, colours: bool) -> String {
    let plan = preview.plan();
    let mut text = format!(
        "This node (kubelet {}) moves to {} in {} steps:\n\n",
        plan.kubelet,
        plan.target,
        plan.steps.len()
    );
    for (number, (step, outlook)) in (1..).zip(preview.steps()) {
        let _ = writeln!(text, "{number:>3}. {}", printable(&step.to_string()));
        for line in below(step, outlook).lines() {
            let line = printable_lines(line);
            let _ = writeln!(text, "       {}", coloured(&line, colours));
        }
    }
    let unseen = preview.unseen();
    if !unseen.is_empty() {
        text.push_str("\nNot looked at, so that only the steps say what would change there:\n");
        for (why, things) in by_reason(&unseen) {
            let _ = writeln!(text, "  - {}: {}", printable(&things), printable(why));
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

/// What a step would change, or what is known instead.
fn below(step: &Step, outlook: Option<&Outlook>) -> String {
    match (step, outlook) {
        (Step::File(change), _) => change.diff(),
        (_, Some(Outlook::Seen(change))) if change.is_none() => {
            format!("as it is: {}", change.found())
        }
        (_, Some(Outlook::Seen(change))) => change.diff(),
        (_, Some(Outlook::Fails(why))) => format!("this would fail: {why}"),
        (_, Some(Outlook::Unseen(_)) | None) => String::new(),
    }
}

/// The reasons, each with the things that it keeps from being looked at and the numbers of their steps.
fn by_reason<'a>(unseen: &'a [(String, &'a str, Vec<usize>)]) -> Vec<(&'a str, String)> {
    let mut reasons: Vec<(&str, String)> = Vec::new();
    for (name, why, steps) in unseen {
        let word = if steps.len() == 1 { "step" } else { "steps" };
        let steps: Vec<_> = steps.iter().map(ToString::to_string).collect();
        let thing = format!("{name} ({word} {})", steps.join(", "));
        match reasons.iter_mut().find(|(known, _)| known == why) {
            Some((_, things)) => {
                things.push_str(", ");
                things.push_str(&thing);
            }
            None => reasons.push((why, thing)),
        }
    }
    reasons
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
    use slipway_migrate::host::{self, Enablement, Services, UnitState};

    use super::*;

    /// Of a plan as a journal has it, with nobody to be asked about the node.
    async fn preview(text: &str) -> Preview {
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
        let plan = serde_json::from_value(plan).unwrap();
        let units = Err::<&Units, _>("nobody".to_owned());
        let cluster = Err::<&Live, _>(format!("it says {text}"));
        Preview::look(plan, None, units, cluster).await
    }

    #[tokio::test]
    async fn no_file_steers_the_terminal_of_whoever_reads_the_plan() {
        let preview = preview("x\u{1b}[31my\u{1b}]0;z\u{7}\u{9b}").await;
        let text = render(&preview, false);
        let steers = |letter: char| letter.is_control() && !matches!(letter, '\n' | '\t');
        assert!(!text.contains(steers), "{text:?}");
        let shown = "x\u{fffd}[31my\u{fffd}]0;z\u{fffd}\u{fffd}";
        for line in [
            format!("       -{shown}\n"),
            format!("  2. annotate the Node: k={shown}\n"),
            format!("  - {shown}\n"),
            format!("  - the Node, annotation k (step 2): it says {shown}\n"),
            "       +a\tb\n".to_owned(),
        ] {
            assert!(text.contains(&line), "{line:?} is not in {text:?}");
        }
    }

    /// All units run; one is masked, and of one nobody knows.
    struct Enabled;

    impl Services for Enabled {
        async fn unit(&self, name: &str) -> Result<UnitState, host::Error> {
            if name == "crio.service" {
                return Err(host::Error::new(format!("look at {name}"), "no answer"));
            }
            let enablement = match name {
                "containerd.service" => Enablement::Masked,
                _ => Enablement::Enabled,
            };
            Ok(UnitState {
                enablement,
                active: true,
                linked: None,
                links: Vec::new(),
            })
        }
    }

    #[tokio::test]
    async fn each_step_is_shown_with_what_is_known_of_it() {
        let plan = serde_json::json!({
            "target": "containerd",
            "node": null,
            "from": "docker://",
            "kubelet": "1.23",
            "drain": true,
            "steps": [
                {"step": "cordon"},
                {"step": "start", "unit": "containerd.service"},
                {"step": "start", "unit": "crio.service"},
                {"step": "stop", "unit": "kubelet.service"},
                {"step": "start", "unit": "kubelet.service"},
                {"step": "start", "unit": "kubelet.service"},
                {"step": "disable", "unit": "docker.service"},
                {"step": "uncordon"},
            ],
            "remarks": [],
        });
        let plan = serde_json::from_value(plan).unwrap();
        let cluster = Err::<&Live, _>("connection refused".to_owned());
        let preview = Preview::look(plan, Some("a".to_owned()), Ok(&Enabled), cluster).await;
        assert_eq!(
            render(&preview, false),
            "This node (kubelet 1.23) moves to containerd in 8 steps:

  1. cordon the node, so that no new pods come
  2. enable containerd.service, and start it anew
       this would fail: start containerd.service: somebody has masked it, so that it cannot be started: find out why, then systemctl unmask it
  3. enable crio.service, and start it anew
  4. stop kubelet.service
       -enabled, active
       +enabled, inactive
  5. enable kubelet.service, and start it anew
       -enabled, inactive
       +enabled, active
  6. enable kubelet.service, and start it anew
       as it is: enabled, active
  7. stop and disable docker.service
       -enabled, active
       +disabled, inactive
  8. uncordon the node, so that pods come again

Not looked at, so that only the steps say what would change there:
  - Node a, spec.unschedulable (steps 1, 8): connection refused
  - crio.service (step 3): look at crio.service: no answer
"
        );
    }
}
