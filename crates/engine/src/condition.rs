//! Whether an engine can run pods, as a kubelet reads it (CRI `RuntimeCondition`).

use slipway_cri_api::v1::RuntimeCondition;

/// The condition of this name: true, or not for a reason and with a message.
#[must_use]
pub fn condition(name: &str, problem: Option<(&str, String)>) -> RuntimeCondition {
    let status = problem.is_none();
    let (reason, message) = problem.unwrap_or_default();
    RuntimeCondition {
        r#type: name.to_owned(),
        status,
        reason: reason.to_owned(),
        message,
    }
}

/// Whether pods can get a network.
#[must_use]
pub fn network_condition<E: std::error::Error>(ready: Result<(), E>) -> RuntimeCondition {
    let problem = ready.err().map(|error| error.to_string());
    condition(
        "NetworkReady",
        problem.map(|message| ("NetworkPluginNotReady", message)),
    )
}
