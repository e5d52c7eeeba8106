//! `slipway.v1.Engines`: which engines there are, for people who want to leave one.

use std::sync::Arc;

use slipway_cri_api::slipway::engines_server;
use slipway_cri_api::slipway::{ListEnginesRequest, ListEnginesResponse};
use slipway_engine::Engine;
use tonic::{Request, Response, Status, async_trait};

use crate::status::status;

/// The service, over an engine.
pub(crate) struct Engines {
    engine: Arc<dyn Engine>,
}

impl Engines {
    pub(crate) fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine }
    }
}

#[async_trait]
impl engines_server::Engines for Engines {
    async fn list(
        &self,
        _: Request<ListEnginesRequest>,
    ) -> Result<Response<ListEnginesResponse>, Status> {
        let engines = self.engine.engines().await;
        let engines = engines.map_err(|error| status(&error))?;
        Ok(Response::new(ListEnginesResponse { engines }))
    }
}
