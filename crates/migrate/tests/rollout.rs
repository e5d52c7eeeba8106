//! [`rollout::run`] against a server that speaks the Kubernetes API, and nodes that do what a Job of
//! theirs has them do, with no other credentials than the rollout gives them.

mod asked;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::num::NonZero;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use asked::{contains, of};
use base64::Engine as _;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use slipway_migrate::Root;
use slipway_migrate::apply;
use slipway_migrate::cluster::Access;
use slipway_migrate::control_plane::{ControlPlane as _, Live, Needs};
use slipway_migrate::plan::{Step, Target};
use slipway_migrate::rollout::{
    self, ANNOTATION, Announcer, Begun, Event, Options, Phase, Pod, UNIT,
};
use slipway_testbed::{FakeSystemd, Fault, KubernetesServer, Scratch};
use tokio::sync::Barrier;

/// What becomes of a node that is asked to move.
#[derive(Clone)]
enum Fate {
    Moves,
    /// It moves once as many others are about it as the barrier wants.
    MovesWith(Arc<Barrier>),
    /// It moves, and that takes so long at least.
    MovesIn(Duration),
    IsTakenBack,
    IsLeftInTheMiddle,
    /// Its Job fails.
    CannotPull,
    SaysNothing,
}

struct Cluster {
    server: KubernetesServer,
    fates: Mutex<BTreeMap<String, Fate>>,
    /// What nodes do, in order.
    log: Mutex<Vec<String>>,
    /// The Jobs that were seen, by their uids.
    seen: Mutex<BTreeSet<String>>,
}

impl Cluster {
    fn start() -> Self {
        Self {
            server: KubernetesServer::start().unwrap(),
            fates: Mutex::default(),
            log: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    /// Has each node live through what its fate is once there is a Job for it.
    async fn nodes(&self) -> Infallible {
        let mut changes = self.server.changes();
        let mut living = FuturesUnordered::new();
        loop {
            changes.borrow_and_update();
            for job in self.server.list("jobs") {
                let uid = job["metadata"]["uid"].as_str().unwrap();
                if self.seen.lock().unwrap().insert(uid.to_string()) {
                    let spec = &job["spec"]["template"]["spec"];
                    let node = spec["nodeName"].as_str().unwrap().to_string();
                    let fate = self.fates.lock().unwrap().get(&node).cloned();
                    living.push(live_through(self, node, fate.unwrap_or(Fate::Moves)));
                }
            }
            tokio::select! {
                _ = changes.changed() => {}
                Some(()) = living.next() => {}
            }
        }
    }

    fn node(&self, name: &str, runtime: &str) {
        self.server.put(json!({
            "kind": "Node", "metadata": { "name": name, "labels": {} },
            "status": {
                "conditions": [{ "type": "Ready", "status": "True" }],
                "nodeInfo": { "containerRuntimeVersion": runtime },
            },
        }));
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Value)) {
        assert!(self.server.change("nodes", "", name, change));
    }

    fn fate(&self, node: &str, fate: Fate) {
        self.fates.lock().unwrap().insert(node.to_string(), fate);
    }

    async fn run(&self, options: &Options) -> (Result<(), String>, Vec<String>) {
        let heard = Mutex::new(Vec::new());
        let hear = |event: Event<'_>| {
            let line = match event {
                Event::Waits(holder, _) => format!("{holder} has the lease"),
                Event::Passed(node) => format!("{node} is there"),
                Event::Begins(node) => format!("{node} begins"),
                Event::Follows(node) => format!("{node} is followed"),
                Event::Says(node, Phase::Applying { step, of, doing }) => {
                    format!("{node} {step}/{of} {doing}")
                }
                Event::Says(..) => return,
                Event::Moved(node) => format!("{node} has moved"),
                Event::Gone(node) => format!("{node} is gone"),
            };
            heard.lock().unwrap().push(line);
        };
        let access = Access {
            kubeconfig: Some(self.server.kubeconfig()),
            context: None,
        };
        let done = tokio::select! {
            done = rollout::run(&access, options, &hear) => done,
            never = self.nodes() => match never {},
        };
        let done = done.map_err(|error| error.to_string());
        (done, heard.into_inner().unwrap())
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    fn runtime(&self, node: &str) -> String {
        let node = self.server.get("nodes", "", node).unwrap();
        let runtime = node["status"]["nodeInfo"]["containerRuntimeVersion"].as_str();
        runtime.unwrap().to_string()
    }

    /// Nothing of a rollout is there any more.
    #[track_caller]
    fn is_clean(&self) {
        for resource in [
            "clusterroles",
            "clusterrolebindings",
            "roles",
            "rolebindings",
            "secrets",
            "serviceaccounts",
            "jobs",
            "leases",
        ] {
            assert_eq!(self.server.list(resource), Vec::<Value>::new());
        }
        assert!(
            self.server
                .get("namespaces", "", "slipway-migrate")
                .is_none()
        );
        for node in self.server.list("nodes") {
            assert!(
                node["metadata"]["annotations"][ANNOTATION].is_null(),
                "{node}"
            );
        }
    }
}

fn options() -> Options {
    Options {
        target: Target::Containerd,
        max_unavailable: NonZero::<usize>::MIN,
        nodes: Vec::new(),
        image: "example.com/slipway:1".to_string(),
        arguments: vec!["--force".to_string()],
        server: None,
        start: Duration::from_mins(1),
        patience: Duration::from_mins(2),
        lease: Duration::from_secs(30),
    }
}

/// What the move on a node's host does, as far as the cluster sees it.
async fn live_through(cluster: &Cluster, node: String, fate: Fate) {
    let (server, log) = (&cluster.server, &cluster.log);
    let node = node.as_str();
    let conditions = |kind: &str| json!([{ "type": kind, "status": "True" }]);
    match &fate {
        Fate::CannotPull => {
            server.put(json!({
                "kind": "Pod", "metadata": { "namespace": "slipway-migrate", "name": "p" },
                "spec": { "nodeName": node },
                "status": { "phase": "Pending", "containerStatuses": [{ "state": { "waiting": {
                    "reason": "ImagePullBackOff", "message": "no such image",
                } } }] },
            }));
            for job in server.list("jobs") {
                let name = job["metadata"]["name"].as_str().unwrap();
                server.change("jobs", "slipway-migrate", name, |job| {
                    job["status"]["conditions"] = conditions("Failed");
                });
            }
            return;
        }
        Fate::SaysNothing => return,
        _ => {}
    }
    let secret = server
        .get("secrets", "slipway-migrate", "slipway-migrate")
        .unwrap();
    let kubeconfig = secret["data"]["kubeconfig"].as_str().unwrap();
    let kubeconfig = base64::engine::general_purpose::STANDARD.decode(kubeconfig);
    let path = server.directory().join(node);
    std::fs::write(&path, kubeconfig.unwrap()).unwrap();
    let access = Access {
        kubeconfig: Some(path),
        context: None,
    };
    let live = Live::connect(&access, node).await.unwrap();
    let all = Needs {
        drain: true,
        config_map: true,
        probe: true,
    };
    live.preflight(all).await.unwrap();
    log.lock().unwrap().push(format!("{node} begins"));
    let announcer = Announcer::new(&live, Target::Containerd);
    let say = async |phase: Value| {
        let mut state = json!({ "target": "containerd" });
        state
            .as_object_mut()
            .unwrap()
            .extend(phase.as_object().unwrap().clone());
        live.set_annotation(ANNOTATION, Some(&state.to_string()))
            .await
            .unwrap();
    };
    let reason = |phase: &str| json!({ "phase": phase, "reason": "the disk is full" });
    let steps = async {
        announcer.note(apply::Event::Begins(0, &Step::Cordon), 2);
        live.set_cordoned(true).await.unwrap();
        live.drain(Duration::from_mins(1), &|_| {}).await.unwrap();
        match &fate {
            Fate::MovesWith(others) => {
                others.wait().await;
            }
            Fate::MovesIn(time) => tokio::time::sleep(*time).await,
            Fate::IsTakenBack | Fate::IsLeftInTheMiddle => return,
            _ => {}
        }
        server.change("nodes", "", node, |object| {
            object["status"]["nodeInfo"]["containerRuntimeVersion"] = "containerd://1.7".into();
        });
        live.set_cordoned(false).await.unwrap();
    };
    tokio::select! {
        () = steps => {}
        never = announcer.run() => match never {},
    }
    log.lock().unwrap().push(format!("{node} ends"));
    match fate {
        Fate::IsTakenBack => announcer.end(None, Some("the disk is full")).await.unwrap(),
        Fate::IsLeftInTheMiddle => say(reason("stopped")).await,
        _ => say(json!({ "phase": "applied" })).await,
    }
}

#[tokio::test]
async fn nodes_move_one_after_the_other_and_control_planes_last() {
    let cluster = Cluster::start();
    for name in ["a-control", "b", "c"] {
        cluster.node(name, "docker://20.10.8");
    }
    cluster.change("a-control", |node| {
        node["metadata"]["labels"]["node-role.kubernetes.io/control-plane"] = "".into();
    });
    cluster.node("d", "containerd://1.6.8");
    // The server has its bad moments.
    cluster
        .server
        .fault(of("watch", "nodes"), 3, Fault::EndsAfter(1));
    cluster
        .server
        .fault(of("watch", "nodes"), 1, Fault::CutBefore);
    for resource in [
        "namespaces",
        "jobs",
        "serviceaccounts/token",
        "clusterroles",
    ] {
        cluster
            .server
            .fault(of("create", resource), 1, Fault::CutAfter);
        cluster
            .server
            .fault(of("create", resource), 1, Fault::Busy(0));
    }
    cluster
        .server
        .fault(of("patch", "nodes"), 2, Fault::Status(409));
    let (done, heard) = cluster.run(&options()).await;
    done.unwrap();
    assert_eq!(
        cluster.log(),
        [
            "b begins",
            "b ends",
            "c begins",
            "c ends",
            "a-control begins",
            "a-control ends"
        ]
    );
    let heard = heard.join("\n");
    contains(
        &heard,
        &[
            "d is there\nb begins\n",
            "b has moved\nc begins\n",
            "c has moved\na-control begins\n",
            "a-control has moved",
        ],
    );
    cluster.is_clean();
    // There is nothing left to do.
    let (done, heard) = cluster.run(&options()).await;
    done.unwrap();
    assert_eq!(
        heard,
        [
            "a-control is there",
            "b is there",
            "c is there",
            "d is there"
        ]
    );
    cluster.is_clean();
}

#[tokio::test]
async fn as_many_nodes_are_away_as_may_be() {
    let cluster = Cluster::start();
    let barrier = Arc::new(Barrier::new(2));
    for name in ["a", "b", "c", "d"] {
        cluster.node(name, "docker://20.10.8");
        cluster.fate(name, Fate::MovesWith(Arc::clone(&barrier)));
    }
    let two = Options {
        max_unavailable: NonZero::new(2).unwrap(),
        ..options()
    };
    let (done, _) = cluster.run(&two).await;
    done.unwrap();
    let mut away = 0;
    for line in cluster.log() {
        away += if line.ends_with("begins") { 1 } else { -1 };
        assert!(away <= 2, "{:?}", cluster.log());
    }
    cluster.is_clean();
}

#[tokio::test]
async fn what_happens_to_nodes_meanwhile_is_seen_before_each() {
    let cluster = Cluster::start();
    for name in ["a", "b", "c", "d", "e"] {
        cluster.node(name, "docker://20.10.8");
    }
    // While the first one moves, the next is taken out of the cluster, and another one is cordoned.
    let together = Arc::new(Barrier::new(2));
    cluster.fate("a", Fate::MovesWith(Arc::clone(&together)));
    let meanwhile = async {
        while !cluster.log().contains(&"a begins".to_string()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(cluster.server.remove("nodes", "", "b"));
        cluster.change("e", |node| node["spec"]["unschedulable"] = true.into());
        together.wait().await;
    };
    let options = options();
    let ((done, heard), ()) = tokio::join!(cluster.run(&options), meanwhile);
    contains(
        &done.unwrap_err(),
        &[
            "e is cordoned, and no more than 1 may be away",
            "not begun: c, d, e",
            "go on with the same command",
        ],
    );
    assert_eq!(heard[heard.len() - 2..], ["a has moved", "b is gone"]);
    assert_eq!(cluster.runtime("c"), "docker://20.10.8");
    cluster.is_clean();

    // One that was asked to move although it is cordoned is away already.
    cluster.change("e", |node| node["spec"]["unschedulable"] = false.into());
    cluster.change("c", |node| node["spec"]["unschedulable"] = true.into());
    let together = Arc::new(Barrier::new(2));
    cluster.fate("c", Fate::MovesWith(Arc::clone(&together)));
    let meanwhile = async {
        while !cluster.log().contains(&"c begins".to_string()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cluster.change("c", |node| node["spec"]["unschedulable"] = false.into());
        // The one that is next is lost, and the other one cannot be asked beside it.
        cluster.change("d", |node| {
            node["status"]["conditions"][0]["status"] = "Unknown".into();
        });
        together.wait().await;
    };
    let ((done, _), ()) = tokio::join!(cluster.run(&options), meanwhile);
    contains(
        &done.unwrap_err(),
        &[
            "d is not Ready, and no more than 1 may be away",
            "not begun: e",
        ],
    );
    assert_eq!(cluster.runtime("e"), "docker://20.10.8");
}

#[tokio::test]
async fn the_first_node_that_does_not_come_back_is_the_last() {
    let cluster = Cluster::start();
    for name in ["a", "b", "c"] {
        cluster.node(name, "docker://20.10.8");
    }
    cluster.fate("b", Fate::IsTakenBack);
    let (done, heard) = cluster.run(&options()).await;
    let error = done.unwrap_err();
    contains(
        &error,
        &[
            "the Node b: the disk is full; the node is what it was",
            "not begun: c",
            "the same command",
        ],
    );
    contains(&heard.join("\n"), &["a has moved", "b begins"]);
    assert_eq!(cluster.runtime("c"), "docker://20.10.8");
    cluster.is_clean();
    // It is mended, and what is left moves.
    cluster.fate("b", Fate::Moves);
    let (done, heard) = cluster.run(&options()).await;
    done.unwrap();
    contains(
        &heard.join("\n"),
        &["a is there", "b has moved", "c has moved"],
    );

    cluster.node("e", "docker://20.10.8");
    cluster.fate("e", Fate::IsLeftInTheMiddle);
    for _ in 0..2 {
        let (done, _) = cluster.run(&options()).await;
        contains(
            &done.unwrap_err(),
            &[
                "the Node e",
                "the disk is full",
                "on the node, slipway migrate resume",
            ],
        );
    }
    assert_eq!(
        cluster
            .log()
            .iter()
            .filter(|line| *line == "e begins")
            .count(),
        1
    );
}

#[tokio::test]
async fn a_node_begins_with_credentials_that_hold_for_its_move() {
    let cluster = Cluster::start();
    let nodes = ["a", "b", "c", "d", "e"];
    for name in nodes {
        cluster.node(name, "docker://20.10.8");
    }
    let only = |nodes: &[&str]| Options {
        nodes: nodes.iter().map(|node| (*node).to_string()).collect(),
        ..options()
    };
    let credentials =
        |node: &str| std::fs::read_to_string(cluster.server.directory().join(node)).unwrap();
    let longest = options().patience;
    let more = Duration::from_secs(2);

    let too_little = longest / 2;
    cluster.server.grant(too_little);
    let (done, heard) = cluster.run(&options()).await;
    contains(
        &done.unwrap_err(),
        &[
            "getting credentials for the nodes",
            "seconds only",
            "may take 2 minutes to move",
            "--service-account-max-token-expiration",
        ],
    );
    assert_eq!((heard, cluster.log()), (Vec::new(), Vec::new()));
    cluster.is_clean();

    // When the first one has moved, less than the second one may take is left.
    cluster.server.grant(longest + more);
    cluster.fate("a", Fate::MovesIn(more));
    cluster.run(&only(&["a", "b"])).await.0.unwrap();
    assert_ne!(credentials("a"), credentials("b"));
    cluster.is_clean();

    cluster.fate("c", Fate::MovesIn(more));
    let meanwhile = async {
        while !cluster.log().contains(&"c begins".to_string()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cluster.server.grant(too_little);
    };
    let options = only(&["c", "d", "e"]);
    let ((done, heard), ()) = tokio::join!(cluster.run(&options), meanwhile);
    contains(
        &done.unwrap_err(),
        &["the Node d: getting credentials", "not begun: e"],
    );
    assert_eq!(heard.last().unwrap(), "c has moved");
    assert_eq!(cluster.runtime("d"), "docker://20.10.8");
    cluster.is_clean();

    // Those that hold for long are for all.
    cluster.server.grant(Duration::from_hours(24));
    cluster.run(&only(&["d", "e"])).await.0.unwrap();
    assert_eq!(credentials("d"), credentials("e"));
}

#[tokio::test]
async fn a_rollout_that_was_cut_off_is_continued() {
    let cluster = Cluster::start();
    for name in ["a", "b", "c"] {
        cluster.node(name, "docker://20.10.8");
    }
    let state = |phase: &str| {
        let state = json!({
            "target": "containerd", "phase": phase, "step": 1, "of": 2, "doing": "x",
        });
        Value::from(state.to_string())
    };
    // It is about it: nobody asks it again. The other one was asked, and nobody told it.
    cluster.change("a", |node| {
        node["metadata"]["annotations"][ANNOTATION] = state("applying");
    });
    cluster.change("b", |node| {
        node["metadata"]["annotations"][ANNOTATION] = state("asked");
    });
    let finish = async {
        while !cluster.log().contains(&"b ends".to_string()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!cluster.log().contains(&"c begins".to_string()));
        cluster.change("a", |node| {
            node["status"]["nodeInfo"]["containerRuntimeVersion"] = "containerd://1.7".into();
            node["metadata"]["annotations"][ANNOTATION] = state("applied");
        });
    };
    let options = options();
    let ((done, heard), ()) = tokio::join!(cluster.run(&options), finish);
    done.unwrap();
    let heard = heard.join("\n");
    contains(&heard, &["a is followed", "b is followed", "c begins"]);
    assert!(!cluster.log().contains(&"a begins".to_string()));
    cluster.is_clean();
    // Somebody moves it elsewhere.
    cluster.node("d", "docker://20.10.8");
    let other = json!({ "target": "crio", "phase": "asked" }).to_string();
    cluster.change("d", |node| {
        node["metadata"]["annotations"][ANNOTATION] = other.into();
    });
    let (done, _) = cluster.run(&options).await;
    contains(&done.unwrap_err(), &["the Node d: it is moving to crio"]);
}

#[tokio::test]
async fn a_node_that_is_lost_keeps_its_credentials_until_it_is_found() {
    let cluster = Cluster::start();
    cluster.node("a", "docker://20.10.8");
    cluster.node("b", "docker://20.10.8");
    let state = json!({
        "target": "containerd", "phase": "applying", "step": 1, "of": 2, "doing": "wait",
    });
    cluster.change("a", |node| {
        node["metadata"]["annotations"][ANNOTATION] = state.to_string().into();
        node["status"]["conditions"][0]["status"] = "False".into();
    });
    let short = Options {
        patience: Duration::from_secs(1),
        ..options()
    };
    let (done, _) = cluster.run(&short).await;
    contains(
        &done.unwrap_err(),
        &[
            "the Node a: it is not Ready on containerd after 1 second",
            "the last that it said of itself is: step 1 of 2, wait",
            "not begun: b",
        ],
    );
    assert_eq!(cluster.server.list("secrets").len(), 1);
    // It is away, and no more may be.
    cluster.change("a", |node| {
        node["metadata"]["annotations"][ANNOTATION] = Value::Null;
    });
    let (done, _) = cluster.run(&short).await;
    contains(
        &done.unwrap_err(),
        &["a is not Ready, and no more", "--max-unavailable"],
    );
    assert_eq!(cluster.runtime("b"), "docker://20.10.8");
    // With room for two the other one moves, and it is said that one was left.
    let two = Options {
        max_unavailable: NonZero::new(2).unwrap(),
        ..options()
    };
    let (done, _) = cluster.run(&two).await;
    contains(
        &done.unwrap_err(),
        &["the Node a is not Ready, and was left alone"],
    );
    assert_eq!(cluster.runtime("b"), "containerd://1.7");
    cluster.is_clean();
}

#[tokio::test]
async fn a_job_that_starts_nothing_is_taken_back() {
    let cluster = Cluster::start();
    cluster.node("a", "docker://20.10.8");
    cluster.fate("a", Fate::CannotPull);
    let (done, _) = cluster.run(&options()).await;
    contains(
        &done.unwrap_err(),
        &[
            "the Node a: its Job failed (slipway-migrate/move-a-",
            "ImagePullBackOff: no such image",
        ],
    );
    cluster.is_clean();
    cluster.fate("a", Fate::SaysNothing);
    let short = Options {
        start: Duration::from_secs(1),
        ..options()
    };
    let (done, _) = cluster.run(&short).await;
    contains(
        &done.unwrap_err(),
        &["it said nothing for 1 second", "no pod was made"],
    );
    cluster.is_clean();
    assert!(cluster.log().is_empty());
}

#[tokio::test]
async fn what_a_node_is_given_is_no_more_than_it_needs() {
    let cluster = Cluster::start();
    cluster.node("a", "docker://20.10.8");
    cluster.fate("a", Fate::SaysNothing);
    let look = async {
        let secrets = || cluster.server.list("secrets");
        while secrets().is_empty() || cluster.server.list("jobs").is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let job = &cluster.server.list("jobs")[0];
        let spec = &job["spec"]["template"]["spec"];
        assert_eq!(spec["nodeName"], "a");
        assert_eq!(
            spec["containers"][0]["command"],
            json!([
                "slipway",
                "migrate",
                "node-job",
                "--to",
                "containerd",
                "--node",
                "a",
                "--kubeconfig",
                "/etc/slipway-migrate/kubeconfig",
                "--force",
            ])
        );
        let mut verbs = BTreeMap::new();
        for role in [
            cluster.server.list("clusterroles"),
            cluster.server.list("roles"),
        ]
        .concat()
        {
            let namespace = role["metadata"]["namespace"]
                .as_str()
                .unwrap_or("*")
                .to_string();
            for rule in role["rules"].as_array().unwrap() {
                let rule = format!("{} {}", rule["verbs"][0], rule["resources"][0]);
                let rules: &mut Vec<String> = verbs.entry(namespace.clone()).or_default();
                rules.push(rule.replace('"', ""));
            }
        }
        verbs
    };
    let options = options();
    let verbs = tokio::select! {
        (done, _) = cluster.run(&options) => panic!("{done:?}"),
        verbs = look => verbs,
    };
    let expected = json!({
        "*": [
            "get nodes", "list nodes", "watch nodes", "patch nodes",
            "list pods", "watch pods", "create pods/eviction",
        ],
        "kube-node-lease": ["get leases"],
        "kube-system": [
            "get configmaps", "update configmaps",
            "list pods", "watch pods", "create pods", "delete pods",
            "list events",
        ],
    });
    assert_eq!(json!(verbs), expected);
}

#[tokio::test]
async fn what_keeps_a_rollout_from_beginning_is_said() {
    let cluster = Cluster::start();
    cluster.node("worker-1", "docker://20.10.8");
    let wrong = Options {
        nodes: vec!["worker-2".to_string()],
        ..options()
    };
    let (done, _) = cluster.run(&wrong).await;
    contains(&done.unwrap_err(), &["the Node worker-2", "but worker-1"]);
    cluster.server.deny("create", "jobs");
    cluster.server.deny("patch", "nodes");
    let (done, _) = cluster.run(&options()).await;
    contains(
        &done.unwrap_err(),
        &[
            "verb create on jobs of the API group batch in the namespace slipway-migrate",
            "verb patch on nodes",
        ],
    );
    assert_eq!(cluster.runtime("worker-1"), "docker://20.10.8");
    cluster.is_clean();
}

/// The lease of the cluster's move, once there is one.
async fn lease(cluster: &Cluster) -> Value {
    loop {
        if let Some(lease) = cluster
            .server
            .get("leases", "kube-system", "slipway-migrate")
        {
            return lease["spec"].clone();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn two_at_once_are_refused() {
    let cluster = Cluster::start();
    for name in ["a", "b"] {
        cluster.node(name, "docker://20.10.8");
    }
    let barrier = Arc::new(Barrier::new(2));
    cluster.fate("a", Fate::MovesWith(Arc::clone(&barrier)));
    // The answers to what is asked of the lease are lost, and the server has bad moments.
    for verb in ["create", "update", "delete"] {
        cluster.server.fault(of(verb, "leases"), 1, Fault::CutAfter);
        cluster.server.fault(of(verb, "leases"), 1, Fault::Busy(0));
    }
    let options = Options {
        lease: Duration::from_secs(6),
        ..options()
    };
    let second = async {
        while cluster.log().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let first = lease(&cluster).await;
        assert_eq!(first["leaseDurationSeconds"], 6);
        let time = first["renewTime"].as_str().unwrap();
        assert_eq!(time.len(), "2000-01-01T00:00:00.000000Z".len(), "{time}");
        let (done, heard) = cluster.run(&options).await;
        let holder = first["holderIdentity"].as_str().unwrap();
        contains(
            &done.unwrap_err(),
            &["another slipway migrate cluster", holder],
        );
        assert_eq!(heard, [format!("{holder} has the lease")]);
        let renewed = lease(&cluster).await;
        assert_eq!(renewed["holderIdentity"], holder);
        assert_eq!(renewed["acquireTime"], first["acquireTime"]);
        assert_ne!(renewed["renewTime"], first["renewTime"]);
        barrier.wait().await;
    };
    let ((done, _), ()) = tokio::join!(cluster.run(&options), second);
    done.unwrap();
    assert_eq!(cluster.log(), ["a begins", "a ends", "b begins", "b ends"]);
    cluster.is_clean();
}

#[tokio::test]
async fn the_lease_of_a_run_that_was_killed_runs_out() {
    let cluster = Cluster::start();
    cluster.node("a", "docker://20.10.8");
    let options = Options {
        lease: Duration::from_secs(1),
        ..options()
    };
    cluster.fate("a", Fate::SaysNothing);
    let killed = async {
        while cluster.log().is_empty() && cluster.server.list("jobs").is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        lease(&cluster).await
    };
    let left = tokio::select! {
        (done, _) = cluster.run(&options) => panic!("{done:?}"),
        left = killed => left,
    };
    cluster.fate("a", Fate::Moves);
    cluster.seen.lock().unwrap().clear();
    let (done, heard) = cluster.run(&options).await;
    done.unwrap();
    let holder = left["holderIdentity"].as_str().unwrap();
    assert_eq!(heard[0], format!("{holder} has the lease"));
    assert_eq!(cluster.runtime("a"), "containerd://1.7");
    cluster.is_clean();

    // One that was given back is free at once, and of all that is asked for the verbs are missing.
    cluster.server.put(json!({
        "kind": "Lease", "metadata": { "namespace": "kube-system", "name": "slipway-migrate" },
        "spec": { "holderIdentity": "", "leaseDurationSeconds": 3600, "leaseTransitions": 4 },
    }));
    let (done, heard) = cluster.run(&options).await;
    done.unwrap();
    assert_eq!(heard, ["a is there"]);
    cluster.is_clean();
    cluster.server.deny("update", "leases");
    let (done, _) = cluster.run(&options).await;
    contains(
        &done.unwrap_err(),
        &[
            "verb update on leases of the API group coordination.k8s.io in the namespace kube-system",
        ],
    );
}

#[tokio::test]
async fn a_run_whose_lease_was_taken_asks_no_more_nodes() {
    let cluster = Cluster::start();
    for name in ["a", "b"] {
        cluster.node(name, "docker://20.10.8");
    }
    cluster.fate("a", Fate::MovesWith(Arc::new(Barrier::new(2))));
    let options = Options {
        lease: Duration::from_secs(1),
        ..options()
    };
    let other = async {
        while cluster.log().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let taken = |lease: &mut Value| lease["spec"]["holderIdentity"] = "another".into();
        assert!(
            cluster
                .server
                .change("leases", "kube-system", "slipway-migrate", taken)
        );
    };
    let ((done, _), ()) = tokio::join!(cluster.run(&options), other);
    contains(
        &done.unwrap_err(),
        &["has taken over (another holds the Lease"],
    );
    assert_eq!(cluster.log(), ["a begins"]);
    assert_eq!(lease(&cluster).await["holderIdentity"], "another");
}

#[tokio::test]
async fn a_pod_of_a_job_has_the_host_begin() {
    let scratch = Scratch::new().unwrap();
    let systemd = FakeSystemd::start(&scratch).unwrap();
    let host = scratch.join("host");
    // Links of the host lead about the host.
    std::fs::create_dir_all(host.join("data/state")).unwrap();
    std::fs::create_dir_all(host.join("var")).unwrap();
    std::os::unix::fs::symlink("/data/state", host.join("var/lib")).unwrap();
    for (name, text) in [("program", "an ELF file"), ("credentials", "a token")] {
        std::fs::write(scratch.join(name), text).unwrap();
    }
    let pod = Pod {
        root: Root::new(&host),
        bus: systemd.address(),
        program: scratch.join("program"),
        kubeconfig: scratch.join("credentials"),
    };
    let arguments = ["migrate", "apply", "--to", "containerd"].map(str::to_string);
    assert_eq!(pod.begin(&arguments).await.unwrap(), Begun::Now);
    let copied = |name: &str| {
        let path = host.join("data/state/slipway-migrate").join(name);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        (std::fs::read_to_string(path).unwrap(), mode & 0o777)
    };
    assert_eq!(copied("slipway"), ("an ELF file".to_string(), 0o755));
    assert_eq!(copied("kubeconfig"), ("a token".to_string(), 0o600));
    let properties = systemd.properties(UNIT).unwrap();
    contains(
        &properties["ExecStart"],
        &[
            "/var/lib/slipway-migrate/slipway",
            r#""migrate", "apply", "--to", "containerd", "--kubeconfig", "/var/lib/slipway-migrate/kubeconfig""#,
        ],
    );
    contains(&properties["KillMode"], &["process"]);
    assert_eq!(pod.begin(&arguments).await.unwrap(), Begun::Before);
    let nowhere = Pod {
        root: Root::new("/proc/self/fdinfo"),
        ..pod.clone()
    };
    let error = nowhere.begin(&arguments).await.unwrap_err().to_string();
    contains(
        &error,
        &[
            "/var/lib/slipway-migrate/slipway",
            "privileged, with hostPID",
        ],
    );
    drop(systemd);
    let error = pod.begin(&arguments).await.unwrap_err().to_string();
    contains(&error, &["the node's systemd at unix:path="]);
}
