//! Traces over OTLP, to a collector that is real as far as the protocol goes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use slipway_cri_api::v1::{
    ContainerStatusRequest, ImageSpec, PullImageRequest, RunPodSandboxRequest, VersionRequest,
};
use slipway_testbed::{Image, Node, eventually};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status};

use crate::prometheus::{Scrape, measured};
use crate::refused;

/// What was sent to a collector.
#[derive(Debug, Clone, Default)]
struct Received {
    spans: Arc<Mutex<Vec<Span>>>,
    /// Of each request.
    authorizations: Arc<Mutex<Vec<Option<String>>>>,
    resources: Arc<Mutex<Vec<Resource>>>,
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let authorization = request.metadata().get("authorization");
        let authorization = authorization.map(|value| value.to_str().unwrap().to_owned());
        self.authorizations.lock().unwrap().push(authorization);
        for of_resource in request.into_inner().resource_spans {
            self.resources.lock().unwrap().extend(of_resource.resource);
            for of_scope in of_resource.scope_spans {
                self.spans.lock().unwrap().extend(of_scope.spans);
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A collector, until it is dropped.
struct Collector {
    address: SocketAddr,
    received: Received,
    server: JoinHandle<()>,
}

impl Collector {
    async fn start(address: &str) -> Self {
        Self::start_with(address, Server::builder()).await
    }

    async fn start_with(address: &str, mut server: Server) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = Received::default();
        let service = TraceServiceServer::new(received.clone());
        let server = tokio::spawn(async move {
            server
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self {
            address,
            received,
            server,
        }
    }

    fn spans(&self) -> Vec<Span> {
        self.received.spans.lock().unwrap().clone()
    }

    /// The span of this name in a trace, once it is there.
    async fn span(&self, trace: &str, name: &str) -> Span {
        let mut found = None;
        let there = eventually(name, Duration::from_secs(30), async || {
            let mut spans = self.spans().into_iter();
            found = spans.find(|span| span.name == name && hex(&span.trace_id) == trace);
            Ok(found.is_some())
        });
        there
            .await
            .unwrap_or_else(|error| panic!("{error}: {:#?}", self.spans()));
        found.unwrap()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn attribute<'a>(span: &'a Span, key: &str) -> Option<&'a Value> {
    let attribute = span.attributes.iter().find(|one| one.key == key)?;
    attribute.value.as_ref()?.value.as_ref()
}

fn config(endpoint: SocketAddr, rate: u32) -> String {
    format!("[tracing]\nendpoint = \"http://{endpoint}\"\nsampling_rate_per_million = {rate}\n")
}

/// A message with the trace context of a kubelet.
fn traced<T>(message: T, context: &str) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", context.parse().unwrap());
    request
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const KUBELETS_SPAN: &str = "b7ad6b7169203331";

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelets_trace_goes_on_in_the_daemon() {
    let collector = Collector::start("127.0.0.1:0").await;
    let node = Node::start_with(|builder| builder.config(config(collector.address, 0)));
    let node = node.await.unwrap();
    let pushed = node
        .registry
        .push("busybox:1", &Image::busybox())
        .await
        .unwrap();
    let context = format!("00-{TRACE}-{KUBELETS_SPAN}-01");

    let image = ImageSpec {
        image: pushed.reference.clone(),
        ..Default::default()
    };
    let request = PullImageRequest {
        image: Some(image),
        ..Default::default()
    };
    let mut images = node.cri().images();
    images.pull_image(traced(request, &context)).await.unwrap();
    let request = RunPodSandboxRequest {
        config: Some(node.pod("traced")),
        ..Default::default()
    };
    let mut runtime = node.cri().runtime();
    runtime
        .run_pod_sandbox(traced(request, &context))
        .await
        .unwrap();

    let call = "runtime.v1.ImageService/PullImage";
    let layer = format!("sha256:{}", pushed.layers[0].trim_start_matches("sha256:"));
    let mut parent = KUBELETS_SPAN.to_owned();
    for name in [call, "pull image", "fetch layer"] {
        let span = collector.span(TRACE, name).await;
        assert_eq!(hex(&span.parent_span_id), parent, "{span:#?}");
        parent = hex(&span.span_id);
        match name {
            "pull image" => assert_eq!(
                attribute(&span, "image"),
                Some(&Value::StringValue(pushed.reference.clone()))
            ),
            "fetch layer" => assert_eq!(
                attribute(&span, "digest"),
                Some(&Value::StringValue(layer.clone()))
            ),
            _ => {
                assert_eq!(span.kind(), SpanKind::Server);
                let code = attribute(&span, "rpc.grpc.status_code");
                assert_eq!(code, Some(&Value::IntValue(0)));
            }
        }
    }
    let pull = collector.span(TRACE, "pull image").await;
    let manifest = collector.span(TRACE, "find manifest").await;
    assert_eq!(manifest.parent_span_id, pull.span_id);

    let call = collector
        .span(TRACE, "runtime.v1.RuntimeService/RunPodSandbox")
        .await;
    assert_eq!(hex(&call.parent_span_id), KUBELETS_SPAN);
    let network = collector.span(TRACE, "attach network").await;
    for (name, parent) in [
        ("start shim", &call),
        ("attach network", &call),
        ("ADD bridge", &network),
        ("ADD portmap", &network),
    ] {
        let span = collector.span(TRACE, name).await;
        assert_eq!(span.parent_span_id, parent.span_id, "{span:#?}");
        assert!(span.start_time_unix_nano >= parent.start_time_unix_nano);
        assert!(span.end_time_unix_nano <= parent.end_time_unix_nano);
    }

    let request = ContainerStatusRequest {
        container_id: "0".repeat(64),
        verbose: false,
    };
    let absent = runtime.container_status(traced(request, &context)).await;
    refused(absent, Code::NotFound, &["no container"]);
    let request = PullImageRequest::default();
    let invalid = images.pull_image(traced(request, &context.replace(TRACE, &"5".repeat(32))));
    refused(invalid.await, Code::InvalidArgument, &["image"]);
    let name = "runtime.v1.RuntimeService/ContainerStatus";
    let absent = collector.span(TRACE, name).await;
    assert!(
        absent
            .status
            .is_none_or(|status| status.code() == StatusCode::Unset)
    );
    let name = "runtime.v1.ImageService/PullImage";
    let invalid = collector.span(&"5".repeat(32), name).await;
    let status = invalid.status.unwrap();
    assert_eq!(status.code(), StatusCode::Error);
    assert!(status.message.contains("PullImageRequest.image"));

    // What nobody traces, and what a kubelet has decided not to.
    let unsampled = context
        .replace(TRACE, &"6".repeat(32))
        .replace("-01", "-00");
    let version = traced(VersionRequest::default(), &unsampled);
    runtime.version(version).await.unwrap();
    runtime.version(VersionRequest::default()).await.unwrap();
    for garbage in ["", "00-", "00-0-0-01", &"f".repeat(4096)] {
        let version = traced(VersionRequest::default(), garbage);
        runtime.version(version).await.unwrap();
    }
    let last = context.replace(TRACE, &"7".repeat(32));
    let version = traced(VersionRequest::default(), &last);
    runtime.version(version).await.unwrap();
    let name = "runtime.v1.RuntimeService/Version";
    collector.span(&"7".repeat(32), name).await;
    let spans = collector.spans();
    let versions = spans.iter().filter(|span| span.name == name);
    assert_eq!(versions.count(), 1, "{spans:#?}");
    let resources = collector.received.resources.lock().unwrap().clone();
    let service = resources[0]
        .attributes
        .iter()
        .find(|one| one.key == "service.name")
        .and_then(|one| one.value.clone()?.value);
    assert_eq!(service, Some(Value::StringValue("slipway".to_owned())));
    node.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_comes_late_gets_what_it_has_missed() {
    let mut address = SocketAddr::from(([127, 0, 0, 1], 0));
    let (node, metrics) = measured(|builder| {
        address.set_port(builder.scratch().host_port());
        builder.config(config(address, 1_000_000))
    })
    .await;
    let context = format!("00-{TRACE}-{KUBELETS_SPAN}-01");
    let version = traced(VersionRequest::default(), &context);
    node.cri().runtime().version(version).await.unwrap();
    eventually("the warning", Duration::from_secs(30), async || {
        Ok(node.daemon.log().contains("traces are not delivered"))
    })
    .await
    .unwrap();
    let collector = Collector::start(&address.to_string()).await;
    let name = "runtime.v1.RuntimeService/Version";
    collector.span(TRACE, name).await;
    eventually("the log", Duration::from_secs(30), async || {
        Ok(node.daemon.log().contains("traces are delivered again"))
    })
    .await
    .unwrap();
    let log = node.daemon.log();
    assert_eq!(log.matches("traces are not delivered").count(), 1, "{log}");
    let spans =
        |result| Scrape::of(metrics).value("slipway_trace_spans_total", &[("result", result)]);
    assert!(spans("exported") > 0.5);
    assert!(spans("failed") + spans("dropped") < 0.5);
    node.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_that_nobody_takes_are_dropped_and_hold_nobody_up() {
    // It takes connections, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let (node, metrics) = measured(|builder| builder.config(config(address, 1_000_000))).await;
    let mut runtime = node.cri().runtime();
    for _ in 0..4000 {
        runtime.version(VersionRequest::default()).await.unwrap();
    }
    let dropped = Scrape::of(metrics).value("slipway_trace_spans_total", &[("result", "dropped")]);
    // At most one queue and one batch of them are kept.
    assert!(dropped >= f64::from(4000 - 2048 - 512), "{dropped}");
    node.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_checked_and_told_who_sends() {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let authorities = directory.path().join("ca.pem");
    std::fs::write(&authorities, own.cert.pem()).unwrap();
    let identity = Identity::from_pem(own.cert.pem(), own.signing_key.serialize_pem());
    let server = Server::builder().tls_config(ServerTlsConfig::new().identity(identity));
    let collector = Collector::start_with("127.0.0.1:0", server.unwrap()).await;
    let endpoint = format!(
        "[tracing]\nendpoint = \"https://localhost:{}\"\n",
        collector.address.port()
    );
    let trusting = format!("{endpoint}ca_file = {authorities:?}\n");
    let node = Node::start_with(|builder| {
        builder
            .config(trusting)
            .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20open")
    });
    let node = node.await.unwrap();
    let context = format!("00-{TRACE}-{KUBELETS_SPAN}-01");
    let version = traced(VersionRequest::default(), &context);
    node.cri().runtime().version(version).await.unwrap();
    let name = "runtime.v1.RuntimeService/Version";
    collector.span(TRACE, name).await;
    let authorizations = collector.received.authorizations.lock().unwrap().clone();
    assert_eq!(authorizations[0].as_deref(), Some("Bearer open"));
    node.finish().await.unwrap();

    // Without its authority, it gets nothing.
    let before = collector.spans().len();
    let node = Node::start_with(|builder| builder.config(endpoint));
    let node = node.await.unwrap();
    node.cri().pods().await.unwrap();
    eventually("the warning", Duration::from_secs(30), async || {
        Ok(node.daemon.log().contains("traces are not delivered"))
    })
    .await
    .unwrap();
    assert_eq!(collector.spans().len(), before);
    node.finish().await.unwrap();
}
