//! The stand-in for an API server does what one does, as far as tests rely on it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use slipway_testbed::{Fault, KubernetesServer};
use tokio::net::TcpStream;

async fn send(
    server: SocketAddr,
    token: &str,
    method: &str,
    path: &str,
    body: &Value,
) -> Result<Response<Incoming>> {
    let stream = TcpStream::connect(server).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", server.to_string())
        .header("authorization", format!("Bearer {token}"))
        .body(Full::new(Bytes::from(body.to_string())))?;
    Ok(sender.send_request(request).await?)
}

/// Asks as who may do everything.
async fn ask(
    server: &KubernetesServer,
    method: &str,
    path: &str,
    body: Value,
) -> Result<(u16, Value)> {
    let address = server.address();
    let answer = send(address, "admin-of-the-tests", method, path, &body).await?;
    let code = answer.status().as_u16();
    let body = answer.into_body().collect().await?.to_bytes();
    Ok((code, serde_json::from_slice(&body)?))
}

/// The events of a watch, as `ADDED a`.
struct Watch(Response<Incoming>);

impl Watch {
    async fn on(server: &KubernetesServer, path: &str) -> Result<Self> {
        let address = server.address();
        let answer = send(address, "admin-of-the-tests", "GET", path, &Value::Null).await?;
        Ok(Self(answer))
    }

    /// None at its end. The server sends each event in a piece of its own.
    async fn next(&mut self) -> Result<Option<(String, Value)>> {
        let Some(frame) = self.0.body_mut().frame().await else {
            return Ok(None);
        };
        let data = frame?.into_data().ok().context("trailers")?;
        let event: Value = serde_json::from_slice(&data)?;
        let kind = event["type"].as_str().unwrap_or_default();
        let name = event["object"]["metadata"]["name"].as_str();
        Ok(Some((
            format!("{kind} {}", name.unwrap_or_default()),
            event["object"].clone(),
        )))
    }

    async fn told(&mut self) -> Result<String> {
        let (told, _) = self.next().await?.context("the watch has ended")?;
        Ok(told)
    }
}

fn pod(name: &str) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": { "name": name, "namespace": "default", "labels": { "app": "web" } },
        "spec": { "nodeName": "a", "containers": [] },
    })
}

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn objects_are_made_changed_and_deleted() -> Result<()> {
    let server = KubernetesServer::start()?;
    let (code, made) = ask(&server, "POST", PODS, pod("p")).await?;
    assert_eq!((code, &made["status"]["phase"]), (201, &json!("Pending")));
    assert_eq!(ask(&server, "POST", PODS, pod("p")).await?.0, 409);
    let path = format!("{PODS}/p");
    let patch =
        json!({ "metadata": { "annotations": { "x": "y" } }, "status": { "phase": "Running" } });
    let (_, patched) = ask(&server, "PATCH", &path, patch.clone()).await?;
    assert_eq!(patched["metadata"]["annotations"]["x"], "y");
    assert_eq!(patched["status"]["phase"], "Pending", "a status of its own");
    let (_, patched) = ask(&server, "PATCH", &format!("{path}/status"), patch).await?;
    assert_eq!(patched["status"]["phase"], "Running");
    // What was read first is not the latest any more.
    let (code, refused) = ask(&server, "PUT", &path, made.clone()).await?;
    assert_eq!((code, &refused["reason"]), (409, &json!("Conflict")));
    let (code, same) = ask(&server, "PUT", &path, patched.clone()).await?;
    assert_eq!((code, &same), (200, &patched), "nothing changes");
    let of_another = json!({ "preconditions": { "uid": "x" } });
    assert_eq!(ask(&server, "DELETE", &path, of_another).await?.0, 409);
    assert_eq!(ask(&server, "DELETE", &path, Value::Null).await?.0, 200);
    let (code, gone) = ask(&server, "GET", &path, Value::Null).await?;
    assert_eq!(
        (code, &gone["message"]),
        (404, &json!("pods \"p\" not found"))
    );
    let asked: Vec<_> = server.take().iter().map(ToString::to_string).collect();
    assert_eq!(asked[0], "create pods default/");
    assert_eq!(asked[3], "patch pods/status default/p");
    Ok(())
}

#[tokio::test]
async fn a_kubelet_says_when_its_pods_are_gone() -> Result<()> {
    let server = KubernetesServer::start()?;
    server.claim("a");
    let path = format!("{PODS}/p");
    ask(&server, "POST", PODS, pod("p")).await?;
    let (_, marked) = ask(&server, "DELETE", &path, Value::Null).await?;
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert!(server.get("pods", "default", "p").is_some());
    let now = json!({ "gracePeriodSeconds": 0 });
    assert_eq!(ask(&server, "DELETE", &path, now).await?.0, 200);
    assert!(server.get("pods", "default", "p").is_none());
    Ok(())
}

#[tokio::test]
async fn lists_select_and_come_in_pieces() -> Result<()> {
    let server = KubernetesServer::start()?;
    for name in ["a", "b", "c", "d"] {
        let mut one = pod(name);
        one["spec"]["nodeName"] = if name == "b" { "other" } else { "a" }.into();
        server.put(one);
    }
    let path = "/api/v1/pods?fieldSelector=spec.nodeName%3Da&labelSelector=app=web&limit=2";
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().into_iter().flatten();
        let names = items.filter_map(|item| item["metadata"]["name"].as_str());
        names.map(str::to_owned).collect()
    };
    let (_, first) = ask(&server, "GET", path, Value::Null).await?;
    assert_eq!(names(&first), ["a", "c"]);
    let next = first["metadata"]["continue"]
        .as_str()
        .context("there is more")?;
    let path = format!("{path}&continue={}", next.replace('/', "%2F"));
    let (_, second) = ask(&server, "GET", &path, Value::Null).await?;
    assert_eq!(names(&second), ["d"]);
    assert!(second["metadata"]["continue"].is_null());
    server.remove("pods", "default", "d");
    server.forget();
    assert_eq!(ask(&server, "GET", &path, Value::Null).await?.0, 410);
    Ok(())
}

#[tokio::test]
async fn watches_tell_what_a_selector_means() -> Result<()> {
    let server = KubernetesServer::start()?;
    server.put(pod("p"));
    let path = "/api/v1/pods?watch=true&fieldSelector=spec.nodeName=a";
    let mut watch = Watch::on(&server, path).await?;
    assert_eq!(watch.told().await?, "ADDED p");
    let moved = |node: &'static str| {
        server.change("pods", "default", "p", |pod| {
            pod["spec"]["nodeName"] = node.into();
        });
    };
    moved("b");
    assert_eq!(watch.told().await?, "DELETED p");
    moved("a");
    let (told, object) = watch.next().await?.context("an event")?;
    assert_eq!(told, "ADDED p");
    server.change("pods", "default", "p", |pod| pod["x"] = 1.into());
    assert_eq!(watch.told().await?, "MODIFIED p");
    // One that goes on from what was seen hears of what came after it.
    let version = object["metadata"]["resourceVersion"]
        .as_str()
        .context("a version")?;
    let path = format!("{path}&resourceVersion={version}");
    server.fault(|asked| asked.verb == "watch", 1, Fault::EndsAfter(1));
    let mut watch = Watch::on(&server, &path).await?;
    assert_eq!(watch.told().await?, "MODIFIED p");
    assert!(watch.next().await?.is_none(), "it ends after one event");
    server.remove("pods", "default", "p");
    server.forget();
    let (told, status) = Watch::on(&server, &path)
        .await?
        .next()
        .await?
        .context("an event")?;
    assert_eq!((told.as_str(), &status["code"]), ("ERROR ", &json!(410)));
    Ok(())
}

#[tokio::test]
async fn budgets_decide_on_evictions() -> Result<()> {
    let server = KubernetesServer::start()?;
    for name in ["p", "q"] {
        server.put(pod(name));
    }
    server.put(json!({
        "kind": "PodDisruptionBudget", "metadata": { "name": "web", "namespace": "default" },
        "spec": { "selector": { "matchLabels": { "app": "web" } } },
        "status": { "disruptionsAllowed": 1, "desiredHealthy": 1, "currentHealthy": 2 },
    }));
    let eviction =
        |version: &str| json!({ "kind": "Eviction", "apiVersion": version, "metadata": {} });
    let path = |name: &str| format!("{PODS}/{name}/eviction");
    let v1 = eviction("policy/v1");
    assert_eq!(ask(&server, "POST", &path("p"), v1.clone()).await?.0, 201);
    assert!(server.get("pods", "default", "p").is_none());
    let (code, refused) = ask(&server, "POST", &path("q"), v1.clone()).await?;
    assert_eq!(code, 429);
    let cause = &refused["details"]["causes"][0];
    assert_eq!(cause["reason"], "DisruptionBudget");
    assert!(
        cause["message"]
            .as_str()
            .unwrap_or_default()
            .contains("budget web needs 1")
    );
    // An old cluster has the older version alone, and says so where one looks.
    server.withdraw("policy/v1");
    assert_eq!(ask(&server, "POST", &path("q"), v1).await?.0, 400);
    let old = eviction("policy/v1beta1");
    assert_eq!(ask(&server, "POST", &path("q"), old).await?.0, 429);
    let (_, found) = ask(&server, "GET", "/api/v1", Value::Null).await?;
    let resources = found["resources"].as_array().context("resources")?;
    let eviction = resources.iter().find(|one| one["name"] == "pods/eviction");
    assert_eq!(eviction.context("evictions")?["version"], "v1beta1");
    Ok(())
}

#[tokio::test]
async fn what_is_to_go_wrong_does_as_often_as_was_said() -> Result<()> {
    let server = KubernetesServer::start()?;
    server.put(json!({ "kind": "Node", "metadata": { "name": "a" } }));
    let path = "/api/v1/nodes/a";
    let patch = json!({ "spec": { "unschedulable": true } });
    let of_node = |asked: &slipway_testbed::KubernetesRequest| asked.to_string() == "patch nodes a";
    server.fault(of_node, 1, Fault::Status(409));
    server.fault(of_node, 1, Fault::CutBefore);
    server.fault(of_node, 1, Fault::Busy(7));
    server.fault(of_node, 1, Fault::CutAfter);
    assert_eq!(ask(&server, "PATCH", path, patch.clone()).await?.0, 409);
    assert!(ask(&server, "PATCH", path, patch.clone()).await.is_err());
    let answer = send(
        server.address(),
        "admin-of-the-tests",
        "PATCH",
        path,
        &patch,
    )
    .await?;
    assert_eq!(answer.headers()["retry-after"], "7");
    let unschedulable = || {
        server
            .get("nodes", "", "a")
            .map(|node| node["spec"]["unschedulable"].clone())
    };
    assert_eq!(unschedulable(), Some(Value::Null));
    assert!(ask(&server, "PATCH", path, patch.clone()).await.is_err());
    assert_eq!(unschedulable(), Some(json!(true)));
    server.fault(of_node, 1, Fault::Late(Duration::from_millis(20)));
    assert_eq!(ask(&server, "PATCH", path, patch).await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn who_may_not_is_told() -> Result<()> {
    let server = KubernetesServer::start()?;
    server.put(pod("p"));
    server.deny("create", "pods/eviction");
    let (code, refused) = ask(&server, "POST", &format!("{PODS}/p/eviction"), json!({})).await?;
    assert_eq!((code, &refused["reason"]), (403, &json!("Forbidden")));
    let review = |resource: &str, subresource: &str| {
        json!({ "kind": "SelfSubjectAccessReview", "spec": { "resourceAttributes": {
            "verb": "create", "resource": resource, "subresource": subresource,
        } } })
    };
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let (_, no) = ask(&server, "POST", path, review("pods", "eviction")).await?;
    assert_eq!(no["status"]["allowed"], false);
    let (_, yes) = ask(&server, "POST", path, review("pods", "")).await?;
    assert_eq!(yes["status"]["allowed"], true);
    let answer = send(server.address(), "another", "GET", PODS, &Value::Null).await?;
    assert_eq!(answer.status(), 401);
    Ok(())
}

#[tokio::test]
async fn what_an_object_owns_goes_with_it() -> Result<()> {
    let server = KubernetesServer::start()?;
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    for (policy, left) in [("", 1), ("?propagationPolicy=Background", 0)] {
        let job = json!({ "kind": "Job", "metadata": { "name": "j" } });
        let (_, job) = ask(&server, "POST", jobs, job).await?;
        let mut owned = pod("p");
        owned["metadata"]["ownerReferences"] = json!([{ "uid": job["metadata"]["uid"] }]);
        server.put(owned);
        let path = format!("{jobs}/j{policy}");
        assert_eq!(ask(&server, "DELETE", &path, Value::Null).await?.0, 200);
        assert_eq!(server.list("pods").len(), left, "{policy}");
        server.remove("pods", "default", "p");
    }
    Ok(())
}
