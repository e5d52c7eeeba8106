//! A span for each call, in the trace of the one who calls: a kubelet that traces sends the W3C
//! trace context in a call's metadata.
//!
//! Spans that are for traces have the target `otel`, by which they are told from log lines. Where
//! nobody traces they are not made.

use http::HeaderMap;
use opentelemetry::global;
use opentelemetry::propagation::Extractor;
use tonic::Status;
use tracing::{Span, field, trace_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::metrics::is_failure;

/// The span of a call to a gRPC path, `/service/method`, with the names that OpenTelemetry's
/// semantic conventions have for one.
pub(crate) fn span(path: &str, headers: &HeaderMap) -> Span {
    let name = path.trim_start_matches('/');
    let (service, method) = name.split_once('/').unwrap_or((name, ""));
    let span = trace_span!(
        target: "otel",
        "call",
        otel.name = name,
        otel.kind = "server",
        otel.status_code = field::Empty,
        otel.status_description = field::Empty,
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = method,
        rpc.grpc.status_code = field::Empty,
    );
    if !span.is_disabled() {
        let parent =
            global::get_text_map_propagator(|propagator| propagator.extract(&Metadata(headers)));
        // It fails only where spans are made for something else than traces.
        let _ = span.set_parent(parent);
    }
    span
}

/// Says how the call has ended.
pub(crate) fn end(span: &Span, status: Option<&Status>) {
    let code = status.map_or(tonic::Code::Ok, Status::code);
    span.record("rpc.grpc.status_code", code as i64);
    if let Some(status) = status.filter(|_| is_failure(code)) {
        span.record("otel.status_code", "ERROR");
        span.record("otel.status_description", status.message());
    }
}

struct Metadata<'a>(&'a HeaderMap);

impl Extractor for Metadata<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
