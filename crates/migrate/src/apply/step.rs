//! What each step does, what has to be known before it, and how it is taken back.

use serde::{Deserialize, Serialize};

use super::configuration::Configurations;
use super::file::{self, FileState};
use super::subject::Subject;
use super::{Mover, StepError};
use crate::control_plane::ControlPlane;
use crate::host::{Host, KernelState, NetworkState, UnitState};
use crate::plan::{KUBELET, Step, Target};

/// What was there before a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Before {
    /// There is nothing to take back.
    Nothing,
    /// Whether the Node took no new pods.
    Cordoned(bool),
    /// Whether a package was there.
    Installed(bool),
    /// A unit.
    Unit(UnitState),
    /// A file, beside its bytes.
    File(FileState),
    /// The kernel.
    Kernel(KernelState),
    /// An annotation.
    Annotation(Option<String>),
    /// The kubelet's configuration for new nodes: what ConfigMaps said, by their names. Nothing of one that
    /// was not there.
    Configurations(Configurations),
    /// In journals of before: that of the ConfigMap that the step names.
    Configuration(Option<String>),
    /// What Docker had in the network.
    Network(NetworkState),
}

impl Before {
    /// As it is written today, where an older journal says it of a step.
    pub(super) fn of(self, step: &Step) -> Self {
        match (self, step) {
            (
                Self::Configuration(text),
                Step::ConfigMap {
                    name: Some(name), ..
                },
            ) => Self::Configurations([(name.clone(), text)].into()),
            (before, _) => before,
        }
    }
}

impl<H: Host, C: ControlPlane> Mover<'_, H, C> {
    /// What there is that a step is going to change.
    pub(super) async fn before(&self, step: &Step) -> Result<Before, StepError> {
        match Subject::of(step) {
            Some(Subject::Unit(name)) => {
                return Ok(Before::Unit(self.host.unit_to_keep(name).await?));
            }
            Some(Subject::Field(field)) => {
                let kubelet = self.journal.record().begun.plan.kubelet;
                return Ok(field.look(self.control_plane, kubelet).await?);
            }
            None => {}
        }
        Ok(match step {
            Step::Install { package } => {
                let say = &|line: &str| self.say(line);
                Before::Installed(self.host.has_package(package, say).await?)
            }
            Step::File(change) => Before::File(file::state(self.root, change)?),
            Step::Kernel {
                modules,
                parameters,
            } => Before::Kernel(self.host.kernel(modules, parameters).await?),
            Step::CleanNetwork => Before::Network(self.host.network().await?),
            _ => Before::Nothing,
        })
    }

    /// Does a step, also one that was cut off while it was done.
    pub(super) async fn perform(&self, step: &Step, before: &Before) -> Result<(), StepError> {
        let settings = &self.journal.record().begun.settings;
        let say = &|line: &str| self.say(line);
        match step {
            Step::Cordon => self.control_plane.set_cordoned(true).await?,
            Step::Drain => self.control_plane.drain(settings.drain, say).await?,
            Step::Install { package } => self.host.install(package, say).await?,
            Step::Stop { unit } => self.host.stop(unit).await?,
            Step::File(change) => {
                if let Before::File(state) = before {
                    file::write(change, state)?;
                }
            }
            Step::Reload => self.host.reload().await?,
            Step::Kernel {
                modules,
                parameters,
            } => self.host.set_kernel(modules, parameters).await?,
            Step::CarryImages => self.host.carry_images(self.target(), say).await?,
            Step::StopPods { endpoint: None } => self.host.stop_pods(say).await?,
            Step::StopPods {
                endpoint: Some(endpoint),
            } => self.host.remove_pods(endpoint, false, say).await?,
            Step::Start { unit } => self.host.start(unit).await?,
            Step::Annotate { key, value } => {
                self.control_plane.set_annotation(key, Some(value)).await?;
            }
            Step::ConfigMap { settings, .. } => {
                if let Before::Configurations(found) = before {
                    self.configure(found, settings).await?;
                }
            }
            Step::Await { runtime } => {
                let ready = self.control_plane.wait_ready(runtime, settings.ready, say);
                ready.await?;
            }
            Step::Probe => self.control_plane.probe(settings.ready, say).await?,
            Step::Disable { unit } => {
                if let Before::Unit(state) = before {
                    self.host.disable(unit, state).await?;
                }
            }
            Step::CleanNetwork => self.host.clean_network(say).await?,
            Step::Uncordon => {
                let cordoned = self.was_cordoned();
                self.control_plane.set_cordoned(cordoned).await?;
            }
        }
        Ok(())
    }

    /// Takes a step back that was done, or begun.
    pub(super) async fn undo(&self, step: &Step, before: &Before) -> Result<(), StepError> {
        let settings = &self.journal.record().begun.settings;
        let say = &|line: &str| self.say(line);
        match (step, before) {
            (Step::Uncordon, _) => {
                // Pods are here again, and are asked to leave as they were the first time.
                self.control_plane.set_cordoned(true).await?;
                self.control_plane.drain(settings.drain, say).await?;
            }
            (Step::Cordon, Before::Cordoned(cordoned)) => {
                self.control_plane.set_cordoned(*cordoned).await?;
            }
            (Step::Install { package }, Before::Installed(false)) => {
                self.host.remove(package, say).await?;
            }
            // It is stopped already, and the step that stopped it knows what it was.
            (Step::Start { unit }, _) if unit == KUBELET => {}
            (Step::Stop { unit }, Before::Unit(unit_before)) if unit == KUBELET => {
                self.host.restore_unit(unit, unit_before).await?;
                self.wait_as_before(say).await?;
            }
            (
                Step::Stop { unit } | Step::Start { unit } | Step::Disable { unit },
                Before::Unit(unit_before),
            ) => self.host.restore_unit(unit, unit_before).await?,
            (Step::File(change), Before::File(state)) => {
                if let Some(kept) = file::restore(change, state, self.aside)? {
                    self.say(&format!(
                        "{} had been changed by somebody else: that is kept in {}",
                        change.path.display(),
                        kept.display()
                    ));
                }
                if change.is_of_units() {
                    self.host.reload().await?;
                }
            }
            (Step::Kernel { .. }, Before::Kernel(kernel)) => {
                self.host.restore_kernel(kernel).await?;
            }
            (Step::Annotate { key, value }, Before::Annotation(annotation)) => {
                let now = self.control_plane.annotation(key).await?;
                // Whoever has set another one since then knows more.
                let annotation = annotation.as_deref();
                if now.as_ref() == Some(value) {
                    self.control_plane.set_annotation(key, annotation).await?;
                }
            }
            (Step::ConfigMap { settings, .. }, Before::Configurations(found)) => {
                self.restore_configurations(found, settings).await?;
            }
            (Step::Probe, _) => self.control_plane.remove_probe().await?,
            (Step::CarryImages | Step::StopPods { endpoint: None }, _) => {
                self.host.forget().await?;
            }
            (Step::CleanNetwork, Before::Network(network)) => {
                self.host.restore_network(network).await?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the Node took no pods before any of this.
    fn was_cordoned(&self) -> bool {
        let steps = &self.journal.record().steps;
        let first = steps.iter().position(|(step, _)| *step == Step::Cordon);
        let before = first.and_then(|step| self.journal.record().before(step));
        before == Some(&Before::Cordoned(true))
    }

    /// Stops the kubelet, which a boot may have started in the middle of the move.
    pub(super) async fn stop_kubelet(&self) -> Result<(), StepError> {
        Ok(self.host.stop(KUBELET).await?)
    }

    /// Stops the kubelet for the way back, and removes the pods that the target runs: it will not be
    /// asked again.
    pub(super) async fn leave_target(&self) -> Result<(), StepError> {
        self.stop_kubelet().await?;
        let say = &|line: &str| self.say(line);
        let target = self.target();
        if target == Target::CriDockerd {
            return Ok(());
        }
        let beside_docker = !self.journal.record().begun.plan.drain;
        let removed = self.host.remove_pods(target.endpoint(), beside_docker, say);
        removed.await.map_err(|why| StepError::Pods {
            service: target.service(),
            why,
        })
    }

    /// Waits until the Node is Ready as it was, so that the API server is back on a control plane.
    async fn wait_as_before(&self, say: crate::host::Progress<'_>) -> Result<(), StepError> {
        let begun = &self.journal.record().begun;
        if begun.was_ready {
            let runtime = begun.plan.from.as_str();
            let ready = begun.settings.ready;
            self.control_plane.wait_ready(runtime, ready, say).await?;
        }
        Ok(())
    }
}
