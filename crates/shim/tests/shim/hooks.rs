//! Hooks: when, where and with what they are run, and what comes of those that fail.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use slipway_shim::protocol::{Event, FailureKind};

use crate::scene::Scene;

/// A hook that runs a script of the node's.
fn hook(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["NAME=value"]})
}

fn link(namespace: &str) -> String {
    let link = fs::read_link(format!("/proc/self/ns/{namespace}")).unwrap();
    link.display().to_string()
}

fn words(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

#[tokio::test]
async fn hooks_run_in_order_each_in_its_namespaces_with_the_state() {
    let mut scene = Scene::new().await;
    let told = scene.path("told");
    fs::create_dir(&told).unwrap();
    let told_name = told.display();
    let rootfs = scene.bundle("one").join("rootfs");
    let at = |point: &str| {
        hook(&format!(
            "cat > {told_name}/{point}.json; echo {point} >> {told_name}/order; \
             for n in net mnt pid uts; do readlink /proc/self/ns/$n; done > {told_name}/{point}.ns; \
             ls {} > {told_name}/{point}.ls; env > {told_name}/{point}.env",
            rootfs.display()
        ))
    };
    // Inside of the container: what it sees there is its own root file system.
    let inside = hook("cat > /told.json; ls / > /told.ls; echo $$ > /told.pid");
    let mut config = scene.config(&["sh", "-c", "cat /told.json /told.ls; exec sleep 1000"]);
    config["annotations"] = json!({"key": "value"});
    config["hooks"] = json!({
        "prestart": [at("prestart")],
        "createRuntime": [at("createRuntime"), at("createRuntime")],
        "createContainer": [at("createContainer")],
        "startContainer": [inside],
        "poststart": [at("poststart")],
        "poststop": [at("poststop")],
    });
    let pid = scene.create("one", &config).await.unwrap();
    let order = told.join("order");
    let created = [
        "prestart",
        "createRuntime",
        "createRuntime",
        "createContainer",
    ];
    assert_eq!(words(&order), created);
    assert!(!scene.bundle("one").join("upper/told.json").exists());
    scene.shim.start("one").await.unwrap();
    assert_eq!(words(&order)[4..], ["poststart"]);

    let state = |point: &str| -> Value {
        let text = fs::read(told.join(format!("{point}.json"))).unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    for (point, status) in [
        ("prestart", "creating"),
        ("createRuntime", "creating"),
        ("poststart", "running"),
    ] {
        let expected = json!({
            "ociVersion": "1.2.0", "id": "one", "status": status, "pid": pid,
            "bundle": scene.bundle("one"), "annotations": {"key": "value"},
        });
        assert_eq!(state(point), expected);
        let node = ["net", "mnt", "pid", "uts"].map(link);
        assert_eq!(words(&told.join(format!("{point}.ns"))), node, "{point}");
    }
    let within = words(&told.join("createContainer.ns"));
    let node = ["net", "mnt", "pid", "uts"].map(link);
    assert!(within.iter().zip(&node).all(|(one, other)| one != other));
    assert_eq!(state("createContainer")["pid"], 1);
    assert!(words(&told.join("createContainer.ls")).contains(&"bin".to_owned()));
    assert!(words(&told.join("createRuntime.ls")).is_empty());
    let environment = fs::read_to_string(told.join("createRuntime.env")).unwrap();
    assert!(environment.contains("NAME=value") && !environment.contains("PATH=/bin:"));

    scene.wait_for_line("one", "tmp").await;
    let lines = scene.lines("one").join("\n");
    assert!(lines.contains("\"status\":\"created\""), "{lines}");

    scene.shim.kill("one", libc::SIGKILL, false).await.unwrap();
    scene.exit("one").await;
    scene.shim.delete("one").await.unwrap();
    assert_eq!(words(&order)[5..], ["poststop"]);
    assert_eq!(state("poststop")["status"], "stopped");
    assert_eq!(state("poststop")["pid"], Value::Null);
}

#[tokio::test]
async fn a_hook_that_fails_undoes_the_container_and_says_why() {
    let mut scene = Scene::new().await;
    let stopped = scene.path("stopped");
    let poststop = hook(&format!("echo stopped >> {}", stopped.display()));
    let failing = hook("echo it is broken >&2; exit 7");
    let hanging = json!({"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1});
    let absent = json!({"path": "/no/such/hook"});
    for (number, (point, hook, what)) in [
        ("prestart", &failing, "exit code 7: it is broken"),
        ("createRuntime", &failing, "exit code 7: it is broken"),
        ("createRuntime", &hanging, "not done after 1 s"),
        ("createRuntime", &absent, "/no/such/hook"),
        ("createContainer", &failing, "exit code 7: it is broken"),
        ("createContainer", &hanging, "not done after 1 s"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("c{number}");
        let mut config = scene.config(&["true"]);
        config["hooks"] = json!({"poststop": [poststop.clone()]});
        config["hooks"][point] = json!([hook]);
        let error = scene.create(&name, &config).await.unwrap_err().to_string();
        assert!(error.contains(point) && error.contains(what), "{error}");
        assert_eq!(words(&stopped).len(), number + 1, "its last hooks are run");
        assert!(scene.shim.list().await.unwrap().is_empty());
    }
    assert_eq!(scene.processes(), "");

    let mut config = scene.config(&["sleep", "1000"]);
    config["hooks"] = json!({"startContainer": [{"path": "/bin/false"}]});
    scene.create("start", &config).await.unwrap();
    let error = scene.shim.start("start").await.unwrap_err().to_string();
    assert!(error.contains("startContainer"), "{error}");
    scene.exit("start").await;

    config["hooks"] = json!({"poststart": [failing]});
    scene.create("after", &config).await.unwrap();
    let error = scene.shim.start("after").await.unwrap_err();
    let slipway_shim::Error::Failure(failure) = &error else {
        panic!("{error}")
    };
    assert_eq!(failure.kind, FailureKind::System);
    assert!(failure.message.contains("poststart"), "{error}");
    assert_eq!(scene.exit("after").await.signal, Some(libc::SIGKILL));
}

#[tokio::test]
async fn a_container_that_ends_or_is_deleted_while_hooks_run_is_not_in_their_way() {
    let mut scene = Scene::new().await;
    // It ends at once; whoever started it hears of the start, and the hook is not cut short.
    let done = scene.path("done");
    let slow = hook(&format!("sleep 0.3; echo done > {}", done.display()));
    let mut config = scene.config(&["true"]);
    config["hooks"] = json!({"poststart": [slow]});
    scene.start_with("short", &config).await;
    assert_eq!(words(&done), ["done"]);
    assert_eq!(scene.exit("short").await.code, 0);

    // A hook that hangs does not keep a container that is not wanted any more.
    let pid = scene.path("pid");
    let hanging = format!("echo $$ > {}; exec sleep 1000", pid.display());
    config["hooks"] = json!({"createRuntime": [hook(&hanging)]});
    let shim = &scene.shim;
    let began = Instant::now();
    let create = scene.create("unwanted", &config);
    let delete = async {
        while words(&pid).is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        shim.delete("unwanted").await
    };
    let (created, deleted) = tokio::join!(create, delete);
    assert!(created.is_err());
    deleted.unwrap();
    assert!(began.elapsed() < Duration::from_secs(10));
    let process = format!("/proc/{}", words(&pid)[0]);
    while Path::new(&process).exists() {
        assert!(began.elapsed() < Duration::from_secs(20), "{process}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    // At the pod's end the last hooks are run too.
    let stopped = scene.path("stopped");
    let poststop = hook(&format!("echo stopped > {}", stopped.display()));
    let mut config = scene.config(&["sleep", "1000"]);
    config["hooks"] = json!({"poststop": [poststop]});
    scene.start_with("last", &config).await;
    scene.shim.shutdown().await.unwrap();
    while !matches!(scene.event().await, Event::Exited(record) if record.container == "last") {}
    assert_eq!(words(&stopped), ["stopped"]);
}
