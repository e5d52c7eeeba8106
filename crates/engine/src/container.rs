//! What a container is called and how its life goes.

use std::fmt;

use slipway_cri_api::v1::{self, ContainerConfig, ContainerMetadata};

use crate::{Error, Result};

/// The name under which a container is unique on its node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContainerName {
    /// The id of its pod.
    pub pod: String,
    /// The container's name in the pod.
    pub name: String,
    /// How many containers of this name there were in the pod before.
    pub attempt: u32,
}

impl ContainerName {
    /// The name that a configuration gives to a container of a pod.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::InvalidArgument`] when the metadata is missing or its name is empty.
    pub fn of(pod: &str, config: &ContainerConfig) -> Result<Self> {
        match &config.metadata {
            Some(ContainerMetadata { name, attempt }) if !name.is_empty() => Ok(Self {
                pod: pod.to_owned(),
                name: name.clone(),
                attempt: *attempt,
            }),
            _ => Err(Error::invalid(
                "ContainerConfig.metadata.name is missing or empty",
            )),
        }
    }
}

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (attempt {}) of pod {}",
            self.name, self.attempt, self.pod
        )
    }
}

/// Where a container is in its life. Times are nanoseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, its process not yet executed.
    Created,
    /// Its process runs.
    Running {
        /// When it was executed.
        started_at: i64,
    },
    /// Its process has ended, or never was executed.
    Exited(ContainerExit),
}

/// How a container's life ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerExit {
    /// When its process was executed; 0 when it never was.
    pub started_at: i64,
    /// When its end was seen.
    pub finished_at: i64,
    /// The exit code; 128 plus the signal where a signal ended it.
    pub code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError` or `Unknown`: one word in CamelCase, as
    /// kubectl shows it.
    pub reason: String,
    /// A sentence where there is something to say.
    pub message: String,
}

/// The reason of an end for want of memory, as kubelets know it.
const OUT_OF_MEMORY: &str = "OOMKilled";

impl ContainerState {
    /// The state after its process was executed.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::FailedPrecondition`] unless it is [`ContainerState::Created`].
    pub fn started(&self, started_at: i64) -> Result<Self> {
        match self {
            Self::Created => Ok(Self::Running { started_at }),
            Self::Running { .. } => Err(Error::precondition("the container is running already")),
            Self::Exited(exit) => Err(Error::precondition(format!(
                "the container has exited with code {}; a container is started once, make a new \
                 one",
                exit.code
            ))),
        }
    }

    /// The state after its process has ended; a container that has exited stays as it is, so that
    /// the first cause is the one that is kept.
    #[must_use]
    pub fn exited(&self, exit: ContainerExit) -> Self {
        match self {
            Self::Exited(first) => Self::Exited(first.clone()),
            Self::Created | Self::Running { .. } => Self::Exited(exit),
        }
    }

    /// The state where it is known that a process of the container was killed for want of memory,
    /// which is then the reason of its end.
    #[must_use]
    pub fn out_of_memory(self) -> Self {
        match self {
            Self::Exited(exit) => Self::Exited(ContainerExit {
                reason: OUT_OF_MEMORY.to_owned(),
                ..exit
            }),
            other => other,
        }
    }

    /// Whether its process runs.
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }

    /// Whether its process was executed.
    pub fn has_run(&self) -> bool {
        match self {
            Self::Created => false,
            Self::Running { .. } => true,
            Self::Exited(exit) => exit.started_at != 0,
        }
    }

    /// The same as CRI says it.
    pub fn cri(&self) -> v1::ContainerState {
        match self {
            Self::Created => v1::ContainerState::ContainerCreated,
            Self::Running { .. } => v1::ContainerState::ContainerRunning,
            Self::Exited(_) => v1::ContainerState::ContainerExited,
        }
    }
}

impl ContainerExit {
    /// The end of a process that ran.
    pub fn of_process(started_at: i64, finished_at: i64, code: i32, oom_killed: bool) -> Self {
        let reason = match (oom_killed, code) {
            (true, _) => OUT_OF_MEMORY,
            (false, 0) => "Completed",
            (false, _) => "Error",
        };
        Self {
            started_at,
            finished_at: finished_at.max(started_at),
            code,
            reason: reason.to_owned(),
            message: String::new(),
        }
    }

    /// The end of a container about which nobody can say more than `message`: exit code 255 and
    /// reason `Unknown`, as the peers report it.
    pub fn unknown(started_at: i64, finished_at: i64, message: impl Into<String>) -> Self {
        Self {
            started_at,
            finished_at: finished_at.max(started_at),
            code: 255,
            reason: "Unknown".to_owned(),
            message: message.into(),
        }
    }

    /// The end of a container whose process could not be executed: exit code 128 and reason
    /// `StartError`, as the peers report it.
    pub fn start_error(finished_at: i64, message: impl Into<String>) -> Self {
        Self {
            started_at: 0,
            finished_at,
            code: 128,
            reason: "StartError".to_owned(),
            message: message.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn a_container_is_started_once() {
        let running = ContainerState::Created.started(5).unwrap();
        assert_eq!(running, ContainerState::Running { started_at: 5 });
        assert_eq!(
            running.started(6).unwrap_err().kind(),
            Kind::FailedPrecondition
        );
        let exited = running.exited(ContainerExit::of_process(5, 7, 0, false));
        assert_eq!(
            exited.started(8).unwrap_err().kind(),
            Kind::FailedPrecondition
        );
    }

    #[test]
    fn the_first_end_is_kept() {
        let first = ContainerExit::of_process(1, 2, 137, true);
        let exited = ContainerState::Running { started_at: 1 }.exited(first.clone());
        assert_eq!(
            exited.exited(ContainerExit::unknown(1, 3, "gone")),
            ContainerState::Exited(first)
        );
    }

    #[test]
    fn want_of_memory_that_is_heard_of_late_is_the_reason_of_an_end_and_of_nothing_else() {
        let exited = ContainerState::Exited(ContainerExit::of_process(1, 2, 137, false));
        let expected = ContainerState::Exited(ContainerExit::of_process(1, 2, 137, true));
        assert_eq!(exited.out_of_memory(), expected);
        let running = ContainerState::Running { started_at: 1 };
        assert_eq!(running.clone().out_of_memory(), running);
    }

    #[test]
    fn an_end_is_not_before_the_beginning_when_the_clock_was_set_back() {
        let ended = ContainerExit::of_process(9, 4, 0, false);
        assert_eq!((ended.started_at, ended.finished_at), (9, 9));
        assert_eq!(ContainerExit::unknown(9, 4, "gone").finished_at, 9);
    }

    #[test]
    fn reasons_are_the_words_that_kubectl_shows() {
        let reason = |code, oom| ContainerExit::of_process(0, 0, code, oom).reason;
        assert_eq!(reason(0, false), "Completed");
        assert_eq!(reason(1, false), "Error");
        assert_eq!(reason(137, true), "OOMKilled");
    }
}
