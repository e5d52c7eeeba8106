//! What a journal says: how far a move has come, and what was there before each of its steps.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::step::Before;
use crate::Root;
use crate::cluster::Access;
use crate::control_plane::DrainOptions;
use crate::host::DockerNode;
use crate::plan::{self, KUBELET, Plan, Step};

/// What can be done with a move that is cut off.
const GO_ON: &str =
    "go on with slipway migrate resume, or take all of it back with slipway migrate rollback";

/// What was asked for, and what was planned then.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Begun {
    /// The Node's name in the cluster.
    pub node: String,
    /// Whether the Node was Ready.
    pub was_ready: bool,
    /// What the plan was made of.
    pub options: plan::Options,
    /// How the cluster is reached.
    pub access: Access,
    /// How long to wait, and what to do in doubt.
    pub settings: Settings,
    /// The plan.
    pub plan: Plan,
    /// What was known of Docker then; journals of before do not have it.
    #[serde(default)]
    pub docker: Option<DockerNode>,
}

impl Begun {
    /// What was known of Docker when the move began, whatever its steps have changed since. Where an
    /// older journal does not say it, the files do, as they are by now.
    pub async fn docker(&self, root: &Root) -> DockerNode {
        match &self.docker {
            Some(docker) => docker.clone(),
            None => DockerNode::gather(root).await,
        }
    }
}

/// How a move is carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// How long a drain may take.
    pub drain: Duration,
    /// How long the Node may take to be Ready, and a pod to run on it.
    pub ready: Duration,
    /// Whether a step that fails has all of them taken back.
    pub roll_back: bool,
    /// What a drain may take away.
    #[serde(default)]
    pub evict: DrainOptions,
    /// What the probe runs; nothing for an image that the Node has.
    #[serde(default)]
    pub probe_image: Option<String>,
    /// Whether the Node says how far the move is: others follow it.
    #[serde(default)]
    pub announce: bool,
}

/// An entry of the journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Entry {
    /// The first one.
    Begun(Box<Begun>),
    /// What follows a step is planned anew: what was installed brought files.
    Planned { after: usize, steps: Vec<Step> },
    /// A step begins.
    Before { step: usize, before: Before },
    /// A step is done.
    Done { step: usize },
    /// Everything is going to be taken back.
    RollingBack { reason: String },
    /// A step is taken back.
    Undone { step: usize },
    /// The move is over.
    Ended,
    /// What would be needed to take it back is about to go.
    Cleaning,
}

/// How far a step has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It has not begun.
    Pending,
    /// It has begun, and may have been done.
    Begun(Before),
    /// It is done.
    Done(Before),
    /// It is taken back.
    Undone(Before),
}

/// Where a move is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Steps are being done.
    Applying,
    /// All are done.
    Applied,
    /// All are done, and there is no way back: what Docker has left is being removed.
    Cleaning,
    /// Steps are being taken back.
    RollingBack {
        /// Why.
        reason: String,
    },
    /// All that had begun are taken back.
    RolledBack {
        /// Why.
        reason: String,
    },
}

/// A move, as its journal tells it.
#[derive(Debug, Clone)]
pub struct Record {
    /// When it began, in seconds since 1970.
    pub at: u64,
    /// What was asked for.
    pub begun: Begun,
    /// All steps, with how far each has come.
    pub steps: Vec<(Step, Progress)>,
    /// Where it is.
    pub phase: Phase,
}

impl Record {
    pub(super) fn new(at: u64, begun: Begun) -> Self {
        let steps = begun.plan.steps.iter();
        Self {
            at,
            steps: steps
                .map(|step| (step.clone(), Progress::Pending))
                .collect(),
            begun,
            phase: Phase::Applying,
        }
    }

    /// The next step that is not done.
    pub fn next(&self) -> Option<usize> {
        let done = |progress: &Progress| matches!(progress, Progress::Done(_));
        self.steps.iter().position(|(_, progress)| !done(progress))
    }

    /// The last step that has begun and is not taken back.
    pub(super) fn last_begun(&self) -> Option<usize> {
        let begun =
            |progress: &Progress| matches!(progress, Progress::Begun(_) | Progress::Done(_));
        self.steps.iter().rposition(|(_, progress)| begun(progress))
    }

    /// What was there before a step, once it has begun.
    pub(super) fn before(&self, step: usize) -> Option<&Before> {
        match &self.steps.get(step)?.1 {
            Progress::Begun(before) | Progress::Done(before) => Some(before),
            Progress::Pending | Progress::Undone(_) => None,
        }
    }

    /// The step that is being done or taken back, or will be next.
    pub fn current(&self) -> Option<usize> {
        match self.phase {
            Phase::Applying => self.next(),
            Phase::RollingBack { .. } => self.last_begun(),
            Phase::Applied | Phase::Cleaning | Phase::RolledBack { .. } => None,
        }
    }

    /// Whether the kubelet is stopped while this step is done, or taken back.
    pub fn is_without_kubelet(&self, number: usize) -> bool {
        let at = |wanted: fn(&Step) -> bool| self.steps.iter().position(|(step, _)| wanted(step));
        let stop = at(|step| matches!(step, Step::Stop { unit } if unit == KUBELET));
        let start = at(|step| matches!(step, Step::Start { unit } if unit == KUBELET));
        stop.is_some_and(|stop| stop < number) && start.is_none_or(|start| number <= start)
    }

    /// Where a move stands that nobody is at any more, and how it is gone on with, for people.
    pub fn standing(&self) -> String {
        let of = self.steps.len();
        let Some(number) = self.current() else {
            return "at its end: slipway migrate status has more".to_string();
        };
        let (step, progress) = &self.steps[number];
        let place = format!("step {} of {of} ({step})", number + 1);
        let without = if self.is_without_kubelet(number) {
            "; the kubelet is stopped until then"
        } else if matches!(step, Step::Install { .. }) && *progress != Progress::Pending {
            "; a package manager that is at work comes to its end by itself"
        } else {
            ""
        };
        match (&self.phase, progress) {
            (Phase::RollingBack { .. }, _) => format!(
                "while {place} was being taken back: slipway migrate rollback goes on with that{without}"
            ),
            (_, Progress::Pending) => format!("before {place}: {GO_ON}{without}"),
            _ => format!("in {place}: {GO_ON}{without}"),
        }
    }

    /// Whether there is nothing left to do.
    pub fn is_over(&self) -> bool {
        !matches!(self.phase, Phase::Applying | Phase::RollingBack { .. })
    }

    /// Takes an entry in; what keeps it from being true.
    pub(super) fn accept(&mut self, entry: Entry) -> Result<(), String> {
        let applying = self.phase == Phase::Applying;
        match entry {
            Entry::Begun(_) => return Err("it has begun already".to_string()),
            Entry::Planned { after, steps } if applying && self.next() == Some(after) => {
                self.steps.truncate(after + 1);
                let steps = steps.into_iter().map(|step| (step, Progress::Pending));
                self.steps.extend(steps);
            }
            Entry::Before { step, before } if applying && self.next() == Some(step) => {
                let (step, progress) = &mut self.steps[step];
                *progress = Progress::Begun(before.of(step));
            }
            Entry::Done { step } if applying && self.next() == Some(step) => {
                let before = self.before(step).cloned();
                let before = before.ok_or_else(|| format!("step {step} has not begun"))?;
                self.steps[step].1 = Progress::Done(before);
            }
            Entry::RollingBack { reason }
                if matches!(self.phase, Phase::Applying | Phase::Applied) =>
            {
                self.phase = Phase::RollingBack { reason };
            }
            Entry::Undone { step } if matches!(self.phase, Phase::RollingBack { .. }) => {
                let before = self.before(step).cloned();
                let before = before.ok_or_else(|| format!("step {step} has not begun"))?;
                self.steps[step].1 = Progress::Undone(before);
            }
            Entry::Cleaning if matches!(self.phase, Phase::Applied | Phase::Cleaning) => {
                self.phase = Phase::Cleaning;
            }
            Entry::Ended => {
                self.phase = match &self.phase {
                    Phase::Applying if self.next().is_none() => Phase::Applied,
                    Phase::RollingBack { reason } if self.last_begun().is_none() => {
                        let reason = reason.clone();
                        Phase::RolledBack { reason }
                    }
                    phase => return Err(format!("it cannot end in {phase:?}")),
                };
            }
            other => return Err(format!("{other:?} does not follow {:?}", self.phase)),
        }
        Ok(())
    }

    /// The files that its steps change.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.steps.iter().filter_map(|(step, _)| match step {
            Step::File(change) => Some(&change.path),
            _ => None,
        })
    }
}
