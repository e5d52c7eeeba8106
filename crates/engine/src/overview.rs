//! What there is to say of an engine to whoever wants to leave it.

use slipway_cri_api::slipway;
use slipway_cri_api::v1::{PodSandbox, PodSandboxState};

use crate::{Engine, Result, Verbosity};

/// An engine called `name` that gets new pods, with its pods and what is wrong with it.
///
/// # Errors
///
/// When it does not know which pods it has.
pub async fn overview(name: &str, engine: &dyn Engine) -> Result<slipway::Engine> {
    let trouble = match engine.status(Verbosity::Plain).await {
        Ok(status) => {
            let conditions = status.status.unwrap_or_default().conditions;
            let broken = conditions.into_iter().find(|condition| !condition.status);
            broken.map_or(String::new(), |condition| condition.message)
        }
        Err(error) => error.to_string(),
    };
    Ok(slipway::Engine {
        name: name.to_owned(),
        takes_new_pods: true,
        trouble,
        pods: engine.list_pods(None).await?.into_iter().map(pod).collect(),
    })
}

fn pod(pod: PodSandbox) -> slipway::EnginePod {
    let ready = pod.state() == PodSandboxState::SandboxReady;
    let metadata = pod.metadata.unwrap_or_default();
    slipway::EnginePod {
        id: pod.id,
        name: metadata.name,
        namespace: metadata.namespace,
        attempt: metadata.attempt,
        ready,
        unknown: false,
        created_at: pod.created_at,
    }
}
