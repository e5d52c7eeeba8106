//! The node's side of a rollout: it says in an annotation how far it has come.

use std::convert::Infallible;

use tokio::sync::watch;

use super::state::{ANNOTATION, Phase, State};
use crate::apply::{Event, Record};
use crate::control_plane::{ControlPlane, Error};
use crate::plan::Target;

/// Says how far a move has come. While the API server is away nothing is said, and the move goes on.
#[derive(Debug)]
pub struct Announcer<'a, C> {
    control_plane: &'a C,
    target: Target,
    latest: watch::Sender<Option<Phase>>,
}

impl<'a, C: ControlPlane> Announcer<'a, C> {
    /// For the move of a node to `target`.
    pub fn new(control_plane: &'a C, target: Target) -> Self {
        Self {
            control_plane,
            target,
            latest: watch::Sender::new(None),
        }
    }

    /// Takes note of what happens, of `steps`; [`run`](Self::run) says it.
    pub fn note(&self, event: Event<'_>, steps: usize) {
        let phase = match event {
            Event::Begins(number, step) => Phase::Applying {
                step: number + 1,
                of: steps,
                doing: step.to_string(),
            },
            Event::Undoing(_, step) => Phase::RollingBack {
                reason: format!("taking back: {step}"),
            },
            Event::Done(..) | Event::Undone(..) | Event::Line(_) => return,
        };
        self.latest.send_replace(Some(phase));
    }

    /// Says what was noted last, as long as it is polled.
    pub async fn run(&self) -> Infallible {
        let mut latest = self.latest.subscribe();
        loop {
            let phase = latest.borrow_and_update().clone();
            if let Some(phase) = phase {
                // What comes next says more than this would.
                let _ = self.say(phase).await;
            }
            // The sender is ours.
            let _ = latest.changed().await;
        }
    }

    /// Says how it ended: with the journal's record where it has begun, and with what is wrong.
    ///
    /// # Errors
    ///
    /// When the API server does not answer in time.
    pub async fn end(&self, record: Option<&Record>, wrong: Option<&str>) -> Result<(), Error> {
        use crate::apply::Phase as Journalled;
        let reason = wrong.unwrap_or("it was interrupted").to_string();
        self.say(match record.map(|record| &record.phase) {
            None => Phase::TakenBack { reason },
            Some(Journalled::Applied | Journalled::Cleaning) => Phase::Applied,
            Some(Journalled::RolledBack { reason }) => Phase::TakenBack {
                reason: reason.clone(),
            },
            Some(Journalled::Applying | Journalled::RollingBack { .. }) => {
                Phase::Stopped { reason }
            }
        })
        .await
    }

    async fn say(&self, phase: Phase) -> Result<(), Error> {
        let state = State {
            target: self.target,
            phase,
        };
        let text = state.to_text();
        self.control_plane
            .set_annotation(ANNOTATION, Some(&text))
            .await
    }
}
