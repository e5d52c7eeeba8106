//! Which engine runs the pods, and what a reload puts into force in it.

use std::sync::Arc;

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use slipway_docker_engine::DockerEngine;
use slipway_engine::Engine;
use slipway_native::Native;

use crate::config::Config;

/// What runs pods.
// What its comments say is what an administrator reads in the configuration's reference.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct EngineConfig {
    /// What pods are made with.
    #[schemars(extend("x-restart" = true))]
    pub(crate) name: EngineName,
    pub(crate) docker: slipway_docker_engine::Config,
}

/// What pods are made with.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EngineName {
    /// This node's own kernel.
    #[default]
    Native,
    /// A Docker Engine that is there already, as dockershim did it.
    Docker,
}

/// The engine of this daemon.
pub(crate) enum Started {
    Native(Arc<Native>),
    Docker(Arc<DockerEngine>),
}

impl Started {
    /// Starts what the configuration names.
    pub(crate) async fn new(config: &Config) -> slipway_engine::Result<Self> {
        Ok(match config.engine.name {
            EngineName::Native => {
                let settings = slipway_native::Settings {
                    root: config.root.clone(),
                    state: config.state.clone(),
                    runtime: config.runtime.clone(),
                    image: config.image.clone(),
                    network: config.network.clone(),
                };
                Self::Native(Arc::new(Native::open(settings).await?))
            }
            EngineName::Docker => {
                let settings = slipway_docker_engine::Settings {
                    root: config.root.clone(),
                    state: config.state.clone(),
                    docker: config.engine.docker.clone(),
                    network: config.network.clone(),
                };
                Self::Docker(Arc::new(DockerEngine::open(settings).await?))
            }
        })
    }

    /// As those see it who only use it.
    pub(crate) fn engine(&self) -> Arc<dyn Engine> {
        match self {
            Self::Native(native) => Arc::clone(native) as _,
            Self::Docker(docker) => Arc::clone(docker) as _,
        }
    }

    /// Puts into force what takes no restart.
    pub(crate) async fn reload(&self, config: &Config) -> slipway_engine::Result<()> {
        let network = config.network.clone();
        match self {
            Self::Native(native) => {
                let (runtime, image) = (config.runtime.clone(), config.image.clone());
                native.reload(runtime, image, network).await
            }
            Self::Docker(docker) => {
                docker.reload(network);
                Ok(())
            }
        }
    }
}
