//! How pulls end, how long they take and what arrives, for Prometheus.

use std::time::Instant;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::error::{Error, Kind};

/// A pull is counted once, however many wait for it. One that is refused before anything is asked
/// of a registry, for its reference, is none.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pulls: Family<Labels, Counter>,
    durations: Family<Labels, Histogram>,
    in_progress: Gauge,
    bytes: Counter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    result: PullResult,
}

/// None for success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct PullResult(Option<Kind>);

impl PullResult {
    const ALL: [Self; 10] = [
        Self(None),
        Self(Some(Kind::NotFound)),
        Self(Some(Kind::Denied)),
        Self(Some(Kind::RateLimited)),
        Self(Some(Kind::Unavailable)),
        Self(Some(Kind::Corrupt)),
        Self(Some(Kind::NoSpace)),
        Self(Some(Kind::Blocked)),
        Self(Some(Kind::Unsupported)),
        Self(Some(Kind::Store)),
    ];
}

impl EncodeLabelValue for PullResult {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> std::fmt::Result {
        let word = match self.0 {
            None => "success",
            Some(Kind::InvalidReference) => "invalid_reference",
            Some(Kind::NotFound) => "not_found",
            Some(Kind::Denied) => "denied",
            Some(Kind::RateLimited) => "rate_limited",
            Some(Kind::Unavailable) => "unavailable",
            Some(Kind::Corrupt) => "corrupt",
            Some(Kind::NoSpace) => "no_space",
            Some(Kind::Blocked) => "blocked",
            Some(Kind::Unsupported) => "unsupported",
            Some(Kind::Store) => "store",
        };
        word.encode(encoder)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            pulls: Family::default(),
            // 50 ms to 27 minutes.
            durations: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.05, 2.0, 16))
            }),
            in_progress: Gauge::default(),
            bytes: Counter::default(),
        };
        // From zero on, so that the first failure is an increase.
        for result in PullResult::ALL {
            drop(metrics.pulls.get_or_create(&Labels { result }));
        }
        metrics
    }
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "slipway_image_pulls",
            "Pulls that have ended, by result: success, or the kind of the failure",
            self.pulls.clone(),
        );
        registry.register(
            "slipway_image_pull_duration_seconds",
            "Time from the beginning of a pull to its end, by result",
            self.durations.clone(),
        );
        registry.register(
            "slipway_image_pulls_in_progress",
            "Pulls that are under way",
            self.in_progress.clone(),
        );
        registry.register(
            "slipway_image_pulled_bytes",
            "Bytes of layers, compressed, that have arrived from registries",
            self.bytes.clone(),
        );
    }

    /// Bytes of a layer have arrived.
    pub(crate) fn arrived(&self, bytes: u64) {
        self.bytes.inc_by(bytes);
    }

    /// Does a pull, and measures it. One whose future is dropped has no end that is counted.
    pub(crate) async fn measure<T>(
        &self,
        pull: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let began = Instant::now();
        let in_progress = InProgress::new(&self.in_progress);
        let pulled = pull.await;
        let labels = Labels {
            result: PullResult(pulled.as_ref().err().map(Error::kind)),
        };
        let took = began.elapsed().as_secs_f64();
        self.durations.get_or_create(&labels).observe(took);
        self.pulls.get_or_create(&labels).inc();
        drop(in_progress);
        pulled
    }
}

struct InProgress<'a>(&'a Gauge);

impl<'a> InProgress<'a> {
    fn new(gauge: &'a Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[tokio::test]
    async fn pulls_are_counted_by_how_they_end() {
        let (mut registry, metrics) = (Registry::default(), Metrics::default());
        metrics.register(&mut registry);
        let text = || {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text
        };
        assert!(text().contains("slipway_image_pulls_total{result=\"denied\"} 0\n"));
        let denied = Error::Registry {
            kind: Kind::Denied,
            registry: String::new(),
            repository: String::new(),
            cause: String::new(),
        };
        let failing = async {
            assert!(text().contains("slipway_image_pulls_in_progress 1\n"));
            Err::<(), _>(denied)
        };
        metrics.measure(failing).await.unwrap_err();
        metrics.measure(async { Ok(()) }).await.unwrap();
        for line in [
            "slipway_image_pulls_total{result=\"denied\"} 1\n",
            "slipway_image_pulls_total{result=\"success\"} 1\n",
            "slipway_image_pull_duration_seconds_count{result=\"denied\"} 1\n",
            "slipway_image_pulls_in_progress 0\n",
        ] {
            assert!(text().contains(line), "{line:?} is not in {}", text());
        }
    }
}
