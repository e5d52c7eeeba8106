//! Pods on the plugins that nodes run: bridge with host-local, portmap, firewall and loopback.

use std::env;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::node::{Namespace, Node, Process, on_a_node, pod, run};
use serde_json::{Value, json};
use slipway_network::{Attachment, PortMapping, Protocol};

/// What kubeadm clusters with a simple network have, and the loopback plugin.
fn chain(node: &Node) -> Vec<Value> {
    vec![
        json!({"type": "loopback"}),
        node.bridge(),
        json!({"type": "portmap", "capabilities": {"portMappings": true}}),
        json!({"type": "firewall"}),
    ]
}

fn with_port(id: &str, namespace: &Namespace, host_port: u16) -> Attachment {
    let mapping = |protocol| PortMapping {
        protocol,
        container_port: 80,
        host_port,
        host_ip: None,
    };
    let port_mappings = vec![mapping(Protocol::Tcp), mapping(Protocol::Udp)];
    Attachment {
        port_mappings,
        ..pod(id, namespace)
    }
}

/// Fails if the node has anything of a pod.
fn assert_nothing_left(node: &Node, ips: &[IpAddr]) {
    assert_eq!(
        node.allocated(),
        Vec::<String>::new(),
        "addresses of host-local"
    );
    let links = run(&["ip", "-o", "link"]);
    assert!(!links.contains("veth"), "{links}");
    for rules in [run(&["iptables-save"]), run(&["ip6tables-save"])] {
        for ip in ips {
            assert!(!rules.contains(&format!("{ip}/")), "{ip} in\n{rules}");
        }
        assert!(!rules.contains("CNI-DN-"), "{rules}");
    }
    assert_eq!(node.open().cached().expect("listed"), Vec::<String>::new());
}

#[test]
fn a_pod_gets_a_network_and_gives_it_back() {
    on_a_node(|node| {
        let network = node.network(&chain(node));
        network.ready().expect("ready");
        let namespace = Namespace::new();
        let pod = with_port("p1", &namespace, 8080);
        let attached = node.wait(network.add(&pod)).expect("attached");

        let [IpAddr::V4(v4), IpAddr::V6(v6)] = attached.ips[..] else {
            panic!("{:?}", attached.ips)
        };
        let addresses = namespace.output(&["ip", "-o", "addr"]);
        assert!(
            addresses.contains(&format!("eth0    inet {v4}/24")),
            "{addresses}"
        );
        assert!(
            addresses.contains(&format!("eth0    inet6 {v6}/64")),
            "{addresses}"
        );
        assert!(
            namespace
                .output(&["ip", "link", "show", "lo"])
                .contains("LOOPBACK,UP")
        );
        assert!(run(&["iptables-save"]).contains(&format!("{v4}/32")));
        assert_eq!(node.allocated().len(), 2);

        let listener = namespace.enter(|| TcpListener::bind("0.0.0.0:80").expect("bound"));
        assert!(reaches(SocketAddr::new(v4.into(), 80), &listener));
        let gateway = "10.77.0.1".parse().expect("an address");
        assert!(
            reaches(SocketAddr::new(gateway, 8080), &listener),
            "through the node's port"
        );

        node.wait(network.delete(&pod)).expect("detached");
        assert_nothing_left(node, &attached.ips);
        assert!(!namespace.output(&["ip", "-o", "link"]).contains("eth0"));
        node.wait(network.delete(&pod)).expect("a second time");
    });
}

/// Whether a connection to the address arrives at the listener.
fn reaches(address: SocketAddr, listener: &TcpListener) -> bool {
    let client = TcpStream::connect_timeout(&address, Duration::from_secs(5))
        .unwrap_or_else(|error| panic!("{address}: {error}"));
    let (_, peer) = listener.accept().expect("accepted");
    peer.port() == client.local_addr().expect("connected").port()
}

#[test]
fn a_later_plugins_failure_gives_back_the_address() {
    on_a_node(|node| {
        let mut plugins = chain(node);
        plugins.push(node.fake("last", "report", ""));
        let network = node.network(&plugins);
        let namespace = Namespace::new();
        let error = node
            .wait(network.add(&with_port("p1", &namespace, 8080)))
            .expect_err("fails");
        assert!(error.to_string().contains("no free addresses"), "{error}");
        assert_nothing_left(node, &["10.77.0.2".parse().expect("an address")]);
    });
}

#[test]
fn the_real_plugins_own_errors_are_passed_on() {
    on_a_node(|node| {
        let mut bridge = node.bridge();
        bridge["ipam"]["ranges"] = json!([[{"subnet": "10.77.0.0/30"}]]);
        let network = node.network(&[bridge]);
        let namespaces = [Namespace::new(), Namespace::new()];
        node.wait(network.add(&pod("p1", &namespaces[0])))
            .expect("attached");
        let error = node
            .wait(network.add(&pod("p2", &namespaces[1])))
            .expect_err("none free");
        assert!(
            error.to_string().contains("plugin `bridge`, ADD: "),
            "{error}"
        );
        assert!(
            error.to_string().contains("no IP addresses available"),
            "{error}"
        );
        node.wait(network.delete(&pod("p1", &namespaces[0])))
            .expect("detached");
        assert_nothing_left(node, &[]);
    });
}

#[test]
fn a_pod_is_detached_after_a_reboot_and_a_change_of_configuration() {
    on_a_node(|node| {
        let network = node.network(&chain(node));
        let namespace = Namespace::new();
        let mut pod = with_port("p1", &namespace, 8080);
        let attached = node.wait(network.add(&pod)).expect("attached");

        // What a reboot does.
        drop(namespace);
        pod.netns = node.path("pinned");
        fs::write(&pod.netns, "").expect("what is left of the mount point");
        run(&["nft", "flush", "ruleset"]);
        run(&["ip", "link", "delete", "br0"]);
        fs::remove_file(node.path("net.d/10-pods.conflist")).expect("removed");
        let network = node.open();
        network.ready().expect_err("no configuration");
        assert_eq!(network.cached().expect("listed"), ["p1"]);
        node.wait(network.delete(&pod)).expect("detached");
        assert_nothing_left(node, &attached.ips);
    });
}

#[test]
fn many_pods_at_once_get_different_addresses() {
    const PODS: u16 = 8;
    on_a_node(|node| {
        let network = node.network(&chain(node));
        let namespaces: Vec<Namespace> = (0..PODS).map(|_| Namespace::new()).collect();
        let pods: Vec<Attachment> = (0..PODS)
            .zip(&namespaces)
            .map(|(n, namespace)| with_port(&format!("p{n}"), namespace, 9000 + n))
            .collect();
        let all = |operation: &str| {
            let network = std::sync::Arc::new(node.open());
            node.wait(async {
                let mut tasks = tokio::task::JoinSet::new();
                for pod in pods.clone() {
                    let network = network.clone();
                    let add = operation == "add";
                    tasks.spawn(async move {
                        if add {
                            network.add(&pod).await.map(|attached| attached.ips)
                        } else {
                            network.delete(&pod).await.map(|()| Vec::new())
                        }
                    });
                }
                tasks.join_all().await
            })
        };
        let ips: Vec<IpAddr> = all("add")
            .into_iter()
            .flat_map(|outcome| outcome.expect("attached"))
            .collect();
        let different: std::collections::BTreeSet<&IpAddr> = ips.iter().collect();
        assert_eq!(different.len(), 2 * usize::from(PODS), "{ips:?}");
        assert_eq!(network.cached().expect("listed").len(), usize::from(PODS));
        for outcome in all("delete") {
            outcome.expect("detached");
        }
        assert_nothing_left(node, &ips);
    });
}

/// A daemon is killed while a plugin runs. The next one waits for that plugin, and then takes back
/// what was done.
#[test]
fn an_add_that_is_cut_off_is_taken_back() {
    if let Some(directory) = env::var_os("DAEMON_TO_BE_KILLED") {
        return daemon(Path::new(&directory));
    }
    on_a_node(|node| {
        let mut plugins = chain(node);
        plugins.push(node.fake("last", "until", ""));
        node.configure("1.0.0", &plugins);
        let fifo = node.path("notes/fifo");
        run(&["mkfifo", fifo.to_str().expect("text")]);
        let namespace = Namespace::new();
        let this_test = "real_plugins::an_add_that_is_cut_off_is_taken_back";
        let mut daemon = Process::start(
            Command::new(env::current_exe().expect("this program"))
                .args(["--exact", this_test, "--nocapture", "--quiet"])
                .env("DAEMON_TO_BE_KILLED", node.directory.path())
                .env("NETNS_OF_THE_POD", namespace.path())
                .stdout(Stdio::null()),
        );
        let deadline = Instant::now() + Duration::from_secs(20);
        while !node.path("notes/waiting").exists() {
            assert!(
                Instant::now() < deadline && !daemon.has_ended(),
                "the plugin was not reached"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        drop(daemon);
        assert_eq!(node.allocated().len(), 2);

        let network = node.open();
        assert_eq!(network.cached().expect("listed"), ["p1"]);
        let pod = with_port("p1", &namespace, 8080);
        node.wait(async {
            let mut delete = Box::pin(network.delete(&pod));
            let early = tokio::time::timeout(Duration::from_millis(200), &mut delete).await;
            assert!(early.is_err(), "it did not wait for the plugin: {early:?}");
            assert_eq!(node.calls(), ["ADD last"]);
            tokio::fs::write(&fifo, "go on\n").await.expect("written");
            delete.await.expect("detached");
        });
        assert_eq!(node.calls(), ["ADD last", "DEL last"]);
        assert_nothing_left(node, &["10.77.0.2".parse().expect("an address")]);
    });
}

fn daemon(directory: &Path) {
    let netns = PathBuf::from(env::var_os("NETNS_OF_THE_POD").expect("set by the test"));
    let mapping = PortMapping {
        protocol: Protocol::Tcp,
        container_port: 80,
        host_port: 8080,
        host_ip: None,
    };
    let pod = Attachment {
        pod_id: "p1".into(),
        netns,
        port_mappings: vec![mapping],
        ..Attachment::default()
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let attached = runtime.block_on(crate::node::open(directory).add(&pod));
    panic!("the daemon was not killed: {attached:?}");
}
