//! What a step changes of which can be told beforehand what it will be: units, and fields of objects in
//! the cluster. Whoever carries a move out looks at them here, and whoever only shows it.

use super::StepError;
use super::configuration::{self, configured};
use super::step::Before;
use crate::control_plane::{ControlPlane, SYSTEM};
use crate::host::{self, Enablement, MASKED};
use crate::node::Version;
use crate::plan::Step;

/// One thing, however many steps change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject<'a> {
    /// A unit of systemd, by its name.
    Unit(&'a str),
    /// A field of an object.
    Field(Field<'a>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field<'a> {
    /// Node `spec.unschedulable`.
    Unschedulable,
    /// An annotation of the Node, by its key.
    Annotation(&'a str),
    /// The kubelet's configuration in kubeadm's ConfigMaps.
    Configurations,
}

impl<'a> Subject<'a> {
    pub(crate) fn of(step: &'a Step) -> Option<Self> {
        match step {
            Step::Stop { unit } | Step::Start { unit } | Step::Disable { unit } => {
                Some(Self::Unit(unit))
            }
            Step::Cordon | Step::Uncordon => Some(Self::Field(Field::Unschedulable)),
            Step::Annotate { key, .. } => Some(Self::Field(Field::Annotation(key))),
            Step::ConfigMap { .. } => Some(Self::Field(Field::Configurations)),
            Step::Drain
            | Step::Install { .. }
            | Step::File(_)
            | Step::Reload
            | Step::Kernel { .. }
            | Step::CarryImages
            | Step::StopPods { .. }
            | Step::Await { .. }
            | Step::Probe
            | Step::CleanNetwork => None,
        }
    }

    /// What it is called, `node` being the Node.
    pub(crate) fn name(self, node: Option<&str>) -> String {
        let node = || node.map_or_else(|| "the Node".to_string(), |node| format!("Node {node}"));
        match self {
            Self::Unit(name) => name.to_string(),
            Self::Field(Field::Unschedulable) => format!("{}, spec.unschedulable", node()),
            Self::Field(Field::Annotation(key)) => format!("{}, annotation {key}", node()),
            Self::Field(Field::Configurations) => {
                format!("kubeadm's ConfigMap {SYSTEM}/kubelet-config")
            }
        }
    }
}

impl Field<'_> {
    /// What the cluster says by now; the node has this kubelet.
    pub(crate) async fn look<C: ControlPlane>(
        self,
        control_plane: &C,
        kubelet: Version,
    ) -> Result<Before, crate::control_plane::Error> {
        Ok(match self {
            Self::Unschedulable => Before::Cordoned(control_plane.is_cordoned().await?),
            Self::Annotation(key) => Before::Annotation(control_plane.annotation(key).await?),
            Self::Configurations => {
                Before::Configurations(configuration::look(control_plane, kubelet).await?)
            }
        })
    }
}

/// What a step makes of its subject; `first` is what that was before all steps.
///
/// # Errors
///
/// Why the step fails.
pub(crate) fn after(step: &Step, before: &Before, first: &Before) -> Result<Before, StepError> {
    Ok(match (step, before) {
        (Step::Cordon, _) => Before::Cordoned(true),
        // A node that took no pods before takes none afterwards.
        (Step::Uncordon, _) => first.clone(),
        (Step::Stop { .. }, Before::Unit(unit)) => Before::Unit(unit.stopped()),
        (Step::Disable { .. }, Before::Unit(unit)) => Before::Unit(unit.disabled()),
        (Step::Start { unit: name }, Before::Unit(unit)) => {
            if unit.enablement == Enablement::Masked {
                return Err(host::Error::new(format!("start {name}"), MASKED).into());
            }
            Before::Unit(unit.started())
        }
        (Step::Annotate { value, .. }, _) => Before::Annotation(Some(value.clone())),
        (Step::ConfigMap { settings, .. }, Before::Configurations(found)) => {
            let mut found = found.clone();
            for text in found.values_mut().flatten() {
                if let Some(wanted) = configured(text, settings)? {
                    *text = wanted;
                }
            }
            Before::Configurations(found)
        }
        (_, before) => before.clone(),
    })
}
