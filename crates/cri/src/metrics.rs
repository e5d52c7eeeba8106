//! How long calls take and how they end, for Prometheus.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::Instrument as _;

use crate::trace;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct End {
    method: String,
    code: String,
}

/// `slipway_cri_calls_total{method,code}` and `slipway_cri_call_duration_seconds{method,code}`.
#[derive(Debug, Clone)]
pub struct CallMetrics {
    ends: Family<End, Counter>,
    durations: Family<End, Histogram>,
}

impl CallMetrics {
    /// The metrics, registered.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            ends: Family::default(),
            // 0.1 ms to 26 s.
            durations: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.0001, 2.0, 19))
            }),
        };
        registry.register(
            "slipway_cri_calls",
            "CRI calls that were answered, by method and gRPC code",
            metrics.ends.clone(),
        );
        registry.register(
            "slipway_cri_call_duration_seconds",
            "Time from a CRI call's arrival to its answer, by method and gRPC code",
            metrics.durations.clone(),
        );
        metrics
    }

    fn record(&self, method: &str, code: Code, began: Instant) {
        let end = End {
            method: method.to_owned(),
            code: format!("{code:?}"),
        };
        let took = began.elapsed().as_secs_f64();
        self.durations.get_or_create(&end).observe(took);
        self.ends.get_or_create(&end).inc();
    }
}

/// How many calls are being worked on.
#[derive(Debug, Clone, Default)]
pub(crate) struct UnderWay(watch::Sender<usize>);

impl UnderWay {
    fn begin(&self) -> OneUnderWay {
        self.0.send_modify(|count| *count += 1);
        OneUnderWay(self.0.clone())
    }

    /// Waits until there is none.
    pub(crate) async fn none(&self) {
        let mut count = self.0.subscribe();
        // The sender is in self, so that it cannot go before the wait ends.
        let _ = count.wait_for(|&count| count == 0).await;
    }
}

/// Whether somebody should look after a call that ended so. Not after what a kubelet asks for on
/// purpose without knowing whether it is there.
pub(crate) fn is_failure(code: Code) -> bool {
    !matches!(code, Code::Ok | Code::NotFound | Code::Unimplemented)
}

struct OneUnderWay(watch::Sender<usize>);

impl Drop for OneUnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Puts [`CallMetrics`] around the services.
#[derive(Debug, Clone)]
pub(crate) struct CallLayer {
    calls: CallMetrics,
    under_way: UnderWay,
}

impl CallLayer {
    pub(crate) fn new(calls: CallMetrics, under_way: UnderWay) -> Self {
        Self { calls, under_way }
    }
}

impl<S> Layer<S> for CallLayer {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Measured<S> {
        Measured {
            inner,
            calls: self.calls.clone(),
            under_way: self.under_way.clone(),
        }
    }
}

/// A service whose calls are measured and logged.
#[derive(Debug, Clone)]
pub(crate) struct Measured<S> {
    inner: S,
    calls: CallMetrics,
    under_way: UnderWay,
}

impl<S, B, R> Service<http::Request<B>> for Measured<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let began = Instant::now();
        let method = request
            .uri()
            .path()
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        let calls = self.calls.clone();
        let under_way = self.under_way.begin();
        let span = trace::span(request.uri().path(), request.headers());
        let answer = span
            .in_scope(|| self.inner.call(request))
            .instrument(span.clone());
        Box::pin(async move {
            let _under_way = under_way;
            let answer = answer.await;
            // A unary call that ends in an error says so in the headers; one that is still
            // streaming when its headers go out counts as begun well.
            let ended = answer
                .as_ref()
                .ok()
                .and_then(|response| Status::from_header_map(response.headers()));
            let code = ended.as_ref().map_or(Code::Ok, Status::code);
            trace::end(&span, ended.as_ref());
            let took = began.elapsed();
            match &ended {
                Some(status) if !is_failure(code) => {
                    tracing::debug!(%method, ?code, ?took, "{}", status.message());
                }
                Some(status) => tracing::warn!(%method, ?code, ?took, "{}", status.message()),
                None => tracing::debug!(%method, ?took, "answered"),
            }
            // Only methods that exist become label values: a client must not fill the memory.
            if code != Code::Unimplemented {
                calls.record(&method, code, began);
            }
            answer
        })
    }
}
