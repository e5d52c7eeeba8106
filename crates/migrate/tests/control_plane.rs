//! [`Live`] against a server that speaks the Kubernetes API: with conflicts, a busy server, cut
//! connections and watches, budgets that open late, and what RBAC refuses.

mod asked;

use std::cell::RefCell;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use asked::{contains, of};
use serde_json::{Value, json};
use slipway_migrate::cluster::Access;
use slipway_migrate::control_plane::{
    ControlPlane as _, DrainOptions, Live, Needs, PreflightError,
};
use slipway_testbed::{Fault, KubernetesServer};
use tokio::task::JoinHandle;

const ALL: Needs = Needs {
    drain: true,
    config_map: true,
    probe: true,
};

/// Long enough for everything that happens; what does not happen is waited for with less.
const LONG: Duration = Duration::from_mins(1);
const SHORT: Duration = Duration::from_secs(3);

/// A cluster with one Node `a`, which runs on Docker.
struct Cluster {
    server: Arc<KubernetesServer>,
    live: Live,
    said: RefCell<Vec<String>>,
    kubelets: Vec<JoinHandle<()>>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for kubelet in &self.kubelets {
            kubelet.abort();
        }
    }
}

impl Cluster {
    async fn start() -> Self {
        let server = Arc::new(KubernetesServer::start().unwrap());
        server.put(node("a", "True", "docker://20.10.8", "T0"));
        let live = connect(&server, "a").await;
        Self {
            server,
            live,
            said: RefCell::default(),
            kubelets: Vec::new(),
        }
    }

    /// Has something done to the node's pods whenever one of them changes, as a kubelet does.
    fn kubelet(&mut self, sync: impl Fn(&KubernetesServer, &Value) + Send + 'static) {
        self.server.claim("a");
        let server = Arc::clone(&self.server);
        self.kubelets.push(tokio::spawn(async move {
            let mut changes = server.changes();
            loop {
                changes.borrow_and_update();
                for pod in server.list("pods") {
                    sync(&server, &pod);
                }
                if changes.changed().await.is_err() {
                    return;
                }
            }
        }));
    }

    async fn drain(&self, deadline: Duration) -> Result<(), String> {
        let progress = |line: &str| self.said.borrow_mut().push(line.to_string());
        let drained = self.live.drain(deadline, &progress).await;
        drained.map_err(|error| error.to_string())
    }

    async fn probe(&self, deadline: Duration) -> Result<(), String> {
        let progress = |line: &str| self.said.borrow_mut().push(line.to_string());
        let ran = self.live.probe(deadline, &progress).await;
        ran.map_err(|error| error.to_string())
    }

    async fn wait_ready(&self, runtime: &str, deadline: Duration) -> Result<(), String> {
        let progress = |line: &str| self.said.borrow_mut().push(line.to_string());
        let ready = self.live.wait_ready(runtime, deadline, &progress).await;
        ready.map_err(|error| error.to_string())
    }

    fn asked(&self) -> Vec<String> {
        self.server.take().iter().map(ToString::to_string).collect()
    }

    fn pods(&self) -> Vec<String> {
        let pods = self.server.list("pods");
        let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap().to_string();
        pods.iter().map(name).collect()
    }

    #[track_caller]
    fn heard(&self, wanted: &str) {
        let said = self.said.borrow();
        assert!(
            said.iter().any(|line| line.contains(wanted)),
            "{wanted:?} in {said:#?}"
        );
    }
}

async fn connect(server: &KubernetesServer, node: &str) -> Live {
    let access = Access {
        kubeconfig: Some(server.kubeconfig()),
        context: None,
    };
    Live::connect(&access, node).await.unwrap()
}

fn node(name: &str, ready: &str, runtime: &str, heartbeat: &str) -> Value {
    json!({
        "kind": "Node", "metadata": { "name": name },
        "status": {
            "conditions": [
                { "type": "MemoryPressure", "status": "False" },
                {
                    "type": "Ready", "status": ready, "lastHeartbeatTime": heartbeat,
                    "reason": "KubeletNotReady", "message": "container runtime is down",
                },
            ],
            "nodeInfo": { "containerRuntimeVersion": runtime },
        },
    })
}

fn pod(name: &str, owner: &str) -> Value {
    let mut pod = json!({
        "kind": "Pod",
        "metadata": { "namespace": "shop", "name": name, "labels": { "app": "web" } },
        "spec": { "nodeName": "a", "containers": [] },
        "status": { "phase": "Running" },
    });
    if !owner.is_empty() {
        let owner = json!({ "kind": owner, "name": "o", "uid": "o", "controller": true });
        pod["metadata"]["ownerReferences"] = json!([owner]);
    }
    pod
}

fn budget(allowed: u64) -> Value {
    json!({
        "kind": "PodDisruptionBudget", "metadata": { "name": "web", "namespace": "shop" },
        "spec": { "selector": { "matchLabels": { "app": "web" } } },
        "status": { "disruptionsAllowed": allowed, "desiredHealthy": 2, "currentHealthy": 2 },
    })
}

/// A pod that is being deleted has ended.
fn ends(server: &KubernetesServer, pod: &Value) {
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        let text = |field: &str| pod["metadata"][field].as_str().unwrap();
        server.remove("pods", text("namespace"), text("name"));
    }
}

#[tokio::test]
async fn all_that_is_missing_is_said_at_once() {
    let cluster = Cluster::start().await;
    cluster.live.preflight(ALL).await.unwrap();
    for (verb, resource) in [
        ("patch", "nodes"),
        ("create", "pods/eviction"),
        ("update", "configmaps"),
        ("delete", "pods"),
    ] {
        cluster.server.deny(verb, resource);
    }
    let error = cluster.live.preflight(ALL).await.unwrap_err().to_string();
    contains(
        &error,
        &[
            "Node a",
            "verb patch on nodes,",
            "verb create on pods/eviction in all namespaces,",
            "verb update on configmaps in the namespace kube-system,",
            "verb delete on pods in the namespace kube-system;",
        ],
    );
    assert!(!error.contains("verb list"), "{error}");
    // What a plan does not do need not be allowed.
    let few = Needs {
        drain: false,
        config_map: false,
        probe: false,
    };
    let error = cluster.live.preflight(few).await.unwrap_err().to_string();
    assert!(!error.contains("pods"), "{error}");
    cluster.server.deny_reviews();
    cluster.live.preflight(ALL).await.unwrap();
}

#[tokio::test]
async fn a_node_that_is_not_there_may_have_another_name() {
    let cluster = Cluster::start().await;
    for name in ["worker-1.example.com", "db-7"] {
        cluster.server.put(node(name, "True", "docker://1", "T0"));
    }
    let live = connect(&cluster.server, "worker-1").await;
    let error = live.preflight(ALL).await.unwrap_err().to_string();
    contains(
        &error,
        &["Node worker-1", "worker-1.example.com, ", "--node"],
    );
    let error = live.set_cordoned(true).await.unwrap_err().to_string();
    contains(&error, &["cordoning the Node worker-1", "not found"]);
}

#[tokio::test]
async fn who_is_not_let_in_is_told() {
    let cluster = Cluster::start().await;
    let path = cluster.server.directory().join("another");
    std::fs::write(&path, cluster.server.kubeconfig_of("expired")).unwrap();
    let access = Access {
        kubeconfig: Some(path.clone()),
        context: None,
    };
    let live = Live::connect(&access, "a").await.unwrap();
    let error = live.preflight(ALL).await.unwrap_err().to_string();
    contains(&error, &["Unauthorized", "kubeconfig"]);

    let text = cluster.server.kubeconfig_of("x");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free = free.local_addr().unwrap().to_string();
    let address = cluster.server.address().to_string();
    std::fs::write(&path, text.replace(&address, &free)).unwrap();
    let live = Live::connect(&access, "a")
        .await
        .unwrap()
        .with_patience(SHORT);
    let error = live.preflight(ALL).await.unwrap_err().to_string();
    contains(&error, &["Node a", &free]);
}

#[tokio::test]
async fn a_patch_gets_through_whatever_goes_wrong() {
    let cluster = Cluster::start().await;
    let live = &cluster.live;
    for fault in [
        Fault::Status(409),
        Fault::Busy(0),
        Fault::CutBefore,
        Fault::Status(500),
        Fault::CutAfter,
    ] {
        cluster.server.fault(of("patch", "nodes"), 1, fault);
    }
    live.set_cordoned(true).await.unwrap();
    assert_eq!(cluster.asked().len(), 6);
    cluster.server.fault(of("get", "nodes"), 1, Fault::CutAfter);
    assert!(live.is_cordoned().await.unwrap());
    live.set_cordoned(false).await.unwrap();
    assert!(!live.is_cordoned().await.unwrap());
    assert!(live.is_ready().await.unwrap());

    let key = "kubeadm.alpha.kubernetes.io/cri-socket";
    assert_eq!(live.annotation(key).await.unwrap(), None);
    for value in [Some("unix:///a"), Some("unix:///b"), None, None] {
        live.set_annotation(key, value).await.unwrap();
        assert_eq!(live.annotation(key).await.unwrap().as_deref(), value);
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up() {
    let cluster = Cluster::start().await;
    let live = connect(&cluster.server, "a").await.with_patience(SHORT);
    let hour = Duration::from_hours(1);
    cluster
        .server
        .fault(of("patch", "nodes"), 1, Fault::Late(hour));
    let began = Instant::now();
    let error = live.set_cordoned(true).await.unwrap_err().to_string();
    contains(&error, &["cordoning the Node a", "no answer in time"]);
    // It wants to be left alone for longer than there is time.
    cluster
        .server
        .fault(of("patch", "nodes"), 1, Fault::Busy(3600));
    let error = live.set_cordoned(true).await.unwrap_err().to_string();
    contains(&error, &["busy", "too many requests"]);
    assert!(began.elapsed() < LONG);
    cluster.server.deny("patch", "nodes");
    let error = live.set_cordoned(true).await.unwrap_err().to_string();
    contains(&error, &["forbidden", "verb patch on nodes"]);
}

#[tokio::test]
async fn a_version_that_may_not_be_read_is_said_before_anything_is_begun() {
    let cluster = Cluster::start().await;
    let version = cluster.live.version().await.unwrap();
    assert_eq!(version.to_string(), "1.23");

    // All is allowed but that.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let path = cluster.server.kubeconfig();
    let text = fs::read_to_string(&path).unwrap();
    let text = text.replace(&cluster.server.address().to_string(), &address);
    fs::write(&path, text).unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut request = [0; 4096];
            let length = connection.read(&mut request).unwrap();
            let (status, answer) = if request[..length].starts_with(b"GET /version ") {
                let message = "User \"u\" cannot get path \"/version\"";
                let answer = json!({ "kind": "Status", "code": 403, "reason": "Forbidden", "message": message });
                ("403 Forbidden", answer)
            } else {
                ("200 OK", json!({ "status": { "allowed": true } }))
            };
            let answer = answer.to_string();
            let length = answer.len();
            write!(
                connection,
                "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{answer}"
            )
            .unwrap();
        }
    });
    let live = connect(&cluster.server, "a").await;
    let words = [
        "reading the API server's version (GET /version): forbidden",
        "cannot get path \"/version\"",
        "system:public-info-viewer",
    ];
    contains(&live.version().await.unwrap_err().to_string(), &words);
    let denied = live.preflight(ALL).await.unwrap_err();
    assert!(matches!(denied, PreflightError::Denied(_)), "{denied}");
    contains(&denied.to_string(), &words);
    let no_config_map = Needs {
        config_map: false,
        ..ALL
    };
    live.preflight(no_config_map).await.unwrap();
}

#[tokio::test]
async fn the_configuration_of_new_nodes_is_replaced_if_it_is_what_it_was() {
    let cluster = Cluster::start().await;
    let live = &cluster.live;
    let name = "kubelet-config";
    assert_eq!(live.kubelet_configuration(name).await.unwrap(), None);
    let replace = async |expected, text| {
        let replaced = live.replace_kubelet_configuration(name, expected, text);
        replaced.await.unwrap()
    };
    assert!(!replace("a", "b").await);
    cluster.server.put(json!({
        "kind": "ConfigMap", "metadata": { "namespace": "kube-system", "name": name },
        "data": { "kubelet": "a", "other": "kept" },
    }));
    let found = || live.kubelet_configuration(name);
    assert_eq!(found().await.unwrap().as_deref(), Some("a"));
    for fault in [
        Fault::Status(409),
        Fault::CutBefore,
        Fault::Busy(0),
        Fault::CutAfter,
    ] {
        cluster.server.fault(of("update", "configmaps"), 1, fault);
    }
    assert!(replace("a", "b").await);
    let config_map = cluster
        .server
        .get("configmaps", "kube-system", name)
        .unwrap();
    assert_eq!(
        config_map["data"],
        json!({ "kubelet": "b", "other": "kept" })
    );
    assert!(replace("a", "b").await, "it was done before");
    assert!(!replace("a", "c").await, "somebody else has changed it");
    assert_eq!(found().await.unwrap().as_deref(), Some("b"));
    cluster.server.deny("get", "configmaps");
    let error = found().await.unwrap_err().to_string();
    contains(
        &error,
        &[
            "kube-system/kubelet-config",
            "verb get on configmaps in the namespace kube-system",
        ],
    );
}

#[tokio::test]
async fn pods_are_evicted_but_for_those_that_stay() {
    let mut cluster = Cluster::start().await;
    let names: Vec<_> = (0..12).map(|number| format!("web-{number:02}")).collect();
    for name in &names {
        cluster.server.put(pod(name, "ReplicaSet"));
    }
    cluster.server.put(pod("agent", "DaemonSet"));
    let mut mirror = pod("static-a", "Node");
    mirror["metadata"]["annotations"] = json!({ "kubernetes.io/config.mirror": "x" });
    cluster.server.put(mirror);
    let mut ended = pod("backup", "");
    ended["status"]["phase"] = "Succeeded".into();
    cluster.server.put(ended);
    let mut elsewhere = pod("elsewhere", "ReplicaSet");
    elsewhere["spec"]["nodeName"] = "b".into();
    cluster.server.put(elsewhere);
    // Watches are cut, and what they would go on from is forgotten.
    for (verb, resource, times, fault) in [
        ("watch", "pods", 2, Fault::EndsAfter(1)),
        ("watch", "pods", 1, Fault::CutBefore),
        ("watch", "pods", 1, Fault::Status(410)),
        ("create", "pods/eviction", 2, Fault::Busy(0)),
        ("create", "pods/eviction", 1, Fault::CutAfter),
        ("create", "pods/eviction", 1, Fault::Status(409)),
        ("list", "pods", 1, Fault::Status(503)),
    ] {
        cluster.server.fault(of(verb, resource), times, fault);
    }
    cluster.kubelet(ends);
    cluster.drain(LONG).await.unwrap();
    assert_eq!(cluster.pods(), ["agent", "elsewhere", "static-a"]);
    cluster.heard("evicting 13 pods: shop/backup, shop/web-00, shop/web-01");
    cluster.heard("and 8 more");
    cluster.drain(LONG).await.unwrap();
    cluster.heard("no pod has to go");
}

#[tokio::test]
async fn pods_whose_ends_no_kubelet_tells_are_not_waited_for() {
    let cluster = Cluster::start().await;
    cluster.server.claim("a");
    let mut node = node("a", "Unknown", "containerd://1.6.20", "T0");
    node["spec"]["unschedulable"] = true.into();
    cluster.server.put(node);
    for name in ["api", "web"] {
        cluster.server.put(pod(name, "ReplicaSet"));
    }
    cluster.server.put(pod("agent", "DaemonSet"));
    // Budgets count all the same.
    let busy = Fault::Busy(0);
    cluster.server.fault(of("create", "pods/eviction"), 2, busy);
    cluster.drain(LONG).await.unwrap();
    cluster.heard("not waited for");
    for (name, going) in [("api", true), ("web", true), ("agent", false)] {
        let pod = cluster.server.get("pods", "shop", name).unwrap();
        let deleted = &pod["metadata"]["deletionTimestamp"];
        assert_eq!(!deleted.is_null(), going, "{pod}");
    }
}

#[tokio::test]
async fn pods_that_would_be_lost_keep_all_from_being_evicted() {
    let mut cluster = Cluster::start().await;
    cluster.server.put(pod("web", "ReplicaSet"));
    cluster.server.put(pod("handmade", ""));
    let mut cache = pod("cache", "StatefulSet");
    cache["spec"]["volumes"] = json!([{ "name": "v", "emptyDir": {} }]);
    cluster.server.put(cache);
    cluster.kubelet(ends);
    let error = cluster.drain(LONG).await.unwrap_err();
    contains(
        &error,
        &[
            "no pod was evicted",
            "shop/handmade: no controller",
            "--force",
            "shop/cache: what they have in emptyDir",
            "--delete-emptydir-data",
        ],
    );
    assert_eq!(cluster.pods(), ["cache", "handmade", "web"]);
    assert_eq!(cluster.asked(), ["list pods"]);
    let all = DrainOptions {
        force: true,
        delete_emptydir_data: true,
    };
    cluster.live = connect(&cluster.server, "a").await.with_drain(all);
    cluster.drain(LONG).await.unwrap();
    assert!(cluster.pods().is_empty());
}

#[tokio::test]
async fn a_budget_that_opens_later_is_waited_for() {
    let mut cluster = Cluster::start().await;
    cluster.server.put(pod("web-1", "ReplicaSet"));
    cluster.server.put(pod("web-2", "ReplicaSet"));
    cluster.server.put(budget(1));
    cluster.kubelet(ends);
    // Another may go once it is seen that one has gone, and that the other one must wait.
    let open = async {
        for wanted in [
            "1 of 2 left: shop/web-",
            "waits: The disruption budget web needs 2 healthy pods",
        ] {
            while !cluster
                .said
                .borrow()
                .iter()
                .any(|line| line.contains(wanted))
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        cluster.server.put(budget(1));
    };
    let (drained, ()) = tokio::join!(cluster.drain(LONG), open);
    drained.unwrap();
    assert!(cluster.pods().is_empty());
}

#[tokio::test]
async fn a_budget_that_never_opens_is_named() {
    let mut cluster = Cluster::start().await;
    cluster.server.put(pod("web-1", "ReplicaSet"));
    cluster.server.put(budget(0));
    // This one is evicted, and does not end.
    let mut stuck = pod("stuck", "ReplicaSet");
    stuck["metadata"]["labels"] = json!({});
    cluster.server.put(stuck);
    cluster.kubelet(|_, _| {});
    let error = cluster.drain(SHORT).await.unwrap_err();
    contains(
        &error,
        &[
            "draining the Node a: 2 of 2 pods are still there",
            "shop/web-1 (The disruption budget web needs 2 healthy pods and has 2 currently)",
            "shop/stuck (evicted, and it has not ended",
        ],
    );
    // Two budgets: that does not pass.
    let mut another = budget(5);
    another["metadata"]["name"] = "another".into();
    cluster.server.put(another);
    let error = cluster.drain(LONG).await.unwrap_err();
    contains(&error, &["more than one PodDisruptionBudget", "shop/web-1"]);
}

#[tokio::test]
async fn a_pod_of_the_same_name_is_another_pod() {
    let mut cluster = Cluster::start().await;
    cluster.server.put(pod("db-0", "StatefulSet"));
    cluster.kubelet(|server, pod| {
        let going = !pod["metadata"]["deletionTimestamp"].is_null();
        if going {
            server.remove("pods", "shop", "db-0");
            server.put(self::pod("db-0", "StatefulSet"));
        }
    });
    cluster.drain(LONG).await.unwrap();
    assert_eq!(cluster.pods(), ["db-0"]);
    let evictions = cluster.asked();
    let evictions = evictions.iter().filter(|asked| asked.contains("eviction"));
    assert_eq!(evictions.count(), 1, "the new one was left alone");
}

#[tokio::test]
async fn an_old_cluster_is_asked_as_it_knows_it() {
    let mut cluster = Cluster::start().await;
    cluster.server.put(pod("web-1", "ReplicaSet"));
    cluster.server.withdraw("policy/v1");
    cluster.kubelet(ends);
    cluster.drain(LONG).await.unwrap();
    assert!(cluster.pods().is_empty());
}

#[tokio::test]
async fn an_eviction_that_is_forbidden_is_not_asked_for_again() {
    let cluster = Cluster::start().await;
    cluster.server.put(pod("web-1", "ReplicaSet"));
    cluster.server.deny("create", "pods/eviction");
    let error = cluster.drain(LONG).await.unwrap_err();
    contains(
        &error,
        &[
            "verb create on pods/eviction in the namespace shop",
            "shop/web-1",
        ],
    );
    cluster.server.deny("list", "pods");
    let error = cluster.drain(LONG).await.unwrap_err();
    contains(
        &error,
        &["draining the Node a", "verb list on pods in all namespaces"],
    );
}

/// Writes the Node's status as a kubelet does, once it has been asked for so many times.
fn after_watches(cluster: &mut Cluster, statuses: Vec<Value>) {
    let server = Arc::clone(&cluster.server);
    cluster.kubelets.push(tokio::spawn(async move {
        for status in statuses {
            // Somebody watches before it is written.
            while !server.take().iter().any(|asked| asked.verb == "watch") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            server.change("nodes", "", "a", |node| {
                node["status"] = status["status"].clone();
            });
        }
    }));
}

#[tokio::test]
async fn a_node_is_ready_by_a_fresh_heartbeat_on_its_new_runtime() {
    let mut cluster = Cluster::start().await;
    // It says Ready on the target, but that was before.
    cluster
        .server
        .put(node("a", "True", "containerd://1.7", "T1"));
    for _ in 0..3 {
        cluster
            .server
            .fault(of("watch", "nodes"), 1, Fault::EndsAfter(1));
    }
    cluster
        .server
        .fault(of("list", "nodes"), 1, Fault::CutBefore);
    // As a server that has just started answers.
    cluster
        .server
        .fault(of("list", "nodes"), 1, Fault::Status(403));
    after_watches(
        &mut cluster,
        vec![
            node("a", "False", "containerd://1.7", "T2"),
            node("a", "True", "docker://20.10.8", "T3"),
            node("a", "True", "containerd://1.7", "T4"),
        ],
    );
    cluster.wait_ready("containerd://", LONG).await.unwrap();
    let said = cluster.said.borrow().join("\n");
    assert_eq!(
        said,
        "Ready=True, its runtime is containerd://1.7, and its kubelet has not written that anew yet\n\
         Ready=False (KubeletNotReady: container runtime is down), its runtime is containerd://1.7\n\
         Ready=True, its runtime is docker://20.10.8\n\
         Ready=True, its runtime is containerd://1.7"
    );
}

#[tokio::test]
async fn a_lease_that_is_renewed_is_a_heartbeat_too() {
    let mut cluster = Cluster::start().await;
    let lease = |time: u32| {
        json!({
            "kind": "Lease", "metadata": { "namespace": "kube-node-lease", "name": "a" },
            "spec": { "renewTime": time },
        })
    };
    cluster.server.put(lease(0));
    let server = Arc::clone(&cluster.server);
    cluster.kubelets.push(tokio::spawn(async move {
        for time in 1.. {
            while !server.take().iter().any(|asked| asked.resource == "leases") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            server.put(lease(time));
        }
    }));
    cluster.wait_ready("docker://", LONG).await.unwrap();
    cluster.heard("its kubelet has not written that anew yet");
}

#[tokio::test]
async fn a_node_that_does_not_become_ready_is_described() {
    let cluster = Cluster::start().await;
    let error = cluster
        .wait_ready("containerd://", SHORT)
        .await
        .unwrap_err();
    contains(
        &error,
        &[
            "Node a to be Ready on containerd://",
            "not within 3 seconds",
            "Ready=True, its runtime is docker://20.10.8",
            "journalctl -u kubelet",
        ],
    );
    cluster
        .server
        .put(node("a", "False", "containerd://1.7", "T1"));
    let error = cluster
        .wait_ready("containerd://", SHORT)
        .await
        .unwrap_err();
    contains(&error, &["KubeletNotReady: container runtime is down"]);
    cluster.server.remove("nodes", "", "a");
    let error = cluster
        .wait_ready("containerd://", SHORT)
        .await
        .unwrap_err();
    contains(&error, &["no Node of that name"]);
    cluster
        .server
        .fault(of("list", "nodes"), 1000, Fault::Status(503));
    let error = cluster
        .wait_ready("containerd://", SHORT)
        .await
        .unwrap_err();
    contains(&error, &["a fault of the test (503)"]);
}

/// Runs probes, and ends pods.
fn runs(server: &KubernetesServer, pod: &Value) {
    if pod["status"]["phase"] == "Pending" {
        let name = pod["metadata"]["name"].as_str().unwrap();
        server.change("pods", "kube-system", name, |pod| {
            pod["status"]["phase"] = "Running".into();
        });
    }
    ends(server, pod);
}

#[tokio::test]
async fn a_probe_runs_and_is_gone() {
    let mut cluster = Cluster::start().await;
    cluster.server.change("nodes", "", "a", |node| {
        node["status"]["images"] = json!([
            { "names": ["example.com/web:1"] },
            { "names": ["example.com/pause@sha256:aa", "example.com/pause:3.6"] },
        ]);
    });
    // One was left, and the answers to what is asked are lost.
    cluster.server.put(json!({
        "kind": "Pod", "metadata": { "namespace": "kube-system", "name": "slipway-probe-a" },
        "spec": { "nodeName": "a" }, "status": { "phase": "Running" },
    }));
    cluster
        .server
        .fault(of("create", "pods"), 1, Fault::CutAfter);
    cluster
        .server
        .fault(of("delete", "pods"), 1, Fault::CutAfter);
    cluster
        .server
        .fault(of("watch", "pods"), 2, Fault::EndsAfter(0));
    cluster.kubelet(runs);
    cluster.probe(LONG).await.unwrap();
    assert!(cluster.pods().is_empty());
    cluster.heard("kube-system/slipway-probe-a runs example.com/pause:3.6");
    cluster.live.remove_probe().await.unwrap();
}

#[tokio::test]
async fn a_probe_that_cannot_run_ends_with_the_reason() {
    let mut cluster = Cluster::start().await;
    cluster.kubelet(|server, pod| {
        if pod["status"]["containerStatuses"].is_null() {
            server.change("pods", "kube-system", "slipway-probe-a", |pod| {
                pod["status"]["containerStatuses"] = json!([{ "state": { "waiting": {
                    "reason": "ImagePullBackOff", "message": "Back-off pulling image \"x/y:1\"",
                } } }]);
            });
        }
        ends(server, pod);
    });
    cluster.live = connect(&cluster.server, "a")
        .await
        .with_probe_image("x/y:1");
    let error = cluster.probe(LONG).await.unwrap_err();
    contains(
        &error,
        &[
            "kube-system/slipway-probe-a on the Node a",
            "ImagePullBackOff: Back-off pulling image \"x/y:1\"",
        ],
    );
    cluster.heard("runs x/y:1");
    assert!(cluster.pods().is_empty(), "it is deleted all the same");
}

#[tokio::test]
async fn a_probe_that_is_not_begun_ends_with_its_last_event() {
    let mut cluster = Cluster::start().await;
    let told = AtomicBool::new(false);
    cluster.kubelet(move |server, pod| {
        ends(server, pod);
        if told.swap(true, Ordering::Relaxed) {
            return;
        }
        let own = pod["metadata"]["uid"].as_str().unwrap();
        for (time, uid, message) in [
            ("2026-01-01T00:00:02Z", own, "no CNI configuration"),
            ("2026-01-01T00:00:01Z", own, "older"),
            ("2026-01-01T00:00:03Z", "other", "of an earlier probe"),
        ] {
            server.put(json!({
                "kind": "Event", "type": "Warning", "message": message, "lastTimestamp": time,
                "metadata": { "namespace": "kube-system", "name": time },
                "involvedObject": { "name": "slipway-probe-a", "uid": uid },
            }));
        }
    });
    let error = cluster.probe(SHORT).await.unwrap_err();
    contains(
        &error,
        &[
            "did not run within",
            "the kubelet has not begun it",
            "its last event: no CNI configuration",
        ],
    );
    assert!(cluster.pods().is_empty());
    cluster.server.deny("create", "pods");
    let error = cluster.probe(LONG).await.unwrap_err();
    contains(
        &error,
        &["verb create on pods in the namespace kube-system"],
    );
}
