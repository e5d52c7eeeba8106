//! How many pods and containers there are in which state, for Prometheus: counted when they change,
//! so that a scrape looks at nothing.

use std::ops::Deref;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::ContainerState;

/// What is counted of all engines of a daemon; clones are handles to the same gauges.
#[derive(Debug, Clone, Default)]
pub struct Census {
    pods: Family<Labels, Gauge>,
    containers: Family<Labels, Gauge>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    engine: &'static str,
    state: &'static str,
}

impl Census {
    /// Offers the gauges under a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "slipway_pods",
            "Pods by the engine that runs them and the state that they were last seen in",
            self.pods.clone(),
        );
        registry.register(
            "slipway_containers",
            "Containers by the engine that runs them and the state that they were last seen in",
            self.containers.clone(),
        );
    }

    /// The pods of an engine: `ready` and `not_ready`, which are there from now on.
    pub fn pods(&self, engine: &'static str) -> Population {
        Population::new(&self.pods, engine, &["ready", "not_ready"])
    }

    /// Its containers: `created`, `running` and `exited`.
    pub fn containers(&self, engine: &'static str) -> Population {
        Population::new(&self.containers, engine, &["created", "running", "exited"])
    }
}

/// Things of one kind that one engine has, by their state.
#[derive(Debug, Clone)]
pub struct Population {
    gauges: Family<Labels, Gauge>,
    engine: &'static str,
}

impl Population {
    /// From zero on: a series that is not there cannot be told from one that was not asked for.
    fn new(gauges: &Family<Labels, Gauge>, engine: &'static str, states: &[&'static str]) -> Self {
        let gauges = gauges.clone();
        for &state in states {
            drop(gauges.get_or_create(&Labels { engine, state }));
        }
        Self { gauges, engine }
    }

    /// One more that is in a state, until what this returns is dropped.
    pub fn count(&self, state: &impl HasState) -> OneOf {
        let labels = Labels {
            engine: self.engine,
            state: state.label(),
        };
        OneOf::new(&self.gauges.get_or_create_owned(&labels))
    }
}

/// What is counted by its state.
pub trait HasState {
    /// The state as the label of a metric.
    fn label(&self) -> &'static str;
}

impl HasState for ContainerState {
    fn label(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running { .. } => "running",
            Self::Exited(_) => "exited",
        }
    }
}

/// One more of what a gauge counts, until it is dropped.
#[derive(Debug)]
pub struct OneOf(Gauge);

impl OneOf {
    /// Counts one more.
    pub fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for OneOf {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A state that is counted, until it is dropped.
#[derive(Debug)]
pub struct Counted<T: HasState> {
    state: T,
    population: Population,
    in_state: OneOf,
}

impl<T: HasState> Counted<T> {
    /// Counts something in this state.
    pub fn new(state: T, population: &Population) -> Self {
        Self {
            in_state: population.count(&state),
            population: population.clone(),
            state,
        }
    }

    /// It is in another state now.
    pub fn set(&mut self, state: T) {
        self.in_state = self.population.count(&state);
        self.state = state;
    }
}

impl<T: HasState> Deref for Counted<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_has_a_state_is_counted_once_by_its_engine_and_until_it_is_gone() {
        let census = Census::default();
        let (native, docker) = (census.containers("native"), census.containers("docker"));
        let count = |engine, state| {
            let labels = Labels { engine, state };
            census.containers.get_or_create(&labels).get()
        };
        let mut one = Counted::new(ContainerState::Created, &native);
        let other = Counted::new(ContainerState::Created, &native);
        let third = docker.count(&ContainerState::Created);
        assert_eq!(count("native", "created"), 2);
        one.set(ContainerState::Running { started_at: 1 });
        assert_eq!(
            (count("native", "created"), count("native", "running")),
            (1, 1)
        );
        assert_eq!(*one, ContainerState::Running { started_at: 1 });
        drop((one, other));
        assert_eq!(
            (count("native", "created"), count("native", "running")),
            (0, 0)
        );
        assert_eq!(count("docker", "created"), 1);
        drop(third);
        assert_eq!(count("docker", "created"), 0);
    }
}
