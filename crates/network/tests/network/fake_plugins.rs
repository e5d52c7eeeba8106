//! Chains of plugins that note how they are called, and misbehave when told to.

use std::fs;
use std::time::{Duration, Instant};

use crate::node::{Namespace, on_a_node, pod};
use rustix::process::{Pid, test_kill_process};
use serde_json::{Value, json};
use slipway_network::{Config, Error, Network, PluginFailure, PortMapping, Protocol};

#[test]
fn a_chain_adds_in_order_and_deletes_in_reverse() {
    on_a_node(|node| {
        let mut second = node.fake("second", "", "");
        second["capabilities"] = json!({"portMappings": true, "dns": false});
        let network = node.network(&[node.fake("first", "", ""), second]);
        let namespace = Namespace::new();
        let mut pod = pod("p1", &namespace);
        pod.port_mappings = vec![PortMapping {
            protocol: Protocol::Tcp,
            container_port: 80,
            host_port: 8080,
            host_ip: None,
        }];

        let attached = node.wait(network.add(&pod)).expect("attached");
        assert_eq!(
            attached.ips,
            ["10.99.0.7".parse::<std::net::IpAddr>().expect("an address")]
        );
        assert_eq!(attached.config_name, "pods");
        assert_eq!(attached.result["dns"]["domain"], "second");
        assert_eq!(network.cached().expect("listed"), ["p1"]);

        let netns = namespace.path().display().to_string();
        let environment = fs::read_to_string(node.path("notes/first.ADD.env")).expect("noted");
        for line in [
            "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;\
             K8S_POD_INFRA_CONTAINER_ID=p1;K8S_POD_UID=5e0f",
            "CNI_COMMAND=ADD",
            "CNI_CONTAINERID=p1",
            "CNI_IFNAME=eth0",
            &format!("CNI_NETNS={netns}"),
        ] {
            assert!(
                environment.lines().any(|l| l == line),
                "no {line} in\n{environment}"
            );
        }
        let first = node.given("first", "ADD");
        assert_eq!(
            (&first["name"], &first["cniVersion"]),
            (&json!("pods"), &json!("1.0.0"))
        );
        assert_eq!(
            (&first["prevResult"], &first["runtimeConfig"]),
            (&Value::Null, &Value::Null)
        );
        let second = node.given("second", "ADD");
        assert_eq!(second["prevResult"]["dns"]["domain"], "first");
        assert_eq!(second["runtimeConfig"]["portMappings"][0]["hostPort"], 8080);

        let again = node.wait(network.add(&pod)).expect_err("added twice");
        assert!(matches!(again, Error::AlreadyAttached { .. }), "{again}");

        // As after a restart, and with nothing but the id.
        let id_only = slipway_network::Attachment {
            pod_id: "p1".into(),
            ..Default::default()
        };
        node.wait(node.open().delete(&id_only)).expect("detached");
        assert_eq!(
            node.calls(),
            ["ADD first", "ADD second", "DEL second", "DEL first"]
        );
        for tag in ["first", "second"] {
            assert_eq!(node.given(tag, "DEL")["prevResult"], attached.result);
        }
        assert_eq!(
            node.given("second", "DEL")["runtimeConfig"],
            second["runtimeConfig"]
        );
        let environment = fs::read_to_string(node.path("notes/first.DEL.env")).expect("noted");
        assert!(
            environment.contains(&format!("CNI_NETNS={netns}\n")),
            "{environment}"
        );
        assert!(environment.contains("K8S_POD_NAME=web-0"), "{environment}");

        node.wait(network.delete(&pod)).expect("a second time");
        assert_eq!(
            node.calls().len(),
            4,
            "a pod without an attachment costs no plugin"
        );
        assert!(network.cached().expect("listed").is_empty());
    });
}

#[test]
fn before_version_0_4_0_a_deletion_has_no_result() {
    on_a_node(|node| {
        let network = node.network_of_version("0.3.1", &[node.fake("only", "", "")]);
        let namespace = Namespace::new();
        node.wait(network.add(&pod("p1", &namespace)))
            .expect("attached");
        node.wait(network.delete(&pod("p1", &namespace)))
            .expect("detached");
        assert_eq!(node.given("only", "DEL")["prevResult"], Value::Null);
        assert_eq!(node.given("only", "DEL")["cniVersion"], "0.3.1");
    });
}

/// Adds a pod to a chain whose second plugin misbehaves; expects that all is undone.
fn failing_add(behaviour: &str, expected: &[&str]) -> PluginFailure {
    let mut failed = None;
    on_a_node(|node| {
        let chain = [
            node.fake("good", "", ""),
            node.fake("bad", behaviour, ""),
            node.fake("never", "", ""),
        ];
        let network = node.network(&chain);
        let error = node
            .wait(network.add(&pod("p1", &Namespace::new())))
            .expect_err("it fails");
        let message = error.to_string();
        let named = ["network `pods`, plugin `fake`, ADD: "];
        for part in expected.iter().chain(&named) {
            assert!(message.contains(part), "{message:?} does not say {part:?}");
        }
        assert!(message.len() < 3000, "{} bytes of message", message.len());
        assert_eq!(
            node.calls(),
            ["ADD good", "ADD bad", "DEL never", "DEL bad", "DEL good"]
        );
        assert_eq!(
            node.given("bad", "DEL")["prevResult"]["dns"]["domain"],
            "good"
        );
        assert!(network.cached().expect("listed").is_empty());
        let Error::Plugin { failure, .. } = error else {
            panic!("{error:?}")
        };
        failed = Some(*failure);
    });
    failed.expect("the closure has run")
}

#[test]
fn a_plugins_own_error_is_passed_on() {
    let failure = failing_add(
        "report",
        &["no free addresses (code 117): pool of 3; stderr: a hint for the administrator"],
    );
    assert!(
        matches!(failure, PluginFailure::Reported { code: 117, .. }),
        "{failure:?}"
    );
}

#[test]
fn a_crash_shows_what_was_printed() {
    failing_add(
        "crash",
        &["exit status: 2", "stderr: panic: index out of range"],
    );
}

#[test]
fn a_result_that_is_none_is_shown() {
    failing_add("garbage", &["not JSON", "stdout: Segmentation fault?"]);
    failing_add("silence", &["it is empty"]);
    failing_add("array", &["not a JSON object"]);
}

#[test]
fn an_endless_result_is_bounded() {
    let failure = failing_add(
        "flood",
        &["longer than 1048576 bytes", "xxx … (1048576 bytes"],
    );
    let PluginFailure::Unreadable { stdout, .. } = failure else {
        panic!("{failure:?}")
    };
    assert_eq!(stdout.len(), 1 << 20);
}

#[test]
fn a_talkative_plugin_is_not_blocked() {
    on_a_node(|node| {
        let network = node.network(&[node.fake("chatty", "chatter", "chatter")]);
        let namespace = Namespace::new();
        node.wait(network.add(&pod("p1", &namespace)))
            .expect("attached");
        node.wait(network.delete(&pod("p1", &namespace)))
            .expect("detached");
    });
}

#[test]
fn a_plugin_that_hangs_is_killed_with_its_children() {
    on_a_node(|node| {
        let fakes = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plugins");
        node.configure("1.0.0", &[node.fake("stuck", "hang", "")]);
        let config = Config {
            conf_dir: node.path("net.d"),
            bin_dirs: vec![fakes],
            plugin_timeout: 1,
            conf_template: None,
        };
        let network = Network::new(config, node.path("cache"));
        let started = Instant::now();
        let error = node
            .wait(network.add(&pod("p1", &Namespace::new())))
            .expect_err("it hangs");
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "{:?}",
            started.elapsed()
        );
        let message = error.to_string();
        assert!(
            message.contains("did not end within 1 s and was killed"),
            "{message}"
        );
        assert!(
            message.contains("stdout: waiting for the controller"),
            "{message}"
        );

        let pids = fs::read_to_string(node.path("notes/pids")).expect("noted");
        for pid in pids.split_whitespace() {
            let pid: i32 = pid.parse().expect("a number");
            eventually(|| has_ended(pid));
        }
        assert_eq!(node.calls(), ["ADD stuck", "DEL stuck"]);
        assert!(network.cached().expect("listed").is_empty());
    });
}

/// Whether a process is gone, or waits only to be reaped.
fn has_ended(pid: i32) -> bool {
    let Some(process) = Pid::from_raw(pid) else {
        panic!("{pid} is no process")
    };
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    test_kill_process(process).is_err() || stat.contains(") Z ")
}

/// For what another process does in its own time.
fn eventually(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "it did not come about within 10 s"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn what_cannot_be_undone_is_undone_later() {
    on_a_node(|node| {
        let chain = |on_del| {
            [
                node.fake("good", "", on_del),
                node.fake("bad", "report", ""),
            ]
        };
        let network = node.network(&chain("crash"));
        let namespace = Namespace::new();
        let error = node
            .wait(network.add(&pod("p1", &namespace)))
            .expect_err("it fails");
        let message = error.to_string();
        assert!(matches!(error, Error::NotUndone { .. }), "{error:?}");
        assert!(message.contains("no free addresses"), "{message}");
        assert!(
            message.contains("DEL: it ended with exit status: 2"),
            "{message}"
        );
        assert_eq!(network.cached().expect("listed"), ["p1"]);

        node.wait(network.delete(&pod("p1", &namespace)))
            .expect_err("still broken");
        assert_eq!(network.cached().expect("listed"), ["p1"]);

        // The administrator repairs the plugin. (Its behaviour is part of the cached list.)
        let cached = node.path("cache/p1/attachment.json");
        let record = fs::read_to_string(&cached).expect("read");
        fs::write(&cached, record.replace("crash", "")).expect("written");
        node.wait(network.delete(&pod("p1", &namespace)))
            .expect("detached at last");
        assert!(network.cached().expect("listed").is_empty());
        assert!(!node.path("cache/p1").exists());
    });
}

#[test]
fn a_chain_without_an_address_is_an_error() {
    on_a_node(|node| {
        let network = node.network(&[json!({"type": "loopback"})]);
        let error = node
            .wait(network.add(&pod("p1", &Namespace::new())))
            .expect_err("no address");
        assert!(
            error.to_string().contains("gave the pod no IP address"),
            "{error}"
        );
        assert!(network.cached().expect("listed").is_empty());
    });
}

#[test]
fn a_plugin_that_is_not_installed_is_named_before_anything_runs() {
    on_a_node(|node| {
        let network = node.network(&[node.fake("good", "", ""), json!({"type": "calico"})]);
        let not_ready = network.ready().expect_err("not ready").to_string();
        let namespace = Namespace::new();
        let error = node
            .wait(network.add(&pod("p1", &namespace)))
            .expect_err("no such plugin");
        assert_eq!(error.to_string(), not_ready);
        for part in [
            "the CNI plugin `calico`",
            "tests/plugins, /usr/lib/cni",
            "10-pods.conflist",
        ] {
            assert!(
                not_ready.contains(part),
                "{not_ready:?} does not say {part:?}"
            );
        }
        assert!(node.calls().is_empty());
        assert!(network.cached().expect("listed").is_empty());

        node.configure("1.0.0", &[node.fake("good", "", "")]);
        network.ready().expect("ready without a restart");
    });
}

#[test]
fn what_is_no_namespace_is_refused() {
    on_a_node(|node| {
        let network = node.network(&[node.fake("good", "", "")]);
        let mut pod = pod("p1", &Namespace::new());
        pod.netns = node.path("net.d");
        let error = node
            .wait(network.add(&pod))
            .expect_err("a directory")
            .to_string();
        assert!(
            error.contains("net.d is not a network namespace: it is something else"),
            "{error}"
        );
        pod.netns = node.path("nothing");
        let error = node
            .wait(network.add(&pod))
            .expect_err("nothing there")
            .to_string();
        assert!(error.contains("No such file"), "{error}");
        assert!(network.cached().expect("listed").is_empty());
    });
}

#[test]
fn an_operation_outlives_its_caller_and_the_next_one_waits() {
    on_a_node(|node| {
        let network = node.network(&[node.fake("slow", "until", "")]);
        let namespace = Namespace::new();
        let pod = pod("p1", &namespace);
        let fifo = node.path("notes/fifo");
        crate::node::run(&["mkfifo", fifo.to_str().expect("text")]);
        node.wait(async {
            let mut add = Box::pin(network.add(&pod));
            tokio::select! {
                _ = &mut add => panic!("it cannot have ended"),
                () = exists(node.path("notes/waiting")) => {}
            }
            drop(add);
            let delete = network.delete(&pod);
            let allow = tokio::fs::write(&fifo, "go on\n");
            let (deleted, allowed) = tokio::join!(delete, allow);
            allowed.expect("written");
            deleted.expect("detached");
        });
        assert_eq!(node.calls(), ["ADD slow", "DEL slow"]);
        assert_eq!(
            node.given("slow", "DEL")["prevResult"]["dns"]["domain"],
            "slow"
        );
        assert!(network.cached().expect("listed").is_empty());
    });
}

async fn exists(path: std::path::PathBuf) {
    while !path.exists() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[test]
fn a_damaged_record_is_replaced_by_the_configuration_of_the_day() {
    on_a_node(|node| {
        let network = node.network(&[node.fake("only", "", "")]);
        let namespace = Namespace::new();
        node.wait(network.add(&pod("p1", &namespace)))
            .expect("attached");
        fs::write(node.path("cache/p1/attachment.json"), "").expect("written");
        fs::write(node.path("cache/p1/results"), "").expect("written");
        node.wait(network.delete(&pod("p1", &namespace)))
            .expect("detached");
        assert_eq!(node.calls(), ["ADD only", "DEL only"]);
        assert!(network.cached().expect("listed").is_empty());
    });
}
