//! `cluster::check` against a server that speaks as much of the Kubernetes API as is asked for:
//! lists in pieces, pieces that expire, a busy server, what RBAC refuses, what old clusters lack.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use slipway_migrate::cluster::{self, Access};
use slipway_migrate::{Report, Verdict};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A status, headers and a body.
type Answer = (u16, &'static str, Value);

/// The API server of a test.
struct Server {
    directory: TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

fn list(items: &Value) -> Answer {
    (
        200,
        "",
        json!({ "kind": "List", "metadata": {}, "items": items }),
    )
}

fn failure(code: u16, message: &str) -> Answer {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code,
    });
    (code, "", status)
}

impl Server {
    /// `answers` has for each path, with its query but for the limit, what is answered one after
    /// the other; the last goes on being answered. Other lists are empty.
    async fn start(answers: Vec<(&str, Vec<Answer>)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut answers: HashMap<String, Vec<Answer>> = answers
            .into_iter()
            .map(|(path, mut all)| {
                all.reverse();
                (path.to_string(), all)
            })
            .collect();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(stream, &mut answers, &log).await;
            }
        });
        let directory = tempfile::tempdir().unwrap();
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters:\n- name: c\n  cluster: {{server: 'http://{address}'}}\n\
             users:\n- name: u\n  user: {{token: secret}}\n\
             contexts:\n- name: test\n  context: {{cluster: c, user: u}}\n"
        );
        std::fs::write(directory.path().join("kubeconfig"), kubeconfig).unwrap();
        Self { directory, asked }
    }

    fn access(&self) -> Access {
        Access {
            kubeconfig: Some(self.directory.path().join("kubeconfig")),
            context: None,
        }
    }

    async fn check(&self) -> Report {
        cluster::check(&self.access()).await.unwrap()
    }

    fn times(&self, path: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|one| *one == path).count()
    }
}

async fn serve(
    mut stream: TcpStream,
    answers: &mut HashMap<String, Vec<Answer>>,
    log: &Mutex<Vec<String>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    assert!(
        head.to_lowercase().contains("authorization: bearer secret"),
        "{head}"
    );
    let path = head.split(' ').nth(1).unwrap().replace("?limit=500&", "?");
    let path = path.trim_end_matches("?limit=500").to_string();
    log.lock().unwrap().push(path.clone());
    let (code, headers, body) = match answers.get_mut(&path) {
        Some(all) if all.len() > 1 => all.pop().unwrap(),
        Some(all) => all[0].clone(),
        None => list(&json!([])),
    };
    let body = body.to_string();
    let answer = format!(
        "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{headers}Connection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(answer.as_bytes()).await;
}

fn node(name: &str, runtime: &str) -> Value {
    json!({
        "metadata": { "name": name },
        "status": { "nodeInfo": { "containerRuntimeVersion": runtime, "kubeletVersion": "v1.23.1" } },
    })
}

fn pod_spec() -> Value {
    json!({
        "containers": [{ "name": "a", "image": "example.com/a" }],
        "volumes": [{ "name": "s", "hostPath": { "path": "/var/run/docker.sock" } }],
    })
}

fn owned(name: &str, kind: &str, owner: &str, body: &Value) -> Value {
    let mut object = json!({
        "metadata": {
            "name": name, "namespace": "ci",
            "ownerReferences": [{ "kind": kind, "name": owner, "controller": true }],
        },
    });
    for (key, value) in body.as_object().unwrap() {
        object[key] = value.clone();
    }
    object
}

#[tokio::test]
async fn nodes_and_owners_are_reported_once() {
    let deployment = json!({
        "metadata": { "name": "builder", "namespace": "ci" },
        "spec": { "template": { "spec": pod_spec() } },
    });
    let template = json!({ "spec": { "template": { "spec": pod_spec() } } });
    let static_pod = json!({
        "metadata": {
            "name": "static-a", "namespace": "kube-system",
            "ownerReferences": [{ "kind": "Node", "name": "a", "controller": true }],
        },
        "spec": pod_spec(),
    });
    let pods = json!([
        owned(
            "builder-1-x",
            "ReplicaSet",
            "builder-1",
            &json!({ "spec": pod_spec() })
        ),
        static_pod
    ]);
    let server = Server::start(vec![
        (
            "/api/v1/nodes",
            vec![list(&json!([
                node("a", "docker://20.10.8"),
                node("b", "containerd://1.7.2")
            ]))],
        ),
        (
            "/apis/apps/v1/deployments",
            vec![list(&json!([deployment]))],
        ),
        (
            "/apis/apps/v1/replicasets",
            vec![list(&json!([owned(
                "builder-1",
                "Deployment",
                "builder",
                &template
            )]))],
        ),
        ("/api/v1/pods", vec![list(&pods)]),
    ])
    .await;
    let report = server.check().await;
    let found: Vec<_> = report
        .findings
        .iter()
        .map(|one| format!("{} {}", one.rule, one.evidence[0]))
        .collect();
    assert_eq!(
        found,
        [
            "mounts-docker-socket Deployment ci/builder spec.template.spec.volumes[0].hostPath.path",
            "mounts-docker-socket Pod kube-system/static-a spec.volumes[0].hostPath.path",
            "node-runtime-docker Node a status.nodeInfo.containerRuntimeVersion",
        ]
    );
    assert!(report.unseen.is_empty(), "{:?}", report.unseen);
    let nodes: Vec<_> = report
        .nodes
        .iter()
        .map(|node| node.runtime.as_str())
        .collect();
    assert_eq!(nodes, ["docker://20.10.8", "containerd://1.7.2"]);
}

#[tokio::test]
async fn pods_whose_owner_cannot_be_listed_are_reported_once() {
    let pod = |name: &str, owner: &str| {
        let mut pod = owned(name, "ReplicaSet", "web", &json!({ "spec": pod_spec() }));
        pod["metadata"]["ownerReferences"][0]["uid"] = json!(owner);
        pod
    };
    let pods = json!([
        pod("web-a", "1"),
        pod("web-b", "1"),
        pod("web-c", "2"),
        pod("web-d", "1")
    ]);
    let refused = failure(403, "replicasets.apps is forbidden");
    let server = Server::start(vec![
        ("/apis/apps/v1/replicasets", vec![refused]),
        ("/api/v1/pods", vec![list(&pods)]),
    ])
    .await;
    let report = server.check().await;
    let found: Vec<_> = report
        .findings
        .iter()
        .map(|one| format!("{}: {}", one.evidence[0], one.found))
        .collect();
    let socket = "volume s is /var/run/docker.sock of the node";
    assert_eq!(
        found,
        [
            format!(
                "Pod ci/web-a spec.volumes[0].hostPath.path: {socket} (and in 2 more of ReplicaSet web)"
            ),
            format!("Pod ci/web-c spec.volumes[0].hostPath.path: {socket}"),
        ]
    );
    assert_eq!(report.unseen.len(), 1, "{:?}", report.unseen);
}

#[tokio::test]
async fn lists_come_in_pieces_and_begin_anew_when_they_expire() {
    let piece = |name: &str, next: &str| {
        let body = json!({ "metadata": { "continue": next }, "items": [node(name, "docker://1")] });
        (200, "", body)
    };
    let server = Server::start(vec![
        ("/api/v1/nodes", vec![piece("a", "x/y=="), piece("a", "z")]),
        (
            "/api/v1/nodes?continue=x%2Fy%3D%3D",
            vec![failure(410, "too old")],
        ),
        ("/api/v1/nodes?continue=z", vec![piece("b", "")]),
    ])
    .await;
    let report = server.check().await;
    let names: Vec<_> = report.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(server.times("/api/v1/nodes"), 2);
}

#[tokio::test]
async fn a_busy_server_is_asked_again_and_an_old_one_elsewhere() {
    let busy = (
        429,
        "Retry-After: 1\r\n",
        json!({ "kind": "Status", "code": 429 }),
    );
    let cron = json!({
        "metadata": { "name": "cleanup", "namespace": "ops" },
        "spec": { "jobTemplate": { "spec": { "template": { "spec": pod_spec() } } } },
    });
    let server = Server::start(vec![
        (
            "/api/v1/nodes",
            vec![busy, list(&json!([node("a", "cri-o://1.28")]))],
        ),
        ("/apis/batch/v1/cronjobs", vec![failure(404, "not found")]),
        ("/apis/batch/v1beta1/cronjobs", vec![list(&json!([cron]))]),
        (
            "/apis/monitoring.coreos.com/v1/prometheusrules",
            vec![failure(404, "not found")],
        ),
    ])
    .await;
    let report = server.check().await;
    assert_eq!(report.nodes.len(), 1);
    assert_eq!(
        report.findings[0].evidence[0].to_string(),
        "CronJob ops/cleanup spec.jobTemplate.spec.template.spec.volumes[0].hostPath.path"
    );
    assert!(report.unseen.is_empty(), "{:?}", report.unseen);
}

#[tokio::test]
async fn what_is_refused_is_not_taken_for_fine() {
    let server = Server::start(vec![
        (
            "/apis/apps/v1/daemonsets",
            vec![failure(
                403,
                "daemonsets.apps is forbidden: User \"x\" cannot list",
            )],
        ),
        ("/api/v1/pods", vec![failure(500, "etcd is gone")]),
    ])
    .await;
    let report = server.check().await;
    assert_eq!(report.verdict(), Verdict::CouldNotLook);
    let unseen: Vec<_> = report
        .unseen
        .iter()
        .map(|one| format!("{}: {}; {}", one.what, one.why, one.todo))
        .collect();
    assert_eq!(unseen.len(), 2, "{unseen:?}");
    assert!(
        unseen[0].contains("cannot list")
            && unseen[0].contains("verb list on the resource daemonsets of the API group \"apps\""),
        "{unseen:?}"
    );
    assert!(unseen[1].contains("etcd is gone (500)"), "{unseen:?}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let server = Server::start(Vec::new()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let path = server.access().kubeconfig.unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let start = text.find("127.0.0.1").unwrap();
    let end = start + text[start..].find('\'').unwrap();
    std::fs::write(&path, text.replace(&text[start..end], &address)).unwrap();
    let error = cluster::check(&server.access()).await.unwrap_err();
    assert!(error.to_string().contains(&address), "{error}");
}

#[tokio::test]
async fn without_a_way_to_a_cluster_it_says_so() {
    let access = Access {
        kubeconfig: Some(PathBuf::from("/nonexistent/kubeconfig")),
        context: None,
    };
    let error = cluster::check(&access).await.unwrap_err();
    assert!(
        error.to_string().contains("/nonexistent/kubeconfig"),
        "{error}"
    );
    let server = Server::start(Vec::new()).await;
    let wrong = Access {
        context: Some("none".to_string()),
        ..server.access()
    };
    let error = cluster::check(&wrong).await.unwrap_err();
    assert!(error.to_string().contains("none"), "{error}");
}
