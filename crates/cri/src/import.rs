//! `slipway.v1.Images`: images that come from elsewhere than a registry.

use std::io::{self, Cursor};
use std::sync::Arc;

use slipway_cri_api::slipway::images_server;
use slipway_cri_api::slipway::{ImportRequest, ImportResponse};
use slipway_engine::Engine;
use tokio_stream::StreamExt as _;
use tokio_util::io::StreamReader;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::detached::detached;

/// The service, over an engine.
pub(crate) struct Images {
    engine: Arc<dyn Engine>,
}

impl Images {
    pub(crate) fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine }
    }
}

#[async_trait]
impl images_server::Images for Images {
    async fn import(
        &self,
        request: Request<Streaming<ImportRequest>>,
    ) -> Result<Response<ImportResponse>, Status> {
        let mut messages = request.into_inner();
        let first = messages.message().await?.unwrap_or_default();
        let ImportRequest { id, names, archive } = first;
        if id.is_empty() {
            return Err(Status::invalid_argument(
                "ImportRequest.id is empty in the first message: it says which image of the archive \
                 is wanted",
            ));
        }
        let first = Ok(Cursor::new(archive));
        let others = messages.map(|message| match message {
            Ok(message) => Ok(Cursor::new(message.archive)),
            Err(status) => Err(io::Error::other(status)),
        });
        let pieces = tokio_stream::once(first).chain(others);
        let archive = Box::pin(StreamReader::new(pieces));
        let engine = Arc::clone(&self.engine);
        detached(async move { engine.import_image(&id, names, archive).await }).await?;
        Ok(Response::new(ImportResponse {}))
    }
}
