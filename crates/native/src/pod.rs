//! A pod, as the daemon has it in memory.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use slipway_cgroup::CgroupPath;
use slipway_engine::{Counted, Error, Result};
use slipway_shim::Shim;
use slipway_shim::protocol::Exit;
use tokio::sync::{RwLock, oneshot};

use crate::own_metrics::OwnMetrics;
use crate::stats::Observed;
use crate::store::{PodRecord, PodUpdate};

/// One pod.
pub(crate) struct Pod {
    /// As it is on disk; its phase there is the state's business.
    pub(crate) record: PodRecord,
    pub(crate) directory: PathBuf,
    /// The cgroup that its containers' are put into.
    pub(crate) cgroup: CgroupPath,
    /// Held shared by whoever adds to the pod, exclusively by whoever stops or removes it.
    pub(crate) gate: RwLock<()>,
    pub(crate) observed: Observed,
    /// Held by whoever changes its resources.
    pub(crate) updating: tokio::sync::Mutex<()>,
    /// What was changed since it was made.
    update: Mutex<Option<PodUpdate>>,
    /// Held while a change of the pod or of a container in it is made and told of.
    telling: Mutex<()>,
    state: Mutex<Counted<PodState>>,
    containers: Mutex<BTreeSet<String>>,
    /// None once the shim has gone: nothing ends any more.
    execs: Mutex<Option<HashMap<u64, ExecEnd>>>,
}

/// Where a pod is in its life.
#[derive(Debug, Clone)]
pub(crate) enum PodState {
    /// Containers can be made in it.
    Ready { shim: Shim, addresses: Vec<IpAddr> },
    /// Nothing can be made in it any more, but its network has not been given back yet: it is
    /// being stopped, its shim has gone, or the node was rebooted.
    Broken { shim: Option<Shim> },
    /// Stopped.
    Stopped,
}

/// The end of a process that was executed in a container, and the one who waits for it: whichever
/// of the two comes first is kept for the other.
enum ExecEnd {
    Awaited(oneshot::Sender<Exit>),
    Ended(Exit),
}

impl Pod {
    pub(crate) fn new(
        record: PodRecord,
        directory: PathBuf,
        cgroup: CgroupPath,
        state: PodState,
        metrics: &OwnMetrics,
    ) -> Self {
        Self {
            updating: tokio::sync::Mutex::new(()),
            update: Mutex::new(record.update.clone()),
            record,
            directory,
            cgroup,
            gate: RwLock::new(()),
            observed: Observed::default(),
            telling: Mutex::new(()),
            state: Mutex::new(Counted::new(state, &metrics.pods)),
            containers: Mutex::new(BTreeSet::new()),
            execs: Mutex::new(Some(HashMap::new())),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.record.id
    }

    pub(crate) fn state(&self) -> PodState {
        PodState::clone(&self.locked_state())
    }

    /// What it and its containers may use: as it was made, or as it was changed since.
    pub(crate) fn resources(&self) -> PodUpdate {
        let update = self.update.lock().unwrap_or_else(PoisonError::into_inner);
        update.clone().unwrap_or_else(|| {
            let linux = self.record.config.linux.clone().unwrap_or_default();
            PodUpdate {
                overhead: linux.overhead,
                resources: linux.resources,
            }
        })
    }

    pub(crate) fn set_resources(&self, changed: PodUpdate) {
        *self.update.lock().unwrap_or_else(PoisonError::into_inner) = Some(changed);
    }

    /// Its record with what was changed since it was made.
    pub(crate) fn current_record(&self) -> PodRecord {
        let update = self.update.lock().unwrap_or_else(PoisonError::into_inner);
        PodRecord {
            update: update.clone(),
            ..self.record.clone()
        }
    }

    fn locked_state(&self) -> MutexGuard<'_, Counted<PodState>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shim of a pod that is ready.
    ///
    /// # Errors
    ///
    /// [`slipway_engine::Kind::FailedPrecondition`] when the pod is not ready.
    pub(crate) fn shim(&self) -> Result<Shim> {
        match &**self.locked_state() {
            PodState::Ready { shim, .. } => Ok(shim.clone()),
            PodState::Broken { .. } | PodState::Stopped => Err(Error::precondition(format!(
                "pod {} is not ready: it was stopped, or its shim has gone; make a new one",
                self.id()
            ))),
        }
    }

    /// Whatever shim there still is.
    pub(crate) fn any_shim(&self) -> Option<Shim> {
        match &**self.locked_state() {
            PodState::Ready { shim, .. } => Some(shim.clone()),
            PodState::Broken { shim } => shim.clone(),
            PodState::Stopped => None,
        }
    }

    /// The pod will be stopped: nothing is added to it from now on. Answers its shim.
    pub(crate) fn begin_stop(&self) -> Option<Shim> {
        let mut state = self.locked_state();
        let shim = match &**state {
            PodState::Ready { shim, .. } => Some(shim.clone()),
            PodState::Broken { shim } => shim.clone(),
            PodState::Stopped => return None,
        };
        state.set(PodState::Broken { shim: shim.clone() });
        shim
    }

    /// The pod's shim has ended. Answers whether nobody had asked it to.
    pub(crate) fn lose_shim(&self) -> bool {
        let mut state = self.locked_state();
        let unexpected = matches!(**state, PodState::Ready { .. });
        if !matches!(**state, PodState::Stopped) {
            state.set(PodState::Broken { shim: None });
        }
        unexpected
    }

    pub(crate) fn end_stop(&self) {
        self.locked_state().set(PodState::Stopped);
    }

    /// Waits for those who tell of an earlier change; never long, as nothing is waited for then.
    pub(crate) fn turn_to_tell(&self) -> MutexGuard<'_, ()> {
        self.telling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn containers(&self) -> Vec<String> {
        let containers = self
            .containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        containers.iter().cloned().collect()
    }

    pub(crate) fn add_container(&self, id: &str) {
        let mut containers = self
            .containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        containers.insert(id.to_owned());
    }

    pub(crate) fn remove_container(&self, id: &str) {
        let mut containers = self
            .containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        containers.remove(id);
    }

    /// The end of the process that the shim calls `exec`; an error when the shim goes first.
    pub(crate) fn exec_end(&self, exec: u64) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        let mut execs = self.execs.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(execs) = execs.as_mut() else {
            return receiver;
        };
        if let Some(ExecEnd::Ended(exit)) = execs.remove(&exec) {
            // The receiver is right here, so that it cannot have gone.
            let _ = sender.send(exit);
        } else {
            execs.insert(exec, ExecEnd::Awaited(sender));
        }
        receiver
    }

    pub(crate) fn exec_ended(&self, exec: u64, exit: Exit) {
        let mut execs = self.execs.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(execs) = execs.as_mut() else { return };
        if let Some(ExecEnd::Awaited(waiter)) = execs.remove(&exec) {
            let _ = waiter.send(exit);
        } else {
            execs.insert(exec, ExecEnd::Ended(exit));
        }
    }

    /// Wakes everybody who waits for a process of this pod, without an exit.
    pub(crate) fn abandon_execs(&self) {
        *self.execs.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
