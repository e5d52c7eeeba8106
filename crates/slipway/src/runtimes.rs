//! The runtimes of a node that moves from one to another: pods are stopped where they are, images
//! given to where they are wanted.

mod docker_pods;
mod pods;

use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt as _;
use slipway_cri_api::slipway::images_client::ImagesClient;
use slipway_cri_api::slipway::ImportRequest;
use slipway_cri_api::v1::ListImagesRequest;
use slipway_cri_api::v1::image_service_client::ImageServiceClient;
use slipway_migrate::host::{DockerImage, DockerPods, Engines, Error, Progress};
use tokio::time::timeout;
use tonic::Code;

use crate::client::open;

/// A node can have thousands of images.
const LARGEST_MESSAGE: usize = 16 << 20;

/// How long an answer may take that nobody has to do anything for.
const ANSWER: Duration = Duration::from_mins(2);

/// Where there is a grace period, the kubelet has written it here (kubelet,
/// `newContainerAnnotations`).
const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// What a pod gets that does not say how long it takes to stop, in seconds.
const USUAL_GRACE: i64 = 30;

/// The runtimes of this node.
#[derive(Debug)]
pub(crate) struct Runtimes;

impl Engines for Runtimes {
    async fn stop_docker_pods(
        &self,
        docker: &DockerPods,
        progress: Progress<'_>,
    ) -> Result<(), Error> {
        docker_pods::stop(docker, progress).await
    }

    async fn remove_pods(
        &self,
        endpoint: &str,
        but_dockers: bool,
        progress: Progress<'_>,
    ) -> Result<(), Error> {
        pods::remove(endpoint, but_dockers, progress).await
    }

    async fn images(&self, endpoint: &str) -> Result<Vec<String>, Error> {
        let what = format!("list the images at {endpoint}");
        let failed = |error: &dyn std::fmt::Display| Error::new(&what, error);
        let channel = open(path(endpoint)).await.map_err(|error| failed(&reason(&error)))?;
        let mut client = ImageServiceClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
        let listed = timeout(ANSWER, client.list_images(ListImagesRequest::default()));
        let listed = listed.await.map_err(|_| failed(&overdue(ANSWER)))?;
        let listed = listed.map_err(|status| failed(&status.message()))?;
        let images = listed.into_inner().images.into_iter();
        Ok(images
            .flat_map(|image| [image.repo_tags, image.repo_digests].concat())
            .collect())
    }

    async fn import(&self, endpoint: &str, image: DockerImage) -> Result<(), Error> {
        let what = format!("give {} to {endpoint}", image.names.join(", "));
        let failed = |error: &dyn std::fmt::Display| Error::new(&what, error);
        let channel = open(path(endpoint)).await.map_err(|error| failed(&reason(&error)))?;
        let (told, broken) = tokio::sync::oneshot::channel();
        let first = ImportRequest {
            id: image.id,
            names: image.names,
            archive: Vec::new(),
        };
        let mut told = Some(told);
        let pieces = image.archive.map_while(move |piece| {
            let piece = piece.map_err(|error| told.take().map(|told| told.send(error)));
            let piece = piece.ok().map(|piece| ImportRequest {
                archive: piece.into(),
                ..ImportRequest::default()
            });
            std::future::ready(piece)
        });
        let requests = futures_util::stream::iter([first]).chain(pieces);
        let imported = ImagesClient::new(channel).import(requests).await;
        if let Ok(error) = broken.await {
            return Err(failed(&format!("Docker's archive broke off: {error}")));
        }
        match imported {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::Unimplemented => Err(failed(
                &"the slipway that runs there is older than this one, and cannot take images: restart it",
            )),
            Err(status) => Err(failed(&status.message())),
        }
    }
}

/// The socket of an endpoint.
fn path(endpoint: &str) -> &Path {
    Path::new(endpoint.strip_prefix("unix://").unwrap_or(endpoint))
}

/// The innermost cause: those around it only say that there is one.
fn reason(error: &tonic::transport::Error) -> String {
    let mut error: &dyn std::error::Error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn overdue(patience: Duration) -> String {
    format!("no answer after {} s", patience.as_secs())
}

/// How long a container of a pod may take to stop, in seconds.
fn grace(annotations: &std::collections::HashMap<String, String>) -> i64 {
    let said = annotations.get(GRACE).and_then(|said| said.parse().ok());
    said.filter(|said| *said >= 0).unwrap_or(USUAL_GRACE)
}
