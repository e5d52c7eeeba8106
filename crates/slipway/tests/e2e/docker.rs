//! Pods on a Docker Engine: what only they have, and what goes wrong only there.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use slipway_cri_api::v1::{
    ContainerState, ImageFsInfoRequest, ImageSpec, ImageStatusRequest, LinuxContainerResources,
    ListImagesRequest, PodSandboxState, RemoveImageRequest, RuntimeConfigRequest, StatusRequest,
    UpdateContainerResourcesRequest,
};
use slipway_testbed::{
    Cni, Cri, Daemon, Docker, Engine, Image, Layer, Node, Scratch, eventually, leaks, pod, read_log,
};
use tokio::runtime::Handle;
use tonic::Code;

use crate::leaving::{LOUD, written_down};
use crate::refused;

/// How long anything may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(30);

async fn node() -> (Node, String) {
    node_with("").await
}

async fn node_with(config: &str) -> (Node, String) {
    let node = Node::start_on(Engine::Docker, |daemon| daemon.config(config))
        .await
        .unwrap();
    let pushed = node.provide("busybox:1", &Image::busybox()).await.unwrap();
    (node, pushed.reference)
}

fn docker(node: &Node) -> &Docker {
    node.docker.as_ref().unwrap()
}

fn inspect(node: &Node, id: &str) -> Value {
    let text = docker(node).cli(&["inspect", id]).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    all[0].clone()
}

/// Waits until a pod is in a state, or gone.
async fn pod_becomes(node: &Node, id: &str, state: Option<PodSandboxState>) {
    eventually("the pod's state", PATIENCE, async || {
        let pods = node.cri().pods().await?;
        let found = pods.iter().find(|pod| pod.id == id);
        Ok(found.map(slipway_cri_api::v1::PodSandbox::state) == state)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn pods_are_named_and_labelled_as_dockershim_did() {
    let (node, image) = node().await;
    let cri = node.cri();
    let mut config = node.pod("web");
    config.annotations = [("a/b".to_owned(), "c".to_owned())].into();
    let metadata = config.metadata.clone().unwrap();
    let pod = cri.run_pod(&config).await.unwrap();
    let mut container = pod::sleeper("main", &image);
    container.metadata.as_mut().unwrap().attempt = 3;
    container.labels = [("l".to_owned(), "m".to_owned())].into();
    let id = cri.launch(&pod, &config, &container).await.unwrap();

    let pause = inspect(&node, &pod);
    let uid = &metadata.uid;
    assert_eq!(pause["Name"], format!("/k8s_POD_web_default_{uid}_0"));
    let labels = &pause["Config"]["Labels"];
    assert_eq!(labels["io.kubernetes.docker.type"], "podsandbox");
    assert_eq!(labels["io.kubernetes.container.name"], "POD");
    assert_eq!(labels["annotation.a/b"], "c");
    assert_eq!(labels["app"], "web");
    assert_eq!(pause["HostConfig"]["NetworkMode"], "none");

    let inside = inspect(&node, &id);
    assert_eq!(inside["Name"], format!("/k8s_main_web_default_{uid}_3"));
    let labels = &inside["Config"]["Labels"];
    assert_eq!(labels["io.kubernetes.docker.type"], "container");
    assert_eq!(labels["io.kubernetes.sandbox.id"], pod.as_str());
    let log = pod::log_path(&config, &container);
    assert_eq!(
        labels["io.kubernetes.container.logpath"],
        log.to_str().unwrap()
    );
    assert_eq!(labels["l"], "m");
    let joined = format!("container:{pod}");
    for mode in ["NetworkMode", "IpcMode"] {
        assert_eq!(inside["HostConfig"][mode], joined.as_str(), "{mode}");
    }

    // None of that shows in CRI.
    let status = cri.pod_status(&pod).await.unwrap();
    assert_eq!(status.labels, config.labels);
    assert_eq!(status.annotations, config.annotations);
    let status = cri.container_status(&id).await.unwrap();
    assert_eq!(status.labels, container.labels);
    assert_eq!(status.image.unwrap().image, image);

    // The log is a file of its own, which the kubelet removes.
    crate::ready(&log).await;
    cri.stop(&id, 0).await.unwrap();
    cri.remove(&id).await.unwrap();
    assert!(std::fs::symlink_metadata(&log).unwrap().is_file());
    assert_eq!(read_log(&log)[0].text, "ready");

    // The driver is what dockerd says.
    let answer = cri.runtime().runtime_config(RuntimeConfigRequest {}).await;
    let driver = answer.unwrap().into_inner().linux.unwrap().cgroup_driver();
    let told = docker(&node)
        .cli(&["info", "--format", "{{.CgroupDriver}}"])
        .unwrap();
    assert_eq!(driver.as_str_name().to_lowercase(), told.trim());
    node.finish().await.unwrap();
}

#[tokio::test]
async fn the_pause_image_that_is_configured_is_used_and_pinned_whatever_it_is_called() {
    let (mut node, other) = node().await;
    let script = "trap 'exit 0' TERM; sleep 1000 & wait";
    let pause = Image::busybox().entrypoint(["/bin/sh", "-c", script]);
    let pushed = node.registry.push("team/pause", &pause).await.unwrap();
    let without_tag = node.registry.reference("team/pause");
    for (name, local) in [
        (without_tag.as_str(), None),
        (&pushed.by_digest, None),
        // Which Docker lists without its registry.
        (
            "docker.io/team/mirrored-pause:3.6",
            Some("team/mirrored-pause:3.6"),
        ),
    ] {
        if let Some(local) = local {
            docker(&node).cli(&["tag", &pushed.id, local]).unwrap();
        } else {
            let _ = docker(&node).cli(&["rmi", "--force", &pushed.id]);
        }
        let drop_in = format!("[engine.docker]\npause_image = \"{name}\"\n");
        std::fs::write(node.scratch.join("conf.d/pause.toml"), drop_in).unwrap();
        node.daemon.restart().await.unwrap();
        let cri = node.cri();
        let pod = cri.run_pod(&node.pod("web")).await.unwrap();
        let container = inspect(&node, &pod);
        assert_eq!(container["Image"], pushed.id.as_str(), "{name}");
        assert_eq!(container["Path"], "/bin/sh", "{name}");

        let mut images = cri.images();
        let listed = images.list_images(ListImagesRequest::default()).await;
        let listed = listed.unwrap().into_inner().images;
        let pinned: Vec<_> = listed.iter().filter(|image| image.pinned).collect();
        assert_eq!(pinned.len(), 1, "{name}: {listed:?}");
        assert_eq!(pinned[0].id, pushed.id, "{name}");
        for (asked, expected) in [(name, true), (&pushed.id, true), (&other, false)] {
            let image = Some(ImageSpec {
                image: asked.to_owned(),
                ..Default::default()
            });
            let request = ListImagesRequest {
                filter: Some(slipway_cri_api::v1::ImageFilter {
                    image: image.clone(),
                }),
            };
            let listed = images.list_images(request).await.unwrap().into_inner();
            let request = ImageStatusRequest {
                image,
                verbose: false,
            };
            let status = images.image_status(request).await.unwrap().into_inner();
            assert_eq!(status.image.unwrap().pinned, expected, "{asked} of {name}");
            assert_eq!(listed.images[0].pinned, expected, "{asked} of {name}");
        }
        cri.stop_pod(&pod).await.unwrap();
        cri.remove_pod(&pod).await.unwrap();
    }
    node.finish().await.unwrap();
}

#[tokio::test]
async fn what_happens_behind_its_back_is_noticed() {
    let (node, image) = node().await;
    let cri = node.cri();
    let docker = docker(&node);
    let config = node.pod("web");
    let pod = cri.run_pod(&config).await.unwrap();
    let ids = [
        cri.launch(&pod, &config, &pod::sleeper("killed", &image))
            .await
            .unwrap(),
        cri.launch(&pod, &config, &pod::sleeper("removed", &image))
            .await
            .unwrap(),
    ];
    docker.cli(&["kill", &ids[0]]).unwrap();
    let killed = cri.wait_for_exit(&ids[0]).await.unwrap();
    assert_eq!(killed.exit_code, 137);
    docker.cli(&["rm", "-f", &ids[1]]).unwrap();
    eventually("the container to be gone", PATIENCE, async || {
        Ok(cri.containers().await?.len() == 1)
    })
    .await
    .unwrap();
    refused(
        cri.container_status(&ids[1]).await,
        Code::NotFound,
        &[&ids[1]],
    );
    cri.stop(&ids[1], 1).await.expect("it is stopped");
    cri.remove(&ids[1]).await.expect("it is removed");

    // Without its pause container a pod is not ready, and can be stopped and removed.
    docker.cli(&["kill", &pod]).unwrap();
    pod_becomes(&node, &pod, Some(PodSandboxState::SandboxNotready)).await;
    let late = cri
        .create(&pod, &config, &pod::sleeper("late", &image))
        .await;
    refused(late, Code::FailedPrecondition, &["not ready"]);
    cri.stop_pod(&pod).await.unwrap();
    cri.remove_pod(&pod).await.unwrap();

    // One whose pause container is removed is gone, and so is its network.
    let pod = cri.run_pod(&config).await.unwrap();
    docker.cli(&["rm", "-f", &pod]).unwrap();
    pod_becomes(&node, &pod, None).await;
    eventually("its network to be given back", PATIENCE, async || {
        Ok(leaks::snapshot(&node.scratch).is_empty())
    })
    .await
    .unwrap();
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_killed_daemon_finds_everything_again_and_removes_what_is_half_made() {
    let (mut node, image) = node().await;
    let config = node.pod("web");
    let pod = node.cri().run_pod(&config).await.unwrap();
    let container = pod::sleeper("main", &image);
    let id = node.cri().launch(&pod, &config, &container).await.unwrap();
    let before = (
        node.cri().pod_status(&pod).await.unwrap(),
        node.cri().container_status(&id).await.unwrap(),
    );
    assert!(!before.0.network.as_ref().unwrap().ip.is_empty());

    // As a daemon leaves it that is killed before the pod has a network.
    let half = node.pod("half");
    let uid = half.metadata.clone().unwrap().uid;
    let name = format!("k8s_POD_half_default_{uid}_0");
    let make = |node: &Node, how: &[&str]| {
        let labels = [
            "--label=io.kubernetes.docker.type=podsandbox",
            "--label=io.slipway.sandbox.checkpointed=true",
            "--network=none",
        ];
        let mut words = [how, &["--name", name.as_str()]].concat();
        words.extend(labels);
        words.push("slipway/pause:1");
        docker(node).cli(&words).unwrap()
    };
    // A daemon that hears of it removes it, and nobody else sees it.
    let left = make(&node, &["create"]);
    eventually("what is half-made to be gone", PATIENCE, async || {
        assert_eq!(node.cri().pods().await?.len(), 1);
        Ok(docker(&node).cli(&["inspect", left.trim()]).is_err())
    })
    .await
    .unwrap();
    let whole = node.cri().run_pod(&half).await.unwrap();
    node.cri().remove_pod(&whole).await.unwrap();

    node.daemon.kill9();
    let left = make(&node, &["run", "-d"]);
    node.daemon.restart().await.unwrap();
    let cri = node.cri();
    assert_eq!(cri.pods().await.unwrap().len(), 1);
    assert_eq!(cri.pod_status(&pod).await.unwrap(), before.0);
    assert_eq!(cri.container_status(&id).await.unwrap(), before.1);
    let output = cri.exec(&id, &["echo", "again"]).await.unwrap();
    assert_eq!(output.stdout, b"again\n");
    assert!(docker(&node).cli(&["inspect", left.trim()]).is_err());
    let address = before.0.network.unwrap().ip;
    let shown = cri.exec(&id, &["ip", "-o", "addr"]).await.unwrap();
    assert!(String::from_utf8_lossy(&shown.stdout).contains(&address));
    node.finish().await.unwrap();
}

async fn ready(node: &Node) -> (bool, String) {
    let request = StatusRequest::default();
    let answer = Box::pin(node.cri().runtime().status(request)).await;
    let status = answer.unwrap().into_inner().status.unwrap();
    let mut conditions = status.conditions.into_iter();
    let runtime = conditions
        .find(|condition| condition.r#type == "RuntimeReady")
        .unwrap();
    (runtime.status, runtime.message)
}

#[tokio::test]
async fn a_dockerd_that_dies_hangs_or_is_not_there_is_told_and_waited_for() {
    let (mut node, image) =
        node_with(&format!("{LOUD}[engine.docker]\nrequest_timeout = 3\n")).await;
    let config = node.pod("web");
    let pod = node.cri().run_pod(&config).await.unwrap();
    let container = pod::sleeper("main", &image);
    let id = node.cri().launch(&pod, &config, &container).await.unwrap();

    // It takes requests and answers none.
    docker(&node).freeze();
    // Not one that Docker may come to do half of, or not at all, when it goes on.
    let update = UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(LinuxContainerResources {
            cpu_shares: 512,
            ..LinuxContainerResources::default()
        }),
        ..UpdateContainerResourcesRequest::default()
    };
    let answer = Box::pin(node.cri().runtime().update_container_resources(update)).await;
    refused(
        answer,
        Code::DeadlineExceeded,
        &["docker.sock", "request_timeout"],
    );
    let answer = node.cri().exec(&id, &["true"]).await;
    refused(answer, Code::DeadlineExceeded, &["docker.sock"]);
    // What is looked at is asked of nobody.
    assert_eq!(node.cri().pods().await.unwrap().len(), 1);
    assert_eq!(node.cri().containers().await.unwrap().len(), 1);
    node.cri().pod_status(&pod).await.unwrap();
    node.cri().container_status(&id).await.unwrap();
    // No kubelet is told for long that it can be used.
    eventually("Docker's silence to be noticed", PATIENCE, async || {
        Ok(!ready(&node).await.0)
    })
    .await
    .unwrap();
    let said = ready(&node).await.1;
    assert!(said.contains("docker.sock has not answered"), "{said}");
    let seen = node.cri().container_status(&id).await.unwrap();
    assert_eq!(seen.state(), ContainerState::ContainerRunning);
    assert_eq!(seen.reason, "DockerUnreachable");
    docker(&node).resume();
    eventually("Docker to answer", PATIENCE, async || {
        Ok(ready(&node).await.0)
    })
    .await
    .unwrap();
    let seen = node.cri().container_status(&id).await.unwrap();
    assert_eq!(
        (seen.state(), seen.reason.as_str()),
        (ContainerState::ContainerRunning, "")
    );
    let output = node.cri().exec(&id, &["echo", "back"]).await.unwrap();
    assert_eq!(output.stdout, b"back\n");

    // It is gone, and nothing that it ran is told of as gone.
    let mut dockerd = node.docker.take().unwrap();
    written_down(&node.daemon, 1).await;
    dockerd.kill9();
    eventually("Docker's end to be noticed", PATIENCE, async || {
        Ok(!ready(&node).await.0)
    })
    .await
    .unwrap();
    assert!(ready(&node).await.1.contains("docker.sock"));
    let seen = node.cri().containers().await.unwrap();
    let seen = seen.iter().find(|container| container.id == id).unwrap();
    assert_eq!(seen.state(), ContainerState::ContainerRunning);
    refused(
        node.cri().stop_pod(&pod).await,
        Code::Unavailable,
        &["dockerd"],
    );
    refused(
        node.cri().run_pod(&node.pod("other")).await,
        Code::Unavailable,
        &["dockerd"],
    );

    // A daemon that starts in the meantime waits as well.
    node.daemon.restart().await.unwrap();
    assert!(!ready(&node).await.0);
    refused(
        node.cri().run_pod(&node.pod("other")).await,
        Code::Unavailable,
        &["dockerd", "docker.sock"],
    );
    let seen = node.cri().container_status(&id).await.unwrap();
    assert_eq!(seen.state(), ContainerState::ContainerRunning);
    assert_eq!(seen.reason, "DockerUnreachable");
    dockerd.restart().await.unwrap();
    node.docker = Some(dockerd);
    eventually("Docker to be found", PATIENCE, async || {
        Ok(ready(&node).await.0)
    })
    .await
    .unwrap();
    // Docker without live-restore ends what had been running.
    let cri = node.cri();
    let status = cri.wait_for_exit(&id).await.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerExited);
    pod_becomes(&node, &pod, Some(PodSandboxState::SandboxNotready)).await;
    cri.remove_pod(&pod).await.unwrap();
    cri.run_pod(&config).await.expect("pods are made again");
    node.finish().await.unwrap();
}

/// How many bytes the images take.
async fn space(cri: &Cri) -> Result<u64, tonic::Status> {
    let answer = cri.images().image_fs_info(ImageFsInfoRequest {}).await?;
    let usage = &answer.into_inner().image_filesystems[0];
    Ok(usage.used_bytes.unwrap().value)
}

/// Docker 20.10 refuses to measure twice at a time.
#[tokio::test(flavor = "multi_thread")]
async fn the_space_of_images_is_told_to_all_who_ask_and_is_that_of_now() {
    let (node, _) = node().await;
    let cri = node.cri();
    // Docker measures volumes as well, and takes its time for one with so many files.
    let volume = docker(&node).cli(&["volume", "create"]).unwrap();
    let format = "{{.Mountpoint}}";
    let point = docker(&node).cli(&["volume", "inspect", "-f", format, volume.trim()]);
    let point = std::path::PathBuf::from(point.unwrap().trim());
    for file in 0..20_000 {
        std::fs::File::create(point.join(file.to_string())).unwrap();
    }
    let all = futures_util::future::join_all((0..8).map(|_| space(cri))).await;
    let before = *all[0].as_ref().unwrap();
    for told in &all {
        assert_eq!(*told.as_ref().unwrap(), before);
    }

    // A kubelet that frees space looks whether there is more.
    let data = vec![7_u8; 3_000_000];
    let size = data.len() as u64;
    let large = Image::busybox().layer(Layer::new().file("data", 0o644, data));
    let large = node.provide("large:1", &large).await.unwrap().reference;
    let more = space(cri).await.unwrap();
    assert!(more >= before + size, "{more} after {before}");
    let request = RemoveImageRequest {
        image: Some(ImageSpec {
            image: large,
            ..ImageSpec::default()
        }),
    };
    cri.images().remove_image(request).await.unwrap();

    // Somebody else measures as well, again and again.
    let measuring = AtomicBool::new(true);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while measuring.load(Ordering::Relaxed) {
                    let _ = docker(&node).cli(&["system", "df"]);
                }
            });
        }
        let less = tokio::task::block_in_place(|| Handle::current().block_on(space(cri)));
        measuring.store(false, Ordering::Relaxed);
        assert_eq!(less.unwrap(), before);
    });
    node.finish().await.unwrap();
}

/// Answers every request on a socket with this text, until the test ends.
fn answer_all(socket: &std::path::Path, body: &'static str) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { break };
            let _ = stream.read(&mut [0; 4096]);
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        }
    });
}

#[tokio::test]
async fn a_docker_that_is_too_old_is_refused() {
    let scratch = Scratch::new().unwrap();
    let cni = Cni::new(&scratch).unwrap();
    let socket = scratch.join("old.sock");
    answer_all(&socket, r#"{"Version": "19.03.15", "ApiVersion": "1.40"}"#);
    let endpoint = format!(
        "[engine.docker]\nendpoint = \"unix://{}\"\n",
        socket.display()
    );
    let said = Daemon::builder(&scratch, &cni)
        .config(endpoint)
        .argument("--engine")
        .argument("docker")
        .refused()
        .await
        .unwrap();
    for word in ["19.03.15", "1.40", "1.41", "20.10", "old.sock"] {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

#[tokio::test]
async fn a_seccomp_profile_and_the_capabilities_that_were_asked_for_hold() {
    use slipway_cri_api::v1::SecurityProfile;
    use slipway_cri_api::v1::security_profile::ProfileType;
    let (node, image) = node().await;
    let cri = node.cri();
    let config = node.pod("secure");
    let pod = cri.run_pod(&config).await.unwrap();
    let modes: HashMap<ProfileType, &str> = [
        (ProfileType::Unconfined, "Seccomp:\t0"),
        (ProfileType::RuntimeDefault, "Seccomp:\t2"),
    ]
    .into();
    for (number, (kind, expected)) in modes.into_iter().enumerate() {
        let script = "grep Seccomp: /proc/self/status";
        let mut container = pod::shell(&format!("c{number}"), &image, script);
        let linux = container.linux.as_mut().unwrap();
        linux.security_context.as_mut().unwrap().seccomp = Some(SecurityProfile {
            profile_type: kind.into(),
            ..Default::default()
        });
        let id = cri.launch(&pod, &config, &container).await.unwrap();
        cri.wait_for_exit(&id).await.unwrap();
        let lines = read_log(&pod::log_path(&config, &container));
        assert_eq!(lines[0].text, expected);
    }
    node.finish().await.unwrap();
}
