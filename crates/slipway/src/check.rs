//! `slipway check`: what depends on Docker, before it is taken away.

mod html;
mod sarif;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use slipway_migrate::cluster::{self, Access};
use slipway_migrate::node::{self, Version};
use slipway_migrate::{Finding, NodeRuntime, Report, Root, Severity, Unseen, Verdict, manifests};
use tokio::runtime;

use crate::client;
use crate::client::output::{self, write_stdout};

/// What `slipway check` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Nothing is changed. What could not be looked at is listed, and never taken for fine.

Exit codes:
  0   nothing stands in the way
  1   warnings: something has to be carried over, or behaves in another way afterwards
  2   blockers: something is lost or does not start, unless it is seen to first
  3   no blocker was found, but not everything could be looked at

Examples:
  slipway check node
  slipway check cluster
  slipway check manifests deploy/ -o sarif > docker.sarif
  slipway check node -o html > node.html
  slipway check node -o json | jq '.findings[] | select(.severity == \"blocker\")'")]
pub(crate) struct CheckArgs {
    #[command(subcommand)]
    command: CheckCommand,
}

#[derive(Debug, Subcommand)]
enum CheckCommand {
    /// Look at this node: its kubelet, its runtimes, and all that calls or needs Docker
    #[command(after_help = "\
Examples:
  slipway check node
  slipway check node --root /mnt/node-7 --kubelet-version 1.23")]
    Node(NodeArgs),

    /// Look at files of Kubernetes objects: workloads that need Docker, agents, queries
    #[command(after_help = "\
Examples:
  slipway check manifests deploy/
  slipway check manifests deploy/ -o sarif > docker.sarif
  slipway check manifests all.yaml   # what kubectl get -A -o yaml has written")]
    Manifests(ManifestsArgs),

    /// Look at a cluster over the Kubernetes API: its nodes' runtimes, and all of its workloads
    #[command(after_help = "\
It needs the verb list on nodes, pods, workloads, persistent volumes and config maps, and names
what it was refused.

Examples:
  slipway check cluster
  slipway check cluster --context production -o html > cluster.html")]
    Cluster(ClusterArgs),
}

#[derive(Debug, Args)]
struct NodeArgs {
    #[command(flatten)]
    node: NodeFiles,

    #[command(flatten)]
    output: OutputArgs,
}

/// Which node is looked at.
#[derive(Debug, Args)]
pub(crate) struct NodeFiles {
    /// Directory below which the node's files are, /proc among them
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,

    /// The kubelet's version, where it cannot be found out
    #[arg(long, value_name = "VERSION")]
    kubelet_version: Option<Version>,
}

impl NodeFiles {
    /// The files, and what is known better than they do.
    pub(crate) fn open(self) -> anyhow::Result<(Root, node::Options)> {
        anyhow::ensure!(
            self.root.is_dir(),
            "--root {}: there is no such directory",
            self.root.display()
        );
        let options = node::Options {
            kubelet_version: self.kubelet_version,
        };
        Ok((Root::new(self.root), options))
    }
}

#[derive(Debug, Args)]
struct ManifestsArgs {
    /// A file, or a directory whose .yaml, .yml and .json files are looked at, with all below it
    #[arg(value_name = "DIR")]
    path: PathBuf,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
struct ClusterArgs {
    /// A kubeconfig; none is $KUBECONFIG, ~/.kube/config, or the credentials of the pod that this
    /// runs in
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// A context of the kubeconfig; none is its current one
    #[arg(long, value_name = "NAME")]
    context: Option<String>,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
struct OutputArgs {
    /// How the report is written
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// One object, with findings and what could not be looked at
    Json,
    /// The same as YAML
    Yaml,
    /// SARIF 2.1.0, which tools of code review show
    Sarif,
    /// One page that needs nothing else, for a browser, a phone or a printer
    Html,
}

/// A report as programs get it.
#[derive(Debug, Serialize)]
struct Document<'a> {
    verdict: Verdict,
    blockers: usize,
    warnings: usize,
    notes: usize,
    findings: &'a [Finding],
    unseen: &'a [Unseen],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    nodes: &'a [NodeRuntime],
}

impl CheckArgs {
    /// Looks, prints, and ends as the report says.
    pub(crate) fn run(self) -> ExitCode {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let result = runtime
            .map_err(anyhow::Error::from)
            .and_then(|runtime| runtime.block_on(self.command.run()));
        // What cannot even begin has not looked.
        result.unwrap_or_else(|error| client::fail(&error, Verdict::CouldNotLook.exit_code()))
    }
}

impl CheckCommand {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let (report, subject, output) = match self {
            Self::Node(args) => {
                let (root, options) = args.node.open()?;
                let report = node::check(&root, &options).await;
                (report, node_name(&root), args.output)
            }
            Self::Cluster(args) => {
                let access = Access {
                    kubeconfig: args.kubeconfig,
                    context: args.context.clone(),
                };
                let report = cluster::check(&access).await?;
                let subject = args.context.unwrap_or_else(|| "the cluster".to_string());
                (report, subject, args.output)
            }
            Self::Manifests(args) => {
                let report = manifests::check(&args.path);
                (report, args.path.display().to_string(), args.output)
            }
        };
        output.print(&report, &subject)?;
        Ok(ExitCode::from(report.verdict().exit_code()))
    }
}

/// The node's name, as it has it itself.
fn node_name(root: &Root) -> String {
    let file = root.read("/etc/hostname").ok().flatten();
    let name = file.map(|source| source.text().trim().to_string());
    name.filter(|name| !name.is_empty())
        .unwrap_or_else(|| "this node".to_string())
}

impl OutputArgs {
    fn print(&self, report: &Report, subject: &str) -> anyhow::Result<()> {
        let document = || Document {
            verdict: report.verdict(),
            blockers: report.count(Severity::Blocker),
            warnings: report.count(Severity::Warning),
            notes: report.count(Severity::Note),
            findings: &report.findings,
            unseen: &report.unseen,
            nodes: &report.nodes,
        };
        match self.output {
            Format::Table => {
                let text = table::render(report, output::colours());
                write_stdout(text.as_bytes())
            }
            Format::Json => output::print_structured(output::Format::Json, &document()),
            Format::Yaml => output::print_structured(output::Format::Yaml, &document()),
            Format::Sarif => output::print_structured(output::Format::Json, &sarif::render(report)),
            Format::Html => {
                let time = jiff::Timestamp::now()
                    .strftime("%Y-%m-%d %H:%M UTC")
                    .to_string();
                write_stdout(html::render(report, subject, &time).as_bytes())
            }
        }
    }
}
