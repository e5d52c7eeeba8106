//! `slipway.v1.Pulls`: the progress of pulls, for people who wait for them.

use std::sync::Arc;

use slipway_cri_api::slipway::pulls_server;
use slipway_cri_api::slipway::{PullProgress, WatchRequest};
use slipway_engine::Engine;
use tokio_stream::StreamExt as _;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, async_trait};

/// The service, over an engine.
pub(crate) struct Pulls {
    engine: Arc<dyn Engine>,
}

impl Pulls {
    pub(crate) fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine }
    }
}

#[async_trait]
impl pulls_server::Pulls for Pulls {
    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<BoxStream<PullProgress>>, Status> {
        let image = request.into_inner().image;
        Ok(Response::new(Box::pin(
            self.engine.watch_pull(&image).map(Ok),
        )))
    }
}
