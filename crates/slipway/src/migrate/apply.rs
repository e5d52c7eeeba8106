//! `slipway migrate apply`, `resume` and `rollback`.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use slipway_migrate::apply::{
    self, Begun, Event, Journal, Journals, Mover, Phase, Record, Settings,
};
use slipway_migrate::cluster::Access;
use slipway_migrate::control_plane::{self, ControlPlane as _};
use slipway_migrate::host::DockerNode;
use slipway_migrate::preview::{PATIENCE, Preview};
use slipway_migrate::rollout::Announcer;
use slipway_migrate::{Root, host, plan};

use super::how::{ClusterArgs, How};
use super::interrupt::{Interrupted, Signals};
use super::{Move, host_name, needs_root};
use crate::client::table::{printable, printable_lines};
use crate::client::{self, output};
use crate::docker_pods::DockerPods;

#[derive(Debug, Args)]
pub(super) struct ApplyArgs {
    #[command(flatten)]
    to: Move,

    #[command(flatten)]
    cluster: ClusterArgs,

    /// The Node's name; by default what the kubelet is told, or the host name
    #[arg(long, value_name = "NAME")]
    node: Option<String>,

    /// Do not ask
    #[arg(long, short)]
    yes: bool,

    #[command(flatten)]
    how: How,

    /// Say in an annotation of the Node how far it is
    #[arg(long, hide = true)]
    announce: bool,
}

#[derive(Debug, Args)]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    #[command(flatten)]
    cluster: ClusterArgs,

    /// Do not ask first whether the cluster allows all of it: what it does not allow stays, and is said
    #[arg(long)]
    skip_preflight: bool,
}

impl ApplyArgs {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        needs_root()?;
        let root = Root::new("/");
        let options = self.to.options(self.how.node());
        let made = plan::make(&root, &options).await;
        let told = made.as_ref().ok().and_then(|plan| plan.node.clone());
        let name = self.node.clone().or(told).map_or_else(host_name, Ok)?;
        let access = self.cluster.clone().access()?;
        let settings = self.how.settings(self.announce);
        let begin = async {
            not_moving(apply::last(&root)?.as_ref())?;
            let plan = made?;
            let control_plane = connect(&access, &name, &settings).await?;
            control_plane.preflight(apply::needs(&plan)).await?;
            if !self.yes && !agreed(&name, &plan, &control_plane).await? {
                bail!("nothing was changed");
            }
            let journals = Journals::hold(&root)?;
            not_moving(journals.last()?.as_ref().map(Journal::record))?;
            let begun = Begun {
                was_ready: control_plane.is_ready().await?,
                node: name.clone(),
                options,
                access: access.clone(),
                settings: settings.clone(),
                docker: Some(DockerNode::gather(&root).await),
                plan,
            };
            let journal = journals.begin(begun)?;
            anyhow::Ok((journals, journal))
        };
        match begin.await {
            Ok((journals, journal)) => {
                Work { root, journals }
                    .carry_out(journal, &access, Direction::On)
                    .await
            }
            Err(error) => {
                if self.announce
                    && let Ok(control_plane) = connect(&access, &name, &settings).await
                {
                    let announcer = Announcer::new(&control_plane, self.to.to);
                    // One that is not over is what the node is in the middle of.
                    let last = apply::last(&root).ok().flatten();
                    let last = last.filter(|record| !record.is_over());
                    // What is wrong is said below in any case.
                    let _ = announcer
                        .end(last.as_ref(), Some(&client::describe(&error)))
                        .await;
                }
                Err(error)
            }
        }
    }
}

impl ResumeArgs {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        go_on(self.cluster, Direction::On).await
    }
}

impl RollbackArgs {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let preflight = !self.skip_preflight;
        go_on(self.cluster, Direction::Back { preflight }).await
    }
}

/// Whether a move goes on as it did, or back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    On,
    Back {
        /// Whether the cluster is asked first whether it allows that.
        preflight: bool,
    },
}

async fn go_on(cluster: ClusterArgs, direction: Direction) -> anyhow::Result<()> {
    needs_root()?;
    let root = Root::new("/");
    let nothing = "this node has not begun to move: slipway migrate apply does that";
    ensure!(apply::last(&root)?.is_some(), nothing);
    let journals = Journals::hold(&root)?;
    let journal = journals.last()?.context(nothing)?;
    let record = journal.record();
    let target = record.begun.plan.target;
    let over = match (&record.phase, direction) {
        (Phase::Applied, Direction::On) => Some(format!(
            "The move to {target} is over: there is nothing to go on with.\n"
        )),
        (Phase::Cleaning, _) => Some(format!(
            "What Docker has left is being removed after the move to {target}: finish that with slipway migrate clean --yes.\n"
        )),
        (Phase::RolledBack { .. }, _) => Some(format!(
            "The move to {target} was taken back: there is nothing to do.\n"
        )),
        _ => None,
    };
    if let Some(text) = over {
        if record.begun.settings.announce {
            // Whoever ended it may have been killed before this was said.
            let access = cluster.or(&record.begun.access)?;
            let live = connect(&access, &record.begun.node, &record.begun.settings).await?;
            Announcer::new(&live, target)
                .end(Some(record), None)
                .await?;
        }
        return output::write_stdout(text.as_bytes());
    }
    let access = cluster.or(&record.begun.access)?;
    Work { root, journals }
        .carry_out(journal, &access, direction)
        .await
}

/// The Node in its cluster, as the settings have it.
async fn connect(
    access: &Access,
    node: &str,
    settings: &Settings,
) -> anyhow::Result<control_plane::Live> {
    let live = control_plane::Live::connect(access, node).await?;
    let live = live.with_drain(settings.evict);
    Ok(match &settings.probe_image {
        Some(image) => live.with_probe_image(image),
        None => live,
    })
}

/// What a move works in.
struct Work {
    root: Root,
    journals: Journals,
}

impl Work {
    /// Does the steps, or takes them back, until Ctrl-C: then nothing is finished, for all that was
    /// begun is in the journal.
    async fn carry_out(
        self,
        journal: Journal,
        access: &Access,
        direction: Direction,
    ) -> anyhow::Result<()> {
        let mut signals = Signals::listen()?;
        let begun = journal.record().begun.clone();
        let steps = journal.record().steps.len();
        let target = begun.plan.target;
        let host = host::Live::new(DockerPods, begun.docker(&self.root).await);
        let control_plane = connect(access, &begun.node, &begun.settings).await?;
        let announcer = Announcer::new(&control_plane, target);
        let heard = |event: Event<'_>| {
            show(event, steps);
            announcer.note(event, steps);
        };
        let mut mover = Mover::new(
            &self.root,
            (&self.journals, journal),
            &host,
            &control_plane,
            &heard,
        );
        let ended = {
            let work = async {
                match direction {
                    Direction::On => mover.resume().await.map_err(anyhow::Error::from),
                    Direction::Back { preflight } => {
                        if preflight {
                            mover.preflight_back().await?;
                        }
                        Ok(mover.roll_back("it was asked for").await?)
                    }
                }
            };
            let announce = async {
                if begun.settings.announce {
                    announcer.run().await;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                biased;
                signal = signals.next() => Err(signal),
                ended = work => Ok(ended),
                () = announce => unreachable!("it goes on for ever"),
            }
        };
        let record = mover.record();
        let ended = ended.unwrap_or_else(|signal| {
            let standing = record.standing();
            Err(Interrupted { signal, standing }.into())
        });
        if begun.settings.announce {
            let wrong = ended.as_ref().err().map(client::describe);
            let said = tokio::select! {
                biased;
                // Whoever waits for that says so by another one.
                _ = signals.next() => Ok(()),
                said = announcer.end(Some(record), wrong.as_deref()) => said,
            };
            if let Err(error) = said {
                show(Event::Line(&error.to_string()), steps);
            }
        }
        ended?;
        let end = match record.phase {
            Phase::Applied => format!(
                "This node has moved to {target}. Docker's data stays until slipway migrate clean.\n"
            ),
            _ => "All is as it was.\n".to_owned(),
        };
        output::write_stdout(end.as_bytes())
    }
}

/// A line on standard error for each thing that happens.
fn show(event: Event<'_>, steps: usize) {
    let line = match event {
        Event::Begins(number, step) => format!("[{:>2}/{steps}] {step}", number + 1),
        Event::Undoing(number, step) => format!("[{:>2}/{steps}] take back: {step}", number + 1),
        Event::Line(line) => format!("        {line}"),
        Event::Done(..) | Event::Undone(..) => return,
    };
    // With standard error closed, the work goes on all the same.
    let _ = writeln!(io::stderr(), "{}", printable_lines(&line));
}

/// Asks whoever sits at the terminal.
async fn agreed(
    node: &str,
    plan: &plan::Plan,
    control_plane: &control_plane::Live,
) -> anyhow::Result<bool> {
    let stdin = io::stdin();
    ensure!(
        stdin.is_terminal(),
        "nobody is there to be asked: look at slipway migrate plan, then say --yes"
    );
    let units = host::Units::with_patience(PATIENCE);
    let preview = Preview::look(
        plan.clone(),
        Some(node.to_owned()),
        Ok(&units),
        Ok(control_plane),
    );
    let text = super::plan::render(&preview.await, output::colours());
    output::write_stdout(text.as_bytes())?;
    let mut out = io::stdout();
    let node = printable(node);
    write!(out, "\nMove {node} to {}? [y/N] ", plan.target)?;
    out.flush()?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Refuses to begin while another move is not over.
fn not_moving(last: Option<&Record>) -> anyhow::Result<()> {
    if let Some(record) = last.filter(|record| !record.is_over()) {
        bail!(
            "a move of this node to {} is not over: go on with slipway migrate resume, or take it back with slipway migrate rollback",
            record.begun.plan.target
        );
    }
    Ok(())
}
