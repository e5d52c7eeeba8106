//! Spans that have ended, on their way to a collector.
//!
//! A span never waits: the queue is bounded, and what does not fit is dropped and counted. A
//! collector that is away for a while loses nothing as long as the queue holds.

use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter as _, SpanProcessor};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Spans that wait, at most.
const QUEUE: usize = 2048;

/// Spans in one request to the collector, at most.
const BATCH: usize = 512;

/// How long the first span of a batch waits for others.
const DELAY: Duration = Duration::from_secs(1);

/// How long a collector may take to answer, or to be reached.
const ANSWER: Duration = Duration::from_secs(10);

/// How often a batch is sent that the collector does not take, with pauses from
/// [`FIRST_PAUSE`] to [`LAST_PAUSE`] that double: two minutes. Another batch may be taken.
const ATTEMPTS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// What became of spans.
#[derive(Debug, Clone)]
pub(super) struct SpanMetrics(Family<Labels, Counter>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    result: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Fate {
    /// The collector has taken it.
    Exported,
    /// The collector would not take it.
    Failed,
    /// The queue was full.
    Dropped,
}

impl EncodeLabelValue for Fate {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let word = match self {
            Self::Exported => "exported",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        };
        word.encode(encoder)
    }
}

impl Default for SpanMetrics {
    fn default() -> Self {
        let spans = Self(Family::default());
        for fate in [Fate::Exported, Fate::Failed, Fate::Dropped] {
            spans.count(fate, 0);
        }
        spans
    }
}

impl SpanMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "slipway_trace_spans",
            "Spans by what became of them: exported, failed (the collector would not take them), \
             dropped (too many waited)",
            self.0.clone(),
        );
    }

    fn count(&self, result: Fate, spans: usize) {
        let counter = self.0.get_or_create(&Labels { result });
        counter.inc_by(spans as u64);
    }
}

/// Where spans go when they end.
#[derive(Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    metrics: SpanMetrics,
}

impl Queue {
    /// A queue, and the task that empties it into an exporter.
    pub(super) fn start(
        mut exporter: SpanExporter,
        resource: &Resource,
        endpoint: &str,
        metrics: SpanMetrics,
    ) -> (Self, Worker) {
        exporter.set_resource(resource);
        let (sender, spans) = mpsc::channel(QUEUE);
        let (stop, stopped) = oneshot::channel();
        let sending = Sending {
            exporter,
            endpoint: endpoint.to_owned(),
            metrics: metrics.clone(),
            reached: true,
        };
        let worker = Worker {
            stop,
            task: tokio::spawn(sending.run(spans, stopped)),
        };
        let spans = sender;
        (Self { spans, metrics }, worker)
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled()
            && let Err(TrySendError::Full(_)) = self.spans.try_send(span)
        {
            self.metrics.count(Fate::Dropped, 1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The task that sends.
pub(super) struct Worker {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Worker {
    /// Sends what waits, once, unless nobody took anything before, and gives up what is not taken
    /// in time.
    pub(super) async fn finish(mut self, patience: Duration) {
        let _ = self.stop.send(());
        if timeout(patience, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

struct Sending {
    exporter: SpanExporter,
    endpoint: String,
    metrics: SpanMetrics,
    /// Whether the collector took the last batch; so that the log tells of changes alone.
    reached: bool,
}

impl Sending {
    async fn run(
        mut self,
        mut spans: mpsc::Receiver<SpanData>,
        mut stopped: oneshot::Receiver<()>,
    ) {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = fill(&mut batch, &mut spans) => {}
                _ = &mut stopped => break,
            }
            tokio::select! {
                () = self.deliver(&batch) => batch.clear(),
                _ = &mut stopped => break,
            }
        }
        while let Ok(span) = spans.try_recv() {
            batch.push(span);
        }
        for batch in batch.chunks(BATCH) {
            if self.reached {
                self.send(batch).await;
            }
        }
    }

    /// Sends a batch until it is taken, or for long enough.
    async fn deliver(&mut self, batch: &[SpanData]) {
        let mut pause = FIRST_PAUSE;
        for _ in 1..ATTEMPTS {
            if self.send(batch).await {
                return;
            }
            sleep(pause).await;
            pause = LAST_PAUSE.min(pause * 2);
        }
        if !self.send(batch).await {
            self.metrics.count(Fate::Failed, batch.len());
        }
    }

    async fn send(&mut self, batch: &[SpanData]) -> bool {
        let export = self.exporter.export(batch.to_vec());
        let sent = match timeout(ANSWER, export).await {
            Ok(sent) => sent.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {} s", ANSWER.as_secs())),
        };
        match (&sent, self.reached) {
            (Ok(()), false) => {
                tracing::info!(endpoint = self.endpoint, "traces are delivered again");
            }
            (Err(error), true) => tracing::warn!(
                endpoint = self.endpoint,
                error,
                "traces are not delivered; what is lost is counted in slipway_trace_spans_total"
            ),
            _ => {}
        }
        self.reached = sent.is_ok();
        if self.reached {
            self.metrics.count(Fate::Exported, batch.len());
        }
        self.reached
    }
}

/// Waits for spans, until there are enough of them or the first one has waited long enough. What
/// there is stays in the batch when nobody waits for this any more.
async fn fill(batch: &mut Vec<SpanData>, spans: &mut mpsc::Receiver<SpanData>) {
    if spans.recv_many(batch, BATCH).await == 0 {
        // Nobody makes spans any more: the daemon ends.
        return std::future::pending().await;
    }
    let deadline = Instant::now() + DELAY;
    while batch.len() < BATCH {
        let room = BATCH - batch.len();
        match timeout_at(deadline, spans.recv_many(batch, room)).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
}
