//! What must have been looked at before anybody asks: rates need two readings, and a large
//! writable layer takes longer to read than a call may take.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use slipway_cgroup::CpuStats;
use slipway_engine::{ContainerState, CpuRate, blocking};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use super::layer::LayerUsage;
use crate::container::Container;
use crate::lifecycle;
use crate::node::Node;

/// How often everything is looked at where nobody asks: as often as a kubelet does.
const PERIOD: Duration = Duration::from_secs(10);

/// What is remembered of a container's or a pod's use.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    cpu: Mutex<CpuRate>,
    layer: Mutex<Option<(LayerUsage, Writer)>>,
}

/// Whether somebody could still write into a layer when it began to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writer {
    There,
    Gone,
}

impl Observed {
    /// Its process is about to be executed.
    pub(crate) fn begin(&self, at: Instant) {
        self.cpu().begin(at);
    }

    /// As [`CpuRate::observe`].
    pub(super) fn cpu_used(&self, cpu: &CpuStats) -> Option<u64> {
        self.cpu().observe(cpu.at, cpu.usage_nanoseconds)
    }

    fn cpu(&self) -> std::sync::MutexGuard<'_, CpuRate> {
        self.cpu.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its writable layer held when it was last read.
    pub(crate) fn layer(&self) -> Option<LayerUsage> {
        self.last_layer().map(|(usage, _)| usage)
    }

    fn last_layer(&self) -> Option<(LayerUsage, Writer)> {
        *self.layer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_layer(&self, usage: LayerUsage, writer: Writer) {
        *self.layer.lock().unwrap_or_else(PoisonError::into_inner) = Some((usage, writer));
    }
}

/// Wakes the task that looks at everything.
#[derive(Debug, Default)]
pub(crate) struct Sampler(Notify);

impl Sampler {
    /// Somebody has asked and was given what is known: let it be newer next time.
    pub(super) fn wake(&self) {
        self.0.notify_one();
    }
}

/// Looks at everything for as long as the node is there.
pub(crate) fn spawn(node: &Arc<Node>) {
    let (node, sampler) = (Arc::downgrade(node), Arc::clone(&node.sampler));
    tokio::spawn(async move {
        // Looked at by one thread, one after the other: a node at rest stays at rest.
        let mut periods = tokio::time::interval(PERIOD);
        periods.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let look = tokio::select! {
                _ = periods.tick() => Look::AtAll,
                () = sampler.0.notified() => Look::AtLayers,
            };
            if !sample(&node, look).await {
                break;
            }
        }
    });
}

/// What is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    AtAll,
    /// Whoever has asked has read the CPU time, too.
    AtLayers,
}

/// Answers whether the node is still there.
async fn sample(node: &Weak<Node>, look: Look) -> bool {
    let Some(node) = node.upgrade() else {
        return false;
    };
    let looked = blocking::run(move || {
        if look == Look::AtAll {
            read_cpu_times(&node);
        }
        for container in node.containers.all() {
            read_layer(&node, &container);
        }
        Ok(())
    });
    if let Err(error) = looked.await {
        tracing::error!(%error, "what containers use could not be looked at");
    }
    true
}

fn read_cpu_times(node: &Node) {
    for pod in node.pods.all() {
        let cgroup = node.hierarchy.open(&pod.cgroup);
        if let Ok(Some(cpu)) = cgroup.cpu_time() {
            pod.observed.cpu_used(&cpu);
        }
    }
    for container in node.containers.all() {
        if container.state().is_running()
            && let Ok(cgroup) = lifecycle::cgroup(node, &container)
            && let Ok(Some(cpu)) = cgroup.cpu_time()
        {
            container.observed.cpu_used(&cpu);
        }
    }
}

/// Reads a container's writable layer if it is time to. What has ended does not change.
fn read_layer(node: &Node, container: &Container) {
    // Looked at first: one that ends meanwhile is read again.
    let writer = match container.state() {
        ContainerState::Exited(_) => Writer::Gone,
        ContainerState::Created | ContainerState::Running { .. } => Writer::There,
    };
    let last = container.observed.last_layer();
    if last.is_some_and(|(usage, last)| last == Writer::Gone || !usage.is_stale()) {
        return;
    }
    match LayerUsage::read(&node.writable(container.id()).join("upper")) {
        Ok(usage) => container.observed.set_layer(usage, writer),
        // Removed since the list was made.
        Err(Errno::NOENT) => {}
        Err(error) => {
            tracing::warn!(container = container.id(), %error, "its writable layer cannot be read");
        }
    }
}
