//! What Docker's containers are called and labelled, as dockershim did and cri-dockerd does.
//!
//! A name is `k8s_<container>_<pod>_<namespace>_<uid>_<attempt>`, with `POD` for the container that
//! holds a pod's namespaces; a seventh part is what dockershim added to a name that was taken. Names
//! of Kubernetes have no underscore in them.

use std::collections::HashMap;

use slipway_engine::{ContainerName, PodName};

/// Marks what belongs to Kubernetes: its value is [`SANDBOX`] or [`CONTAINER`].
pub(crate) const TYPE: &str = "io.kubernetes.docker.type";
pub(crate) const SANDBOX: &str = "podsandbox";
pub(crate) const CONTAINER: &str = "container";
/// The id of a container's pod.
pub(crate) const SANDBOX_ID: &str = "io.kubernetes.sandbox.id";
/// Where a kubelet looks for a container's log.
pub(crate) const LOG_PATH: &str = "io.kubernetes.container.logpath";
/// The container's name; dockershim gives it to sandboxes as well.
const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Slipway's own: the image as the request has it, for Docker may be given its id.
pub(crate) const IMAGE: &str = "io.slipway.container.image";
/// Slipway's own: that the pod is complete only once it has a checkpoint.
pub(crate) const CHECKPOINTED: &str = "io.slipway.sandbox.checkpointed";

/// Slipway's own: limits of huge pages and control files of cgroup v2, as maps in JSON.
pub(crate) const HUGEPAGES: &str = "io.slipway.container.hugepages";
pub(crate) const UNIFIED: &str = "io.slipway.container.unified";

/// Labels that are no labels of the pod or the container.
const INTERNAL: [&str; 7] = [
    TYPE,
    SANDBOX_ID,
    LOG_PATH,
    IMAGE,
    CHECKPOINTED,
    HUGEPAGES,
    UNIFIED,
];

/// Docker knows no annotations; those that begin so are ones.
const ANNOTATION: &str = "annotation.";

const PREFIX: &str = "k8s";
const POD: &str = "POD";

/// The name of the container that holds a pod's namespaces.
pub(crate) fn of_pod(pod: &PodName) -> String {
    name(POD, pod, pod.attempt)
}

/// The name of a container of a pod.
pub(crate) fn of_container(pod: &PodName, container: &ContainerName) -> String {
    name(&container.name, pod, container.attempt)
}

fn name(container: &str, pod: &PodName, attempt: u32) -> String {
    let PodName {
        name,
        namespace,
        uid,
        ..
    } = pod;
    format!("{PREFIX}_{container}_{name}_{namespace}_{uid}_{attempt}")
}

/// The parts of a name: the container's and, with the attempt, the pod's.
fn parse(name: &str) -> Option<(&str, PodName)> {
    let parts: Vec<&str> = name.trim_start_matches('/').split('_').collect();
    let ([PREFIX, container, name, namespace, uid, attempt]
    | [PREFIX, container, name, namespace, uid, attempt, _]) = parts[..]
    else {
        return None;
    };
    let pod = PodName {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        uid: uid.to_owned(),
        attempt: attempt.parse().ok()?,
    };
    Some((container, pod))
}

/// The pod that a name of Docker's stands for, if it is one.
pub(crate) fn parse_pod(name: &str) -> Option<PodName> {
    parse(name).map(|(_, pod)| pod)
}

/// The container that a name of Docker's stands for, if it is one of the pod with this id.
pub(crate) fn parse_container(name: &str, pod: &str) -> Option<ContainerName> {
    let (container, of) = parse(name)?;
    Some(ContainerName {
        pod: pod.to_owned(),
        name: container.to_owned(),
        attempt: of.attempt,
    })
}

/// Labels and annotations of CRI as labels of Docker's.
pub(crate) fn labels(
    labels: &HashMap<String, String>,
    annotations: &HashMap<String, String>,
) -> HashMap<String, String> {
    let annotations = annotations
        .iter()
        .map(|(key, value)| (format!("{ANNOTATION}{key}"), value.clone()));
    let labels = labels
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()));
    labels.chain(annotations).collect()
}

/// What dockershim adds to the labels of a sandbox.
pub(crate) fn mark_sandbox(labels: &mut HashMap<String, String>) {
    labels.insert(TYPE.to_owned(), SANDBOX.to_owned());
    labels.insert(CONTAINER_NAME.to_owned(), POD.to_owned());
    labels.insert(CHECKPOINTED.to_owned(), "true".to_owned());
}

/// Labels and annotations as CRI had them.
pub(crate) fn split_labels(
    all: &HashMap<String, String>,
) -> (HashMap<String, String>, HashMap<String, String>) {
    let sandbox = all.get(TYPE).is_some_and(|kind| kind == SANDBOX);
    let (mut labels, mut annotations) = (HashMap::new(), HashMap::new());
    for (key, value) in all {
        if INTERNAL.contains(&key.as_str()) || (sandbox && key == CONTAINER_NAME) {
            continue;
        }
        match key.strip_prefix(ANNOTATION) {
            Some(key) => annotations.insert(key.to_owned(), value.clone()),
            None => labels.insert(key.clone(), value.clone()),
        };
    }
    (labels, annotations)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pod() -> PodName {
        PodName {
            name: "web-0".to_owned(),
            namespace: "shop".to_owned(),
            uid: "7c1e".to_owned(),
            attempt: 2,
        }
    }

    #[test]
    fn names_are_those_of_dockershim() {
        assert_eq!(of_pod(&pod()), "k8s_POD_web-0_shop_7c1e_2");
        let container = ContainerName {
            pod: "id".to_owned(),
            name: "nginx".to_owned(),
            attempt: 5,
        };
        let name = of_container(&pod(), &container);
        assert_eq!(name, "k8s_nginx_web-0_shop_7c1e_5");
        assert_eq!(parse_pod("/k8s_POD_web-0_shop_7c1e_2"), Some(pod()));
        assert_eq!(parse_container(&name, "id"), Some(container));
        // What dockershim calls it where the name was taken.
        assert_eq!(
            parse_pod("/k8s_POD_web-0_shop_7c1e_2_0a1b2c3d"),
            Some(pod())
        );
        for other in ["web", "k8s_POD_web", "k9s_a_b_c_d_0", "k8s_a_b_c_d_x", ""] {
            assert_eq!(parse_pod(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn labels_and_annotations_come_back_as_they_were(
            given in proptest::collection::hash_map("[a-z./]{1,12}", "[ -~]{0,8}", 0..6),
            annotations in proptest::collection::hash_map("[a-z./]{1,12}", "[ -~]{0,8}", 0..6),
        ) {
            let given: HashMap<_, _> = given
                .into_iter()
                .filter(|(key, _)| !key.starts_with(ANNOTATION))
                .collect();
            let mut all = labels(&given, &annotations);
            mark_sandbox(&mut all);
            prop_assert_eq!(split_labels(&all), (given, annotations));
        }
    }
}
