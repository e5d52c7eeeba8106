//! cAdvisor's metrics of containers, as ListPodSandboxMetrics tells them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use slipway_cri_api::v1::{
    LinuxContainerResources, ListMetricDescriptorsRequest, ListPodSandboxMetricsRequest, Metric,
    MetricType, PodSandboxMetrics, StreamPodSandboxMetricsRequest,
};
use slipway_testbed::{Cri, eventually, pod};

use crate::node;

pub(crate) async fn list(cri: &Cri) -> Vec<PodSandboxMetrics> {
    let request = ListPodSandboxMetricsRequest {};
    let answer = cri.runtime().list_pod_sandbox_metrics(request).await;
    answer.unwrap().into_inner().pod_metrics
}

fn value(metrics: &[Metric], name: &str, label: &str) -> Option<u64> {
    let metric = metrics.iter().find(|metric| {
        metric.name == name
            && (label.is_empty() || metric.label_values.iter().any(|value| value == label))
    })?;
    metric.value.map(|value| value.value)
}

#[tokio::test]
async fn what_a_container_uses_is_told_under_cadvisors_names() {
    let (node, image) = node().await;
    let cri = node.cri();
    let config = node.pod("measured");
    let pod_id = cri.run_pod(&config).await.unwrap();
    let script = "dd if=/dev/zero of=/large bs=1M count=3; \
                  until [ -e /enough ]; do :; done; sleep 1000 & sleep 1000 & wait";
    let mut container = pod::shell("main", &image, script);
    container.linux.as_mut().unwrap().resources = Some(LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 90_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 << 20,
        ..Default::default()
    });
    let id = cri.launch(&pod_id, &config, &container).await.unwrap();

    let mut pod = PodSandboxMetrics::default();
    eventually(
        "a second of CPU and a layer",
        Duration::from_mins(1),
        async || {
            pod = list(cri).await.remove(0);
            let metrics = &pod.container_metrics[0].metrics;
            Ok(
                value(metrics, "container_cpu_usage_seconds_total", "total") >= Some(1)
                    && value(metrics, "container_fs_usage_bytes", "") >= Some(3 << 20),
            )
        },
    )
    .await
    .unwrap();
    cri.exec(&id, &["touch", "/enough"]).await.unwrap();
    eventually("rest", Duration::from_secs(20), async || {
        pod = list(cri).await.remove(0);
        let metrics = &pod.container_metrics[0].metrics;
        Ok(value(metrics, "container_processes", "") == Some(3)
            && value(metrics, "container_tasks_state", "sleeping") == Some(3))
    })
    .await
    .unwrap();
    assert_eq!(pod.pod_sandbox_id, pod_id);
    assert_eq!(pod.container_metrics.len(), 1);
    assert_eq!(pod.container_metrics[0].container_id, id);
    let metrics = &pod.container_metrics[0].metrics;

    for (name, label, expected) in [
        ("container_threads", "", 3),
        ("container_sockets", "", 0),
        ("container_spec_cpu_period", "", 100_000),
        ("container_spec_cpu_quota", "", 90_000),
        ("container_spec_cpu_shares", "", 512),
        ("container_spec_memory_limit_bytes", "", 64 << 20),
        ("container_oom_events_total", "", 0),
    ] {
        assert_eq!(value(metrics, name, label), Some(expected), "{name}");
    }
    for (name, label) in [
        ("container_cpu_cfs_periods_total", ""),
        ("container_memory_usage_bytes", ""),
        ("container_memory_working_set_bytes", ""),
        ("container_memory_rss", ""),
        ("container_memory_max_usage_bytes", ""),
        ("container_memory_failures_total", "pgfault"),
        ("container_file_descriptors", ""),
        ("container_fs_limit_bytes", ""),
        ("container_fs_inodes_total", ""),
        ("container_fs_inodes_free", ""),
        ("container_ulimits_soft", "max_open_files"),
    ] {
        assert!(value(metrics, name, label) > Some(0), "{name}");
    }
    let started = cri.container_status(&id).await.unwrap().started_at / 1_000_000_000;
    let told = value(metrics, "container_start_time_seconds", "").unwrap();
    assert_eq!(told, u64::try_from(started).unwrap());
    assert!(value(metrics, "container_last_seen", "").unwrap() > told);
    assert!(
        value(
            &pod.metrics,
            "container_network_receive_bytes_total",
            "eth0"
        )
        .is_some()
    );
    node.finish().await.unwrap();
}

#[tokio::test]
async fn every_value_has_a_descriptor_and_a_label_for_each_of_its_keys() {
    let (node, image) = node().await;
    let cri = node.cri();
    let config = node.pod("described");
    let pod_id = cri.run_pod(&config).await.unwrap();
    let container = pod::sleeper("main", &image);
    let id = cri.launch(&pod_id, &config, &container).await.unwrap();
    let request = ListMetricDescriptorsRequest {};
    let answer = cri.runtime().list_metric_descriptors(request).await;
    let descriptors = answer.unwrap().into_inner().descriptors;
    let keys: BTreeMap<_, _> = descriptors
        .iter()
        .map(|descriptor| (descriptor.name.as_str(), &descriptor.label_keys))
        .collect();
    assert_eq!(keys.len(), descriptors.len());
    assert!(descriptors.iter().all(|one| !one.help.is_empty()));

    let pods = list(cri).await;
    let metadata = config.metadata.clone().unwrap();
    let mut series = BTreeSet::new();
    for metric in pods[0]
        .metrics
        .iter()
        .chain(&pods[0].container_metrics[0].metrics)
    {
        let keys = keys[&*metric.name];
        let values: Vec<_> = metric.label_values.iter().collect();
        assert_eq!(values.len(), keys.len(), "{metric:?}");
        let label = |key: &str| {
            let position = keys.iter().position(|one| one == key).unwrap();
            values[position]
        };
        assert_eq!(
            (label("namespace"), label("pod")),
            (&*metadata.namespace, &*metadata.name)
        );
        let (whose, name, image_label) = if metric.name.starts_with("container_network") {
            (&pod_id, "POD", "")
        } else {
            (&id, "main", image.as_str())
        };
        assert_eq!(
            (label("id"), label("container"), label("image")),
            (whose.as_str(), name, image_label)
        );
        let counts = metric.name.ends_with("_failcnt")
            || metric.name.ends_with("_total") && metric.name != "container_fs_inodes_total";
        assert_eq!(
            metric.metric_type() == MetricType::Counter,
            counts,
            "{metric:?}"
        );
        assert!(series.insert((&metric.name, values)), "twice: {metric:?}");
    }

    let mut runtime = cri.runtime();
    let stream = runtime.stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest {});
    let message = stream.await.unwrap().into_inner().message().await.unwrap();
    let streamed = message.unwrap().pod_sandbox_metrics;
    assert_eq!(streamed[0].pod_sandbox_id, pod_id);

    // What does not run uses nothing.
    cri.stop(&id, 0).await.unwrap();
    assert_eq!(list(cri).await[0].container_metrics, []);
    cri.stop_pod(&pod_id).await.unwrap();
    assert_eq!(list(cri).await, []);
    node.finish().await.unwrap();
}
