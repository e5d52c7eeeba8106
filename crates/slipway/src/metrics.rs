//! The Prometheus endpoint, and what it tells of the process itself.

mod process;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

pub(crate) use process::Process;

/// How many may scrape at once.
const MAX_SCRAPERS: usize = 16;

/// How long a scraper may take to send its request, and to send the next.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long nobody is accepted after that has failed.
const PAUSE: Duration = Duration::from_secs(1);

/// `slipway_build_info`.
pub(crate) fn register_build(registry: &mut Registry) {
    // No metric of OpenMetrics' type info, which readers of Prometheus's older text format refuse.
    let build = Family::<_, Gauge>::default();
    let labels = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("architecture", std::env::consts::ARCH),
    ];
    build.get_or_create(&labels).set(1);
    registry.register("slipway_build_info", "What Slipway this is", build);
}

/// Offers a registry's metrics under `/metrics` until the process ends.
pub(crate) async fn serve(address: SocketAddr, registry: Registry) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("metrics_listen {address} cannot be used"))?;
    let registry = Arc::new(registry);
    tokio::spawn(async move {
        let scrapers = Arc::new(Semaphore::new(MAX_SCRAPERS));
        loop {
            let Ok(place) = Arc::clone(&scrapers).acquire_owned().await else {
                return;
            };
            let connection = match listener.accept().await {
                Ok((connection, _)) => connection,
                Err(error) => {
                    // Out of descriptors, most likely: others need the processor to give some back.
                    tracing::warn!(%error, "a scraper cannot be accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let registry = Arc::clone(&registry);
            tokio::spawn(async move {
                let _place = place;
                let service = service_fn(move |request| {
                    let answer = answer(&request, &registry);
                    async move { Ok::<_, Infallible>(answer) }
                });
                // A scraper that goes away is its own business.
                let _ = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(PATIENCE)
                    .serve_connection(TokioIo::new(connection), service)
                    .await;
            });
        }
    });
    Ok(())
}

fn answer<B>(request: &Request<B>, registry: &Registry) -> Response<Full<Bytes>> {
    let mut text = String::new();
    let status = if request.uri().path() != "/metrics" {
        text.push_str("see /metrics\n");
        StatusCode::NOT_FOUND
    } else if encode(&mut text, registry).is_err() {
        StatusCode::INTERNAL_SERVER_ERROR
    } else {
        StatusCode::OK
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        hyper::header::CONTENT_TYPE,
        hyper::header::HeaderValue::from_static(
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
    );
    response
}
