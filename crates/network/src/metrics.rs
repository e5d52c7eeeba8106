//! How long it takes to attach pods and to detach them, for Prometheus.

use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::Error;
use crate::plugin::Command;

/// Of whole chains of plugins; traces have each plugin. Clones are handles to the same ones.
#[derive(Debug, Clone)]
pub struct Metrics {
    durations: Family<Labels, Histogram>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    operation: &'static str,
    result: &'static str,
}

impl Labels {
    fn new(command: Command, succeeded: bool) -> Self {
        Self {
            operation: match command {
                Command::Add => "add",
                Command::Del => "delete",
            },
            result: if succeeded { "success" } else { "failure" },
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            // 2 ms to 65 s: the longest that a plugin gets by default, and a little more.
            durations: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.002, 2.0, 16))
            }),
        };
        // From zero on, so that the first failure is an increase.
        for command in [Command::Add, Command::Del] {
            for succeeded in [true, false] {
                let labels = Labels::new(command, succeeded);
                drop(metrics.durations.get_or_create(&labels));
            }
        }
        metrics
    }
}

impl Metrics {
    /// Offers them, `slipway_network_…`, under a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "slipway_network_operation_duration_seconds",
            "Time that a pod's network took, all of its CNI plugins together, by operation and result",
            self.durations.clone(),
        );
    }

    /// Does an operation, and measures it. One that nobody waits for any more is not counted.
    pub(crate) async fn measure<T>(
        &self,
        command: Command,
        operation: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let began = Instant::now();
        let outcome = operation.await;
        let labels = Labels::new(command, outcome.is_ok());
        let took = began.elapsed().as_secs_f64();
        self.durations.get_or_create(&labels).observe(took);
        outcome
    }
}
