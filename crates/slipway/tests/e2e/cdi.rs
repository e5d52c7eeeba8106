//! CDI: what vendors' specification files do to containers, and what is refused.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};
use slipway_cri_api::v1::{CdiDevice, ContainerConfig};
use slipway_testbed::{Image, Node, Pushed, pod};
use tonic::Code;

use crate::container::{output, security};
use crate::refused;

/// A node with two empty directories for specification files.
async fn node() -> (Node, String) {
    let node = Node::start_with(|daemon| {
        let directories = ["etc-cdi", "run-cdi"].map(|name| daemon.scratch().join(name));
        for directory in &directories {
            fs::create_dir(directory).unwrap();
        }
        daemon.config(format!("[runtime]\ncdi_spec_dirs = {directories:?}\n"))
    })
    .await
    .unwrap();
    let Pushed { reference, .. } = node.provide("busybox:1", &Image::busybox()).await.unwrap();
    (node, reference)
}

/// A specification of `slipway.test/thing`.
fn specification(of_file: &Value, devices: &[(&str, Value)]) -> String {
    let devices: Vec<_> = devices
        .iter()
        .map(|(name, edits)| json!({"name": name, "containerEdits": edits}))
        .collect();
    json!({"cdiVersion": "0.7.0", "kind": "slipway.test/thing", "containerEdits": of_file,
           "devices": devices})
    .to_string()
}

fn with(mut container: ContainerConfig, devices: &[&str]) -> ContainerConfig {
    container.cdi_devices = devices
        .iter()
        .map(|name| CdiDevice {
            name: (*name).to_owned(),
        })
        .collect();
    container
}

#[tokio::test]
async fn a_device_changes_the_container_as_its_specification_says() {
    let (node, image) = node().await;
    let scratch = &node.scratch;
    let tools = scratch.join("tools");
    fs::create_dir(&tools).unwrap();
    fs::write(tools.join("version"), "1.2.3\n").unwrap();
    let state = scratch.join("state");
    let hook = scratch.join("hook");
    let script = format!(
        "#!/bin/sh\n{{ echo \"$0 $1 $WORD\"; cat; }} > {}\n",
        state.display()
    );
    fs::write(&hook, script).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    // loop-control (10:237), which a container may make but not open.
    let text = specification(
        &json!({"env": ["THING=file", "DRIVER=here"], "additionalGids": [4711]}),
        &[
            (
                "0",
                json!({
                    "env": ["THING=0"],
                    "deviceNodes": [
                        {"path": "/dev/thing0", "hostPath": "/dev/full"},
                        {"path": "/dev/things/loop", "type": "c", "major": 10, "minor": 237,
                         "fileMode": 0o640, "uid": 7, "gid": 8, "permissions": "r"},
                    ],
                    "mounts": [{"hostPath": tools, "containerPath": "/opt/thing",
                                "options": ["ro", "nosuid", "bind"]}],
                    "hooks": [{"hookName": "createContainer", "path": hook,
                               "args": ["hook", "argument"], "env": ["WORD=word"]}],
                }),
            ),
            ("1", json!({"env": ["SECOND=1"]})),
        ],
    );
    fs::write(scratch.join("etc-cdi/thing.json"), text).unwrap();
    let yaml = "cdiVersion: 0.5.0\n\
                kind: slipway.test/other\n\
                devices:\n\
                - name: all\n\
                \x20 containerEdits:\n\
                \x20   env:\n\
                \x20   - OTHER=yaml\n";
    fs::write(scratch.join("run-cdi/other.yaml"), yaml).unwrap();

    let script = "echo $THING $DRIVER $SECOND $OTHER; id -G; stat -c '%n %t:%T %a %u:%g' /dev/thing0 \
                  /dev/things/loop; echo x 2>&1 > /dev/thing0 | grep -o 'No space'; \
                  (: < /dev/things/loop) && echo granted; \
                  (: > /dev/things/loop) 2>&1 | grep -o 'not permitted'; \
                  cat /opt/thing/version; touch /opt/thing/x 2>&1 | grep -o 'Read-only'";
    let mut container = with(
        pod::shell("main", &image, script),
        &["slipway.test/thing=0", "slipway.test/thing=1"],
    );
    let by_annotation = "slipway.test/other=all,slipway.test/thing=0";
    container
        .annotations
        .insert("cdi.k8s.io/plugin".to_owned(), by_annotation.to_owned());
    assert_eq!(
        output(&node, "things", container).await,
        "0 here 1 yaml\n0 4711\n/dev/thing0 1:7 666 0:0\n/dev/things/loop a:ed 640 7:8\nNo space\n\
         granted\nnot permitted\n1.2.3\nRead-only"
    );
    let said = fs::read_to_string(&state).unwrap();
    let (line, state) = said.split_once('\n').unwrap();
    assert!(line.ends_with(" argument word"), "{line}");
    let state: Value = serde_json::from_str(state).unwrap();
    assert_eq!(state["status"], "creating", "{state}");

    // Without it nothing of it is there.
    let script = "echo $THING $DRIVER; ls -d /dev/thing0 /opt/thing 2>/dev/null; id -G";
    let container = pod::shell("main", &image, script);
    assert_eq!(output(&node, "plain", container).await, "\n0");

    // For a user who is not root the device is made so that he can use it.
    let script = "stat -c %u /dev/thing0; echo x 2>&1 > /dev/thing0 | grep -o 'No space'; id -G";
    let mut container = with(
        pod::shell("main", &image, script),
        &["slipway.test/thing=0"],
    );
    security(&mut container).run_as_user = Some(slipway_cri_api::v1::Int64Value { value: 1000 });
    assert_eq!(
        output(&node, "user", container).await,
        "1000\nNo space\n1000 2000 4711"
    );
    node.finish().await.unwrap();
}

#[tokio::test]
async fn the_later_directory_decides_and_files_are_read_as_they_are_now() {
    let (node, image) = node().await;
    let write = |path: &str, word: &str| {
        let text = specification(
            &json!({}),
            &[("0", json!({"env": [format!("THING={word}")]}))],
        );
        fs::write(node.scratch.join(path), text).unwrap();
    };
    let thing = async |name: &str| {
        let container = pod::shell("main", &image, "echo $THING");
        output(&node, name, with(container, &["slipway.test/thing=0"])).await
    };
    write("etc-cdi/a.json", "etc");
    assert_eq!(thing("first").await, "etc");
    write("run-cdi/a.json", "run");
    assert_eq!(thing("second").await, "run");
    node.finish().await.unwrap();
}

#[tokio::test]
async fn devices_that_cannot_be_had_are_refused_by_name_and_nothing_is_left() {
    let (node, image) = node().await;
    let cri = node.cri();
    let scratch = &node.scratch;
    let twice = specification(&json!({}), &[("twice", json!({"env": ["A=1"]}))]);
    fs::write(scratch.join("etc-cdi/a.json"), &twice).unwrap();
    fs::write(scratch.join("etc-cdi/b.json"), &twice).unwrap();
    let devices = [
        ("fine", json!({"env": ["A=1"]})),
        ("gone", json!({"deviceNodes": [{"path": "/dev/not-there"}]})),
        (
            "unmountable",
            json!({"mounts": [{"hostPath": "/not/there", "containerPath": "/a"}]}),
        ),
    ];
    let text = specification(&json!({}), &devices);
    fs::write(scratch.join("etc-cdi/c.json"), text).unwrap();
    fs::write(scratch.join("run-cdi/broken.yaml"), "cdiVersion: [").unwrap();
    let config = node.pod("bad");
    let sandbox = cri.run_pod(&config).await.unwrap();
    let before = slipway_testbed::leaks::snapshot(scratch);
    let (invalid, lacks) = (Code::InvalidArgument, Code::FailedPrecondition);
    let none: &[&str] = &["etc-cdi", "run-cdi", "broken.yaml", "=none"];
    for (name, code, words) in [
        (
            "thing",
            invalid,
            &["\"thing\"", "vendor.com/class=device"][..],
        ),
        ("slipway.test/=0", invalid, &["slipway.test/=0", "class"]),
        ("slipway.test/thing=-", invalid, &["thing=-", "device"]),
        ("slipway.test/thing=none", invalid, none),
        (
            "slipway.test/thing=twice",
            invalid,
            &["twice", "a.json", "b.json"],
        ),
        (
            "slipway.test/thing=gone",
            lacks,
            &["=gone", "c.json", "/dev/not-there"],
        ),
        (
            "slipway.test/thing=unmountable",
            lacks,
            &["unmountable", "/not/there"],
        ),
    ] {
        let container = with(pod::sleeper("main", &image), &[name]);
        let status = refused(cri.create(&sandbox, &config, &container).await, code, words);
        assert!(
            status.message().contains("ContainerConfig.CDI_devices"),
            "{status:?}"
        );
        let mut container = pod::sleeper("main", &image);
        container
            .annotations
            .insert("cdi.k8s.io/plugin".to_owned(), name.to_owned());
        let status = refused(cri.create(&sandbox, &config, &container).await, code, words);
        assert!(status.message().contains("cdi.k8s.io/plugin"), "{status:?}");
    }
    slipway_testbed::leaks::assert_no_more(scratch, &before);
    // What is damaged beside it does not touch this one.
    let container = with(pod::sleeper("main", &image), &["slipway.test/thing=fine"]);
    cri.create(&sandbox, &config, &container).await.unwrap();
    let log = node.daemon.log();
    assert!(log.contains("broken.yaml"), "{log}");
    cri.remove_pod(&sandbox).await.unwrap();
    node.finish().await.unwrap();
}
