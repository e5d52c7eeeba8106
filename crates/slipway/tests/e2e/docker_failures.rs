//! A dockerd that fails in the middle of what it is asked for: each request that a pod's life
//! consists of, one after the other. A kubelet tries again, and must get there.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use slipway_cri_api::v1::{
    ContainerConfig, ContainerState, ContainerStatsRequest, ExecSyncRequest, ImageSpec,
    ImageStatusRequest, LinuxContainerResources, PodSandboxConfig, PodSandboxState,
    RemoveImageRequest, RunPodSandboxRequest, UpdateContainerResourcesRequest,
};
use slipway_testbed::{
    Cni, Cri, Daemon, DaemonBuilder, Docker, DockerProxy, Fate, Image, Node, Registry, Scratch,
    SlowPlugin, When, eventually, leaks, pod, read_log,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::{Code, Request, Status};

use crate::refused;
use crate::resource::{container_cgroup, control, resources, v2};
use crate::session::{Client, Typist, client_under, interactive, runs};

/// How long a kubelet may need until nothing fails any more.
const PATIENCE: Duration = Duration::from_mins(1);

/// How long it waits after a failure. Real ones wait longer.
const PAUSE: Duration = Duration::from_millis(50);

/// What belongs to no pod's life: it says which dockerd it is and what happens there, or is asked
/// now and then.
const OTHER: [&str; 5] = [
    "GET /version",
    "GET /info",
    "GET /events",
    "GET /_ping",
    "GET /containers/json",
];

/// A node whose daemon reaches its dockerd through a proxy.
struct Ground {
    node: Node,
    image: String,
    proxy: DockerProxy,
}

impl Ground {
    async fn new(config: &str) -> Self {
        Self::with(|daemon| daemon.config(config)).await
    }

    async fn with(configured: impl FnOnce(DaemonBuilder) -> DaemonBuilder) -> Self {
        let scratch = Scratch::new().unwrap();
        let cni = Cni::new(&scratch).unwrap();
        let registry = Registry::start(&scratch).await.unwrap();
        let docker = Docker::start(&scratch).await.unwrap();
        let proxy = DockerProxy::start(&scratch, &docker).unwrap();
        let daemon = Daemon::builder(&scratch, &cni).docker_at(proxy.socket());
        let node = Node {
            daemon: configured(daemon).start().await.unwrap(),
            docker: Some(docker),
            registry,
            cni,
            scratch,
        };
        let image = node.registry.push("busybox:1", &Image::busybox()).await;
        Self {
            image: image.unwrap().reference,
            node,
            proxy,
        }
    }

    fn docker(&self) -> &Docker {
        self.node.docker.as_ref().unwrap()
    }

    fn kubelet(&self, name: &str) -> Kubelet {
        let config = self.node.pod(name);
        Kubelet {
            cri: self.node.cri().clone(),
            container: pod::sleeper("main", &self.image),
            image: self.image.clone(),
            config,
            slowest: Duration::ZERO,
            refusals: Vec::new(),
        }
    }

    /// Nothing is left of any pod: neither on the node nor in Docker.
    fn is_clean(&self) {
        let left = self.docker().cli(&["ps", "-aq"]).unwrap();
        assert_eq!(left, "", "Docker still has containers");
        leaks::assert_none(&self.node.scratch);
    }

    /// Takes away what is made only once on a node, so that it is made again.
    fn forget_the_pause_image(&self) {
        let _ = self.docker().cli(&["rmi", "-f", "slipway/pause:1"]);
    }

    async fn finish(self) {
        self.proxy.pass();
        self.node.finish().await.unwrap();
    }
}

/// What a kubelet does for one pod, each time from the beginning, until nothing fails.
struct Kubelet {
    cri: Cri,
    config: PodSandboxConfig,
    container: ContainerConfig,
    image: String,
    /// The longest time that a call took.
    slowest: Duration,
    /// What was refused, and with what.
    refusals: Vec<(&'static str, Status)>,
}

impl Kubelet {
    /// Makes a call, and notes what becomes of it.
    async fn call<T>(
        &mut self,
        name: &'static str,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let began = Instant::now();
        let answer = call.await;
        self.slowest = self.slowest.max(began.elapsed());
        answer.inspect_err(|status| self.refusals.push((name, status.clone())))
    }

    /// The pod's life: it is brought up, used and removed.
    async fn live(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.sync().await.is_err() {
            self.waits(deadline).await;
        }
        while self.remove().await.is_err() {
            self.waits(deadline).await;
        }
        // Whole, for its end was told.
        let log = pod::log_path(&self.config, &self.container);
        assert_eq!(
            read_log(&log).first().map(|line| line.text.as_str()),
            Some("ready"),
            "its log is not where a kubelet looks: {}; refused was {:?}",
            log.display(),
            self.refusals
        );
    }

    async fn waits(&self, deadline: Instant) {
        assert!(
            Instant::now() < deadline,
            "it gets nowhere: {:?}",
            self.refusals
        );
        tokio::time::sleep(PAUSE).await;
    }

    /// The pods of this uid, with whether they are ready, the latest attempt first.
    async fn pods(&mut self) -> Result<Vec<(String, u32, bool)>, Status> {
        let cri = self.cri.clone();
        let mut pods: Vec<_> = self
            .call("ListPodSandbox", cri.pods())
            .await?
            .into_iter()
            .map(|pod| {
                let ready = pod.state() == PodSandboxState::SandboxReady;
                (pod.id, pod.metadata.unwrap_or_default().attempt, ready)
            })
            .collect();
        pods.sort_by_key(|(_, attempt, _)| std::cmp::Reverse(*attempt));
        Ok(pods)
    }

    async fn sync(&mut self) -> Result<(), Status> {
        let cri = self.cri.clone();
        let pods = self.pods().await?;
        let id = match pods.first() {
            Some((id, _, true)) => id.clone(),
            latest => {
                for (id, ..) in &pods {
                    self.call("StopPodSandbox", cri.stop_pod(id)).await?;
                }
                let attempt = latest.map_or(0, |(_, attempt, _)| attempt + 1);
                self.config.metadata.as_mut().unwrap().attempt = attempt;
                let config = self.config.clone();
                self.call("RunPodSandbox", cri.run_pod(&config)).await?
            }
        };
        let status = self.call("PodSandboxStatus", cri.pod_status(&id)).await?;
        if status.state() != PodSandboxState::SandboxReady {
            return Err(Status::aborted("the pod has ended meanwhile"));
        }
        assert_ne!(status.network.unwrap().ip, "", "a ready pod has addresses");
        self.pull().await?;

        let listed = self.call("ListContainers", cri.containers()).await?;
        let mut of_pod: Vec<_> = listed
            .into_iter()
            .filter(|container| container.pod_sandbox_id == id)
            .collect();
        of_pod.sort_by_key(|container| {
            std::cmp::Reverse(container.metadata.clone().unwrap_or_default().attempt)
        });
        let main = match of_pod.first() {
            Some(container) if container.state() == ContainerState::ContainerRunning => {
                container.id.clone()
            }
            latest => {
                let latest = latest.and_then(|container| container.metadata.clone());
                let attempt = latest.map_or(0, |metadata| metadata.attempt + 1);
                self.container.metadata.as_mut().unwrap().attempt = attempt;
                self.container.log_path = format!("main_{attempt}.log");
                let (config, container) = (self.config.clone(), self.container.clone());
                let made = cri.create(&id, &config, &container);
                let made = self.call("CreateContainer", made).await?;
                self.call("StartContainer", cri.start(&made)).await?;
                made
            }
        };
        self.use_it(&main).await
    }

    async fn pull(&mut self) -> Result<(), Status> {
        let cri = self.cri.clone();
        let request = ImageStatusRequest {
            image: Some(spec(&self.image)),
            verbose: false,
        };
        let mut images = cri.images();
        let answer = self.call("ImageStatus", images.image_status(request));
        if answer.await?.into_inner().image.is_none() {
            let image = self.image.clone();
            self.call("PullImage", cri.pull(&image)).await?;
        }
        Ok(())
    }

    /// A probe, a change of limits and statistics.
    async fn use_it(&mut self, id: &str) -> Result<(), Status> {
        let cri = self.cri.clone();
        let request = ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: vec!["echo".to_owned(), "here".to_owned()],
            timeout: 10,
        };
        let mut runtime = cri.runtime();
        let answer = Box::pin(runtime.exec_sync(request));
        assert_eq!(
            self.call("ExecSync", answer).await?.into_inner().exit_code,
            0
        );
        let request = UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(LinuxContainerResources {
                cpu_shares: 512,
                ..Default::default()
            }),
            ..Default::default()
        };
        let answer = Box::pin(runtime.update_container_resources(request));
        self.call("UpdateContainerResources", answer).await?;
        let request = ContainerStatsRequest {
            container_id: id.to_owned(),
        };
        let answer = Box::pin(runtime.container_stats(request));
        self.call("ContainerStats", answer).await?;
        Ok(())
    }

    async fn remove(&mut self) -> Result<(), Status> {
        let cri = self.cri.clone();
        let containers = self.call("ListContainers", cri.containers()).await?;
        for container in &containers {
            let stopped = cri.stop(&container.id, 10);
            self.call("StopContainer", stopped).await?;
        }
        let pods = self.pods().await?;
        for (id, ..) in &pods {
            self.call("StopPodSandbox", cri.stop_pod(id)).await?;
        }
        for container in &containers {
            let removed = cri.remove(&container.id);
            self.call("RemoveContainer", removed).await?;
        }
        for (id, ..) in &pods {
            self.call("RemovePodSandbox", cri.remove_pod(id)).await?;
        }
        let request = RemoveImageRequest {
            image: Some(spec(&self.image)),
        };
        let mut images = cri.images();
        let answer = Box::pin(images.remove_image(request));
        self.call("RemoveImage", answer).await.map(drop)
    }
}

fn spec(image: &str) -> ImageSpec {
    ImageSpec {
        image: image.to_owned(),
        ..Default::default()
    }
}

/// How many requests of one life meet with the same fate.
const STRIKES: usize = 3;

/// Lives one pod's life after another, in each of which every other request of one kind meets with a
/// fate, at first or from the second one on, until all kinds of requests have.
async fn each_request(ground: &Ground, config: Striking) {
    let kinds = requests_of_a_life(ground).await;
    let mut lives = 0;
    for (kind, &count) in &kinds {
        // A pull may take as long as it likes.
        if matches!(config.fates[0], Fate::Held(_)) && kind == "POST /images/create" {
            continue;
        }
        for first in 0..count.min(2) {
            ground.forget_the_pause_image();
            let struck = ground.strike(kind, first, config.fates);
            let mut kubelet = ground.kubelet("web");
            kubelet.live().await;
            ground.proxy.pass();
            ground.proxy.release();
            let struck = struck.load(Ordering::Relaxed);
            lives += usize::from(struck > 0);
            for (call, status) in &kubelet.refusals {
                let codes = [
                    Code::Unavailable,
                    Code::DeadlineExceeded,
                    Code::AlreadyExists,
                ];
                assert!(codes.contains(&status.code()), "{call}: {status:?}");
            }
            assert!(
                kubelet.slowest < config.longest,
                "with {kind} a call took {:?}",
                kubelet.slowest
            );
            ground.is_clean();
        }
    }
    assert!(lives > 15, "{lives} lives of {kinds:?}");
}

/// What requests meet with.
struct Striking {
    /// One after the other.
    fates: [Fate; 2],
    /// The longest time that a call may take.
    longest: Duration,
}

/// The kinds of requests that there are in a pod's life, and how many of each.
async fn requests_of_a_life(ground: &Ground) -> BTreeMap<String, usize> {
    ground.forget_the_pause_image();
    ground.proxy.take();
    ground.kubelet("web").live().await;
    let mut kinds = BTreeMap::new();
    for asked in ground.proxy.take() {
        if !OTHER.contains(&asked.what.as_str()) {
            *kinds.entry(asked.what).or_default() += 1;
        }
    }
    kinds
}

impl Ground {
    /// Has every other request of a kind meet with one of two fates in turn; answers how many did.
    fn strike(&self, kind: &str, first: usize, fates: [Fate; 2]) -> Arc<AtomicUsize> {
        let (kind, mut seen) = (kind.to_owned(), 0);
        let struck = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&struck);
        self.proxy.rule(move |what| {
            if what != kind {
                return Fate::Pass;
            }
            seen += 1;
            if seen % 2 == first || count.load(Ordering::Relaxed) == STRIKES {
                return Fate::Pass;
            }
            fates[count.fetch_add(1, Ordering::Relaxed) % 2]
        });
        struck
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_before_docker_hears_of_a_request() {
    let ground = Ground::new("").await;
    let fates = [Fate::Cut(When::Before); 2];
    let longest = PATIENCE;
    each_request(&ground, Striking { fates, longest }).await;
    ground.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_when_docker_has_done_what_it_was_asked_for() {
    let ground = Ground::new("").await;
    let fates = [Fate::Cut(When::After), Fate::Cut(When::Within)];
    let longest = PATIENCE;
    each_request(&ground, Striking { fates, longest }).await;
    ground.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_not_answered_is_given_up_in_time() {
    let ground = Ground::new("[engine.docker]\nrequest_timeout = 1\n").await;
    let fates = [Fate::Held(When::Before), Fate::Held(When::After)];
    // A call that makes and undoes something waits for several answers.
    let longest = Duration::from_secs(20);
    each_request(&ground, Striking { fates, longest }).await;
    ground.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_dockerd_only_makes_slow() {
    let ground = Ground::new("").await;
    let slow = Duration::from_millis(300);
    ground.proxy.rule(move |_| Fate::Late(slow));
    let mut kubelet = ground.kubelet("web");
    kubelet.live().await;
    assert!(kubelet.refusals.is_empty(), "{:?}", kubelet.refusals);

    // A client that does not wait as long is told so, and finds what it has begun.
    ground.proxy.rule(|what| match what {
        "POST /containers/create" => Fate::Held(When::Before),
        _ => Fate::Pass,
    });
    let config = ground.node.pod("later");
    let mut request = Request::new(RunPodSandboxRequest {
        config: Some(config.clone()),
        ..Default::default()
    });
    request.set_timeout(Duration::from_secs(1));
    let mut runtime = ground.node.cri().runtime();
    let began = Instant::now();
    let answer = Box::pin(runtime.run_pod_sandbox(request)).await;
    // The client has a timer as well.
    let status = answer.expect_err("Docker does not answer");
    let codes = [Code::DeadlineExceeded, Code::Cancelled];
    assert!(codes.contains(&status.code()), "{status:?}");
    assert!(began.elapsed() < Duration::from_secs(20));
    ground.proxy.pass();
    ground.proxy.release();
    let mut kubelet = ground.kubelet("later");
    kubelet.config = config;
    kubelet.live().await;
    ground.is_clean();
    ground.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_nobody_asks_for_again_is_not_left_in_docker() {
    let ground = Ground::new("").await;
    let kinds = requests_of_a_life(&ground).await;
    for kind in kinds.keys().filter(|kind| kind.contains("/containers/")) {
        // What it is undone with breaks as well.
        let fates = [Fate::Cut(When::After), Fate::Cut(When::Before)];
        ground.strike(kind, 0, fates);
        let config = ground.node.pod("once");
        let made = ground.node.cri().run_pod(&config).await;
        if let Ok(id) = &made {
            assert_ne!(kind, "POST /containers/create");
            ground.proxy.pass();
            ground.node.cri().remove_pod(id).await.unwrap();
        }
        eventually("all of it to be gone", PATIENCE, async || {
            Ok(ground.docker().cli(&["ps", "-aq"])?.is_empty())
        })
        .await
        .unwrap();
        ground.proxy.pass();
        ground.is_clean();
    }
    ground.finish().await;
}

/// A pod whose network is being made, for as long as the plugin is not told to answer.
async fn half_made_pod() -> (Ground, SlowPlugin, JoinHandle<Result<String, Status>>) {
    let slow = SlowPlugin::new().unwrap();
    let directory = slow.directory().to_owned();
    let ground = Ground::with(|daemon| daemon.argument("--cni-bin-dir").argument(directory)).await;
    let (cri, config) = (ground.node.cri().clone(), ground.node.pod("web"));
    slow.install(&ground.node.cni).unwrap();
    let making = tokio::spawn(async move { cri.run_pod(&config).await });
    slow.is_called("ADD").await.unwrap();
    (ground, slow, making)
}

/// A pod whose making fails at its last request. It has been seen whole by then, and is not shown to
/// a kubelet, which would use it while it is taken away.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_being_undone_is_not_listed() {
    let (ground, slow, making) = half_made_pod().await;
    let cri = ground.node.cri();

    // Docker tells of something, so that the pod is asked about; the answer comes once it is whole.
    let mut asked = 0;
    let question = ground.proxy.holds();
    ground.proxy.rule(move |what| {
        asked += usize::from(what == "GET /containers/{id}/json");
        match what {
            "GET /containers/{id}/json" if asked == 1 => Fate::Kept,
            "GET /containers/{id}/json" => Fate::Cut(When::Before),
            "DELETE /containers/{id}" => Fate::Held(When::Before),
            _ => Fate::Pass,
        }
    });
    let id = ground.docker().cli(&["ps", "-q"]).unwrap();
    let words = ["update", "--cpu-shares", "3", id.trim()];
    ground.docker().cli(&words).unwrap();
    question.await;
    slow.answers().unwrap();
    let pods = ground.node.daemon.root().join("docker/pods");
    eventually("the pod to be whole", PATIENCE, async || {
        Ok(std::fs::read_dir(&pods)?.next().is_some())
    })
    .await
    .unwrap();
    let removing = ground.proxy.holds();
    ground.proxy.release();
    removing.await;
    assert_eq!(cri.pods().await.unwrap(), [], "it is being removed");

    ground.proxy.pass();
    ground.proxy.release();
    refused(making.await.unwrap(), Code::Unavailable, &[]);
    eventually("all of it to be gone", PATIENCE, async || {
        Ok(ground.docker().cli(&["ps", "-aq"])?.is_empty())
    })
    .await
    .unwrap();
    ground.is_clean();
    ground.finish().await;
}

/// What a pod's maker was told of its pause container is not shown when that has ended since.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_pause_container_ends_while_it_is_made_is_not_ready() {
    let (ground, slow, making) = half_made_pod().await;
    let cri = ground.node.cri();

    ground.proxy.take();
    let id = ground.docker().cli(&["ps", "-q"]).unwrap();
    ground.docker().cli(&["kill", id.trim()]).unwrap();
    eventually("its end to be heard of", PATIENCE, async || {
        let asked = ground.proxy.take();
        let mut asked = asked.iter().map(|asked| asked.what.as_str());
        Ok(asked.any(|what| what == "GET /containers/{id}/json"))
    })
    .await
    .unwrap();
    slow.answers().unwrap();
    let pod = making.await.unwrap().unwrap();
    let status = cri.pod_status(&pod).await.unwrap();
    assert_eq!(status.state(), PodSandboxState::SandboxNotready);

    cri.remove_pod(&pod).await.unwrap();
    ground.is_clean();
    ground.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_container_is_noticed_although_the_first_question_is_lost() {
    let ground = Ground::new("").await;
    let cri = ground.node.cri();
    cri.pull(&ground.image).await.unwrap();
    let config = ground.node.pod("web");
    let pod = cri.run_pod(&config).await.unwrap();
    let container = pod::sleeper("main", &ground.image);
    let id = cri.launch(&pod, &config, &container).await.unwrap();
    ground.strike("GET /containers/{id}/json", 0, [Fate::Cut(When::Before); 2]);
    ground.docker().cli(&["kill", &id]).unwrap();
    let status = cri.wait_for_exit(&id).await.unwrap();
    assert_eq!(status.exit_code, 137);
    ground.finish().await;
}

/// Limits that Docker has no place for come into force although nobody heard of the start.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_limited_although_the_questions_after_its_start_are_lost() {
    let ground = Ground::new("").await;
    let cri = ground.node.cri();
    cri.pull(&ground.image).await.unwrap();
    let config = ground.node.pod("web");
    let pod = cri.run_pod(&config).await.unwrap();
    let mut container = pod::sleeper("main", &ground.image);
    let key = "memory.oom.group";
    if v2() {
        resources(&mut container).unified = [(key.to_owned(), "1".to_owned())].into();
    }
    let id = cri.create(&pod, &config, &container).await.unwrap();
    // That of the call, and that which comes of Docker's event.
    let mut lost = None;
    ground.proxy.rule(move |what| match (what, &mut lost) {
        ("POST /containers/{id}/start", _) => {
            lost = Some(0);
            Fate::Pass
        }
        ("GET /containers/{id}/json", Some(count)) if *count < 2 => {
            *count += 1;
            Fate::Cut(When::After)
        }
        _ => Fate::Pass,
    });
    refused(cri.start(&id).await, Code::Unavailable, &[]);
    eventually("the container's start to be known", PATIENCE, async || {
        let status = cri.container_status(&id).await?;
        Ok(status.state() == ContainerState::ContainerRunning)
    })
    .await
    .unwrap();
    if v2() {
        let cgroup = container_cgroup(&ground.node, &id);
        eventually("its limits to be set", PATIENCE, async || {
            Ok(control(&cgroup, "", key) == "1")
        })
        .await
        .unwrap();
    }
    ground.finish().await;
}

/// When dockerd is killed: at which request of a kind, counted from one.
const KILLED_AT: [(&str, usize); 8] = [
    ("POST /containers/create", 1),
    ("POST /containers/{id}/start", 1),
    ("POST /containers/create", 2),
    ("POST /containers/{id}/start", 2),
    ("POST /exec/{id}/start", 1),
    ("POST /containers/{id}/stop", 1),
    ("POST /containers/{id}/kill", 1),
    ("DELETE /containers/{id}", 2),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_dockerd_that_is_killed_when_it_has_done_half_of_what_was_wanted() {
    let mut ground = Ground::new("").await;
    for (kind, number) in KILLED_AT {
        let mut docker = ground.node.docker.take().unwrap();
        let mut seen = 0;
        ground.proxy.rule(move |what| {
            seen += usize::from(what == kind);
            if what != kind || seen != number {
                return Fate::Pass;
            }
            Fate::Held(When::After)
        });
        let mut kubelet = ground.kubelet("web");
        // Killed within a request, dockerd leaves mounts of its own that only a reboot takes away.
        let done = ground.proxy.holds();
        let killing = async {
            done.await;
            docker.kill9();
            ground.proxy.release();
            docker.restart().await.unwrap();
        };
        tokio::join!(kubelet.live(), killing);
        ground.proxy.pass();
        assert!(!kubelet.refusals.is_empty(), "{kind} {number}");
        for (call, status) in &kubelet.refusals {
            assert!(
                [Code::Unavailable, Code::FailedPrecondition].contains(&status.code()),
                "{call} at {kind} {number}: {status:?}"
            );
        }
        ground.node.docker = Some(docker);
        ground.is_clean();
    }
    ground.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_in_docker_keeps_no_pod_and_no_container_from_being_made() {
    let mut ground = Ground::new("").await;
    let cri = ground.node.cri().clone();
    cri.pull(&ground.image).await.unwrap();
    let config = ground.node.pod("web");
    let uid = config.metadata.clone().unwrap().uid;
    let names = ["POD", "main"].map(|name| format!("k8s_{name}_web_default_{uid}_0"));
    // Somebody's own, which are not removed.
    let strangers = names.clone().map(|name| {
        let words = ["create", "--name", &name, &ground.image, "true"];
        ground.docker().cli(&words).unwrap().trim().to_owned()
    });
    let pod = cri.run_pod(&config).await.unwrap();
    let container = pod::sleeper("main", &ground.image);
    let id = cri.launch(&pod, &config, &container).await.unwrap();
    let status = cri.pod_status(&pod).await.unwrap();
    assert_eq!(status.metadata, config.metadata);
    let status = cri.container_status(&id).await.unwrap();
    assert_eq!(status.metadata, container.metadata);
    // CRI's own names are as unique as ever.
    let twice = cri.run_pod(&config).await;
    refused(twice, Code::AlreadyExists, &[&pod, "attempt"]);
    let twice = cri.create(&pod, &config, &container).await;
    refused(twice, Code::AlreadyExists, &[&id, "attempt"]);
    // They are found again under the names that they have.
    ground.node.daemon.restart().await.unwrap();
    assert_eq!(cri.pods().await.unwrap().len(), 1);
    assert_eq!(cri.containers().await.unwrap()[0].id, id);
    for stranger in &strangers {
        ground.docker().cli(&["rm", stranger]).unwrap();
    }
    cri.remove_pod(&pod).await.unwrap();

    // A container of a pod that is there no more, as a crash of Docker's can leave it.
    let labels = [
        "--label=io.kubernetes.docker.type=container",
        "--label=io.kubernetes.sandbox.id=0123",
    ];
    let mut words = vec!["create", "--name", &names[1]];
    words.extend(labels);
    words.extend([ground.image.as_str(), "true"]);
    let orphan = ground.docker().cli(&words).unwrap().trim().to_owned();
    let pod = cri.run_pod(&config).await.unwrap();
    let id = cri.launch(&pod, &config, &container).await.unwrap();
    assert_ne!(id, orphan);
    cri.remove(&orphan).await.unwrap();
    cri.remove_pod(&pod).await.unwrap();

    // What a killed daemon has made of a container is listed, and the next attempt is another one.
    let pod = cri.run_pod(&config).await.unwrap();
    ground.proxy.rule(|what| match what {
        "POST /containers/create" => Fate::Held(When::After),
        _ => Fate::Pass,
    });
    let done = ground.proxy.holds();
    let made = tokio::spawn({
        let (cri, pod) = (cri.clone(), pod.clone());
        let (config, container) = (config.clone(), container.clone());
        async move { cri.create(&pod, &config, &container).await }
    });
    done.await;
    let all = ground.docker().cli(&["ps", "-a"]).unwrap();
    assert!(all.contains(&names[1]), "{all}");
    ground.node.daemon.kill9();
    ground.proxy.pass();
    ground.proxy.release();
    made.await.unwrap().expect_err("the daemon was killed");
    ground.node.daemon.restart().await.unwrap();
    let left = cri.containers().await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].state(), ContainerState::ContainerCreated);
    let again = cri.create(&pod, &config, &container).await;
    refused(again, Code::AlreadyExists, &[&left[0].id]);
    let mut next = container.clone();
    next.metadata.as_mut().unwrap().attempt = 1;
    cri.launch(&pod, &config, &next).await.unwrap();
    cri.remove_pod(&pod).await.unwrap();
    ground.is_clean();
    ground.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_output_was_cut_off_is_not_taken_for_whole() {
    let ground = Ground::new("").await;
    let (cri, config) = (ground.node.cri().clone(), ground.node.pod("web"));
    ground
        .node
        .provide("busybox:1", &Image::busybox())
        .await
        .unwrap();
    let pod = cri.run_pod(&config).await.unwrap();
    let sleeper = pod::sleeper("main", &ground.image);
    let id = cri.launch(&pod, &config, &sleeper).await.unwrap();
    let run = |script: &str, timeout| {
        let request = ExecSyncRequest {
            container_id: id.clone(),
            cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
            timeout,
        };
        let cri = cri.clone();
        tokio::spawn(async move { Box::pin(cri.runtime().exec_sync(request)).await })
    };
    let begun = async |file: &str| {
        eventually("the command to begin", PATIENCE, async || {
            Ok(ground.docker().cli(&["exec", &id, "ls", file]).is_ok())
        })
        .await
        .unwrap();
    };
    for (file, timeout) in [("/endless", 0), ("/limited", 100)] {
        let mut first = true;
        ground.proxy.rule(move |what| {
            let fate = match what {
                "POST /exec/{id}/start" if first => Fate::Held(When::Within),
                _ => return Fate::Pass,
            };
            first = false;
            fate
        });
        let script = format!("echo one; touch {file}; exec sleep 1000");
        let answer = run(&script, timeout);
        begun(file).await;
        ground.proxy.release();
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        let answer = answer.expect("it waits for what cannot come").unwrap();
        refused(answer, Code::Unavailable, &["cut", "complete"]);
    }

    // One that has closed its output itself has said all.
    let script = "echo one; exec >/dev/null 2>&1; touch /closed; sleep 1; exit 3";
    let answer = run(script, 0).await.unwrap().unwrap().into_inner();
    assert_eq!((answer.exit_code, &answer.stdout[..]), (3, &b"one\n"[..]));
    cri.remove_pod(&pod).await.unwrap();
    ground.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_in_a_terminal_is_hung_up_on_although_the_first_question_for_it_is_lost() {
    let ground = Ground::new("").await;
    let (cri, config) = (ground.node.cri().clone(), ground.node.pod("web"));
    cri.pull(&ground.image).await.unwrap();
    let pod = cri.run_pod(&config).await.unwrap();
    let sleeper = pod::sleeper("main", &ground.image);
    let id = cri.launch(&pod, &config, &sleeper).await.unwrap();
    let mut typist = Typist::new(24, 80);
    let script = "echo up; sleep 4711";
    let client = typist.start(
        &ground.node,
        &["exec", "-it", &id, "--", "sh", "-c", script],
    );
    typist.sees("up").await;
    let mut asked = 0;
    let (twice, again) = oneshot::channel();
    let mut twice = Some(twice);
    ground.proxy.rule(move |what| {
        if what != "GET /exec/{id}/json" {
            return Fate::Pass;
        }
        asked += 1;
        if asked == 1 {
            return Fate::Cut(When::After);
        }
        let _ = twice.take().map(|twice| twice.send(()));
        Fate::Pass
    });
    let own = client_under(client.0.id());
    rustix::process::kill_process(own, rustix::process::Signal::TERM).unwrap();
    tokio::time::timeout(PATIENCE, again)
        .await
        .expect("Docker is not asked again")
        .unwrap();
    let gone = async || Ok(!runs(&ground.node, &id, "sleep 4711").await);
    eventually("the command to be gone", PATIENCE, gone)
        .await
        .unwrap();
    cri.remove_pod(&pod).await.unwrap();
    ground.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_with_an_error_when_dockerd_is_killed_under_them() {
    let mut ground = Ground::new("").await;
    let (cri, config) = (ground.node.cri().clone(), ground.node.pod("web"));
    cri.pull(&ground.image).await.unwrap();
    let pod = cri.run_pod(&config).await.unwrap();
    let script = "while read -r line; do echo got $line; done";
    let container = interactive(&ground.image, script);
    let id = cri.launch(&pod, &config, &container).await.unwrap();
    let mut attach = Client::start(&ground.node, &["attach", "-i", &id]);
    attach.stdin().write_all(b"1\n").unwrap();
    attach.shows("got 1\n").await;
    let echo = ["exec", "-i", &id, "--", "sh", "-c", "echo up; cat"];
    let mut exec = Client::start(&ground.node, &echo);
    exec.shows("up\n").await;

    ground.node.docker.as_mut().unwrap().kill9();
    for client in [attach, exec] {
        let end = client.ends().await;
        let said = String::from_utf8_lossy(&end.stderr).into_owned();
        assert_eq!(end.status.code(), Some(1), "{said}");
        assert!(said.to_lowercase().contains("docker"), "{said}");
    }
    ground
        .node
        .docker
        .as_mut()
        .unwrap()
        .restart()
        .await
        .unwrap();
    let mut kubelet = ground.kubelet("next");
    kubelet.live().await;
    cri.remove_pod(&pod).await.unwrap();
    ground.is_clean();
    ground.finish().await;
}
