//! What the daemon tells Prometheus of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use slipway_testbed::{Image, Node, eventually, pod};

use crate::restart::kill_shim;

/// A node whose daemon offers metrics, and where.
pub(crate) async fn measured(
    tell: impl FnOnce(slipway_testbed::DaemonBuilder) -> slipway_testbed::DaemonBuilder,
) -> (Node, SocketAddr) {
    let mut address = None;
    let node = Node::start_with(|builder| {
        let port = builder.scratch().host_port();
        let listen = SocketAddr::from(([127, 0, 0, 1], port));
        address = Some(listen);
        tell(
            builder
                .argument("--metrics-listen")
                .argument(listen.to_string()),
        )
    });
    (node.await.unwrap(), address.unwrap())
}

fn get(server: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(server).unwrap();
    let accept = "application/vnd.oci.image.manifest.v1+json";
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: {server}\r\nAccept: {accept}\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.0 200"), "{text}");
    text.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// One scrape: every sample with its labels.
#[derive(Debug)]
pub(crate) struct Scrape(Vec<(String, BTreeMap<String, String>, f64)>);

impl Scrape {
    pub(crate) fn of(server: SocketAddr) -> Self {
        let text = get(server, "/metrics");
        assert!(text.ends_with("# EOF\n"), "{text}");
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        Self(samples.map(sample).collect())
    }

    /// The one sample with at least these labels.
    #[track_caller]
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let mut found = self.0.iter().filter(|(of, has, _)| {
            let mut wanted = labels.iter();
            of == name && wanted.all(|(key, value)| has.get(*key).is_some_and(|is| is == value))
        });
        let Some((_, _, value)) = found.next() else {
            panic!("{name} {labels:?} is not in {self:#?}");
        };
        assert!(found.next().is_none(), "{name} {labels:?} is there twice");
        *value
    }

    /// The values that a label has.
    pub(crate) fn values(&self, name: &str, label: &str) -> BTreeSet<&str> {
        let samples = self.0.iter().filter(|(of, _, _)| of == name);
        let values = samples.filter_map(|(_, labels, _)| labels.get(label));
        values.map(String::as_str).collect()
    }

    /// The names of all samples, each with the names of its labels.
    pub(crate) fn names(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut names: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (name, labels, _) in &self.0 {
            let known = names.entry(name.as_str()).or_default();
            known.extend(labels.keys().map(String::as_str));
        }
        names
    }
}

/// A line of the exposition format, of values that need no escapes.
fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.strip_suffix('}').unwrap().split(',');
    let labels = labels.filter_map(|label| label.split_once('='));
    let labels = labels.map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()));
    (name.to_owned(), labels.collect(), value.parse().unwrap())
}

/// A sample's name, its labels and its value.
type Expected = (&'static str, &'static [(&'static str, &'static str)], f64);

async fn eventually_is(server: SocketAddr, name: &str, labels: &[(&str, &str)], expected: f64) {
    eventually(name, Duration::from_secs(20), async || {
        Ok((Scrape::of(server).value(name, labels) - expected).abs() < 0.5)
    })
    .await
    .unwrap_or_else(|error| panic!("{labels:?} is not {expected}: {error}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_are_told_with_their_results_and_bytes() {
    let (node, metrics) = measured(|builder| builder).await;
    let before = Scrape::of(metrics);
    assert!(before.value("slipway_image_pulled_bytes_total", &[]) < 0.5);
    node.provide("busybox:1", &Image::busybox()).await.unwrap();
    let manifest = get(node.registry.address(), "/v2/busybox/manifests/1");
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let sizes = manifest["layers"].as_array().unwrap().iter();
    let bytes: f64 = sizes.map(|layer| layer["size"].as_f64().unwrap()).sum();
    let scrape = Scrape::of(metrics);
    let arrived = scrape.value("slipway_image_pulled_bytes_total", &[]);
    assert!((arrived - bytes).abs() < 0.5, "{arrived} is not {bytes}");
    for (result, expected) in [("success", 1.0), ("not_found", 0.0)] {
        let count = scrape.value("slipway_image_pulls_total", &[("result", result)]);
        assert!((count - expected).abs() < 0.5, "{result}: {count}");
    }
    let took = "slipway_image_pull_duration_seconds";
    let success = [("result", "success")];
    assert!((scrape.value(&format!("{took}_count"), &success) - 1.0).abs() < 0.5);
    assert!(scrape.value(&format!("{took}_sum"), &success) > 0.0);
    let call = [("method", "PullImage"), ("code", "Ok")];
    assert!((scrape.value("slipway_cri_calls_total", &call) - 1.0).abs() < 0.5);
    assert!((scrape.value("slipway_cri_call_duration_seconds_count", &call) - 1.0).abs() < 0.5);

    node.cri()
        .pull(&node.registry.reference("absent:1"))
        .await
        .unwrap_err();
    eventually_is(
        metrics,
        "slipway_image_pulls_total",
        &[("result", "not_found")],
        1.0,
    )
    .await;
    let call = [("method", "PullImage"), ("code", "NotFound")];
    eventually_is(
        metrics,
        "slipway_cri_call_duration_seconds_count",
        &call,
        1.0,
    )
    .await;

    // A registry that takes the connection and says nothing, until it hangs up.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let reference = format!("{}/slow:1", silent.local_addr().unwrap());
    let cri = node.cri().clone();
    let pull = tokio::spawn(async move { cri.pull(&reference).await });
    eventually_is(metrics, "slipway_image_pulls_in_progress", &[], 1.0).await;
    drop(silent);
    pull.await.unwrap().unwrap_err();
    eventually_is(metrics, "slipway_image_pulls_in_progress", &[], 0.0).await;
    eventually_is(
        metrics,
        "slipway_image_pulls_total",
        &[("result", "unavailable")],
        1.0,
    )
    .await;
    node.finish().await.unwrap();
}

#[tokio::test]
async fn pods_containers_and_shims_are_counted_by_their_states() {
    let (mut node, metrics) = measured(|builder| builder).await;
    let image = node.provide("busybox:1", &Image::busybox()).await.unwrap();
    let config = node.pod("counted");
    let pod_id = node.cri().run_pod(&config).await.unwrap();
    let container = pod::sleeper("main", &image.reference);
    let id = node
        .cri()
        .launch(&pod_id, &config, &container)
        .await
        .unwrap();
    let later = pod::sleeper("later", &image.reference);
    node.cri().create(&pod_id, &config, &later).await.unwrap();
    let lost = node.pod("lost");
    let lost_id = node.cri().run_pod(&lost).await.unwrap();
    let count = async |expected: [Expected; 7]| {
        for (name, labels, expected) in expected {
            eventually_is(metrics, name, labels, expected).await;
        }
    };
    count([
        ("slipway_pods", &[("state", "ready")], 2.0),
        ("slipway_pods", &[("state", "not_ready")], 0.0),
        ("slipway_shims", &[], 2.0),
        ("slipway_shims_lost_total", &[], 0.0),
        ("slipway_containers", &[("state", "created")], 1.0),
        ("slipway_containers", &[("state", "running")], 1.0),
        ("slipway_containers", &[("state", "exited")], 0.0),
    ])
    .await;

    node.cri().stop(&id, 0).await.unwrap();
    kill_shim(node.cri(), &lost_id).await;
    let after: [Expected; 7] = [
        ("slipway_pods", &[("state", "ready")], 1.0),
        ("slipway_pods", &[("state", "not_ready")], 1.0),
        ("slipway_shims", &[], 1.0),
        ("slipway_shims_lost_total", &[], 1.0),
        ("slipway_containers", &[("state", "created")], 1.0),
        ("slipway_containers", &[("state", "running")], 0.0),
        ("slipway_containers", &[("state", "exited")], 1.0),
    ];
    count(after).await;

    // The next daemon finds the same; that one of the shims has gone, it hears for the first time.
    node.daemon.kill9();
    node.daemon.restart().await.unwrap();
    count(after).await;

    node.cri().remove_all().await.unwrap();
    count([
        ("slipway_pods", &[("state", "ready")], 0.0),
        ("slipway_pods", &[("state", "not_ready")], 0.0),
        ("slipway_shims", &[], 0.0),
        ("slipway_shims_lost_total", &[], 1.0),
        ("slipway_containers", &[("state", "created")], 0.0),
        ("slipway_containers", &[("state", "running")], 0.0),
        ("slipway_containers", &[("state", "exited")], 0.0),
    ])
    .await;
    node.finish().await.unwrap();
}

/// A CNI plugin that says when it is called, and then waits for a file called `gate`.
fn waiting_plugin(directory: &Path) {
    let script = format!(
        "#!/bin/sh\ncat > /dev/null\ntouch {0}/$CNI_COMMAND\n\
         until [ -e {0}/gate ]; do sleep 0.05; done\nexit 0\n",
        directory.display()
    );
    let plugin = directory.join("waiting");
    fs::write(&plugin, script).unwrap();
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn what_a_killed_daemon_leaves_is_counted_by_its_kind() {
    let plugins = tempfile::tempdir().unwrap();
    waiting_plugin(plugins.path());
    let bin_dir = plugins.path().to_owned();
    let (mut node, metrics) =
        measured(|builder| builder.argument("--cni-bin-dir").argument(bin_dir)).await;
    let conflist = r#"{"cniVersion": "1.0.0", "name": "w", "plugins": [{"type": "waiting"}]}"#;
    node.cni.write_conflist(conflist).unwrap();
    let (cri, config) = (node.cri().clone(), node.pod("half-made"));
    let run = tokio::spawn(async move { cri.run_pod(&config).await });
    let called = plugins.path().join("ADD");
    eventually("the plugin", Duration::from_secs(20), async || {
        Ok(called.exists())
    })
    .await
    .unwrap();
    node.daemon.kill9();
    run.await.unwrap().unwrap_err();
    fs::write(plugins.path().join("gate"), "").unwrap();
    let layer = node
        .daemon
        .root()
        .join("containers")
        .join("a".repeat(64))
        .join("upper");
    fs::create_dir_all(layer).unwrap();

    node.daemon.restart().await.unwrap();
    let scrape = Scrape::of(metrics);
    // What the daemon gives back at its start is an operation like any other.
    let operation = [("operation", "delete"), ("result", "success")];
    let deleted = scrape.value(
        "slipway_network_operation_duration_seconds_count",
        &operation,
    );
    assert!((deleted - 1.0).abs() < 0.5, "{deleted}");
    for (kind, expected) in [
        ("pod", 1.0),
        ("writable_layer", 1.0),
        ("container", 0.0),
        ("pod_directory", 0.0),
        ("bundle", 0.0),
        ("checkpoint", 0.0),
        ("runtime_state", 0.0),
        ("network", 0.0),
    ] {
        let kind = [("kind", kind)];
        let found = scrape.value("slipway_recovery_leaks_total", &kind);
        assert!((found - expected).abs() < 0.5, "{kind:?}: {found}");
        let left = scrape.value("slipway_recovery_leaks_left_total", &kind);
        assert!(left < 0.5, "{kind:?}: {left}");
    }

    // And the one after that finds nothing.
    node.daemon.kill9();
    node.daemon.restart().await.unwrap();
    let pods = Scrape::of(metrics).value("slipway_recovery_leaks_total", &[("kind", "pod")]);
    assert!(pods < 0.5, "{pods}");
    node.finish().await.unwrap();
}

#[tokio::test]
async fn the_process_is_told_of_under_prometheus_own_names() {
    let (node, metrics) = measured(|builder| builder).await;
    let scrape = Scrape::of(metrics);
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    assert!((scrape.value("slipway_build_info", &version) - 1.0).abs() < 0.5);
    let resident = scrape.value("process_resident_memory_bytes", &[]);
    let status = fs::read_to_string(format!("/proc/{}/status", node.daemon.pid())).unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let rss = rss.unwrap().trim().trim_end_matches(" kB");
    let rss = rss.parse::<f64>().unwrap() * 1024.0;
    assert!(
        resident > rss / 2.0 && resident < rss * 2.0,
        "{resident} {rss}"
    );
    assert!(scrape.value("process_virtual_memory_bytes", &[]) > resident);
    let open = scrape.value("process_open_fds", &[]);
    assert!(
        open > 3.0 && open < scrape.value("process_max_fds", &[]),
        "{open}"
    );
    assert!(scrape.value("process_threads", &[]) > 1.5);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let age = now.as_secs_f64() - scrape.value("process_start_time_seconds", &[]);
    assert!((-2.0..600.0).contains(&age), "{age}");
    let used = scrape.value("process_cpu_seconds_total", &[]);
    assert!(used > 0.0);
    eventually("CPU time", Duration::from_mins(1), async || {
        Ok(Scrape::of(metrics).value("process_cpu_seconds_total", &[]) > used)
    })
    .await
    .unwrap();
    node.finish().await.unwrap();
}
