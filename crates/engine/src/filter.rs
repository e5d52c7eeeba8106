//! The filters of CRI's List calls: every field that is set must match.

use std::collections::HashMap;

use slipway_cri_api::v1::{
    ContainerFilter, ContainerState, ContainerStatsFilter, PodSandboxFilter, PodSandboxState,
    PodSandboxStatsFilter,
};

/// What a [`PodSandboxFilter`] looks at.
#[derive(Debug, Clone, Copy)]
pub struct PodView<'a> {
    /// The pod's id.
    pub id: &'a str,
    /// Its state.
    pub state: PodSandboxState,
    /// Its labels.
    pub labels: &'a HashMap<String, String>,
}

/// What a [`ContainerFilter`] looks at.
#[derive(Debug, Clone, Copy)]
pub struct ContainerView<'a> {
    /// The container's id.
    pub id: &'a str,
    /// Its pod's id.
    pub pod: &'a str,
    /// Its state.
    pub state: ContainerState,
    /// Its labels.
    pub labels: &'a HashMap<String, String>,
}

/// Whether a pod is among those that a filter asks for; ids may be abbreviated to a prefix.
pub fn matches_pod(filter: Option<&PodSandboxFilter>, pod: PodView<'_>) -> bool {
    let Some(filter) = filter else { return true };
    pod.id.starts_with(&filter.id)
        && filter
            .state
            .is_none_or(|wanted| wanted.state == pod.state as i32)
        && matches_labels(&filter.label_selector, pod.labels)
}

/// Whether a container is among those that a filter asks for; ids may be abbreviated to a prefix.
pub fn matches_container(filter: Option<&ContainerFilter>, container: ContainerView<'_>) -> bool {
    let Some(filter) = filter else { return true };
    container.id.starts_with(&filter.id)
        && container.pod.starts_with(&filter.pod_sandbox_id)
        && filter
            .state
            .is_none_or(|wanted| wanted.state == container.state as i32)
        && matches_labels(&filter.label_selector, container.labels)
}

/// As [`matches_pod`], for those whose use is asked for.
pub fn matches_pod_stats(filter: Option<&PodSandboxStatsFilter>, pod: PodView<'_>) -> bool {
    let Some(filter) = filter else { return true };
    pod.id.starts_with(&filter.id) && matches_labels(&filter.label_selector, pod.labels)
}

/// As [`matches_container`], for those whose use is asked for.
pub fn matches_container_stats(
    filter: Option<&ContainerStatsFilter>,
    container: ContainerView<'_>,
) -> bool {
    let Some(filter) = filter else { return true };
    container.id.starts_with(&filter.id)
        && container.pod.starts_with(&filter.pod_sandbox_id)
        && matches_labels(&filter.label_selector, container.labels)
}

/// Whether all of a selector's labels are there with the selector's values.
fn matches_labels(selector: &HashMap<String, String>, labels: &HashMap<String, String>) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use slipway_cri_api::v1::{ContainerStateValue, PodSandboxStateValue};

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs
            .iter()
            .map(|&(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn every_field_that_is_set_must_match() {
        let carried = labels(&[("app", "web"), ("tier", "front")]);
        let pod = PodView {
            id: "abc123",
            state: PodSandboxState::SandboxReady,
            labels: &carried,
        };
        let filter = |id: &str, state: Option<PodSandboxState>, selector: &[(&str, &str)]| {
            PodSandboxFilter {
                id: id.to_owned(),
                state: state.map(|state| PodSandboxStateValue {
                    state: state as i32,
                }),
                label_selector: labels(selector),
            }
        };
        let matches = |filter: &PodSandboxFilter| matches_pod(Some(filter), pod);

        assert!(matches_pod(None, pod));
        assert!(matches(&filter("", None, &[])));
        assert!(matches(&filter(
            "abc",
            Some(PodSandboxState::SandboxReady),
            &[("app", "web")]
        )));
        assert!(!matches(&filter("abd", None, &[])));
        assert!(!matches(&filter(
            "",
            Some(PodSandboxState::SandboxNotready),
            &[]
        )));
        assert!(!matches(&filter("", None, &[("app", "db")])));
        assert!(!matches(&filter("", None, &[("absent", "")])));
    }

    /// A few labels over a small alphabet, so that some match.
    fn few_labels() -> impl Strategy<Value = HashMap<String, String>> {
        proptest::collection::hash_map("[ab]", "[xy]", 0..3)
    }

    proptest! {
        #[test]
        fn a_container_is_found_exactly_where_each_field_that_is_set_finds_it(
            id in "[01]{4}",
            pod in "[01]{4}",
            state in 0..4_i32,
            carried in few_labels(),
            wanted_id in "[01]{0,2}",
            wanted_pod in "[01]{0,2}",
            wanted_state in proptest::option::of(0..4_i32),
            selector in few_labels(),
        ) {
            let container = ContainerView {
                id: &id,
                pod: &pod,
                state: ContainerState::try_from(state).unwrap(),
                labels: &carried,
            };
            let filter = ContainerFilter {
                id: wanted_id.clone(),
                state: wanted_state.map(|state| ContainerStateValue { state }),
                pod_sandbox_id: wanted_pod.clone(),
                label_selector: selector.clone(),
            };
            let by_labels = selector.iter().all(|(key, value)| carried.get(key) == Some(value));
            let by_use = id.starts_with(&wanted_id) && pod.starts_with(&wanted_pod) && by_labels;
            let by_state = wanted_state.is_none_or(|wanted| wanted == state);
            prop_assert_eq!(matches_container(Some(&filter), container), by_use && by_state);
            let of_use = ContainerStatsFilter {
                id: wanted_id,
                pod_sandbox_id: wanted_pod,
                label_selector: selector,
            };
            prop_assert_eq!(matches_container_stats(Some(&of_use), container), by_use);
        }

        #[test]
        fn a_pod_is_found_exactly_where_each_field_that_is_set_finds_it(
            id in "[01]{4}",
            state in 0..2_i32,
            carried in few_labels(),
            wanted_id in "[01]{0,2}",
            wanted_state in proptest::option::of(0..2_i32),
            selector in few_labels(),
        ) {
            let pod = PodView {
                id: &id,
                state: PodSandboxState::try_from(state).unwrap(),
                labels: &carried,
            };
            let filter = PodSandboxFilter {
                id: wanted_id.clone(),
                state: wanted_state.map(|state| PodSandboxStateValue { state }),
                label_selector: selector.clone(),
            };
            let by_labels = selector.iter().all(|(key, value)| carried.get(key) == Some(value));
            let by_use = id.starts_with(&wanted_id) && by_labels;
            let by_state = wanted_state.is_none_or(|wanted| wanted == state);
            prop_assert_eq!(matches_pod(Some(&filter), pod), by_use && by_state);
            let of_use = PodSandboxStatsFilter {
                id: wanted_id,
                label_selector: selector,
            };
            prop_assert_eq!(matches_pod_stats(Some(&of_use), pod), by_use);
        }
    }
}
