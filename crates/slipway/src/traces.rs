//! Traces of calls, sent to a collector over OTLP (OpenTelemetry Protocol, gRPC).
//!
//! Spans are made with `tracing`, under the target `otel`, wherever something slow happens; here
//! they become OpenTelemetry's. Where no collector is configured nothing listens to that target,
//! and no span is made.

mod queue;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};
use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use prometheus_client::registry::Registry;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::Layer as _;

use queue::{Queue, SpanMetrics, Worker};

/// How long the daemon waits at its end for a collector to take what is left.
const FAREWELL: Duration = Duration::from_secs(2);

const MILLION: u32 = 1_000_000;

/// Traces over OTLP, the protocol of OpenTelemetry: one span for each CRI call, in the trace of
/// the kubelet where that traces, with spans below it for what takes time in it.
///
/// What else a collector wants to be told with each request, as a token, is in the daemon's
/// environment: `OTEL_EXPORTER_OTLP_HEADERS`, as OpenTelemetry has it.
// What its comments say is what an administrator reads in the configuration's reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// The collector's gRPC address, `http://` or `https://`, host and port; none makes no
    /// traces.
    #[schemars(extend("x-restart" = true), example = "http://127.0.0.1:4317")]
    pub(crate) endpoint: Option<String>,
    /// Of a million calls without a trace of their own so many are traced; 0 to 1000000. A call
    /// that comes with a trace, from a kubelet, is traced if the kubelet's span is.
    #[schemars(extend("x-restart" = true))]
    pub(crate) sampling_rate_per_million: u32,
    /// A PEM file with the certificate authorities that the collector's certificate is checked
    /// with; none takes the node's own.
    #[schemars(extend("x-restart" = true), example = "/etc/slipway/collector-ca.crt")]
    pub(crate) ca_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: None,
            sampling_rate_per_million: MILLION,
            ca_file: None,
        }
    }
}

impl Config {
    /// Looks for values that cannot be used. Each is told to `complain`, by its key in this table
    /// and in a sentence.
    pub(crate) fn check(&self, complain: &mut dyn FnMut(&str, String)) {
        if let Some(endpoint) = &self.endpoint
            && let Err(reason) = address(endpoint)
        {
            complain(
                "endpoint",
                format!(
                    "{endpoint:?} {reason}; it is http:// or https://, a host and a port, such as \
                     \"http://127.0.0.1:4317\""
                ),
            );
        }
        if self.sampling_rate_per_million > MILLION {
            let rate = self.sampling_rate_per_million;
            complain(
                "sampling_rate_per_million",
                format!("{rate} is more than {MILLION}, which is every call"),
            );
        }
        if let Some(file) = &self.ca_file {
            if !file.is_absolute() {
                let file = file.display().to_string();
                complain("ca_file", format!("{file:?} is not an absolute path"));
            } else if !self.is_encrypted() {
                let reason = "is for an endpoint of https://, which tracing.endpoint is not";
                complain("ca_file", reason.to_owned());
            }
        }
    }

    fn is_encrypted(&self) -> bool {
        let endpoint = self.endpoint.as_deref().unwrap_or_default();
        endpoint.starts_with("https://")
    }
}

fn address(endpoint: &str) -> Result<(), &'static str> {
    let uri: hyper::Uri = endpoint.parse().map_err(|_| "is no URL")?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        _ => return Err("has no http:// or https://"),
    }
    if uri.port().is_none() {
        return Err("has no port");
    }
    match uri.path_and_query().map_or("/", |path| path.as_str()) {
        "/" => Ok(()),
        _ => Err("has a path, which gRPC has no use for"),
    }
}

/// A layer of the subscriber that listens to spans for traces.
type Layer = Box<dyn tracing_subscriber::Layer<tracing_subscriber::Registry> + Send + Sync>;

/// The way to a collector.
pub(crate) struct Traces {
    metrics: SpanMetrics,
    worker: Option<Worker>,
}

impl Traces {
    /// Begins to send spans where a collector is configured, and answers what has to hear them.
    /// The collector need not be there. In a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the authorities' file cannot be read or used.
    pub(crate) fn start(config: &Config) -> anyhow::Result<(Self, Option<Layer>)> {
        let metrics = SpanMetrics::default();
        let Some(endpoint) = &config.endpoint else {
            let worker = None;
            return Ok((Self { metrics, worker }, None));
        };
        let mut exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            // The worker tries again, for longer.
            .with_retry_policy(RetryPolicy::disabled());
        if config.is_encrypted() {
            let mut tls = ClientTlsConfig::new();
            tls = match &config.ca_file {
                Some(file) => {
                    let authorities = std::fs::read(file).with_context(|| {
                        format!("tracing.ca_file {} cannot be read", file.display())
                    })?;
                    tls.ca_certificate(Certificate::from_pem(authorities))
                }
                None => tls.with_native_roots(),
            };
            exporter = exporter.with_tls_config(tls);
        }
        let exporter = exporter
            .build()
            .with_context(|| format!("tracing.endpoint {endpoint} cannot be used"))?;
        let (queue, worker) = Queue::start(exporter, &resource(), endpoint, metrics.clone());
        let ratio = f64::from(config.sampling_rate_per_million) / f64::from(MILLION);
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
                ratio,
            ))))
            .with_resource(resource())
            .with_span_processor(queue)
            .build();
        global::set_text_map_propagator(TraceContextPropagator::new());
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("slipway"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(Targets::new().with_target("otel", LevelFilter::TRACE))
            .boxed();
        let worker = Some(worker);
        Ok((Self { metrics, worker }, Some(layer)))
    }

    /// `slipway_trace_spans_total`.
    pub(crate) fn register_metrics(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    /// Sends what is left, if the collector takes it soon.
    pub(crate) async fn finish(self) {
        if let Some(worker) = self.worker {
            worker.finish(FAREWELL).await;
        }
    }
}

/// What spans are of.
fn resource() -> Resource {
    let uname = rustix::system::uname();
    Resource::builder()
        .with_service_name("slipway")
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("host.name", uname.nodename().to_string_lossy().into_owned()),
        ])
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_named_by_its_key() {
        let complaints = |config: Config| {
            let mut keys = Vec::new();
            config.check(&mut |key, _| keys.push(key.to_owned()));
            keys
        };
        let config = |endpoint: &str| Config {
            endpoint: Some(endpoint.to_owned()),
            ..Config::default()
        };
        for fine in [
            "http://127.0.0.1:4317",
            "https://collector.example:4317/",
            "http://[::1]:4317",
        ] {
            assert_eq!(complaints(config(fine)), [""; 0], "{fine}");
        }
        for bad in [
            "127.0.0.1:4317",
            "http://127.0.0.1",
            "unix:///run/collector.sock",
            "http://127.0.0.1:4318/v1/traces",
            "",
        ] {
            assert_eq!(complaints(config(bad)), ["endpoint"], "{bad}");
        }
        let rate = Config {
            sampling_rate_per_million: MILLION + 1,
            ..Config::default()
        };
        assert_eq!(complaints(rate), ["sampling_rate_per_million"]);
        let plain = Config {
            ca_file: Some("/ca.pem".into()),
            ..config("http://127.0.0.1:4317")
        };
        assert_eq!(complaints(plain), ["ca_file"]);
    }
}
