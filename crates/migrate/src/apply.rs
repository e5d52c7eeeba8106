//! `slipway migrate apply`, `resume` and `rollback`: the steps of a plan carried out one after the
//! other, each written down before and after, so that whoever comes after a crash goes on, or takes
//! all of it back.

mod configuration;
mod file;
mod journal;
mod preflight;
mod record;
mod step;
mod subject;

use std::fmt;
use std::path::Path;

use crate::Root;
use crate::control_plane::{ControlPlane, PreflightError};
use crate::failure::Failure;
use crate::host::Host;
use crate::plan::{self, KUBELET, Step, Target};
use crate::secrets;

pub(crate) use configuration::none_is_there;
pub use file::Error as FileError;
pub use journal::{DIRECTORY, Error as JournalError, Journal, Journals, last};
pub use preflight::{needs, needs_back};
pub use record::{Begun, Phase, Progress, Record, Settings};
pub use step::Before;
pub(crate) use subject::{Subject, after};

/// What is heard of a move while it is going on.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A step begins; the first is 0.
    Begins(usize, &'a Step),
    /// A step is done.
    Done(usize, &'a Step),
    /// A step is about to be taken back.
    Undoing(usize, &'a Step),
    /// A step is taken back.
    Undone(usize, &'a Step),
    /// Something about the step that is going on.
    Line(&'a str),
}

/// Why a step is not done, or not taken back.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// On the node, or in the cluster.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The target's pods, which have to be gone before the kubelet asks another runtime.
    #[error(
        "{why}; where {service} cannot be brought to do so, end it (systemctl stop {service}) and roll back once more: containers that it leaves running go with a reboot"
    )]
    Pods {
        /// The target's.
        service: &'static str,
        /// Why they are still there.
        why: Failure,
    },
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// kubeadm's ConfigMap is broken.
    #[error("the kubelet's configuration in kubeadm's ConfigMap: {0}")]
    Configuration(plan::Error),
    /// kubeadm's ConfigMap is being changed all the time.
    #[error(
        "the ConfigMap kube-system/{name} was changed by somebody else each time: resume later"
    )]
    Contended {
        /// Its name.
        name: String,
    },
}

/// How a move ended otherwise than well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// There is no plan after the package was installed.
    #[error(
        "step {number} ({step}) is done, and now there is no way on: {why}; go on with slipway migrate resume, or take all of it back with slipway migrate rollback"
    )]
    Plan {
        /// From 1.
        number: usize,
        /// What it was.
        step: String,
        /// Why not.
        why: plan::Error,
    },
    /// A step failed, and what was done is there.
    #[error(
        "step {number} ({step}): {why}; go on with slipway migrate resume, or take all of it back with slipway migrate rollback"
    )]
    Stopped {
        /// From 1.
        number: usize,
        /// What it was.
        step: String,
        /// Why.
        why: StepError,
    },
    /// A step failed, and all is as it was.
    #[error("{reason}; the node is what it was")]
    RolledBack {
        /// What failed.
        reason: String,
    },
    /// The way back was not begun: the cluster would not allow all of it, or did not answer.
    #[error(
        "{0}; nothing was taken back, and the move is where it was: mend that first, or take back all that can be with slipway migrate rollback --skip-preflight"
    )]
    NotTakenBack(PreflightError),
    /// Steps could not be taken back.
    #[error("not all could be taken back: {}; mend what keeps it and run slipway migrate rollback again", Listed(.0))]
    NotUndone(Vec<(usize, String, StepError)>),
}

struct Listed<'a>(&'a [(usize, String, StepError)]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (number, step, why)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "; " };
            write!(out, "{comma}step {number} ({step}): {why}")?;
        }
        Ok(())
    }
}

/// What is known of the kubelet between the steps that stop and start it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kubelet {
    /// A boot may have started it.
    Unknown,
    Stopped,
}

/// Carries a move out, or takes it back.
pub struct Mover<'a, H, C> {
    root: &'a Root,
    host: &'a H,
    control_plane: &'a C,
    journal: Journal,
    /// Where copies are kept of what people changed in between.
    aside: &'a Path,
    heard: &'a dyn Fn(Event<'_>),
}

impl<H, C> fmt::Debug for Mover<'_, H, C> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Mover")
            .field("journal", &self.journal)
            .finish_non_exhaustive()
    }
}

impl<'a, H: Host, C: ControlPlane> Mover<'a, H, C> {
    /// Goes on with a journal; `heard` is told what is being done.
    pub fn new(
        root: &'a Root,
        (journals, journal): (&'a Journals, Journal),
        host: &'a H,
        control_plane: &'a C,
        heard: &'a dyn Fn(Event<'_>),
    ) -> Self {
        Self {
            root,
            host,
            control_plane,
            journal,
            aside: journals.directory(),
            heard,
        }
    }

    /// What the journal says by now.
    pub fn record(&self) -> &Record {
        self.journal.record()
    }

    /// Goes on to the end from wherever the journal is: forwards, or backwards where that has been
    /// begun.
    ///
    /// # Errors
    ///
    /// The step that failed; with [`Settings::roll_back`] all is taken back then.
    pub async fn resume(&mut self) -> Result<(), Error> {
        match self.journal.record().phase.clone() {
            Phase::Applied | Phase::Cleaning | Phase::RolledBack { .. } => Ok(()),
            Phase::RollingBack { .. } => self.backwards().await,
            Phase::Applying => {
                let failed = match self.forwards().await {
                    Err(error @ (Error::Stopped { .. } | Error::Plan { .. })) => error,
                    other => return other,
                };
                if !self.journal.record().begun.settings.roll_back {
                    return Err(failed);
                }
                let reason = match failed {
                    Error::Stopped { number, step, why } => {
                        format!("step {number} ({step}): {why}")
                    }
                    Error::Plan { why, .. } => why.to_string(),
                    other => other.to_string(),
                };
                self.say(&format!("{reason}; all of it is taken back"));
                self.roll_back(&reason).await?;
                Err(Error::RolledBack { reason })
            }
        }
    }

    /// Takes all steps back that have begun, the last one first.
    ///
    /// # Errors
    ///
    /// What could not be taken back; all else is.
    pub async fn roll_back(&mut self, reason: &str) -> Result<(), Error> {
        match self.journal.record().phase {
            Phase::Applying | Phase::Applied => {
                let reason = reason.to_string();
                self.journal.add(&record::Entry::RollingBack { reason })?;
            }
            Phase::RollingBack { .. } => {}
            // Nothing is left, or nothing is left to go back to.
            Phase::RolledBack { .. } | Phase::Cleaning => return Ok(()),
        }
        self.backwards().await
    }

    async fn forwards(&mut self) -> Result<(), Error> {
        let mut kubelet = Kubelet::Unknown;
        while let Some(number) = self.journal.record().next() {
            let step = self.journal.record().steps[number].0.clone();
            (self.heard)(Event::Begins(number, &step));
            let stopped = |why: StepError| Error::Stopped {
                number: number + 1,
                step: step.to_string(),
                why,
            };
            if self.journal.record().is_without_kubelet(number) && kubelet == Kubelet::Unknown {
                self.stop_kubelet().await.map_err(stopped)?;
                kubelet = Kubelet::Stopped;
            }
            let before = if let Some(before) = self.journal.record().before(number) {
                before.clone()
            } else {
                let before = self.before(&step).await.map_err(stopped)?;
                let entry = record::Entry::Before {
                    step: number,
                    before: before.clone(),
                };
                self.journal.add(&entry)?;
                before
            };
            self.perform(&step, &before).await.map_err(stopped)?;
            if let Step::Install { .. } = step {
                self.plan_anew(number, &step).await?;
            }
            self.journal.add(&record::Entry::Done { step: number })?;
            (self.heard)(Event::Done(number, &step));
        }
        self.journal.add(&record::Entry::Ended)?;
        Ok(())
    }

    /// Plans what follows the installation of a package: files that came with it are to be changed
    /// as they are.
    async fn plan_anew(&mut self, number: usize, step: &Step) -> Result<(), Error> {
        let options = &self.journal.record().begun.options;
        let made = plan::make(self.root, options).await;
        let plan = made.map_err(|why| Error::Plan {
            number: number + 1,
            step: step.to_string(),
            why,
        })?;
        let done = &self.journal.record().steps[..=number];
        let steps = plan.steps.into_iter();
        let steps = steps.filter(|step| !done.iter().any(|(one, _)| one == step));
        let steps = steps.collect();
        self.journal.add(&record::Entry::Planned {
            after: number,
            steps,
        })?;
        Ok(())
    }

    async fn backwards(&mut self) -> Result<(), Error> {
        let mut failed = Vec::new();
        let mut kubelet = Kubelet::Unknown;
        let last = self.journal.record().last_begun();
        for number in (0..last.map_or(0, |last| last + 1)).rev() {
            let (step, _) = self.journal.record().steps[number].clone();
            let Some(before) = self.journal.record().before(number).cloned() else {
                continue;
            };
            (self.heard)(Event::Undoing(number, &step));
            let undone = async {
                if self.journal.record().is_without_kubelet(number) && kubelet == Kubelet::Unknown {
                    self.leave_target().await?;
                    kubelet = Kubelet::Stopped;
                }
                self.undo(&step, &before).await
            };
            match undone.await {
                Ok(()) => {
                    self.journal.add(&record::Entry::Undone { step: number })?;
                    (self.heard)(Event::Undone(number, &step));
                }
                Err(why) => {
                    self.say(&why.to_string());
                    failed.push((number + 1, step.to_string(), why));
                    // Pods have not left, or what the kubelet reads is not back: whatever follows
                    // would take their runtime away, or start it on one that goes.
                    if step == Step::Uncordon || self.journal.record().is_without_kubelet(number) {
                        break;
                    }
                }
            }
        }
        if failed.is_empty() {
            failed.extend(self.start_anew().await);
        }
        if !failed.is_empty() {
            return Err(Error::NotUndone(failed));
        }
        self.journal.add(&record::Entry::Ended)?;
        Ok(())
    }

    /// Has what ran before the move, and was started anew by it, read its files again as they were.
    async fn start_anew(&self) -> Vec<(usize, String, StepError)> {
        let mut failed = Vec::new();
        for (number, (step, progress)) in (1..).zip(&self.journal.record().steps) {
            let (Step::Start { unit }, Progress::Undone(Before::Unit(before))) = (step, progress)
            else {
                continue;
            };
            if unit == KUBELET || !before.active {
                continue;
            }
            let started = async {
                self.host.start(unit).await?;
                self.host.restore_unit(unit, before).await
            };
            if let Err(why) = started.await {
                failed.push((number, step.to_string(), why.into()));
            }
        }
        failed
    }

    fn target(&self) -> Target {
        self.journal.record().begun.plan.target
    }

    fn say(&self, line: &str) {
        (self.heard)(Event::Line(&secrets::hidden(line)));
    }
}
