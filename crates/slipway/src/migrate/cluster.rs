//! `slipway migrate cluster`, and what its Jobs do on each node.

use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use slipway_migrate::plan::Target;
use slipway_migrate::rollout::{self, Begun, Event, Options, Phase, Pod};

use super::Move;
use super::how::{ClusterArgs, How};
use crate::client::table::printable_lines;
use crate::client::{duration, output};

#[derive(Debug, Args)]
pub(super) struct ClusterMoveArgs {
    #[command(flatten)]
    to: Move,

    /// As many nodes may be away at a time, those that are not Ready or cordoned among them
    #[arg(long, value_name = "N", default_value_t = NonZeroUsize::MIN)]
    max_unavailable: NonZeroUsize,

    /// Only these nodes; by default all
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    nodes: Vec<String>,

    /// An image that has slipway in it, for the Job of each node
    #[arg(long, value_name = "IMAGE")]
    image: String,

    /// Where nodes find the API server; by default where the kubeconfig has it
    #[arg(long, value_name = "URL")]
    server: Option<String>,

    /// How long a node may take to begin: its Job's image is pulled meanwhile
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration::parse)]
    start_timeout: Duration,

    #[command(flatten)]
    cluster: ClusterArgs,

    #[command(flatten)]
    how: How,
}

/// What a Job's pod is told.
#[derive(Debug, Args)]
pub(super) struct NodeJobArgs {
    #[command(flatten)]
    to: Move,

    #[arg(long)]
    node: String,

    #[arg(long)]
    kubeconfig: PathBuf,

    #[command(flatten)]
    how: How,
}

/// A run that was killed is waited for as long before another one goes on.
const LEASE: Duration = Duration::from_secs(30);

/// What carrying images over may take beyond that: they are copied on one disk.
const IMAGES: Duration = Duration::from_hours(1);

impl ClusterMoveArgs {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let access = self.cluster.access()?;
        let mut arguments = self.to.arguments();
        arguments.extend(self.how.arguments());
        let options = Options {
            target: self.to.to,
            max_unavailable: self.max_unavailable,
            nodes: self.nodes,
            image: self.image,
            arguments,
            server: self.server,
            start: self.start_timeout,
            patience: self.how.patience() + IMAGES,
            lease: LEASE,
        };
        rollout::run(&access, &options, &|event| show(options.target, event)).await?;
        let text = format!("All nodes are on {}.\n", options.target);
        output::write_stdout(text.as_bytes())
    }
}

impl NodeJobArgs {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let mut arguments = ["migrate", "apply", "--yes", "--announce"]
            .map(str::to_owned)
            .to_vec();
        arguments.extend(["--to".to_owned(), self.to.to.name().to_owned()]);
        arguments.extend(["--node".to_owned(), self.node]);
        arguments.extend(self.to.arguments());
        arguments.extend(self.how.arguments());
        let begun = Pod::of_job(&self.kubeconfig).begin(&arguments).await?;
        let text = match begun {
            Begun::Now => "The node has begun to move.\n",
            Begun::Before => "The node moves already.\n",
        };
        output::write_stdout(text.as_bytes())
    }
}

/// A line on standard error for each thing that happens.
fn show(target: Target, event: Event<'_>) {
    let line = match event {
        Event::Waits(holder, time) => format!(
            "another slipway migrate cluster ({holder}) has this cluster: looking for up to {} s whether it is still at work",
            time.as_secs()
        ),
        Event::Passed(node) => format!("{node}: on {target} already"),
        Event::Begins(node) => format!("{node}: asked to move"),
        Event::Follows(node) => format!("{node}: moves already"),
        Event::Moved(node) => format!("{node}: has moved"),
        Event::Gone(node) => format!("{node}: is not in the cluster any more, and is left out"),
        Event::Says(node, phase) => match phase {
            Phase::Asked => format!("{node}: waiting for its Job"),
            Phase::Applying { step, of, doing } => format!("{node}: [{step:>2}/{of}] {doing}"),
            Phase::RollingBack { reason } => format!("{node}: {reason}"),
            Phase::Applied => format!("{node}: all steps are done"),
            Phase::TakenBack { reason } => format!("{node}: taken back: {reason}"),
            Phase::Stopped { reason } => format!("{node}: stopped: {reason}"),
        },
    };
    // With standard error closed, the work goes on all the same.
    let _ = writeln!(io::stderr(), "{}", printable_lines(&line));
}
