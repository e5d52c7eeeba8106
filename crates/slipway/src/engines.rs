//! Which engines run the pods, and what a reload puts into force in them.

use std::sync::Arc;

use clap::ValueEnum;
use futures_util::StreamExt as _;
use prometheus_client::registry::Registry;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use slipway_cri_api::v1::ImageSpec;
use slipway_docker_engine::DockerEngine;
use slipway_engine::{CarryOver, Census, Engine, Error, Leaving, Result, Router, Verbosity};
use slipway_native::Native;

use crate::config::Config;

/// What runs pods.
// What its comments say is what an administrator reads in the configuration's reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct EngineConfig {
    /// What new pods are made with.
    #[schemars(extend("x-restart" = true))]
    pub(crate) name: EngineName,
    /// Another engine, which keeps the pods that it has until they end: `docker` beside `native`,
    /// so that a node leaves Docker without being drained.
    #[schemars(extend("x-restart" = true), example = &"docker")]
    pub(crate) also: Option<EngineName>,
    /// Whether an image that only the other engine has is taken from there, verified, when a new
    /// pod wants it. Otherwise it is not there for new pods, and is pulled.
    #[schemars(extend("x-restart" = true))]
    pub(crate) carry_images_over: bool,
    pub(crate) docker: slipway_docker_engine::Config,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            name: EngineName::Native,
            also: None,
            carry_images_over: true,
            docker: slipway_docker_engine::Config::default(),
        }
    }
}

impl EngineConfig {
    /// Looks for values that cannot be used, or not together. Each is told to `complain`, by its
    /// key in this table and in a sentence.
    pub(crate) fn check(&self, complain: &mut dyn FnMut(&str, String)) {
        match (self.name, self.also) {
            (_, None) | (EngineName::Native, Some(EngineName::Docker)) => {}
            (name, Some(also)) if name == also => complain(
                "also",
                format!("it is {also:?}, which new pods go to already; leave it out")
                    .to_lowercase(),
            ),
            (_, Some(_)) => complain(
                "also",
                "pods are moved from Docker, not to it: it can only be \"docker\", beside name = \
                 \"native\""
                    .to_owned(),
            ),
        }
        self.docker
            .check(&mut |key, reason| complain(&format!("docker.{key}"), reason));
    }
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

/// The engines of this daemon.
pub(crate) struct Started {
    native: Option<Arc<Native>>,
    docker: Option<Arc<DockerEngine>>,
    /// As those see them who only use them.
    pub(crate) engine: Arc<dyn Engine>,
    counts: Counts,
}

/// What is counted of all engines together.
#[derive(Default)]
struct Counts {
    census: Census,
    network: slipway_network::Metrics,
}

impl Started {
    /// Starts what the configuration names.
    pub(crate) async fn new(config: &Config) -> Result<Self> {
        let counts = Counts::default();
        Ok(match (config.engine.name, config.engine.also) {
            (EngineName::Native, None) => {
                let native = native(config, &counts).await?;
                Self {
                    engine: Arc::clone(&native) as _,
                    native: Some(native),
                    docker: None,
                    counts,
                }
            }
            (EngineName::Docker, _) => {
                let docker = docker(config, &counts).await?;
                Self {
                    engine: Arc::clone(&docker) as _,
                    native: None,
                    docker: Some(docker),
                    counts,
                }
            }
            (EngineName::Native, Some(_)) => {
                let native = native(config, &counts).await?;
                let docker = docker(config, &counts).await?;
                tokio::spawn(tell_of_the_last(Arc::clone(&docker)));
                Self {
                    engine: Arc::new(router(config, &native, &docker)),
                    native: Some(native),
                    docker: Some(docker),
                    counts,
                }
            }
        })
    }

    /// Adds what is told of the engines to what Prometheus can ask for.
    pub(crate) fn register_metrics(&self, registry: &mut Registry) {
        self.counts.census.register(registry);
        self.counts.network.register(registry);
        if let Some(native) = &self.native {
            native.register_metrics(registry);
        }
    }

    /// Puts into force what takes no restart.
    pub(crate) async fn reload(&self, config: &Config) -> Result<()> {
        if let Some(native) = &self.native {
            let (runtime, image) = (config.runtime.clone(), config.image.clone());
            let network = config.network.clone();
            native.reload(runtime, image, network).await?;
        }
        if let Some(docker) = &self.docker {
            docker.reload(config.network.clone());
        }
        Ok(())
    }
}

async fn native(config: &Config, counts: &Counts) -> Result<Arc<Native>> {
    let settings = slipway_native::Settings {
        root: config.root.clone(),
        state: config.state.clone(),
        runtime: config.runtime.clone(),
        image: config.image.clone(),
        network: config.network.clone(),
        census: counts.census.clone(),
        network_metrics: counts.network.clone(),
    };
    Ok(Arc::new(Native::open(settings).await?))
}

async fn docker(config: &Config, counts: &Counts) -> Result<Arc<DockerEngine>> {
    let settings = slipway_docker_engine::Settings {
        root: config.root.clone(),
        state: config.state.clone(),
        docker: config.engine.docker.clone(),
        network: config.network.clone(),
        census: counts.census.clone(),
        network_metrics: counts.network.clone(),
        writes_logs: true,
        remembers: true,
    };
    Ok(Arc::new(DockerEngine::open(settings).await?))
}

fn router(config: &Config, native: &Arc<Native>, docker: &Arc<DockerEngine>) -> Router {
    let leaves = Leaving {
        name: "Docker",
        engine: Arc::clone(docker) as _,
    };
    let carry_over = config.engine.carry_images_over.then(|| {
        Box::new(FromDocker {
            native: Arc::clone(native),
            docker: Arc::clone(docker),
        }) as Box<dyn CarryOver>
    });
    Router::new(Arc::clone(native) as _, leaves, carry_over)
}

/// Images of Docker's, for new pods.
struct FromDocker {
    native: Arc<Native>,
    docker: Arc<DockerEngine>,
}

#[tonic::async_trait]
impl CarryOver for FromDocker {
    async fn carry(&self, image: &str) -> Result<()> {
        let spec = ImageSpec {
            image: image.to_owned(),
            ..ImageSpec::default()
        };
        let status = self.docker.image_status(spec, Verbosity::Plain).await?;
        let Some(found) = status.image else {
            return Err(Error::not_found(format!("image {image} is not in Docker")));
        };
        let names = [found.repo_tags, found.repo_digests].concat();
        let archive = Box::pin(self.docker.export_image(&found.id)?);
        let imported = self.native.import_image(&found.id, names, archive).await;
        imported.map_err(|error| {
            error.context(format!("image {image} could not be taken over from Docker"))
        })?;
        tracing::info!(image, id = found.id, "taken over from Docker");
        Ok(())
    }
}

/// Says so when Docker has lost its last pod.
async fn tell_of_the_last(docker: Arc<DockerEngine>) {
    let mut events = docker.container_events();
    let mut left = true;
    loop {
        if let Ok(pods) = docker.list_pods(None).await {
            if left && pods.is_empty() {
                tracing::info!(
                    "no pod is left in Docker: it can be stopped, and the configuration needs no \
                     engine.also any more"
                );
            }
            left = !pods.is_empty();
        }
        if events.next().await.is_none() {
            events = docker.container_events();
        }
    }
}
