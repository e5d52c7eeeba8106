//! A container, as the daemon has it in memory.

use std::sync::{Arc, OnceLock, PoisonError};

use slipway_cri_api::v1::ContainerEventType;
use slipway_cri_api::v1::LinuxContainerResources;
use slipway_engine::{ContainerExit, ContainerState, Counted};
use slipway_shim::protocol::{Phase, Record};
use tokio::sync::{Mutex, watch};

use crate::events;
use crate::layers::HeldLayers;
use crate::node::Node;
use crate::own_metrics::OwnMetrics;
use crate::pod::Pod;
use crate::stats::Observed;
use crate::store::{ContainerRecord, ContainerUpdate, ExitRecord};

/// One container.
pub(crate) struct Container {
    /// As it was made.
    pub(crate) record: ContainerRecord,
    pub(crate) pod: Arc<Pod>,
    /// Held by whoever starts or removes it.
    pub(crate) gate: Mutex<()>,
    pub(crate) observed: Observed,
    /// Held by whoever changes its resources.
    pub(crate) updating: Mutex<()>,
    /// What was changed since it was made.
    update: std::sync::Mutex<Option<ContainerUpdate>>,
    /// Its init, as the node numbers it, once it is known.
    pid: OnceLock<i32>,
    /// Kept until it is removed.
    layers: std::sync::Mutex<Option<HeldLayers>>,
    state: watch::Sender<Counted<ContainerState>>,
    /// As it is on disk; none once it has been deleted there, so that news that comes late does
    /// not bring it back.
    on_disk: Mutex<Option<ContainerRecord>>,
}

impl Container {
    pub(crate) fn new(
        record: ContainerRecord,
        pod: Arc<Pod>,
        layers: Option<HeldLayers>,
        state: ContainerState,
        metrics: &OwnMetrics,
    ) -> Self {
        let on_disk = Mutex::new(Some(record.clone()));
        let update = std::sync::Mutex::new(record.update.clone());
        Self {
            record,
            pod,
            gate: Mutex::new(()),
            observed: Observed::default(),
            updating: Mutex::new(()),
            update,
            pid: OnceLock::new(),
            layers: std::sync::Mutex::new(layers),
            state: watch::Sender::new(Counted::new(state, &metrics.containers)),
            on_disk,
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.record.id
    }

    pub(crate) fn state(&self) -> ContainerState {
        ContainerState::clone(&self.state.borrow())
    }

    /// Its init's process id on the node; none while it is not known.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.pid.get().copied()
    }

    /// Lets go of the image layers.
    pub(crate) fn release_layers(&self) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        drop(layers.take());
    }

    /// Its process was executed. An exit that was heard of first stays.
    pub(crate) fn set_started(&self, node: &Node, started_at: i64) {
        let change = || {
            self.state
                .send_if_modified(|state| match state.started(started_at) {
                    Ok(running) => {
                        state.set(running);
                        true
                    }
                    Err(_) => false,
                })
        };
        let kind = ContainerEventType::ContainerStartedEvent;
        events::tell(node, &self.pod, self.id(), kind, change);
    }

    /// Its process has ended; waiters are woken, and the end goes to disk. The first end stays.
    pub(crate) async fn set_exited(&self, node: &Node, exit: ContainerExit) {
        let change = || {
            self.state.send_if_modified(|state| {
                let first = !matches!(**state, ContainerState::Exited(_));
                let exited = state.exited(exit);
                state.set(exited);
                first
            })
        };
        let kind = ContainerEventType::ContainerStoppedEvent;
        events::tell(node, &self.pod, self.id(), kind, change);
        let ContainerState::Exited(exit) = self.state() else {
            return;
        };
        let mut on_disk = self.on_disk.lock().await;
        let Some(record) = on_disk.as_mut().filter(|record| record.exit.is_none()) else {
            return;
        };
        record.exit = Some(ExitRecord::from(&exit));
        // The shim has it on disk as well, so that only a reboot could make it forgotten.
        if let Err(error) = node.store.put_container(record.clone()).await {
            tracing::warn!(container = self.id(), %error, "the container's exit is not recorded");
        }
    }

    /// What its shim says of it.
    pub(crate) async fn follow(&self, node: &Node, record: &Record) {
        let _ = self.pid.set(record.pid);
        match record.phase {
            Phase::Created => {}
            Phase::Running { started_at } => self.set_started(node, started_at),
            // Whoever is starting it hears why it could not be, and says so.
            Phase::Exited {
                started_at: None,
                exit,
                ..
            } if exit.signal.is_none() && self.gate.try_lock().is_err() => {}
            Phase::Exited { .. } => {
                if let Some(exit) = exit_of(record) {
                    self.set_exited(node, exit).await;
                }
            }
        }
    }

    /// What it may use, as far as anybody has said so.
    pub(crate) fn resources(&self) -> Option<LinuxContainerResources> {
        let asked = || self.record.config.linux.as_ref()?.resources.clone();
        self.update()
            .map_or_else(asked, |update| Some(update.resources))
    }

    /// What UpdateContainerResources has made of its resources.
    pub(crate) fn update(&self) -> Option<ContainerUpdate> {
        let update = self.update.lock();
        update.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its resources were changed; it is so on disk when this ends.
    pub(crate) async fn set_update(
        &self,
        node: &Node,
        update: ContainerUpdate,
    ) -> slipway_engine::Result<()> {
        let mut on_disk = self.on_disk.lock().await;
        if let Some(record) = on_disk.as_mut() {
            record.update = Some(update.clone());
            node.store.put_container(record.clone()).await?;
        }
        let mut known = self.update.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some(update);
        Ok(())
    }

    /// Waits until its process has ended.
    pub(crate) async fn exited(&self) {
        let mut state = self.state.subscribe();
        // The sender lives in self, so that it cannot go before the wait ends.
        let _ = state
            .wait_for(|state| matches!(**state, ContainerState::Exited(_)))
            .await;
    }

    /// Deletes it on disk, for good.
    pub(crate) async fn forget(&self, node: &Node) -> slipway_engine::Result<()> {
        let mut on_disk = self.on_disk.lock().await;
        node.store.delete_container(self.id()).await?;
        *on_disk = None;
        Ok(())
    }
}

/// The end that a shim's record tells of.
pub(crate) fn exit_of(record: &Record) -> Option<ContainerExit> {
    let Phase::Exited {
        started_at,
        finished_at,
        exit,
    } = record.phase
    else {
        return None;
    };
    Some(match started_at {
        Some(started_at) => {
            ContainerExit::of_process(started_at, finished_at, exit.code, exit.oom_killed)
        }
        None if exit.signal.is_some() => ContainerExit {
            message: "it was killed before it was started".to_owned(),
            ..ContainerExit::of_process(0, finished_at, exit.code, exit.oom_killed)
        },
        None => ContainerExit::start_error(finished_at, "its process could not be executed"),
    })
}
