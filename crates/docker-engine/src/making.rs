//! Pods that are being made: nobody sees one before it is complete.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slipway_engine::PodName;

use crate::naming;

/// What Docker tells of a pod only because its maker has asked for it.
const ASKED_FOR: [&str; 2] = ["create", "start"];

/// The names of all of them.
#[derive(Debug, Default)]
pub(crate) struct Makings(Mutex<HashMap<PodName, Meanwhile>>);

/// What has been heard of a pod since its making began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meanwhile {
    /// What its maker knows of it is what there is.
    Nothing,
    Something,
}

impl Makings {
    /// Holds the name of a pod; none where it is held already.
    pub(crate) fn begin(self: &Arc<Self>, name: &PodName) -> Option<Making> {
        let mut all = self.all();
        if all.contains_key(name) {
            return None;
        }
        all.insert(name.clone(), Meanwhile::Nothing);
        Some(Making {
            all: Arc::clone(self),
            name: Some(name.clone()),
        })
    }

    /// Whether a container of this name in Docker is a pod's that is being made. Its maker is told
    /// that something has been heard of it.
    pub(crate) fn hears(&self, docker_name: &str) -> bool {
        let Some(name) = naming::parse_pod(docker_name) else {
            return false;
        };
        match self.all().get_mut(&name) {
            Some(meanwhile) => {
                *meanwhile = Meanwhile::Something;
                true
            }
            None => false,
        }
    }

    /// Whether an event of Docker's about a sandbox tells its maker nothing that it does not know.
    pub(crate) fn knows(&self, docker_name: &str, action: &str) -> bool {
        ASKED_FOR.contains(&action)
            && naming::parse_pod(docker_name).is_some_and(|name| self.all().contains_key(&name))
    }

    fn all(&self) -> MutexGuard<'_, HashMap<PodName, Meanwhile>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of a pod that is being made. Dropping it gives the name back.
#[derive(Debug)]
pub(crate) struct Making {
    all: Arc<Makings>,
    /// None when it was given back.
    name: Option<PodName>,
}

impl Making {
    /// Gives the name back, and answers what was heard until then.
    pub(crate) fn end(mut self) -> Meanwhile {
        self.give_back().unwrap_or(Meanwhile::Nothing)
    }

    fn give_back(&mut self) -> Option<Meanwhile> {
        let name = self.name.take()?;
        self.all.all().remove(&name)
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> PodName {
        PodName {
            name: "web".to_owned(),
            namespace: "default".to_owned(),
            uid: "u".to_owned(),
            attempt: 0,
        }
    }

    #[test]
    fn a_name_is_held_once_and_given_back() {
        let makings = Arc::new(Makings::default());
        let making = makings.begin(&name()).unwrap();
        assert!(makings.begin(&name()).is_none());
        drop(making);
        assert_eq!(makings.begin(&name()).unwrap().end(), Meanwhile::Nothing);
        assert!(makings.begin(&name()).is_some());
    }

    #[test]
    fn what_the_maker_has_asked_for_is_no_news_and_the_rest_is() {
        let makings = Arc::new(Makings::default());
        let of_docker = naming::of_pod(&name());
        assert!(!makings.hears(&of_docker));
        assert!(!makings.knows(&of_docker, "start"));
        let making = makings.begin(&name()).unwrap();
        assert!(makings.knows(&of_docker, "create"));
        assert!(!makings.knows(&of_docker, "die"));
        assert!(!makings.knows("somebody", "start"));
        assert!(makings.hears(&format!("/{of_docker}_12345678")));
        assert_eq!(making.end(), Meanwhile::Something);
    }
}
