//! `runtime.v1.ImageService`.

use std::sync::Arc;

use slipway_cri_api::v1::image_service_server::ImageService;
use slipway_cri_api::v1::{
    ImageFsInfoRequest, ImageFsInfoResponse, ImageStatusRequest, ImageStatusResponse,
    ListImagesRequest, ListImagesResponse, PullImageRequest, PullImageResponse, RemoveImageRequest,
    RemoveImageResponse, StreamImagesRequest, StreamImagesResponse,
};
use slipway_engine::{Engine, PodName};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, async_trait};

use crate::chunks;
use crate::detached::detached;
use crate::request::required;
use crate::runtime::verbosity;
use crate::status::status;

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
impl ImageService for Images {
    async fn list_images(
        &self,
        request: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        let wanted = request.into_inner().filter.and_then(|filter| filter.image);
        let images = self
            .engine
            .list_images(wanted)
            .await
            .map_err(|error| status(&error))?;
        Ok(Response::new(ListImagesResponse { images }))
    }

    async fn stream_images(
        &self,
        request: Request<StreamImagesRequest>,
    ) -> Result<Response<BoxStream<StreamImagesResponse>>, Status> {
        let wanted = request.into_inner().filter.and_then(|filter| filter.image);
        let list = self.engine.list_images(wanted).await;
        chunks::answer(list, |images| StreamImagesResponse { images })
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Result<Response<ImageStatusResponse>, Status> {
        let ImageStatusRequest { image, verbose } = request.into_inner();
        let image = required(image, "ImageStatusRequest.image")?;
        let answer = self.engine.image_status(image, verbosity(verbose)).await;
        answer.map(Response::new).map_err(|error| status(&error))
    }

    async fn pull_image(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<PullImageResponse>, Status> {
        let PullImageRequest {
            image,
            auth,
            sandbox_config,
        } = request.into_inner();
        let image = required(image, "PullImageRequest.image")?;
        // It is a hint: what pulls by hand has half of one, or none.
        let pod = sandbox_config.and_then(|config| PodName::of(&config).ok());
        let engine = Arc::clone(&self.engine);
        let pulled = detached(async move { engine.pull_image(image, auth, pod).await });
        let image_ref = pulled.await?;
        Ok(Response::new(PullImageResponse { image_ref }))
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        let image = required(request.into_inner().image, "RemoveImageRequest.image")?;
        let engine = Arc::clone(&self.engine);
        detached(async move { engine.remove_image(image).await }).await?;
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<ImageFsInfoRequest>,
    ) -> Result<Response<ImageFsInfoResponse>, Status> {
        self.engine
            .image_fs_info()
            .await
            .map(Response::new)
            .map_err(|error| status(&error))
    }
}
