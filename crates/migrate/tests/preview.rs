//! What a plan shows of units and of objects beside its files: against a node in memory and a server
//! that speaks the Kubernetes API, and compared with what a move does to both.

mod asked;
mod tree;
#[expect(dead_code, reason = "moves that are killed use the rest")]
mod world;

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use asked::{contains, of};
use serde_json::{Value, json};
use slipway_migrate::Root;
use slipway_migrate::apply::{Before, Begun, Event, Journals, Mover, Settings};
use slipway_migrate::cluster::Access;
use slipway_migrate::control_plane::{DrainOptions, Live};
use slipway_migrate::host::{DockerNode, Enablement, UnitState, Units};
use slipway_migrate::plan::{self, Plan, Step, Target};
use slipway_migrate::preview::{Change, Outlook, PATIENCE, Preview};
use slipway_testbed::{Fault, KubernetesServer};
use world::World;

/// A node of kubeadm, whose kubelet has dockershim.
const NODE: &str = "kubeadm-1.18-debian.node";
/// That of the version of the cluster.
const CONFIG_MAP: &str = "kubelet-config-1.23";
const SOCKET: &str = "kubeadm.alpha.kubernetes.io/cri-socket";

/// What kubeadm gives to new nodes.
const CONFIGURATION: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\ncgroupDriver: cgroupfs\nkind: KubeletConfiguration\n";

const LONG: Duration = Duration::from_mins(1);

fn cluster() -> Arc<KubernetesServer> {
    let server = KubernetesServer::start().unwrap();
    server.put(json!({
        "kind": "Node",
        "metadata": { "name": "a", "annotations": { SOCKET: "/var/run/dockershim.sock" } },
        "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
    }));
    configure(&server, CONFIGURATION);
    Arc::new(server)
}

fn configure(server: &KubernetesServer, text: &str) {
    server.put(json!({
        "kind": "ConfigMap", "metadata": { "namespace": "kube-system", "name": CONFIG_MAP },
        "data": { "kubelet": text },
    }));
}

async fn connect(server: &KubernetesServer, patience: Duration) -> Live {
    let access = Access {
        kubeconfig: Some(server.kubeconfig()),
        context: None,
    };
    let live = Live::connect(&access, "a").await.unwrap();
    live.with_patience(patience)
}

fn options(target: Target, drain: bool) -> plan::Options {
    plan::Options {
        target,
        drain,
        stop_others: false,
        node: slipway_migrate::node::Options {
            kubelet_version: Some("1.18".parse().unwrap()),
        },
    }
}

async fn planned(world: &World, target: Target, drain: bool) -> Plan {
    let root = Root::new(world.directory.path());
    plan::make(&root, &options(target, drain)).await.unwrap()
}

async fn look(world: &World, server: &KubernetesServer, target: Target, drain: bool) -> Preview {
    let plan = planned(world, target, drain).await;
    let live = connect(server, PATIENCE).await;
    Preview::look(plan, Some("a".to_string()), Ok(world), Ok(&live)).await
}

/// What a step that is found by it would change.
#[track_caller]
fn outlook(preview: &Preview, wanted: impl Fn(&Step) -> bool) -> &Outlook {
    let mut steps = preview.steps();
    let (_, outlook) = steps.find(|(step, _)| wanted(step)).unwrap();
    outlook.unwrap()
}

#[track_caller]
fn change(outlook: &Outlook) -> &Change {
    let Outlook::Seen(change) = outlook else {
        panic!("{outlook:?}");
    };
    change
}

fn is_config_map(step: &Step) -> bool {
    matches!(step, Step::ConfigMap { .. })
}

fn is_annotation(step: &Step) -> bool {
    matches!(step, Step::Annotate { .. })
}

fn starts(name: &str) -> impl Fn(&Step) -> bool {
    move |step| matches!(step, Step::Start { unit } if unit == name)
}

/// What there is of what a step changes.
fn found(world: &World, server: &KubernetesServer, step: &Step) -> Option<Before> {
    let node = || server.get("nodes", "", "a").unwrap();
    Some(match step {
        Step::Stop { unit } | Step::Start { unit } | Step::Disable { unit } => {
            Before::Unit(world.state.borrow().units.get(unit)?.clone())
        }
        Step::Cordon | Step::Uncordon => {
            Before::Cordoned(node()["spec"]["unschedulable"] == Value::Bool(true))
        }
        Step::Annotate { key, .. } => {
            let value = node()["metadata"]["annotations"][key]
                .as_str()
                .map(str::to_string);
            Before::Annotation(value)
        }
        Step::ConfigMap { .. } => {
            let names = ["kubelet-config", "kubelet-config-1.18", CONFIG_MAP];
            let found = names.map(|name| {
                let found = server.get("configmaps", "kube-system", name);
                let text = found.and_then(|found| Some(found["data"]["kubelet"].as_str()?.into()));
                (name.to_string(), text)
            });
            Before::Configurations(found.into())
        }
        _ => return None,
    })
}

/// Runs probes, ends pods, and writes the Node's status whenever somebody watches it.
async fn kubelet(server: &KubernetesServer, runtime: &str) {
    server.claim("a");
    for beat in 0.. {
        while !server.take().iter().any(|asked| asked.verb == "watch") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server.change("nodes", "", "a", |node| {
            node["status"] = json!({
                "conditions": [{ "type": "Ready", "status": "True", "lastHeartbeatTime": beat }],
                "nodeInfo": { "containerRuntimeVersion": runtime },
            });
        });
        for pod in server.list("pods") {
            let name = pod["metadata"]["name"].as_str().unwrap();
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                server.remove("pods", "kube-system", name);
            } else if pod["status"]["phase"] != "Running" {
                server.change("pods", "kube-system", name, |pod| {
                    pod["status"]["phase"] = "Running".into();
                });
            }
        }
    }
}

#[tokio::test]
async fn what_a_plan_shows_is_what_a_move_does() {
    for (target, drain, cordoned) in [
        (Target::Slipway, true, false),
        (Target::Slipway, false, false),
        (Target::Containerd, true, true),
        (Target::Crio, true, false),
        (Target::CriDockerd, true, false),
    ] {
        let world = World::new(NODE, target, false);
        if target == Target::Containerd {
            world.run("containerd", "containerd.service");
        }
        let server = cluster();
        server.change("nodes", "", "a", |node| {
            node["spec"]["unschedulable"] = cordoned.into();
        });
        let (state, tree) = (world.state.borrow().clone(), world.tree());
        let preview = look(&world, &server, target, drain).await;
        for asked in server.take() {
            assert_eq!(asked.verb, "get", "{asked}");
        }
        assert_eq!(*world.state.borrow(), state);
        assert_eq!(world.tree(), tree);

        let root = Root::new(world.directory.path());
        let begun = Begun {
            node: "a".to_string(),
            was_ready: true,
            options: options(target, drain),
            access: Access::default(),
            settings: Settings {
                drain: LONG,
                ready: LONG,
                roll_back: false,
                evict: DrainOptions::default(),
                probe_image: None,
                announce: false,
            },
            plan: preview.plan().clone(),
            docker: Some(DockerNode::gather(&root).await),
        };
        let runtime = preview
            .steps()
            .find_map(|(step, _)| match step {
                Step::Await { runtime } => Some(runtime.clone()),
                _ => None,
            })
            .unwrap();
        let shown = |wanted: &Step| {
            let mut steps = preview.steps();
            let (_, outlook) = steps.find(|(step, _)| *step == wanted).unwrap();
            outlook.map(change)
        };
        let compared = std::cell::Cell::new(0);
        let heard = |event: Event<'_>| {
            let (step, is_done) = match event {
                Event::Begins(_, step) => (step, false),
                Event::Done(_, step) => (step, true),
                _ => return,
            };
            let Some(shown) = shown_of(step, &shown) else {
                return;
            };
            let found = found(&world, &server, step);
            if is_done {
                assert_eq!(
                    found.as_ref(),
                    Some(&shown.after),
                    "after {step}, to {target}"
                );
                compared.set(compared.get() + 1);
            } else if !is_absent(&shown.before) {
                assert_eq!(
                    found.as_ref(),
                    Some(&shown.before),
                    "before {step}, to {target}"
                );
            }
        };
        let journals = Journals::hold(&root).unwrap();
        let journal = journals.begin(begun).unwrap();
        let live = connect(&server, LONG).await;
        let mut mover = Mover::new(&root, (&journals, journal), &world, &live, &heard);
        tokio::select! {
            moved = mover.resume() => moved.unwrap(),
            () = kubelet(&server, &runtime) => unreachable!(),
        }
        let all = preview.steps().filter(|(_, outlook)| outlook.is_some());
        assert_eq!(compared.get(), all.count(), "to {target}");
    }
}

/// What is shown of a step that changes something beside files.
fn shown_of<'a>(step: &Step, shown: &impl Fn(&Step) -> Option<&'a Change>) -> Option<&'a Change> {
    match step {
        // What follows a package is planned anew: its files were not there.
        Step::File(_) | Step::Reload => None,
        step => shown(step),
    }
}

/// A unit that only a package brings.
fn is_absent(before: &Before) -> bool {
    matches!(before, Before::Unit(unit) if unit.enablement == Enablement::Absent)
}

/// All but the files, which plans of nodes have.
fn print(preview: &Preview) -> String {
    let mut text = String::new();
    for (step, outlook) in preview.steps() {
        let Some(outlook) = outlook else {
            continue;
        };
        writeln!(text, "* {step}").unwrap();
        match outlook {
            Outlook::Seen(change) if change.is_none() => {
                writeln!(text, "as it is: {}", change.found()).unwrap();
            }
            Outlook::Seen(change) => text.push_str(&change.diff()),
            Outlook::Unseen(why) => writeln!(text, "not looked at: {why}").unwrap(),
            Outlook::Fails(why) => writeln!(text, "fails: {why}").unwrap(),
        }
    }
    text
}

#[tokio::test]
async fn each_step_has_its_difference() {
    let mut text = String::new();
    for (target, drain) in [
        (Target::Slipway, true),
        (Target::Slipway, false),
        (Target::Containerd, true),
        (Target::CriDockerd, true),
    ] {
        let world = World::new(NODE, target, false);
        if target == Target::Containerd {
            world.run("containerd", "containerd.service");
        }
        let server = cluster();
        if !drain {
            // Somebody has begun by hand.
            let socket = "unix:///run/slipway/slipway.sock";
            server.change("nodes", "", "a", |node| {
                node["metadata"]["annotations"][SOCKET] = socket.into();
            });
            server.remove("configmaps", "kube-system", CONFIG_MAP);
        }
        if target == Target::CriDockerd {
            server.change("nodes", "", "a", |node| {
                node["metadata"]["annotations"] = Value::Null;
                node["spec"]["unschedulable"] = true.into();
            });
        }
        let preview = look(&world, &server, target, drain).await;
        let keep = if drain { "" } else { ", without draining" };
        writeln!(text, "== to {target}{keep}\n{}", print(&preview)).unwrap();
    }
    let golden =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nodes/kubeadm-1.18-debian.preview");
    if std::env::var_os("REGENERATE").is_some() {
        fs::write(&golden, &text).unwrap();
    }
    let expected = fs::read_to_string(golden).unwrap_or_default();
    assert!(text == expected, "{text}");
}

#[tokio::test]
async fn programs_get_the_same() {
    let world = World::new(NODE, Target::Slipway, false);
    let server = cluster();
    let preview = look(&world, &server, Target::Slipway, true).await;
    let document = serde_json::to_value(&preview).unwrap();
    assert_eq!(document["node"], "a");
    let steps = document["steps"].as_array().unwrap();
    assert_eq!(steps.len(), preview.plan().steps.len());
    let step = |name: &str| {
        let step = steps.iter().find(|step| step["step"] == name).unwrap();
        let mut step = step.clone();
        let diff = step.as_object_mut().unwrap().remove("diff").unwrap();
        (step, diff.as_str().unwrap().to_string())
    };
    let (cordon, diff) = step("cordon");
    assert_eq!(
        cordon,
        json!({ "step": "cordon", "before": false, "after": true })
    );
    assert_eq!(diff, "-unschedulable: false\n+unschedulable: true\n");
    let (stop, diff) = step("stop");
    assert_eq!(
        stop,
        json!({
            "step": "stop", "unit": "kubelet.service",
            "before": { "enablement": "enabled", "active": true },
            "after": { "enablement": "enabled", "active": false },
        })
    );
    assert_eq!(diff, "-enabled, active\n+enabled, inactive\n");
    let (annotate, _) = step("annotate");
    assert_eq!(annotate["before"], "/var/run/dockershim.sock");
    assert_eq!(annotate["after"], "unix:///run/slipway/slipway.sock");
    let (config_map, diff) = step("config-map");
    assert_eq!(
        config_map["before"],
        json!({ "kubelet-config": null, "kubelet-config-1.18": null, CONFIG_MAP: CONFIGURATION })
    );
    let after = config_map["after"][CONFIG_MAP].as_str().unwrap();
    contains(
        after,
        &["cgroupDriver: systemd\n", "runtimeRequestTimeout: 5m0s\n"],
    );
    contains(
        &diff,
        &["@@", "-cgroupDriver: cgroupfs\n+cgroupDriver: systemd\n"],
    );
    for other in ["drain", "await", "probe", "clean-network"] {
        let step = steps.iter().find(|step| step["step"] == other).unwrap();
        for key in ["before", "after", "diff", "unseen", "fails", "hidden"] {
            assert!(step.get(key).is_none(), "{step}");
        }
    }
}

#[tokio::test]
async fn secrets_of_objects_are_shown_to_nobody() {
    let world = World::new(NODE, Target::Slipway, false);
    let server = cluster();
    configure(
        &server,
        "staticPodURLHeader:\n  Authorization:\n  - Basic hunter2\ncgroupDriver: cgroupfs\n",
    );
    server.change("nodes", "", "a", |node| {
        node["metadata"]["annotations"][SOCKET] = "tcp://robot:hunter2@x:1".into();
    });
    let preview = look(&world, &server, Target::Slipway, true).await;
    let document = serde_json::to_value(&preview).unwrap();
    for text in [print(&preview), document.to_string()] {
        assert!(
            text.contains("Authorization") && text.contains('…'),
            "{text}"
        );
        assert!(!text.contains("hunter2"), "{text}");
    }
    for name in ["annotate", "config-map"] {
        let mut steps = document["steps"].as_array().unwrap().iter();
        let step = steps.find(|step| step["step"] == name).unwrap();
        assert_eq!(step["hidden"], true, "{step}");
    }
}

#[tokio::test]
async fn what_may_not_be_looked_at_is_said_and_the_rest_is_there() {
    let world = World::new(NODE, Target::Slipway, false);
    let server = cluster();
    server.deny("get", "configmaps");
    world.fails.borrow_mut().insert("unit");
    let preview = look(&world, &server, Target::Slipway, true).await;
    let Outlook::Unseen(why) = outlook(&preview, is_config_map) else {
        panic!("{preview:?}");
    };
    contains(
        why,
        &[
            "reading the ConfigMap kube-system/kubelet-config",
            "verb get on configmaps",
        ],
    );
    change(outlook(&preview, is_annotation));
    let unseen = preview.unseen();
    let named = |name: &str| {
        let mut unseen = unseen.iter();
        unseen.find(|(known, ..)| known == name).unwrap()
    };
    let (_, why, steps) = named("kubelet.service");
    assert_eq!((*why, steps.len()), ("unit: it was told to fail", 2));
    let at = |number: &usize| preview.plan().steps[number - 1].to_string();
    assert!(
        steps
            .iter()
            .all(|step| at(step).contains("kubelet.service"))
    );
    named("kubeadm's ConfigMap kube-system/kubelet-config");
    let document = serde_json::to_value(&preview).unwrap();
    let mut steps = document["steps"].as_array().unwrap().iter();
    let step = steps.find(|step| step["step"] == "stop").unwrap();
    let expected =
        json!({ "step": "stop", "unit": "kubelet.service", "unseen": "unit: it was told to fail" });
    assert_eq!(*step, expected);
}

#[tokio::test]
async fn a_plan_comes_soon_where_nobody_answers() {
    let world = World::new(NODE, Target::Slipway, false);
    let late = cluster();
    late.fault(|_| true, 100, Fault::Late(LONG));
    let gone = cluster();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let text = fs::read_to_string(gone.kubeconfig()).unwrap();
    let text = text.replace(&gone.address().to_string(), &address);
    fs::write(gone.kubeconfig(), text).unwrap();
    let began = Instant::now();
    let (late, gone) = tokio::join!(
        look(&world, &late, Target::Slipway, true),
        look(&world, &gone, Target::Slipway, true),
    );
    assert!(began.elapsed() < PATIENCE * 2, "{:?}", began.elapsed());
    for (preview, words) in [(late, "no answer in time"), (gone, "refused")] {
        let Outlook::Unseen(why) = outlook(&preview, is_annotation) else {
            panic!("{preview:?}");
        };
        contains(
            why,
            &["reading the Node a", words, "(given up after 5 seconds)"],
        );
        change(outlook(&preview, starts("kubelet.service")));
    }

    // There is nobody to be asked.
    let plan = planned(&world, Target::Slipway, true).await;
    let nobody = || "no kubeconfig".to_string();
    let preview = Preview::look(
        plan,
        None,
        Err::<&Units, _>(nobody()),
        Err::<&Live, _>(nobody()),
    )
    .await;
    assert!(
        preview
            .unseen()
            .iter()
            .all(|(_, why, _)| *why == "no kubeconfig")
    );
    let all = preview.steps().filter(|(_, outlook)| outlook.is_some());
    let steps = preview.unseen().into_iter().flat_map(|(_, _, steps)| steps);
    assert_eq!(all.count(), steps.count());
}

#[tokio::test]
async fn a_step_that_would_fail_says_so() {
    let world = World::new(NODE, Target::Slipway, false);
    let masked = UnitState {
        enablement: Enablement::Masked,
        active: false,
        linked: None,
        links: Vec::new(),
    };
    let name = "slipway.service".to_string();
    world.state.borrow_mut().units.insert(name, masked);
    let server = cluster();
    server.fault(of("get", "nodes"), 1, Fault::Status(503));
    configure(&server, "- a list\n");
    let preview = look(&world, &server, Target::Slipway, true).await;
    for (outlook, words) in [
        (
            outlook(&preview, starts("slipway.service")),
            "systemctl unmask",
        ),
        (
            outlook(&preview, is_config_map),
            "the kubelet's configuration in kubeadm's ConfigMap",
        ),
    ] {
        let Outlook::Fails(why) = outlook else {
            panic!("{outlook:?}");
        };
        contains(why, &[words]);
    }
    // A server that is busy for a moment is asked again.
    change(outlook(&preview, |step| *step == Step::Cordon));
    change(outlook(&preview, is_annotation));
}
