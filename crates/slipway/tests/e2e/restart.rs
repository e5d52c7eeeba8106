//! What happens when the daemon or a shim is killed.

use std::time::Duration;

use slipway_cri_api::v1::{ContainerState, PodSandboxState, PodSandboxStatusRequest};
use slipway_testbed::{Cri, Node, eventually, leaks, pod, read_log};
use tonic::Code;

use crate::handler::run_pod;
use crate::{node, not_on_docker, on_docker, refused};

#[tokio::test]
async fn containers_and_their_logs_go_on_while_the_daemon_is_gone() {
    let (mut node, image) = node().await;
    let config = node.pod("survivor");
    let sandbox = node.cri().run_pod(&config).await.unwrap();
    let address = node
        .cri()
        .pod_status(&sandbox)
        .await
        .unwrap()
        .network
        .unwrap()
        .ip;
    let ticking = pod::shell("ticks", &image, "while :; do echo tick; sleep 0.05; done");
    let ticks = node
        .cri()
        .launch(&sandbox, &config, &ticking)
        .await
        .unwrap();
    let go = node.scratch.join("go");
    std::fs::create_dir(&go).unwrap();
    let mut ending = pod::shell(
        "ends",
        &image,
        "until [ -e /go/now ]; do sleep 0.05; done; exit 9",
    );
    ending.mounts = vec![slipway_cri_api::v1::Mount {
        container_path: "/go".to_owned(),
        host_path: go.display().to_string(),
        ..Default::default()
    }];
    let ends = node.cri().launch(&sandbox, &config, &ending).await.unwrap();
    let created = node
        .cri()
        .create(&sandbox, &config, &pod::sleeper("later", &image))
        .await
        .unwrap();
    let started_at = node
        .cri()
        .container_status(&ticks)
        .await
        .unwrap()
        .started_at;

    node.daemon.kill9();
    let log = pod::log_path(&config, &ticking);
    let before = read_log(&log).len();
    std::fs::write(go.join("now"), "").unwrap();
    let grows = async || {
        let patience = Duration::from_secs(20);
        let grown = async || Ok(read_log(&log).len() > before + 5);
        eventually("the log to grow", patience, grown)
            .await
            .unwrap();
    };
    // On Docker it is Docker's own that grows, until there is a daemon again (docker_logs).
    if !on_docker() {
        grows().await;
    }
    eventually(
        "the other container to end",
        Duration::from_secs(20),
        async || {
            let processes = node.daemon.pod_processes();
            Ok(!processes
                .iter()
                .any(|(_, group)| group.as_ref().is_some_and(|group| group.ends_with(&ends))))
        },
    )
    .await
    .unwrap();

    node.daemon.restart().await.unwrap();
    let cri = node.cri();
    let status = cri.pod_status(&sandbox).await.unwrap();
    assert_eq!(status.state(), PodSandboxState::SandboxReady);
    assert_eq!(status.network.unwrap().ip, address);
    let ticks_now = cri.container_status(&ticks).await.unwrap();
    assert_eq!(ticks_now.state(), ContainerState::ContainerRunning);
    assert_eq!(ticks_now.started_at, started_at);
    grows().await;
    let ended = cri.wait_for_exit(&ends).await.unwrap();
    assert_eq!((ended.exit_code, ended.reason.as_str()), (9, "Error"));
    cri.start(&created)
        .await
        .expect("what was created can be started by the next daemon");
    assert_eq!(cri.exec(&ticks, &["true"]).await.unwrap().exit_code, 0);
    cri.stop(&ticks, 0).await.unwrap();
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_shim_that_is_killed_takes_its_containers_with_it() {
    if not_on_docker("there is no shim") {
        return;
    }
    let (mut node, image) = node().await;
    let config = node.pod("victim");
    let sandbox = node.cri().run_pod(&config).await.unwrap();
    let container = pod::sleeper("main", &image);
    let id = node
        .cri()
        .launch(&sandbox, &config, &container)
        .await
        .unwrap();
    kill_shim(node.cri(), &sandbox).await;
    let ended = node.cri().wait_for_exit(&id).await.unwrap();
    assert_eq!(ended.reason, "Unknown");
    assert!(ended.message.contains("shim"), "{ended:?}");
    let status = node.cri().pod_status(&sandbox).await.unwrap();
    assert_eq!(status.state(), PodSandboxState::SandboxNotready);
    eventually(
        "its processes to be gone",
        Duration::from_secs(20),
        async || Ok(node.daemon.pod_processes().is_empty()),
    )
    .await
    .unwrap();
    let answer = node
        .cri()
        .create(&sandbox, &config, &pod::sleeper("more", &image))
        .await;
    refused(answer, Code::FailedPrecondition, &["not ready"]);

    // The same while nobody looks.
    let second = node.pod("second");
    let second_id = node.cri().run_pod(&second).await.unwrap();
    let other = node
        .cri()
        .launch(&second_id, &second, &container)
        .await
        .unwrap();
    let shim = shim_pid(node.cri(), &second_id).await;
    node.daemon.kill9();
    kill(shim);
    node.daemon.restart().await.unwrap();
    let ended = node.cri().wait_for_exit(&other).await.unwrap();
    assert_eq!(ended.reason, "Unknown");
    node.cri().remove(&other).await.unwrap();
    node.finish().await.unwrap();
}

async fn shim_pid(cri: &Cri, pod: &str) -> i32 {
    let request = PodSandboxStatusRequest {
        pod_sandbox_id: pod.to_owned(),
        verbose: true,
    };
    let answer = Box::pin(cri.runtime().pod_sandbox_status(request))
        .await
        .unwrap()
        .into_inner();
    let info: serde_json::Value = serde_json::from_str(&answer.info["info"]).unwrap();
    i32::try_from(info["shimPid"].as_i64().unwrap()).unwrap()
}

pub(crate) async fn kill_shim(cri: &Cri, pod: &str) {
    kill(shim_pid(cri, pod).await);
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// One pod's life with a runtime handler, as far as the daemon lets it come.
pub(crate) async fn life(
    node: &Node,
    handler: &str,
    number: usize,
    image: &str,
) -> Result<(), tonic::Status> {
    let cri = node.cri();
    let config = node.pod(&format!("life-{number}"));
    let sandbox = run_pod(cri, &config, handler).await?;
    let container = pod::sleeper("main", image);
    let id = cri.launch(&sandbox, &config, &container).await?;
    cri.exec(&id, &["true"]).await?;
    cri.stop(&id, 0).await?;
    cri.remove(&id).await?;
    cri.stop_pod(&sandbox).await?;
    cri.remove_pod(&sandbox).await
}

#[tokio::test]
async fn a_daemon_killed_at_any_moment_of_a_pods_life_leaks_nothing() {
    // On Docker a life takes seconds.
    let lives = if on_docker() { 10 } else { 50 };
    let (mut node, image) = node().await;
    let began = std::time::Instant::now();
    life(&node, "", lives, &image).await.unwrap();
    let whole = began.elapsed();
    for number in 0..lives {
        // Evenly over the life and a little past it, with a jitter that no two runs share.
        let jitter = u128::from(began.elapsed().subsec_nanos()) % (whole.as_nanos() / 25).max(1);
        let step = whole.as_nanos() * number as u128 / (lives - lives / 10) as u128;
        let moment = Duration::from_nanos(u64::try_from(step + jitter).unwrap());
        let cut_off = tokio::time::timeout(moment, life(&node, "", number, &image)).await;
        node.daemon.kill9();
        if let Ok(ended) = cut_off {
            ended.expect("a life that came to its end did so well");
        }
        node.daemon.restart().await.unwrap();
        // Whatever is there is whole: it can be looked at, stopped and removed.
        for sandbox in node.cri().pods().await.unwrap() {
            node.cri().pod_status(&sandbox.id).await.unwrap();
        }
        node.cri().remove_all().await.unwrap();
        assert!(node.cri().containers().await.unwrap().is_empty());
        leaks::assert_none(&node.scratch);
    }
    node.finish().await.unwrap();
}
