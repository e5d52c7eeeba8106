//! What a node says of its move, in an annotation of its Node.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plan::Target;

/// Where it is said.
pub const ANNOTATION: &str = "migrate.slipway/state";

/// A move, as its node tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// What the node moves to.
    pub target: Target,
    /// How far it has come.
    #[serde(flatten)]
    pub phase: Phase,
}

/// How far a move has come. What is not known here is of another version, and in progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case")]
pub enum Phase {
    /// The node has been asked to move, and has not said anything yet.
    Asked,
    /// Steps are being done.
    Applying {
        /// From 1.
        step: usize,
        /// So many there are.
        of: usize,
        /// What the step does.
        doing: String,
    },
    /// Steps are being taken back.
    RollingBack {
        /// Why.
        reason: String,
    },
    /// The move is over, and went well.
    Applied,
    /// The move is over, and the node is what it was.
    TakenBack {
        /// Why.
        reason: String,
    },
    /// The node was left in the middle of it.
    Stopped {
        /// Why.
        reason: String,
    },
}

impl State {
    /// What a Node says; nothing where it says nothing that can be understood.
    pub(super) fn of(node: &Value) -> Option<Self> {
        let text = node["metadata"]["annotations"][ANNOTATION].as_str()?;
        serde_json::from_str(text).ok()
    }

    /// Whether somebody works on it.
    pub(super) fn is_going_on(&self) -> bool {
        matches!(
            self.phase,
            Phase::Asked | Phase::Applying { .. } | Phase::RollingBack { .. }
        )
    }

    pub(super) fn is_stopped(&self) -> bool {
        matches!(self.phase, Phase::Stopped { .. })
    }

    /// The annotation's value.
    pub(super) fn to_text(&self) -> String {
        serde_json::to_string(self).expect("names and texts are JSON")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_node_says_is_understood() {
        let state = State {
            target: Target::CriDockerd,
            phase: Phase::Applying {
                step: 3,
                of: 20,
                doing: "stop kubelet.service".to_string(),
            },
        };
        let text = state.to_text();
        assert_eq!(
            text,
            r#"{"target":"cri-dockerd","phase":"applying","step":3,"of":20,"doing":"stop kubelet.service"}"#
        );
        let node = |text: &str| json!({ "metadata": { "annotations": { ANNOTATION: text } } });
        assert_eq!(State::of(&node(&text)), Some(state));
        assert_eq!(State::of(&node("{}")), None);
        assert_eq!(State::of(&json!({})), None);
    }
}
