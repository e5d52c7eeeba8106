//! What the engine tells of itself, for Prometheus; cAdvisor's metrics of containers, which CRI
//! has messages for, are in [`crate::metrics`].
//!
//! Whatever is counted is counted when it changes, so that a scrape looks at nothing.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use slipway_engine::{Census, HasState, Population};

use crate::pod::PodState;

/// Counters and gauges; clones are handles to the same ones.
#[derive(Debug, Clone)]
pub(crate) struct OwnMetrics {
    pub(crate) pods: Population,
    pub(crate) containers: Population,
    /// Shims that are listened to.
    pub(crate) shims: Gauge,
    /// Shims that have ended, or could not be found again, without having been asked to end.
    pub(crate) lost_shims: Counter,
    leaks: Family<LeakLabels, Counter>,
    left_leaks: Family<LeakLabels, Counter>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LeakLabels {
    kind: Leak,
}

/// What a daemon that was killed can leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Leak {
    /// A pod that was being made.
    Pod,
    /// A container that was being made.
    Container,
    /// What is in the state directory of a pod that no record stands for, and what runs there.
    PodDirectory,
    /// The bundle of a container that no record stands for.
    Bundle,
    /// Its writable layer.
    WritableLayer,
    /// A checkpoint that was being written.
    Checkpoint,
    /// What an external runtime knows of a container that no record stands for.
    RuntimeState,
    /// The network of a pod that no record stands for: its addresses, interfaces and port rules.
    Network,
}

impl Leak {
    const ALL: [Self; 8] = [
        Self::Pod,
        Self::Container,
        Self::PodDirectory,
        Self::Bundle,
        Self::WritableLayer,
        Self::Checkpoint,
        Self::RuntimeState,
        Self::Network,
    ];

    /// In the words of a log line.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Pod => "a pod that was being made",
            Self::Container => "a container that was being made",
            Self::PodDirectory => "a pod's directory that nothing stands for",
            Self::Bundle => "a container's bundle that nothing stands for",
            Self::WritableLayer => "a writable layer that nothing stands for",
            Self::Checkpoint => "a checkpoint that was being written",
            Self::RuntimeState => "a runtime's state that nothing stands for",
            Self::Network => "a network that nothing stands for",
        }
    }
}

impl EncodeLabelValue for Leak {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> std::fmt::Result {
        let word = match self {
            Self::Pod => "pod",
            Self::Container => "container",
            Self::PodDirectory => "pod_directory",
            Self::Bundle => "bundle",
            Self::WritableLayer => "writable_layer",
            Self::Checkpoint => "checkpoint",
            Self::RuntimeState => "runtime_state",
            Self::Network => "network",
        };
        word.encode(encoder)
    }
}

impl OwnMetrics {
    pub(crate) fn new(census: &Census) -> Self {
        let metrics = Self {
            pods: census.pods("native"),
            containers: census.containers("native"),
            shims: Gauge::default(),
            lost_shims: Counter::default(),
            leaks: Family::default(),
            left_leaks: Family::default(),
        };
        // From zero on, so that the first one is an increase.
        for kind in Leak::ALL {
            drop(metrics.leaks.get_or_create(&LeakLabels { kind }));
            drop(metrics.left_leaks.get_or_create(&LeakLabels { kind }));
        }
        metrics
    }

    /// Without the census, which is the daemon's.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "slipway_shims",
            "Per-pod processes (slipway-shim) that run",
            self.shims.clone(),
        );
        registry.register(
            "slipway_shims_lost",
            "Per-pod processes that ended unasked, and took their containers with them",
            self.lost_shims.clone(),
        );
        registry.register(
            "slipway_recovery_leaks",
            "What an earlier daemon left half made or half removed and this one found at its start, by kind",
            self.leaks.clone(),
        );
        registry.register(
            "slipway_recovery_leaks_left",
            "Those of slipway_recovery_leaks that could not be removed, by kind",
            self.left_leaks.clone(),
        );
    }

    /// Something was found that an earlier daemon left.
    pub(crate) fn found(&self, kind: Leak) {
        self.leaks.get_or_create(&LeakLabels { kind }).inc();
    }

    /// And could not be removed.
    pub(crate) fn left(&self, kind: Leak) {
        self.left_leaks.get_or_create(&LeakLabels { kind }).inc();
    }
}

impl HasState for PodState {
    fn label(&self) -> &'static str {
        match self {
            Self::Ready { .. } => "ready",
            Self::Broken { .. } | Self::Stopped => "not_ready",
        }
    }
}
