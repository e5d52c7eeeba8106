//! Commands in running containers.

use std::time::{Duration, Instant};

use slipway_cri_api::v1::{ExecSyncRequest, KeyValue};
use slipway_testbed::{eventually, pod, read_log};
use tonic::Code;

use crate::{node, not_on_docker, refused};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn output_and_exit_code_come_back() {
    let (node, image) = node().await;
    let cri = node.cri();
    let config = node.pod("exec");
    let pod = cri.run_pod(&config).await.unwrap();
    let id = cri
        .create(&pod, &config, &pod::sleeper("main", &image))
        .await
        .unwrap();
    refused(
        cri.exec(&id, &["true"]).await,
        Code::FailedPrecondition,
        &["not running"],
    );
    cri.start(&id).await.unwrap();

    let answer = cri
        .exec(&id, &["sh", "-c", "echo out; echo err >&2; exit 5"])
        .await
        .unwrap();
    assert_eq!(answer.stdout, b"out\n");
    assert_eq!(answer.stderr, b"err\n");
    assert_eq!(answer.exit_code, 5);
    let large = cri
        .exec(&id, &["head", "-c", "5000000", "/dev/zero"])
        .await
        .unwrap();
    assert_eq!(large.stdout.len(), 5_000_000);
    // Both together fit into a message; what is more is read and dropped.
    let flood = "head -c 20000000 /dev/zero; head -c 20000000 /dev/zero >&2";
    let flooded = cri.exec(&id, &["sh", "-c", flood]).await.unwrap();
    assert_eq!(flooded.exit_code, 0);
    assert_eq!(flooded.stdout.len(), (16 << 20) - 1024);
    assert_eq!(flooded.stderr.len(), 0);
    // An environment that is larger than a packet to the shim, as many services make it.
    let mut loaded = pod::sleeper("loaded", &image);
    loaded.envs = (0..5000)
        .map(|number| KeyValue {
            key: format!("SERVICE_{number}_PORT"),
            value: format!(
                "tcp://10.96.{}.{}:80{:048}",
                number / 250,
                number % 250,
                number
            ),
        })
        .collect();
    let loaded = cri.launch(&pod, &config, &loaded).await.unwrap();
    let count = cri
        .exec(&loaded, &["sh", "-c", "env | grep -c SERVICE_"])
        .await
        .unwrap();
    assert_eq!(count.stdout, b"5000\n");
    // It is in all of the container's namespaces, and reads nothing from standard input.
    let inside = cri
        .exec(&id, &["sh", "-c", "cat; hostname; ps | wc -l"])
        .await
        .unwrap();
    let inside = String::from_utf8(inside.stdout).unwrap();
    assert!(inside.starts_with("exec\n"), "{inside}");
    // A child that lives on does not hold the answer up.
    let left = cri
        .exec(&id, &["sh", "-c", "sleep 100000 & echo done"])
        .await
        .unwrap();
    assert_eq!(left.stdout, b"done\n");

    refused(cri.exec(&id, &[]).await, Code::InvalidArgument, &["cmd"]);
    refused(
        cri.exec(&id, &["/no/such"]).await,
        Code::InvalidArgument,
        &["/no/such"],
    );
    refused(cri.exec("0123", &["true"]).await, Code::NotFound, &["0123"]);
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_command_is_killed_at_its_timeout() {
    let (node, image) = node().await;
    let cri = node.cri();
    let config = node.pod("slow");
    let pod = cri.run_pod(&config).await.unwrap();
    let id = cri
        .launch(&pod, &config, &pod::sleeper("main", &image))
        .await
        .unwrap();
    let request = ExecSyncRequest {
        container_id: id.clone(),
        cmd: [
            "sh",
            "-c",
            "(setsid sh -c 'sleep 777 & sleep 777' &); trap '' TERM; sleep 777",
        ]
        .map(str::to_owned)
        .to_vec(),
        timeout: 1,
    };
    let began = Instant::now();
    let answer = Box::pin(cri.runtime().exec_sync(request)).await;
    refused(answer, Code::DeadlineExceeded, &["1 s"]);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    // They have been told to die, which takes them a moment.
    eventually("those it has started to be gone", PATIENCE, async || {
        let left = cri.exec(&id, &["sh", "-c", "ps | grep 'sleep 777' | grep -vc grep"]);
        Ok(left.await?.stdout == b"0\n")
    })
    .await
    .unwrap();
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_container_never_sees_a_process_that_still_has_the_nodes_files() {
    let (node, image) = node().await;
    let cri = node.cri();
    if not_on_docker("a privileged container has all capabilities, which it may lack itself") {
        return node.finish().await.unwrap();
    }
    let mut config = node.pod("watched");
    let linux = config.linux.as_mut().unwrap();
    linux.security_context.as_mut().unwrap().privileged = true;
    let pod = cri.run_pod(&config).await.unwrap();
    // With all capabilities it may look at every process that it can see.
    let script = "own=$(readlink /proc/self/ns/mnt); echo ready; while :; do \
                  for namespace in /proc/[0-9]*/ns/mnt; do \
                  found=$(readlink $namespace) && [ $found != $own ] && echo $namespace $found; \
                  done; done";
    let mut watcher = pod::shell("watcher", &image, script);
    let linux = watcher.linux.as_mut().unwrap();
    linux.security_context.as_mut().unwrap().privileged = true;
    let id = cri.launch(&pod, &config, &watcher).await.unwrap();
    let log = pod::log_path(&config, &watcher);
    eventually("the watcher", Duration::from_secs(20), async || {
        Ok(!read_log(&log).is_empty())
    })
    .await
    .unwrap();
    for _ in 0..100 {
        assert_eq!(cri.exec(&id, &["true"]).await.unwrap().exit_code, 0);
    }
    let seen: Vec<_> = read_log(&log).into_iter().map(|line| line.text).collect();
    assert_eq!(seen, ["ready"]);
    node.finish().await.unwrap();
}
