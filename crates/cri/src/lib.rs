//! CRI v1 over gRPC, and v1alpha2: what a kubelet talks to.
//!
//! The services translate: a request is checked, handed to an [`Engine`], and what comes back is
//! put into CRI's words. No state is kept here. A call that CRI gets later than Slipway is answered
//! with `UNIMPLEMENTED`.
#![forbid(unsafe_code)]

mod authority;
mod chunks;
mod deadline;
mod detached;
mod engines;
mod image;
mod import;
mod metrics;
mod pulls;
mod request;
mod runtime;
mod status;
mod streaming;
mod trace;
mod v1alpha2;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use slipway_cri_api::slipway::engines_server::EnginesServer;
use slipway_cri_api::slipway::images_server::ImagesServer;
use slipway_cri_api::slipway::pulls_server::PullsServer;
use slipway_cri_api::v1::image_service_server::ImageServiceServer;
use slipway_cri_api::v1::runtime_service_server::RuntimeServiceServer;
use slipway_engine::Engine;
use slipway_streaming::Streaming;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnixListenerStream;
use tower::util::MapRequestLayer;

use authority::Lenient;
pub use metrics::CallMetrics;
use metrics::UnderWay;

/// The largest message that is accepted or sent, in bytes: what kubelets and crictl use.
pub const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// How long clients have to take their last answers and close their connections.
const FAREWELL: Duration = Duration::from_millis(500);

/// Serves an engine on a socket until `shutdown` ends; calls that are under way then are finished,
/// and clients that keep their connections open all the same are not waited for.
///
/// Sessions that `streaming` has given URLs for end with this, at the latest.
///
/// `runtime_version` is what Version answers, and so what `kubectl get nodes` shows.
///
/// # Errors
///
/// When the transport fails as a whole; a client that misbehaves only loses its connection.
pub async fn serve(
    listener: UnixListener,
    engine: Arc<dyn Engine>,
    streaming: Streaming,
    runtime_version: &str,
    calls: CallMetrics,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let runtime = runtime::Runtime::new(Arc::clone(&engine), streaming, runtime_version.to_owned());
    let images = image::Images::new(Arc::clone(&engine));
    let connections = UnixListenerStream::new(listener).map(|stream| stream.map(Lenient::new));
    let under_way = UnderWay::default();
    let (stopping, stopped) = oneshot::channel();
    let idle = async {
        let _ = stopped.await;
        under_way.none().await;
        tokio::time::sleep(FAREWELL).await;
    };
    let shutdown = async {
        shutdown.await;
        let _ = stopping.send(());
    };
    let server = tonic::transport::Server::builder()
        .layer(MapRequestLayer::new(v1alpha2::as_v1::<tonic::body::Body>))
        .layer(metrics::CallLayer::new(calls, under_way.clone()))
        .layer(deadline::DeadlineLayer)
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
        .add_service(PullsServer::new(pulls::Pulls::new(Arc::clone(&engine))))
        .add_service(ImagesServer::new(import::Images::new(Arc::clone(&engine))))
        .add_service(EnginesServer::new(engines::Engines::new(engine)))
        .serve_with_incoming_shutdown(connections, shutdown);
    tokio::select! {
        ended = server => ended,
        () = idle => Ok(()),
    }
}
