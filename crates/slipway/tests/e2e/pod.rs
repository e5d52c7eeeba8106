//! Pods: namespaces, network, cgroups, names, and what is left of them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use slipway_cri_api::v1::{DnsConfig, NamespaceMode, PodSandboxState};
use slipway_testbed::{Node, eventually, leaks, pod};
use tonic::Code;

use crate::{node, refused};

const SERVER: &str = "mkdir -p /www && echo hello from $HOSTNAME > /www/index.html && \
                      echo ready && exec httpd -f -p 8080 -h /www";

/// What an HTTP server in a pod answers, once it does.
async fn fetch(address: &str) -> String {
    let mut answer = String::new();
    eventually(
        "the server in the pod",
        Duration::from_secs(10),
        async || {
            answer.clear();
            let Ok(mut stream) = TcpStream::connect(address) else {
                return Ok(false);
            };
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            stream.read_to_string(&mut answer)?;
            Ok(answer.contains("200 OK"))
        },
    )
    .await
    .unwrap();
    answer
}

#[tokio::test]
async fn containers_share_localhost_and_the_pod_is_reached_by_its_address_and_its_port() {
    let (node, image) = node().await;
    let cri = node.cri();
    let mut web = node.pod("web");
    let host_port = node.scratch.host_port();
    web.port_mappings = vec![pod::port(8080, host_port)];
    let id = cri.run_pod(&web).await.unwrap();
    cri.launch(&id, &web, &pod::shell("server", &image, SERVER))
        .await
        .unwrap();
    let beside = cri
        .launch(&id, &web, &pod::sleeper("beside", &image))
        .await
        .unwrap();

    let address = cri.pod_status(&id).await.unwrap().network.unwrap().ip;
    assert!(
        fetch(&format!("{address}:8080"))
            .await
            .contains("hello from web")
    );
    let local = cri
        .exec(&beside, &["wget", "-qO-", "http://127.0.0.1:8080/"])
        .await
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&local.stdout), "hello from web\n");

    let other = node.pod("other");
    let other_id = cri.run_pod(&other).await.unwrap();
    let client = cri
        .launch(&other_id, &other, &pod::sleeper("client", &image))
        .await
        .unwrap();
    let url = format!("http://{address}:8080/");
    let across = cri.exec(&client, &["wget", "-qO-", &url]).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&across.stdout), "hello from web\n");
    let gateway = cri.exec(&client, &["ip", "route"]).await.unwrap();
    let gateway = String::from_utf8_lossy(&gateway.stdout).into_owned();
    let gateway = gateway.split_whitespace().nth(2).unwrap().to_owned();
    assert!(
        fetch(&format!("{gateway}:{host_port}"))
            .await
            .contains("hello from web")
    );
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_pod_has_its_own_hostname_resolver_and_shared_memory() {
    let (node, image) = node().await;
    let cri = node.cri();
    let mut config = node.pod("named");
    config.dns_config = Some(DnsConfig {
        servers: vec!["10.96.0.10".to_owned()],
        searches: vec![
            "default.svc.cluster.local".to_owned(),
            "svc.cluster.local".to_owned(),
        ],
        options: vec!["ndots:5".to_owned()],
    });
    config.linux.as_mut().unwrap().sysctls = [(
        "net.ipv4.ip_unprivileged_port_start".to_owned(),
        "80".to_owned(),
    )]
    .into();
    let id = cri.run_pod(&config).await.unwrap();
    let one = cri
        .launch(&id, &config, &pod::sleeper("one", &image))
        .await
        .unwrap();
    let two = cri
        .launch(&id, &config, &pod::sleeper("two", &image))
        .await
        .unwrap();
    let output = |id: String, script: &'static str| async move {
        let answer = cri.exec(&id, &["sh", "-c", script]).await.unwrap();
        assert_eq!(
            answer.exit_code,
            0,
            "{script}: {}",
            String::from_utf8_lossy(&answer.stderr)
        );
        String::from_utf8(answer.stdout).unwrap()
    };
    assert_eq!(output(one.clone(), "hostname").await, "named\n");
    assert_eq!(output(one.clone(), "cat /etc/hostname").await, "named\n");
    assert_eq!(
        output(one.clone(), "cat /etc/resolv.conf").await,
        "search default.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\n\
         options ndots:5\n"
    );
    let sysctl = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
    assert_eq!(output(one.clone(), sysctl).await, "80\n");
    output(one.clone(), "echo shared > /dev/shm/file").await;
    assert_eq!(output(two, "cat /dev/shm/file").await, "shared\n");
    assert!(!Path::new("/dev/shm/file").exists());
    // Its own process is the only one it sees, beside what it has started.
    assert_eq!(output(one, "readlink /proc/1/exe").await, "/bin/busybox\n");
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_pod_can_share_the_nodes_network_and_processes() {
    let (node, image) = node().await;
    let cri = node.cri();
    let mut config = node.pod("host");
    let security = config
        .linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap();
    let namespaces = security.namespace_options.as_mut().unwrap();
    namespaces.network = NamespaceMode::Node.into();
    namespaces.pid = NamespaceMode::Node.into();
    let options = namespaces.clone();
    let id = cri.run_pod(&config).await.unwrap();
    assert_eq!(cri.pod_status(&id).await.unwrap().network.unwrap().ip, "");
    let mut container = pod::sleeper("main", &image);
    let linux = container.linux.as_mut().unwrap();
    linux.security_context.as_mut().unwrap().namespace_options = Some(options);
    let container = cri.launch(&id, &config, &container).await.unwrap();
    for name in ["net", "pid", "uts"] {
        let link = format!("/proc/self/ns/{name}");
        let inside = cri.exec(&container, &["readlink", &link]).await.unwrap();
        let outside = std::fs::read_link(&link).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&inside.stdout).trim(),
            outside.to_str().unwrap()
        );
    }
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_pod_can_share_one_pid_namespace_among_its_containers() {
    let (node, image) = node().await;
    let cri = node.cri();
    let mut config = node.pod("shared");
    let security = config
        .linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap();
    security.namespace_options.as_mut().unwrap().pid = NamespaceMode::Pod.into();
    let id = cri.run_pod(&config).await.unwrap();
    let shared = |name: &str, seconds: &str| {
        let mut container = pod::container(name, &image, ["sleep", seconds]);
        let linux = container.linux.as_mut().unwrap();
        let security = linux.security_context.as_mut().unwrap();
        security.namespace_options.as_mut().unwrap().pid = NamespaceMode::Pod.into();
        container
    };
    let one = shared("one", "2147483646");
    let one = cri.launch(&id, &config, &one).await.unwrap();
    let two = shared("two", "2147483645");
    cri.launch(&id, &config, &two).await.unwrap();
    let seen = cri
        .exec(&one, &["sh", "-c", "ps | grep -c 'sleep 214748364[56]$'"])
        .await
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&seen.stdout).trim(), "2");
    node.finish().await.unwrap();
}

#[tokio::test]
async fn names_are_unique_and_stop_and_remove_can_be_repeated() {
    let (node, image) = node().await;
    let cri = node.cri();
    let config = node.pod("once");
    let id = cri.run_pod(&config).await.unwrap();
    refused(
        cri.run_pod(&config).await,
        Code::AlreadyExists,
        &["once", &id],
    );
    let container = pod::sleeper("main", &image);
    let first = cri.create(&id, &config, &container).await.unwrap();
    let second = cri.create(&id, &config, &container).await;
    refused(second, Code::AlreadyExists, &["main", &first]);

    for _ in 0..2 {
        cri.stop_pod(&id).await.unwrap();
        assert_eq!(
            cri.pod_status(&id).await.unwrap().state(),
            PodSandboxState::SandboxNotready
        );
        cri.remove(&first).await.unwrap();
    }
    let late = cri.create(&id, &config, &container).await;
    refused(late, Code::FailedPrecondition, &["not ready"]);
    for _ in 0..2 {
        cri.remove_pod(&id).await.unwrap();
    }
    refused(cri.pod_status(&id).await, Code::NotFound, &[&id]);
    cri.run_pod(&config).await.expect("the name is free again");
    node.finish().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_a_pod_is_refused_and_leaves_nothing() {
    let node = Node::start().await.unwrap();
    let cri = node.cri();
    let mut config = node.pod("bad");
    config.metadata = None;
    refused(
        cri.run_pod(&config).await,
        Code::InvalidArgument,
        &["metadata"],
    );
    let mut config = node.pod("bad");
    config.metadata.as_mut().unwrap().uid.clear();
    refused(cri.run_pod(&config).await, Code::InvalidArgument, &["uid"]);
    let mut config = node.pod("bad");
    config.linux.as_mut().unwrap().sysctls = [("kernel.panic".to_owned(), "1".to_owned())].into();
    refused(
        cri.run_pod(&config).await,
        Code::InvalidArgument,
        &["kernel.panic"],
    );
    let mut config = node.pod("bad");
    config.linux.as_mut().unwrap().cgroup_parent = "/a/../../b".to_owned();
    refused(
        cri.run_pod(&config).await,
        Code::InvalidArgument,
        &["cgroup_parent"],
    );
    assert!(cri.pods().await.unwrap().is_empty());
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_network_plugin_that_fails_hangs_or_talks_nonsense_leaves_no_pod() {
    let node = Node::start_with(|builder| {
        let plugins = builder.scratch().join("plugins");
        std::fs::create_dir(&plugins).unwrap();
        builder
            .config("[network]\nplugin_timeout = 5\n")
            .argument("--cni-bin-dir")
            .argument(&plugins)
    })
    .await
    .unwrap();
    let plugins = node.scratch.join("plugins");
    let cri = node.cri();
    let good = node.cni.conflist().unwrap();
    let complaint = r#"{"code": 11, "msg": "no more cable", "details": "cut"}"#;
    let cases = [
        (
            "fails",
            format!("echo '{complaint}'; exit 1"),
            "no more cable",
        ),
        ("hangs", "echo some words >&2; sleep 1000".to_owned(), "5 s"),
        (
            "raves",
            "echo this is not JSON".to_owned(),
            "this is not JSON",
        ),
    ];
    for (name, script, word) in cases {
        write_plugin(&plugins.join(name), &script);
        // The last one of the chain, so that the others have something to take back.
        let chain = good.replace("\"firewall\"", &format!("{name:?}"));
        node.cni.write_conflist(&chain).unwrap();
        refused(
            cri.run_pod(&node.pod(name)).await,
            Code::Internal,
            &[name, word],
        );
        leaks::assert_none(&node.scratch);
    }
    node.cni.write_conflist(&good).unwrap();
    cri.run_pod(&node.pod("after")).await.unwrap();
    node.finish().await.unwrap();
}

fn write_plugin(path: &Path, script: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(
        path,
        format!("#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exit 0\n{script}\n"),
    )
    .unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn a_missing_network_is_reported_and_pods_wait_for_it() {
    let node = Node::start().await.unwrap();
    let cri = node.cri();
    let conflist = node.cni.conflist().unwrap();
    std::fs::remove_file(node.cni.conf_dir().join("10-slipway.conflist")).unwrap();
    let condition = |name: &'static str| async move {
        let request = slipway_cri_api::v1::StatusRequest { verbose: true };
        let status = Box::pin(cri.runtime().status(request))
            .await
            .unwrap()
            .into_inner();
        let conditions = status.status.unwrap().conditions;
        conditions
            .into_iter()
            .find(|condition| condition.r#type == name)
            .unwrap()
    };
    assert!(condition("RuntimeReady").await.status);
    let network = condition("NetworkReady").await;
    assert!(!network.status);
    assert_eq!(network.reason, "NetworkPluginNotReady");
    assert!(
        network
            .message
            .contains(node.cni.conf_dir().to_str().unwrap()),
        "{network:?}"
    );
    cri.run_pod(&node.pod("early")).await.unwrap_err();
    leaks::assert_none(&node.scratch);

    node.cni.write_conflist(&conflist).unwrap();
    assert!(condition("NetworkReady").await.status);
    cri.run_pod(&node.pod("late")).await.unwrap();
    node.finish().await.unwrap();
}

#[tokio::test]
async fn pods_are_listed_by_id_state_and_label() {
    use slipway_cri_api::v1::{ListPodSandboxRequest, PodSandboxFilter, PodSandboxStateValue};
    let (node, _) = node().await;
    let cri = node.cri();
    let one = cri.run_pod(&node.pod("one")).await.unwrap();
    let two = cri.run_pod(&node.pod("two")).await.unwrap();
    cri.stop_pod(&two).await.unwrap();
    let list = |filter: PodSandboxFilter| async move {
        let request = ListPodSandboxRequest {
            filter: Some(filter),
        };
        let answer = Box::pin(cri.runtime().list_pod_sandbox(request))
            .await
            .unwrap();
        answer
            .into_inner()
            .items
            .into_iter()
            .map(|pod| pod.id)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        list(PodSandboxFilter::default()).await,
        [two.clone(), one.clone()]
    );
    let by_id = PodSandboxFilter {
        id: one[..12].to_owned(),
        ..Default::default()
    };
    assert_eq!(list(by_id).await, std::slice::from_ref(&one));
    let ready = PodSandboxStateValue {
        state: PodSandboxState::SandboxReady.into(),
    };
    let by_state = PodSandboxFilter {
        state: Some(ready),
        ..Default::default()
    };
    assert_eq!(list(by_state).await, std::slice::from_ref(&one));
    let selector = [("app".to_owned(), "two".to_owned())].into();
    let by_label = PodSandboxFilter {
        label_selector: selector,
        ..Default::default()
    };
    assert_eq!(list(by_label).await, [two]);
    node.finish().await.unwrap();
}
