//! Values of one container or pod, which all have the labels that say whose they are.

use slipway_cri_api::v1::{Metric, UInt64Value};

use super::families::Family;
use crate::container::Container;
use crate::node::now;
use crate::pod::Pod;

/// What cAdvisor calls the container that holds a pod's namespaces.
const POD: &str = "POD";

pub(super) struct Series {
    base: [String; 6],
    timestamp: i64,
    metrics: Vec<Metric>,
}

impl Series {
    pub(super) fn of_pod(pod: &Pod) -> Self {
        let metadata = pod.record.config.metadata.clone().unwrap_or_default();
        Self::new([
            pod.id().to_owned(),
            metadata.name.clone(),
            String::new(),
            metadata.namespace,
            metadata.name,
            POD.to_owned(),
        ])
    }

    pub(super) fn of_container(container: &Container) -> Self {
        let pod = &container.pod.record.config;
        let pod = pod.metadata.clone().unwrap_or_default();
        let config = &container.record.config;
        let name = config.metadata.clone().unwrap_or_default().name;
        let image = config.image.clone().unwrap_or_default();
        let image = if image.user_specified_image.is_empty() {
            image.image
        } else {
            image.user_specified_image
        };
        Self::new([
            container.id().to_owned(),
            name.clone(),
            image,
            pod.namespace,
            pod.name,
            name,
        ])
    }

    fn new(base: [String; 6]) -> Self {
        Self {
            base,
            timestamp: now(),
            metrics: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, family: &Family, value: u64) {
        self.labelled(family, &[], value);
    }

    /// A value with the family's own labels.
    pub(super) fn labelled(&mut self, family: &Family, labels: &[&str], value: u64) {
        debug_assert_eq!(labels.len(), family.labels.len(), "{}", family.name);
        let base = self.base.iter().map(String::as_str);
        self.metrics.push(Metric {
            name: family.name.to_owned(),
            timestamp: self.timestamp,
            metric_type: family.kind.into(),
            label_values: base
                .chain(labels.iter().copied())
                .map(str::to_owned)
                .collect(),
            value: Some(UInt64Value { value }),
        });
    }

    pub(super) fn end(self) -> Vec<Metric> {
        self.metrics
    }
}
