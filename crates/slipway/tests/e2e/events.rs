//! What GetContainerEvents tells of pods and containers.

use std::time::Duration;

use slipway_cri_api::v1::{
    ContainerEventResponse, ContainerEventType as Kind, ContainerState, GetEventsRequest,
    NamespaceMode, PodSandboxState,
};
use slipway_testbed::{Cri, pod};
use tokio::task::JoinSet;
use tonic::{Code, Streaming};

use crate::{node, not_on_docker};

struct Listener(Streaming<ContainerEventResponse>);

impl Listener {
    async fn new(cri: &Cri) -> Self {
        let answer = cri
            .runtime()
            .get_container_events(GetEventsRequest {})
            .await;
        Self(answer.unwrap().into_inner())
    }

    async fn next(&mut self) -> ContainerEventResponse {
        let next = tokio::time::timeout(Duration::from_secs(20), self.0.message());
        let event = next.await.expect("an event in time").unwrap();
        event.expect("the stream goes on")
    }

    /// Hears so many events and answers whose they are and what happened.
    async fn hear(&mut self, count: usize) -> Vec<(String, Kind)> {
        let mut heard = Vec::new();
        for _ in 0..count {
            let event = self.next().await;
            heard.push((event.container_id.clone(), event.container_event_type()));
        }
        heard
    }
}

#[tokio::test]
async fn every_step_of_a_life_is_told_with_the_status_after_it() {
    let (node, image) = node().await;
    let cri = node.cri();
    let mut events = Listener::new(cri).await;
    let config = node.pod("told");
    let pod_id = cri.run_pod(&config).await.unwrap();
    for kind in [Kind::ContainerCreatedEvent, Kind::ContainerStartedEvent] {
        let event = events.next().await;
        assert_eq!(event.container_id, pod_id);
        assert_eq!(event.container_event_type(), kind);
        let status = event.pod_sandbox_status.unwrap();
        assert_eq!(status, cri.pod_status(&pod_id).await.unwrap());
        assert!(!status.network.unwrap().ip.is_empty());
    }

    let container = pod::sleeper("main", &image);
    let before = now();
    let id = cri.create(&pod_id, &config, &container).await.unwrap();
    let created = events.next().await;
    assert_eq!(created.container_id, id);
    assert_eq!(created.container_event_type(), Kind::ContainerCreatedEvent);
    assert!((before..=now()).contains(&created.created_at));
    let told = &created.containers_statuses[0];
    assert_eq!(told.state(), ContainerState::ContainerCreated);
    assert_eq!(told, &cri.container_status(&id).await.unwrap());

    cri.start(&id).await.unwrap();
    let started = events.next().await;
    assert_eq!(started.container_event_type(), Kind::ContainerStartedEvent);
    let told = &started.containers_statuses[0];
    assert_eq!(told, &cri.container_status(&id).await.unwrap());

    cri.stop(&id, 10).await.unwrap();
    let stopped = events.next().await;
    assert_eq!(stopped.container_event_type(), Kind::ContainerStoppedEvent);
    let told = &stopped.containers_statuses[0];
    assert_eq!(told.state(), ContainerState::ContainerExited);
    assert_eq!(told, &cri.container_status(&id).await.unwrap());

    cri.remove(&id).await.unwrap();
    let deleted = events.next().await;
    assert_eq!(deleted.container_id, id);
    assert_eq!(deleted.container_event_type(), Kind::ContainerDeletedEvent);
    assert_eq!(deleted.containers_statuses, []);
    assert!(deleted.pod_sandbox_status.is_some());

    cri.stop_pod(&pod_id).await.unwrap();
    let stopped = events.next().await;
    assert_eq!(stopped.container_id, pod_id);
    assert_eq!(stopped.container_event_type(), Kind::ContainerStoppedEvent);
    let status = stopped.pod_sandbox_status.unwrap();
    assert_eq!(status.state(), PodSandboxState::SandboxNotready);
    cri.remove_pod(&pod_id).await.unwrap();
    let deleted = events.next().await;
    assert_eq!(deleted.container_id, pod_id);
    assert_eq!(deleted.container_event_type(), Kind::ContainerDeletedEvent);
    // A kubelet finds the pod by this.
    let status = deleted.pod_sandbox_status.unwrap();
    assert_eq!(status.metadata, config.metadata);
    node.finish().await.unwrap();
}

fn now() -> i64 {
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_nanos()).unwrap()
}

#[tokio::test]
async fn everybody_hears_the_same_in_the_order_of_each_container() {
    let (node, image) = node().await;
    let cri = node.cri();
    let mut listeners = Vec::new();
    for _ in 0..5 {
        listeners.push(Listener::new(cri).await);
    }
    let life = async |number: u32| {
        let config = node.pod(&format!("pod{number}"));
        let container = pod::shell("main", &image, "exit 7");
        let pod_id = cri.run_pod(&config).await.unwrap();
        let id = cri.launch(&pod_id, &config, &container).await.unwrap();
        cri.wait_for_exit(&id).await.unwrap();
        cri.stop_pod(&pod_id).await.unwrap();
        cri.remove_pod(&pod_id).await.unwrap();
        [pod_id, id]
    };
    let ids = tokio::join!(life(0), life(1), life(2), life(3));
    let ids = [ids.0, ids.1, ids.2, ids.3];
    let mut heard = Vec::new();
    for listener in &mut listeners {
        heard.push(listener.hear(4 * 8).await);
    }
    for other in &heard[1..] {
        assert_eq!(other, &heard[0]);
    }
    for id in ids.iter().flatten() {
        let kinds: Vec<_> = heard[0]
            .iter()
            .filter(|(of, _)| of == id)
            .map(|(_, kind)| *kind)
            .collect();
        let life = [
            Kind::ContainerCreatedEvent,
            Kind::ContainerStartedEvent,
            Kind::ContainerStoppedEvent,
            Kind::ContainerDeletedEvent,
        ];
        assert_eq!(kinds, life);
    }
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_shim_that_is_killed_is_told_like_any_other_end() {
    if not_on_docker("there is no shim; the end of a pause container is in docker::") {
        return;
    }
    let (node, image) = node().await;
    let cri = node.cri();
    let config = node.pod("lost");
    let pod_id = cri.run_pod(&config).await.unwrap();
    let container = pod::sleeper("main", &image);
    let id = cri.launch(&pod_id, &config, &container).await.unwrap();
    let mut events = Listener::new(cri).await;
    let shims = node.daemon.pod_processes();
    let (shim, _) = shims.iter().find(|(_, cgroup)| cgroup.is_none()).unwrap();
    kill(*shim);
    let pod = events.next().await;
    assert_eq!(pod.container_id, pod_id);
    assert_eq!(pod.container_event_type(), Kind::ContainerStoppedEvent);
    let status = pod.pod_sandbox_status.unwrap();
    assert_eq!(status.state(), PodSandboxState::SandboxNotready);
    let container = events.next().await;
    assert_eq!(container.container_id, id);
    assert_eq!(container.containers_statuses[0].reason, "Unknown");
    node.finish().await.unwrap();
}

fn kill(pid: i32) {
    let killed = std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status();
    assert!(killed.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_loses_its_stream_and_holds_nobody_up() {
    let (node, image) = node().await;
    let cri = node.cri();
    // Connections of their own: what one does not read must not stand in another's way.
    let deaf = Cri::new(node.daemon.cri().socket());
    let mut deaf = Listener::new(&deaf).await;
    let mut config = node.pod("many");
    let security = config.linux.as_mut().unwrap().security_context.as_mut();
    let namespaces = security.unwrap().namespace_options.as_mut().unwrap();
    namespaces.network = NamespaceMode::Node.into();
    // What the kernel's and the transport's buffers take is filled by large events.
    config.annotations = [("note".to_owned(), "x".repeat(100_000))].into();
    let pod_id = cri.run_pod(&config).await.unwrap();
    let mut makers = JoinSet::new();
    for maker in 0..4 {
        let (cri, config, pod_id) = (cri.clone(), config.clone(), pod_id.clone());
        let container = pod::sleeper(&format!("main{maker}"), &image);
        makers.spawn(async move {
            for _ in 0..150 {
                let id = cri.create(&pod_id, &config, &container).await.unwrap();
                cri.remove(&id).await.unwrap();
            }
        });
    }
    makers.join_all().await;
    let mut heard = 0;
    let end = loop {
        match deaf.0.message().await {
            Ok(Some(_)) => heard += 1,
            Ok(None) => panic!("the stream ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::DataLoss, "{end:?}");
    assert!(end.message().contains("listen again"), "{end:?}");
    assert!(heard < 600, "{heard}");
    // Whoever listens again hears again.
    let mut again = Listener::new(cri).await;
    cri.stop_pod(&pod_id).await.unwrap();
    assert_eq!(again.next().await.container_id, pod_id);
    node.finish().await.unwrap();
}
