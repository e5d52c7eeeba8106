use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use slipway_cri_api::v1::{
    ContainerState as StateInCri, LinuxContainerResources, Mount, NamespaceOption,
    PodSandboxConfig, PodSandboxState,
};
use slipway_engine::{
    Census, ContainerExit, ContainerName, ContainerState, Engine as _, Kind, PodName, Verbosity,
};
use slipway_network::Metrics;

use super::record::PodRecord;
use super::*;
use crate::checkpoint::{Checkpoint, Checkpoints};
use crate::images::Names;
use crate::inspect::Maker;
use crate::{Config, DockerEngine, Settings, node};

const NOWHERE: &str = "unix:///not/there/docker.sock";

fn texts(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|&(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn pod(id: &str) -> Pod {
    Pod {
        id: id.to_owned(),
        name: PodName {
            name: format!("web-{id}"),
            namespace: "shop".to_owned(),
            uid: format!("uid of {id}"),
            attempt: 2,
        },
        labels: texts(&[("app", "web")]),
        annotations: texts(&[("a", "b")]),
        created_at: 5,
        pid: Some(7),
        namespaces: NamespaceOption {
            pid: 1,
            ..NamespaceOption::default()
        },
        docker_network: true,
        privileged: true,
        cgroup_parent: "/kubepods".to_owned(),
        runtime: "runc".to_owned(),
        checkpoint: None,
        addresses: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
    }
}

fn container(id: &str, pod: &str, state: ContainerState) -> Container {
    Container {
        id: id.to_owned(),
        name: ContainerName {
            pod: pod.to_owned(),
            name: format!("main-{id}"),
            attempt: 3,
        },
        labels: texts(&[("app", "web")]),
        annotations: texts(&[("a", "b")]),
        created_at: 6,
        pid: state.is_running().then_some(8),
        state,
        image_id: "sha256:1".to_owned(),
        image: "busybox:1".to_owned(),
        maker: Maker::Slipway,
        log_path: Some("/var/log/pods/web/main/0.log".into()),
        docker_log: Some("/var/lib/docker/containers/c/c-json.log".into()),
        mounts: vec![Mount {
            container_path: "/data".to_owned(),
            host_path: "/srv".to_owned(),
            ..Mount::default()
        }],
        resources: LinuxContainerResources {
            cpu_shares: 512,
            ..LinuxContainerResources::default()
        },
        beside: LinuxContainerResources {
            oom_score_adj: 5,
            ..LinuxContainerResources::default()
        },
        user: "web:staff".to_owned(),
        groups: vec![3, 4],
        stop_signal: "SIGQUIT".to_owned(),
        terminal: true,
        stdin: true,
        stdin_once: true,
    }
}

fn running(id: &str, pod: &str) -> Container {
    container(id, pod, ContainerState::Running { started_at: 9 })
}

fn exited(id: &str, pod: &str) -> Container {
    let exit = ContainerExit {
        message: "said Docker".to_owned(),
        ..ContainerExit::of_process(9, 10, 3, false)
    };
    container(id, pod, ContainerState::Exited(exit))
}

fn everything(pods: Vec<Pod>, containers: Vec<Container>) -> Everything {
    let pods = pods.into_iter().map(|one| (one.id.clone(), Arc::new(one)));
    let containers = containers
        .into_iter()
        .map(|one| (one.id.clone(), Arc::new(one)));
    Everything {
        pods: pods.collect(),
        containers: containers.collect(),
    }
}

/// What an image is called.
fn names(id: &str) -> Names {
    Names {
        reference: format!("busybox@{id}"),
        tag: None,
    }
}

fn head() -> Head {
    Head::new(boot().unwrap(), NOWHERE)
}

/// What a new daemon finds in the file.
fn read(path: &Path) -> std::result::Result<Vec<String>, redb::Error> {
    let Found::Known(found, rows) = File::new(path.to_owned()).read()? else {
        return Ok(Vec::new());
    };
    assert_eq!(found, head());
    let checkpoints = Checkpoints::new("/not/there".into());
    let pods = rows.pods.into_iter();
    let pods = pods.filter_map(|pod| Some(pod.read(&checkpoints)?.id));
    let containers = rows.containers.into_iter().map(|one| one.read().id);
    Ok(pods.chain(containers).collect())
}

#[test]
fn what_is_read_is_what_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(directory.path().to_owned());
    let adopted = pod("adopted");
    assert_eq!(PodRecord::of(&adopted).read(&checkpoints), Some(adopted));
    let checkpoint = Checkpoint::new(PodSandboxConfig::default(), "runc".to_owned(), &[]);
    checkpoints.put("own", &checkpoint).unwrap();
    let own = Pod {
        pid: None,
        checkpoint: Some(checkpoint),
        ..pod("own")
    };
    assert_eq!(PodRecord::of(&own).read(&checkpoints), Some(own.clone()));
    checkpoints.remove("own").unwrap();
    assert_eq!(
        PodRecord::of(&own).read(&checkpoints),
        None,
        "it was removed"
    );

    let bare = Container {
        maker: Maker::Other,
        log_path: None,
        docker_log: None,
        user: String::new(),
        ..container("c", "p", ContainerState::Created)
    };
    for written in [bare, running("c", "p"), exited("c", "p")] {
        let record = ContainerRecord::of(&written, names(&written.image_id));
        let image = (written.image_id.clone(), names(&written.image_id));
        assert_eq!(record.image_names(), image);
        assert_eq!(record.read(), written);
    }
}

#[test]
fn only_what_has_changed_is_written_and_what_is_gone_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("known.redb");
    assert_eq!(read(&path).unwrap(), [""; 0], "there is none");
    let mut file = File::new(path.clone());
    let asked = RefCell::new(0);
    let names = |id: &str| {
        *asked.borrow_mut() += 1;
        names(id)
    };
    let first = everything(
        vec![pod("p1"), pod("p2")],
        vec![running("c1", "p1"), exited("c2", "p2")],
    );
    file.write(&head(), None, &first, names).unwrap();
    assert_eq!(asked.take(), 2);
    let mut second = first.clone();
    second.pods.remove("p2");
    second.containers.remove("c2");
    let third = Arc::new(running("c3", "p1"));
    second.containers.insert("c3".to_owned(), third);
    file.write(&head(), Some(&first), &second, names).unwrap();
    assert_eq!(asked.take(), 1);
    drop(file);
    assert_eq!(read(&path).unwrap(), ["p1", "c1", "c3"]);
    // A daemon does not rely on what another one has left.
    let last = everything(vec![pod("p1")], Vec::new());
    let mut file = File::new(path.clone());
    file.write(&head(), None, &last, names).unwrap();
    drop(file);
    assert_eq!(read(&path).unwrap(), ["p1"]);
}

#[test]
fn a_damaged_file_is_told_of_and_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("known.redb");
    let known = everything(vec![pod("p")], vec![running("c", "p")]);
    let write = || File::new(path.clone()).write(&head(), None, &known, names);
    write().unwrap();
    let whole = fs::read(&path).unwrap();
    let row = b"web-p";
    let mut other = whole.clone();
    let at = other.windows(row.len()).position(|part| part == row);
    other[at.unwrap()] = 0xff;
    for damaged in [b"this is no database".as_slice(), &whole[..5000], &other] {
        fs::write(&path, damaged).unwrap();
        read(&path).expect_err("not all of it is there");
        write().unwrap();
        assert_eq!(read(&path).unwrap(), ["p", "c"]);
    }
}

#[test]
fn a_file_that_has_ended_a_daemon_is_not_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("known.redb");
    let known = everything(vec![pod("p")], Vec::new());
    let write = || File::new(path.clone()).write(&head(), None, &known, names);
    write().unwrap();
    let being_read = directory.path().join("known.reading");
    fs::write(being_read, "").unwrap();
    let refused = read(&path).unwrap_err();
    assert!(
        refused.to_string().contains("ended while it read"),
        "{refused}"
    );
    assert_eq!(read(&path).unwrap(), [""; 0]);
    write().unwrap();
    for _ in 0..2 {
        assert_eq!(read(&path).unwrap(), ["p"]);
    }
}

#[test]
fn on_a_full_disk_it_says_what_it_said_until_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let (none, size) = (MountFlags::empty(), Some(c"size=4m"));
    mount("none", directory.path(), "tmpfs", none, size).unwrap();
    let path = directory.path().join("known.redb");
    let mut file = File::new(path.clone());
    let first = everything(vec![pod("p")], Vec::new());
    file.write(&head(), None, &first, names).unwrap();
    let filler = directory.path().join("filler");
    let full = std::io::copy(
        &mut std::io::repeat(7),
        &mut fs::File::create(&filler).unwrap(),
    );
    assert_eq!(full.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    let large = Container {
        annotations: texts(&[("large", &"x".repeat(3 << 20))]),
        ..running("c", "p")
    };
    let second = everything(vec![pod("p")], vec![large]);
    let refused = file.write(&head(), Some(&first), &second, names);
    assert!(slipway_records::is_no_space(&refused.unwrap_err()));
    let third = everything(vec![pod("p")], vec![running("c", "p")]);
    fs::remove_file(filler).unwrap();
    file.write(&head(), None, &third, names).unwrap();
    drop(file);
    assert_eq!(read(&path).unwrap(), ["p", "c"]);
    unmount(directory.path(), UnmountFlags::empty()).unwrap();
}

/// An engine that starts while Docker is away.
async fn engine(root: &Path) -> DockerEngine {
    engine_with(root, true).await
}

async fn engine_with(root: &Path, remembers: bool) -> DockerEngine {
    let settings = Settings {
        root: root.join("root"),
        state: root.join("state"),
        docker: Config {
            endpoint: NOWHERE.to_owned(),
            ..Config::default()
        },
        network: slipway_network::Config::default(),
        census: Census::default(),
        network_metrics: Metrics::default(),
        writes_logs: false,
        remembers,
    };
    DockerEngine::open(settings).await.unwrap()
}

/// Has a daemon before have known a pod with three containers.
fn known_before(root: &Path, head: &Head) {
    let docker = root.join("root/docker");
    fs::create_dir_all(&docker).unwrap();
    let containers = vec![
        running("c1", "p"),
        exited("c2", "p"),
        container("c3", "p", ContainerState::Created),
    ];
    let known = everything(vec![pod("p")], containers);
    let mut file = File::new(node::known(&docker));
    file.write(head, None, &known, names).unwrap();
}

#[tokio::test]
async fn a_daemon_that_does_not_reach_docker_tells_what_one_before_it_knew() {
    let directory = tempfile::tempdir().unwrap();
    known_before(directory.path(), &head());
    // Whoever concludes something from what there is needs Docker.
    let strict = engine_with(directory.path(), false).await;
    let refused = strict.list_pods(None).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unavailable);
    drop(strict);

    let engine = engine(directory.path()).await;
    let pods = engine.list_pods(None).await.unwrap();
    assert_eq!(pods[0].state(), PodSandboxState::SandboxReady);
    let containers = engine.list_containers(None).await.unwrap();
    assert_eq!(containers.len(), 3);
    assert!(engine.engines().await.unwrap()[0].pods[0].unknown);
    let status = engine.pod_status("p", Verbosity::Plain).await.unwrap();
    assert_eq!(status.status.unwrap().network.unwrap().ip, "10.0.0.2");
    let mut told = status.containers_statuses.into_iter();
    let (one, two) = (told.next().unwrap(), told.next().unwrap());
    assert_eq!(
        (one.state(), one.reason.as_str(), one.started_at),
        (StateInCri::ContainerRunning, "DockerUnreachable", 9)
    );
    assert_eq!(one.image_ref, "busybox@sha256:1");
    assert_eq!(
        (two.state(), two.reason.as_str(), two.exit_code),
        (StateInCri::ContainerExited, "Error", 3)
    );
    for refused in [
        engine.stop_pod("p").await,
        engine.remove_container("c2").await,
        engine.remove_pod("nobody").await,
    ] {
        assert_eq!(refused.unwrap_err().kind(), Kind::Unavailable);
    }
}

#[tokio::test]
async fn what_ran_in_an_earlier_boot_runs_no_more_and_is_not_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let earlier = Head::new("an earlier boot".to_owned(), NOWHERE);
    known_before(directory.path(), &earlier);
    let engine = engine(directory.path()).await;
    let status = engine.pod_status("p", Verbosity::Plain).await.unwrap();
    let pod = status.status.unwrap();
    assert_eq!(pod.state(), PodSandboxState::SandboxNotready);
    assert!(!engine.engines().await.unwrap()[0].pods[0].unknown);
    assert_eq!(pod.network.unwrap().ip, "");
    let told: Vec<_> = status
        .containers_statuses
        .iter()
        .map(|one| (one.state(), one.exit_code, one.reason.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (StateInCri::ContainerExited, 255, "DockerUnreachable"),
            (StateInCri::ContainerExited, 3, "Error"),
            (StateInCri::ContainerCreated, 0, ""),
        ]
    );
    let ended = &status.containers_statuses[0];
    assert!(ended.message.contains("rebooted"), "{}", ended.message);
    assert!(ended.finished_at >= ended.started_at);
    // A kubelet makes a pod anew when it has stopped the old one.
    let refused = engine.stop_pod("p").await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unavailable);
}

#[tokio::test]
async fn where_nothing_is_known_for_certain_lists_are_refused() {
    let other_docker = Head::new(boot().unwrap(), "unix:///run/other.sock");
    let prepare: [&dyn Fn(&Path); 3] = [
        &|_| {},
        &|root| known_before(root, &other_docker),
        &|root| {
            let docker = root.join("root/docker");
            fs::create_dir_all(&docker).unwrap();
            fs::write(node::known(&docker), "this is no database").unwrap();
        },
    ];
    for prepare in prepare {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path());
        let engine = engine(directory.path()).await;
        let refused = engine.list_pods(None).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Unavailable);
        let refused = engine.has_container("c1").unwrap_err();
        assert_eq!(refused.kind(), Kind::Unavailable);
    }
}
