//! `slipway migrate`: a node's move away from dockershim.

mod apply;
mod clean;
mod cluster;
mod how;
mod interrupt;
mod plan;
mod status;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand, ValueEnum};
use slipway_migrate::node;
use slipway_migrate::plan::{Options, Target};
use tokio::runtime;

use crate::client;
use interrupt::Interrupted;

/// How long what works on threads of its own may take to end, once it is not wanted any more.
const GIVEN_UP: Duration = Duration::from_secs(5);

/// What `slipway migrate` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  slipway migrate plan --to slipway
  slipway migrate apply --to slipway
  slipway migrate rollback")]
pub(crate) struct MigrateArgs {
    #[command(subcommand)]
    command: MigrateCommand,
}

#[derive(Debug, Subcommand)]
enum MigrateCommand {
    /// Say how this node would move: every file, every unit and every object with its difference
    #[command(after_help = "\
Nothing is changed. Without a plan, the exit code is 1 and the reason says what to do first.

Units are asked for of systemd, the Node and kubeadm's ConfigMap of the API server, which have 5 seconds
to answer. What could not be looked at, and why, is said, and the plan comes all the same.

Examples:
  slipway migrate plan --to containerd
  slipway migrate plan --to containerd --kubeconfig admin.conf
  slipway migrate plan --to slipway --no-drain
  slipway migrate plan --to crio -o json | jq -r '.steps[] | select(.step == \"file\") | .diff'")]
    Plan(plan::PlanArgs),

    /// Move this node, as planned
    #[command(after_help = "\
Each step is written down in /var/lib/slipway-migrate before it is done. Where this is cut off, by a
kill, a reboot or Ctrl-C, `slipway migrate resume` goes on and `slipway migrate rollback` takes all of
it back. A step that fails has all taken back at once, unless --no-rollback is given.

Docker's data stays until `slipway migrate clean`.

Examples:
  slipway migrate apply --to slipway
  slipway migrate apply --to slipway --no-drain
  slipway migrate apply --to containerd --yes --drain-timeout 30m --kubeconfig admin.conf")]
    Apply(apply::ApplyArgs),

    /// Go on with a move that was cut off, in the direction that it had
    #[command(after_help = "\
Examples:
  slipway migrate resume")]
    Resume(apply::ResumeArgs),

    /// Take a move back, whole or cut off: files to the byte, units, the Node and the ConfigMap
    #[command(after_help = "\
A node that has moved is drained first. What somebody else has changed in a file since then is kept in
/var/lib/slipway-migrate.

The cluster is asked first whether it allows all of that, and nothing is begun where it does not. The
credentials of a move by `slipway migrate cluster` end with it: give --kubeconfig then.

Examples:
  slipway migrate rollback
  slipway migrate rollback --kubeconfig admin.conf")]
    Rollback(apply::RollbackArgs),

    /// Move a cluster's nodes one after the other, with a Job on each; stops at the first that does not
    /// come back
    #[command(after_help = "\
Runs anywhere with a kubeconfig. Each node says in an annotation how far it is; nodes that are there already are
passed over, and those that are about it are followed, so the same command goes on after anything.
Control planes come last, one at a time.

A second run at the same time is refused; one that was killed keeps the next one waiting for 30 seconds.

Examples:
  slipway migrate cluster --to containerd --image registry.example/slipway:1 --max-unavailable 2
  slipway migrate cluster --to slipway --no-drain --image registry.example/slipway:1 --nodes w1,w2")]
    Cluster(cluster::ClusterMoveArgs),

    /// Begin the move of the node on which this pod is
    #[command(hide = true)]
    NodeJob(cluster::NodeJobArgs),

    /// Say how far the last move of this node has come
    #[command(after_help = "\
Examples:
  slipway migrate status
  slipway migrate status -o json | jq -r .phase")]
    Status(status::StatusArgs),

    /// Remove what Docker has left on a node that has moved, for good
    #[command(after_help = "\
Images, volumes and containers of Docker go, and with them the way back. Without --yes, what would go is
printed and nothing is removed.

Examples:
  slipway migrate clean
  slipway migrate clean --yes")]
    Clean(clean::CleanArgs),
}

/// How a plan, or how far it is, is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One object
    Json,
    /// The same as YAML
    Yaml,
}

/// Where a node goes, and how.
#[derive(Debug, Clone, Copy, Args)]
struct Move {
    /// What the node moves to: slipway, containerd, crio or cri-dockerd
    #[arg(long, value_name = "TARGET")]
    to: Target,

    /// Evict nothing: Slipway runs new pods, and Docker keeps those that it has until they end
    #[arg(long)]
    no_drain: bool,

    /// Let containers of Docker that no kubelet owns be stopped with it
    #[arg(long)]
    stop_other_containers: bool,
}

impl Move {
    fn options(self, node: node::Options) -> Options {
        Options {
            target: self.to,
            drain: !self.no_drain,
            stop_others: self.stop_other_containers,
            node,
        }
    }
}

impl Move {
    /// All but the target, for another process.
    fn arguments(self) -> Vec<String> {
        let flags = [
            (self.no_drain, "--no-drain"),
            (self.stop_other_containers, "--stop-other-containers"),
        ];
        let given = flags.iter().filter(|(given, _)| *given);
        given.map(|(_, flag)| (*flag).to_owned()).collect()
    }
}

impl MigrateArgs {
    /// Does what was asked for.
    pub(crate) fn run(self) -> ExitCode {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return client::fail(&error.into(), 1),
        };
        let ended = runtime.block_on(self.command.run());
        // What was given up may be in the middle of a call.
        runtime.shutdown_timeout(GIVEN_UP);
        let Err(error) = ended else {
            return ExitCode::SUCCESS;
        };
        let cut = error.downcast_ref::<Interrupted>();
        client::fail(&error, cut.map_or(1, Interrupted::exit_code))
    }
}

impl MigrateCommand {
    async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Plan(args) => args.run().await,
            Self::Apply(args) => args.run().await,
            Self::Resume(args) => args.run().await,
            Self::Rollback(args) => args.run().await,
            Self::Cluster(args) => args.run().await,
            Self::NodeJob(args) => args.run().await,
            Self::Status(args) => args.run(),
            Self::Clean(args) => args.run().await,
        }
    }
}

/// A kubelet's name for its node where it is told none: the host name, in lower case.
fn host_name() -> anyhow::Result<String> {
    let system = rustix::system::uname();
    let name = system
        .nodename()
        .to_str()
        .context("the host name is no text")?;
    Ok(name.trim().to_lowercase())
}

/// Moves change what is root's.
fn needs_root() -> anyhow::Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "this changes the node's files and services: run it as root"
    );
    Ok(())
}
