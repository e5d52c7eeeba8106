//! What a move, and the way back, ask of the cluster: known before anything is begun.

use super::record::{Phase, Progress, Record};
use super::step::Before;
use super::{Error, Mover};
use crate::control_plane::{ControlPlane, Needs, PreflightError};
use crate::host::Host;
use crate::plan::{KUBELET, Plan, Step};

/// What a plan asks of the cluster.
pub fn needs(plan: &Plan) -> Needs {
    let has = |wanted: fn(&Step) -> bool| plan.steps.iter().any(wanted);
    Needs {
        drain: has(|step| *step == Step::Drain),
        config_map: has(|step| matches!(step, Step::ConfigMap { .. })),
        probe: has(|step| *step == Step::Probe),
    }
}

/// What taking a move back asks of the cluster, by the steps that have begun; nothing where none of
/// these has to do with it.
pub fn needs_back(record: &Record) -> Option<Needs> {
    let begun: Vec<_> = record
        .steps
        .iter()
        .filter_map(|(step, progress)| match progress {
            Progress::Begun(before) | Progress::Done(before) => Some((step, before)),
            Progress::Pending | Progress::Undone(_) => None,
        })
        .collect();
    let asks = |(step, _): &(&Step, &Before)| match step {
        Step::Cordon
        | Step::Uncordon
        | Step::Annotate { .. }
        | Step::ConfigMap { .. }
        | Step::Probe => true,
        Step::Stop { unit } => unit == KUBELET,
        _ => false,
    };
    if !begun.iter().any(asks) && !record.begun.settings.announce {
        return None;
    }
    let configured = |(step, before): &(&Step, &Before)| {
        let had_one = match before {
            Before::Configurations(found) => found.values().any(Option::is_some),
            _ => false,
        };
        matches!(step, Step::ConfigMap { .. }) && had_one
    };
    Some(Needs {
        // Pods are there again, and are evicted once more.
        drain: begun.iter().any(|(step, _)| **step == Step::Uncordon),
        config_map: begun.iter().any(configured),
        probe: begun.iter().any(|(step, _)| **step == Step::Probe),
    })
}

impl<H: Host, C: ControlPlane> Mover<'_, H, C> {
    /// Asks whether the cluster allows what [`roll_back`](Self::roll_back) will ask of it; the journal
    /// stays as it is. One that has been begun is not asked for: the node waits for the rest of it.
    ///
    /// # Errors
    ///
    /// [`Error::NotTakenBack`]. A cluster that does not answer is no error in the middle of a move that
    /// has stopped the kubelet: its API server may be a pod of this node, which the way back mends.
    pub async fn preflight_back(&self) -> Result<(), Error> {
        let record = self.record();
        if !matches!(record.phase, Phase::Applying | Phase::Applied) {
            return Ok(());
        }
        let Some(needs) = needs_back(record) else {
            return Ok(());
        };
        let has_stopped_kubelet = record.steps.iter().any(|(step, progress)| {
            let stops = matches!(step, Step::Stop { unit } if unit == KUBELET);
            stops && matches!(progress, Progress::Begun(_) | Progress::Done(_))
        });
        let in_the_middle = record.phase == Phase::Applying && has_stopped_kubelet;
        match self.control_plane.preflight(needs).await {
            Ok(()) => Ok(()),
            Err(PreflightError::Unanswered(why)) if in_the_middle => {
                self.say(&format!(
                    "{why}; that may be because the move has stopped the kubelet, so all that can be is taken back without asking"
                ));
                Ok(())
            }
            Err(why) => Err(Error::NotTakenBack(why)),
        }
    }
}
