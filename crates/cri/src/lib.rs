//! CRI v1 over gRPC: what a kubelet talks to.
//!
//! The services translate: a request is checked, handed to an [`Engine`], and what comes back is
//! put into CRI's words. No state is kept here. A call that Slipway does not have yet is answered
//! with `UNIMPLEMENTED`.
#![forbid(unsafe_code)]

mod authority;
mod detached;
mod image;
mod metrics;
mod pulls;
mod request;
mod runtime;
mod status;

use std::future::Future;
use std::sync::Arc;

use slipway_cri_api::slipway::pulls_server::PullsServer;
use slipway_cri_api::v1::image_service_server::ImageServiceServer;
use slipway_cri_api::v1::runtime_service_server::RuntimeServiceServer;
use slipway_engine::Engine;
use tokio::net::UnixListener;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnixListenerStream;

use authority::Lenient;
pub use metrics::CallMetrics;

/// The largest message that is accepted or sent, in bytes: what kubelets and crictl use.
pub const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// Serves an engine on a socket until `shutdown` ends; calls that are under way then are finished.
///
/// `runtime_version` is what Version answers, and so what `kubectl get nodes` shows.
///
/// # Errors
///
/// When the transport fails as a whole; a client that misbehaves only loses its connection.
pub async fn serve(
    listener: UnixListener,
    engine: Arc<dyn Engine>,
    runtime_version: &str,
    calls: CallMetrics,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let runtime = runtime::Runtime::new(Arc::clone(&engine), runtime_version.to_owned());
    let images = image::Images::new(Arc::clone(&engine));
    let connections = UnixListenerStream::new(listener).map(|stream| stream.map(Lenient::new));
    tonic::transport::Server::builder()
        .layer(metrics::CallLayer::new(calls))
        .add_service(
            RuntimeServiceServer::new(runtime)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
        )
        .add_service(
            ImageServiceServer::new(images)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
        )
        .add_service(PullsServer::new(pulls::Pulls::new(engine)))
        .serve_with_incoming_shutdown(connections, shutdown)
        .await
}
