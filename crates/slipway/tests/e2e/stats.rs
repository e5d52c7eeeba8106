//! What pods and containers use, as CRI's statistics say it.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use slipway_cri_api::v1::{
    ContainerStats, ContainerStatsFilter, ContainerStatsRequest, CpuUsage, ImageFsInfoRequest,
    LinuxContainerResources, LinuxPodSandboxStats, ListContainerStatsRequest,
    ListPodSandboxStatsRequest, NamespaceMode, PodSandboxConfig, PodSandboxStats,
    PodSandboxStatsFilter, PodSandboxStatsRequest, UInt64Value,
};
use slipway_testbed::{Cri, Node, eventually, pod};
use tonic::{Code, Status};

use crate::resource::remove_cgroup;
use crate::{node, not_on_docker, on_docker, refused};

const MEBI: u64 = 1 << 20;

async fn container_stats(cri: &Cri, id: &str) -> Result<ContainerStats, Status> {
    let request = ContainerStatsRequest {
        container_id: id.to_owned(),
    };
    let answer = cri.runtime().container_stats(request).await?;
    Ok(answer.into_inner().stats.expect("statistics"))
}

async fn list(cri: &Cri, filter: ContainerStatsFilter) -> Vec<String> {
    let request = ListContainerStatsRequest {
        filter: Some(filter),
    };
    let answer = cri.runtime().list_container_stats(request).await.unwrap();
    let stats = answer.into_inner().stats;
    stats
        .into_iter()
        .map(|stats| stats.attributes.unwrap().id)
        .collect()
}

async fn pod_stats(cri: &Cri, id: &str) -> Result<PodSandboxStats, Status> {
    let request = PodSandboxStatsRequest {
        pod_sandbox_id: id.to_owned(),
    };
    let answer = cri.runtime().pod_sandbox_stats(request).await?;
    Ok(answer.into_inner().stats.expect("statistics"))
}

async fn list_pods(cri: &Cri, filter: PodSandboxStatsFilter) -> Vec<String> {
    let request = ListPodSandboxStatsRequest {
        filter: Some(filter),
    };
    let answer = cri.runtime().list_pod_sandbox_stats(request).await.unwrap();
    let stats = answer.into_inner().stats;
    stats
        .into_iter()
        .map(|stats| stats.attributes.unwrap().id)
        .collect()
}

/// How fast a container uses processor time, as it is told.
pub(crate) struct Rates<'a> {
    cri: &'a Cri,
    container: &'a str,
    last: Option<Look>,
    changed: Option<Change>,
}

/// A rate, and what it can be: neither a quota nor a sleep says so on a machine that stands still
/// whenever its host is busy.
#[derive(Debug)]
pub(crate) struct Rate {
    pub(crate) cpu: CpuUsage,
    pub(crate) possible: RangeInclusive<u64>,
}

/// One answer, which was read at some time between these two.
#[derive(Clone, Debug)]
struct Look {
    asked: Instant,
    told: Instant,
    cpu: CpuUsage,
}

/// Two answers, the first with the rate of before. What was read for the new one was so between them,
/// by whomever.
#[derive(Clone, Debug)]
struct Change {
    from: Look,
    to: Look,
}

impl Look {
    fn used(&self) -> u64 {
        number(self.cpu.usage_core_nano_seconds)
    }
}

impl<'a> Rates<'a> {
    pub(crate) fn of(cri: &'a Cri, container: &'a str) -> Self {
        Self {
            cri,
            container,
            last: None,
            changed: None,
        }
    }

    /// Looks until it is another one: that of the time since this was answered last, or since the first
    /// change that is seen.
    pub(crate) async fn next(&mut self) -> Rate {
        let begin = match self.changed.take() {
            Some(begin) => begin,
            None => self.change().await,
        };
        let end = self.change().await;
        self.changed = Some(end.clone());
        let least = end.from.used().saturating_sub(begin.to.used());
        let most = end.to.used() - begin.from.used();
        let longest = end.to.told - begin.from.asked;
        let shortest = end.from.asked.saturating_duration_since(begin.to.told);
        let second = 1_000_000_000;
        let slowest = u128::from(least) * second / longest.as_nanos();
        let fastest = (u128::from(most) * second)
            .checked_div(shortest.as_nanos())
            .map_or(u128::MAX, |rate| rate + 1);
        let capped = |rate| u64::try_from(rate).unwrap_or(u64::MAX);
        Rate {
            cpu: end.to.cpu,
            possible: capped(slowest)..=capped(fastest),
        }
    }

    async fn change(&mut self) -> Change {
        let mut change = None;
        eventually("another rate", Duration::from_mins(1), async || {
            let asked = Instant::now();
            let stats = container_stats(self.cri, self.container).await?;
            let look = Look {
                asked,
                told: Instant::now(),
                cpu: stats.cpu.expect("it runs"),
            };
            let from = self.last.replace(look.clone());
            let from = from.filter(|from| from.cpu.usage_nano_cores != look.cpu.usage_nano_cores);
            change = from.map(|from| Change { from, to: look });
            Ok(change.is_some())
        })
        .await
        .unwrap();
        change.expect("it was seen")
    }
}

impl Rate {
    /// Sees to it that the rate is that of the counter.
    pub(crate) fn is_right(&self) {
        let told = number(self.cpu.usage_nano_cores);
        assert!(told > 0 && self.possible.contains(&told), "{self:?}");
    }
}

/// A pod with a cgroup of its own, as a kubelet gives it one.
fn pod_with_cgroup(node: &Node, name: &str) -> PodSandboxConfig {
    let mut config = node.pod(name);
    let linux = config.linux.as_mut().unwrap();
    linux.cgroup_parent = format!("{}/{name}", node.scratch.cgroup_parent());
    config
}

fn number(value: Option<UInt64Value>) -> u64 {
    value.expect("a number").value
}

#[tokio::test]
async fn a_containers_processor_time_memory_and_writable_layer_are_told() {
    let (node, image) = node().await;
    let cri = node.cri();
    let config = node.pod("busy");
    let pod_id = cri.run_pod(&config).await.unwrap();
    // Half of a processor, 8 MiB in a tmpfs, which counts as memory, and 3 MiB on disk in 11 files:
    // the largest is the last, so that whoever sees its bytes sees all of them.
    let script = "dd if=/dev/zero of=/dev/shm/memory bs=1M count=8; mkdir /data; \
                  for i in 0 1 2 3 4 5 6 7 8 9; do echo $i > /data/$i; done; \
                  dd if=/dev/zero of=/data/large bs=1M count=3; \
                  while :; do :; done";
    let mut container = pod::shell("main", &image, script);
    container.labels = [("app".to_owned(), "busy".to_owned())].into();
    container.annotations = [("a/b".to_owned(), "c d".to_owned())].into();
    container.linux.as_mut().unwrap().resources = Some(LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        memory_limit_in_bytes: 64 << 20,
        ..Default::default()
    });
    let id = cri.launch(&pod_id, &config, &container).await.unwrap();

    let mut last = ContainerStats::default();
    eventually("the layer", Duration::from_secs(30), async || {
        last = container_stats(cri, &id).await?;
        let layer = last.writable_layer.as_ref();
        Ok(layer.is_some_and(|layer| number(layer.used_bytes) >= 3 * MEBI))
    })
    .await
    .unwrap();

    let attributes = last.attributes.unwrap();
    assert_eq!(attributes.id, id);
    assert_eq!(attributes.metadata, container.metadata);
    assert_eq!(attributes.labels, container.labels);
    assert_eq!(attributes.annotations, container.annotations);

    let mut rates = Rates::of(cri, &id);
    rates.next().await.is_right();
    rates.next().await.is_right();
    let cpu = last.cpu.unwrap();
    assert!(number(cpu.usage_core_nano_seconds) > 0);

    let memory = last.memory.unwrap();
    let used = number(memory.working_set_bytes);
    assert!((8 * MEBI..64 * MEBI).contains(&used), "{used}");
    assert!(number(memory.usage_bytes) >= used);
    assert_eq!(number(memory.available_bytes), 64 * MEBI - used);
    assert!(number(memory.rss_bytes) > 0);
    assert!(number(memory.page_faults) > 0);
    number(memory.major_page_faults);

    let layer = last.writable_layer.unwrap();
    let bytes = number(layer.used_bytes);
    assert!((3 * MEBI..4 * MEBI).contains(&bytes), "{bytes}");
    if !not_on_docker("Docker counts bytes and no inodes") {
        // The files, their directory, and what the layer has for mount points.
        let inodes = number(layer.inodes_used);
        assert!((12..40).contains(&inodes), "{inodes}");
    }
    let info = cri.images().image_fs_info(ImageFsInfoRequest {}).await;
    let info = info.unwrap().into_inner();
    assert_eq!(layer.fs_id, info.container_filesystems[0].fs_id);
    for timestamp in [cpu.timestamp, memory.timestamp, layer.timestamp] {
        assert!(timestamp > config_time(), "{timestamp}");
    }
    node.finish().await.unwrap();
}

/// A time, in nanoseconds since the epoch, that is before every measurement here.
fn config_time() -> i64 {
    1_700_000_000_000_000_000
}

#[tokio::test]
async fn a_container_that_does_not_run_has_a_layer_and_no_use() {
    let (node, image) = node().await;
    let cri = node.cri();
    let config = node.pod("done");
    let pod_id = cri.run_pod(&config).await.unwrap();
    let script = "dd if=/dev/zero of=/file bs=1M count=2";
    let container = pod::shell("main", &image, script);
    let id = cri.launch(&pod_id, &config, &container).await.unwrap();
    cri.wait_for_exit(&id).await.unwrap();
    let mut last = ContainerStats::default();
    eventually("the layer's size", Duration::from_secs(30), async || {
        last = container_stats(cri, &id).await?;
        let layer = last.writable_layer.as_ref();
        Ok(layer.is_some_and(|layer| number(layer.used_bytes) >= 2 * MEBI))
    })
    .await
    .unwrap();
    assert_eq!(last.cpu, None);
    assert_eq!(last.memory, None);
    // What has ended does not change, and is not read again.
    let read = last.writable_layer.unwrap().timestamp;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    container_stats(cri, &id).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let later = container_stats(cri, &id).await.unwrap();
    assert_eq!(later.writable_layer.unwrap().timestamp, read);

    cri.stop_pod(&pod_id).await.unwrap();
    let stopped = pod_stats(cri, &pod_id).await.unwrap().linux.unwrap();
    assert_eq!(stopped.cpu, None);
    assert_eq!(stopped.network, None);
    assert_eq!(stopped.containers.len(), 1);
    assert!(
        list_pods(cri, PodSandboxStatsFilter::default())
            .await
            .is_empty()
    );
    refused(
        container_stats(cri, "abc").await,
        Code::NotFound,
        &["container", "abc"],
    );
    refused(pod_stats(cri, "abc").await, Code::NotFound, &["pod", "abc"]);
    refused(
        container_stats(cri, "").await,
        Code::InvalidArgument,
        &["id", "empty"],
    );
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_pods_network_processes_and_containers_are_told() {
    let (node, image) = node().await;
    let cri = node.cri();
    let config = pod_with_cgroup(&node, "web");
    let pod_id = cri.run_pod(&config).await.unwrap();
    let server = "mkdir /www; dd if=/dev/zero of=/www/large bs=1M count=1; \
                  exec httpd -f -p 8080 -h /www";
    cri.launch(&pod_id, &config, &pod::shell("server", &image, server))
        .await
        .unwrap();
    let three = pod::shell("three", &image, "sleep 1000 & sleep 1000 & wait");
    let three = cri.launch(&pod_id, &config, &three).await.unwrap();
    let address = cri.pod_status(&pod_id).await.unwrap().network.unwrap().ip;

    let client = node.pod("client");
    let client_id = cri.run_pod(&client).await.unwrap();
    let fetch = format!("until wget -qO /dev/null http://{address}:8080/large; do :; done");
    let fetch = pod::shell("fetch", &image, &fetch);
    let fetch = cri.launch(&client_id, &client, &fetch).await.unwrap();
    assert_eq!(cri.wait_for_exit(&fetch).await.unwrap().exit_code, 0);
    // A second interface, as multus makes them.
    let state = node.daemon.state();
    let netns = if on_docker() {
        state.join("docker/netns").join(&pod_id)
    } else {
        state.join("pods").join(&pod_id).join("ns/net")
    };
    let added = std::process::Command::new("nsenter")
        .arg(format!("--net={}", netns.display()))
        .args(["ip", "link", "add", "net1", "type", "bridge"])
        .status()
        .unwrap();
    assert!(added.success());

    let mut linux = LinuxPodSandboxStats::default();
    eventually("a rate", Duration::from_secs(30), async || {
        let stats = pod_stats(cri, &pod_id).await?;
        assert_eq!(stats.attributes.as_ref().unwrap().metadata, config.metadata);
        linux = stats.linux.unwrap();
        Ok(linux.cpu.is_some_and(|cpu| cpu.usage_nano_cores.is_some())
            && linux
                .process
                .is_some_and(|process| number(process.process_count) == 4))
    })
    .await
    .unwrap();
    let network = linux.network.unwrap();
    let eth0 = network.default_interface.unwrap();
    assert_eq!(eth0.name, "eth0");
    assert!(number(eth0.tx_bytes) > MEBI, "{eth0:?}");
    assert!(number(eth0.rx_bytes) > 1000, "{eth0:?}");
    assert_eq!(number(eth0.rx_errors) + number(eth0.tx_errors), 0);
    let others: Vec<_> = network.interfaces.iter().map(|one| &one.name).collect();
    assert_eq!(others, ["net1"], "without lo and without the default one");

    assert_eq!(linux.containers.len(), 2);
    let of_containers: u64 = linux
        .containers
        .iter()
        .map(|one| number(one.cpu.unwrap().usage_core_nano_seconds))
        .sum();
    let of_pod = number(linux.cpu.unwrap().usage_core_nano_seconds);
    assert!(of_pod >= of_containers / 2, "{of_pod} {of_containers}");
    assert!(number(linux.memory.unwrap().working_set_bytes) > 0);
    cri.stop(&three, 0).await.unwrap();
    let after = pod_stats(cri, &pod_id).await.unwrap().linux.unwrap();
    assert_eq!(number(after.process.unwrap().process_count), 1);
    if on_docker() {
        // Docker leaves a parent that it has made: a kubelet's own are its own to remove.
        cri.remove_pod(&pod_id).await.unwrap();
        remove_cgroup(&config.linux.unwrap().cgroup_parent);
    }
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_pod_on_the_nodes_network_has_no_interfaces_of_its_own() {
    let (node, _) = node().await;
    let cri = node.cri();
    let mut config = node.pod("host");
    let security = config.linux.as_mut().unwrap().security_context.as_mut();
    let namespaces = security.unwrap().namespace_options.as_mut().unwrap();
    namespaces.network = NamespaceMode::Node.into();
    let pod_id = cri.run_pod(&config).await.unwrap();
    let linux = pod_stats(cri, &pod_id).await.unwrap().linux.unwrap();
    assert_eq!(linux.network, None);
    assert_eq!(number(linux.process.unwrap().process_count), 0);
    node.finish().await.unwrap();
}

#[tokio::test]
async fn statistics_are_listed_by_id_pod_and_labels() {
    let (node, image) = node().await;
    let cri = node.cri();
    let mut pods = Vec::new();
    let mut containers = Vec::new();
    for name in ["one", "two"] {
        let mut config = node.pod(name);
        config.labels = [("app".to_owned(), name.to_owned())].into();
        let pod_id = cri.run_pod(&config).await.unwrap();
        for tier in ["front", "back"] {
            let mut container = pod::sleeper(tier, &image);
            container.labels = [("tier".to_owned(), tier.to_owned())].into();
            containers.push(cri.launch(&pod_id, &config, &container).await.unwrap());
        }
        pods.push(pod_id);
    }
    let newest_first: Vec<_> = containers.iter().rev().cloned().collect();
    let all = list(cri, ContainerStatsFilter::default()).await;
    assert_eq!(all, newest_first);
    let label = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    let by_label = ContainerStatsFilter {
        label_selector: label("tier", "front"),
        ..Default::default()
    };
    assert_eq!(
        list(cri, by_label).await,
        [containers[2].clone(), containers[0].clone()]
    );
    let by_pod = ContainerStatsFilter {
        pod_sandbox_id: pods[0][..20].to_owned(),
        label_selector: label("tier", "back"),
        ..Default::default()
    };
    assert_eq!(list(cri, by_pod).await, [containers[1].clone()]);
    let by_id = ContainerStatsFilter {
        id: containers[3][..20].to_owned(),
        ..Default::default()
    };
    assert_eq!(list(cri, by_id).await, [containers[3].clone()]);
    let none = ContainerStatsFilter {
        id: containers[3].clone(),
        pod_sandbox_id: pods[0].clone(),
        ..Default::default()
    };
    assert!(list(cri, none).await.is_empty());

    let every = list_pods(cri, PodSandboxStatsFilter::default()).await;
    assert_eq!(every, [pods[1].clone(), pods[0].clone()]);
    let by_label = PodSandboxStatsFilter {
        label_selector: label("app", "one"),
        ..Default::default()
    };
    assert_eq!(list_pods(cri, by_label).await, [pods[0].clone()]);
    let by_id = PodSandboxStatsFilter {
        id: pods[1][..20].to_owned(),
        ..Default::default()
    };
    assert_eq!(list_pods(cri, by_id).await, [pods[1].clone()]);
    node.finish().await.unwrap();
}
