//! Values of one container or pod, which all have the labels that say whose they are.

use slipway_cri_api::SharedLabels;
use slipway_cri_api::v1::{Metric, PodSandboxMetadata, UInt64Value};

use super::families::{self, Family};

/// What cAdvisor calls the container that holds a pod's namespaces.
const POD: &str = "POD";

/// Whose metrics they are: the labels that each value begins with.
#[derive(Debug, Clone)]
pub struct Subject(SharedLabels);

impl Subject {
    /// A pod.
    pub fn pod(id: &str, pod: PodSandboxMetadata) -> Self {
        Self(SharedLabels::new(vec![
            id.to_owned(),
            pod.name.clone(),
            String::new(),
            pod.namespace,
            pod.name,
            POD.to_owned(),
        ]))
    }

    /// A container of a pod; `image` is as its user named it.
    pub fn container(id: &str, name: &str, image: &str, pod: PodSandboxMetadata) -> Self {
        Self(SharedLabels::new(vec![
            id.to_owned(),
            name.to_owned(),
            image.to_owned(),
            pod.namespace,
            pod.name,
            name.to_owned(),
        ]))
    }
}

pub(super) struct Series {
    subject: Subject,
    timestamp: i64,
    metrics: Vec<Metric>,
}

impl Series {
    /// Of what is looked at now, in nanoseconds since the epoch.
    pub(super) fn new(subject: Subject, now: i64) -> Self {
        Self {
            subject,
            timestamp: now,
            metrics: Vec::with_capacity(families::ALL.len()),
        }
    }

    pub(super) fn add(&mut self, family: &Family, value: u64) {
        self.labelled(family, &[], value);
    }

    /// A value with the family's own labels.
    pub(super) fn labelled(&mut self, family: &Family, labels: &[&str], value: u64) {
        debug_assert_eq!(labels.len(), family.labels.len(), "{}", family.name);
        let own = labels.iter().map(|&value| value.to_owned()).collect();
        self.metrics.push(Metric {
            name: family.name.into(),
            timestamp: self.timestamp,
            metric_type: family.kind.into(),
            label_values: self.subject.0.with(own),
            value: Some(UInt64Value { value }),
        });
    }

    pub(super) fn end(self) -> Vec<Metric> {
        self.metrics
    }
}
