//! docs/troubleshooting.md shows errors as Slipway prints them.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use slipway_cri_api::v1::{
    Device, LinuxContainerSecurityContext, SecurityProfile, security_profile::ProfileType,
};
use slipway_testbed::{Image, Node, Registry, Scratch, pod};

use crate::for_everybody;
use crate::handler::run_pod;

/// What `slipway` says that fails when a user runs it.
fn failing(uid: u32, words: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(for_everybody(directory.path()))
        .args(words)
        .uid(uid)
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    said.lines().last().unwrap().to_owned()
}

async fn pulls(said: &mut Vec<String>) {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let registries = "[[registry]]\nprefix = \"forbidden.example\"\nblocked = true\n";
    let node = Node::start_with(|builder| {
        builder
            .registries(registries)
            .config("[image]\nstall_timeout_seconds = 1\n")
    });
    let node = node.await.unwrap();
    let cri = node.cri();
    let foreign = Image::busybox().platform("linux", "s390x", None);
    let foreign = node.registry.push_index("foreign:1", &[foreign]).await;
    for reference in [
        node.registry.reference("team/app:1"),
        "localhost:1/team/app:1".to_owned(),
        format!("{}/team/app:1", silent.local_addr().unwrap()),
        "no-such-host.invalid/team/app:1".to_owned(),
        "forbidden.example/team/app:1".to_owned(),
        foreign.unwrap().reference,
        "Team/App:1".to_owned(),
    ] {
        let refused = cri.pull(&reference).await.unwrap_err();
        said.push(refused.message().to_owned());
    }
    let scratch = Scratch::new().unwrap();
    let htpasswd = scratch.join("htpasswd");
    fs::write(&htpasswd, "").unwrap();
    let section = format!(
        "auth:\n  htpasswd:\n    realm: r\n    path: {}\n",
        htpasswd.display()
    );
    let closed = Registry::start_with(&scratch, &section).await.unwrap();
    let refused = cri.pull(&closed.reference("team/app:1")).await.unwrap_err();
    said.push(refused.message().to_owned());
    drop(closed);
    node.finish().await.unwrap();
}

async fn containers(said: &mut Vec<String>) {
    let node = Node::start().await.unwrap();
    let image = node.provide("busybox:1", &Image::busybox()).await.unwrap();
    let image = image.reference;
    let cri = node.cri();
    let config = node.pod("troubled");
    let id = cri.run_pod(&config).await.unwrap();
    let changed = |change: &dyn Fn(&mut LinuxContainerSecurityContext)| {
        let mut container = pod::sleeper("c", &image);
        let linux = container.linux.get_or_insert_default();
        change(linux.security_context.get_or_insert_default());
        container
    };
    let local = |name: &str| {
        Some(SecurityProfile {
            profile_type: ProfileType::Localhost as i32,
            localhost_ref: name.to_owned(),
        })
    };
    let mut device = pod::sleeper("c", &image);
    device.devices = vec![Device {
        container_path: "/dev/gpu0".to_owned(),
        host_path: "/dev/no-such-device".to_owned(),
        permissions: "rwm".to_owned(),
    }];
    for container in [
        pod::sleeper("c", "registry.example/not/pulled:1"),
        pod::container("c", &image, ["no-such-program"]),
        pod::container("c", &image, ["/etc/passwd"]),
        changed(&|context| "nobody-here".clone_into(&mut context.run_as_username)),
        changed(&|context| context.seccomp = local("/var/lib/kubelet/seccomp/no.json")),
        changed(&|context| context.apparmor = local("no-such-profile")),
        device,
    ] {
        let refused = match cri.create(&id, &config, &container).await {
            Err(refused) => refused,
            Ok(created) => cri.start(&created).await.unwrap_err(),
        };
        said.push(refused.message().to_owned());
    }
    let refused = run_pod(cri, &node.pod("handled"), "gvisor").await;
    said.push(refused.unwrap_err().message().to_owned());
    let mut sliced = node.pod("sliced");
    let linux = sliced.linux.as_mut().unwrap();
    "kubepods-burstable-pod1.slice".clone_into(&mut linux.cgroup_parent);
    said.push(cri.run_pod(&sliced).await.unwrap_err().message().to_owned());
    let mut tuned = node.pod("tuned");
    let sysctls = [("vm.swappiness".to_owned(), "1".to_owned())];
    tuned.linux.as_mut().unwrap().sysctls = sysctls.into();
    said.push(cri.run_pod(&tuned).await.unwrap_err().message().to_owned());
    let ended = pod::container("ended", &image, ["true"]);
    let ended = cri.launch(&id, &config, &ended).await.unwrap();
    cri.wait_for_exit(&ended).await.unwrap();
    let exec = cri.exec(&ended, &["true"]).await;
    said.push(exec.unwrap_err().message().to_owned());
    cri.stop_pod(&id).await.unwrap();
    let late = cri.create(&id, &config, &pod::sleeper("c", &image)).await;
    said.push(late.unwrap_err().message().to_owned());
    let socket = cri.socket().to_str().unwrap();
    said.push(failing(65534, &["--endpoint", socket, "ps"]));
    let absent = format!("{socket}.absent");
    said.push(failing(0, &["--endpoint", &absent, "ps"]));
    node.finish().await.unwrap();
}

async fn network(said: &mut Vec<String>) {
    let node = Node::start().await.unwrap();
    let conflist = node.cni.conflist().unwrap();
    for broken in [
        conflist.replace("\"bridge\"", "\"no-such-plugin\""),
        "{".to_owned(),
    ] {
        node.cni.write_conflist(&broken).unwrap();
        let refused = node.cri().run_pod(&node.pod("cut-off")).await.unwrap_err();
        said.push(refused.message().to_owned());
    }
    for file in fs::read_dir(node.cni.conf_dir()).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    let refused = node.cri().run_pod(&node.pod("cut-off")).await.unwrap_err();
    said.push(refused.message().to_owned());
    node.finish().await.unwrap();
}

/// Daemons that do not start.
async fn daemons(said: &mut Vec<String>) {
    let node = Node::start().await.unwrap();
    let (root, state) = (node.daemon.root(), node.scratch.join("other"));
    let serve = |uid, words: &[&str]| failing(uid, &[&["serve"], words].concat());
    let (root, state) = (root.to_str().unwrap(), state.to_str().unwrap());
    said.push(serve(0, &["--root", root, "--state", state]));
    said.push(serve(65534, &["--root", root, "--state", state]));
    let config = node.scratch.join("mistaken.toml");
    fs::write(&config, "rooot = \"/var/lib/slipway\"\n").unwrap();
    said.push(serve(0, &["--config", config.to_str().unwrap()]));
    node.finish().await.unwrap();
}

/// Part of the program: it is also run where the tree is not.
const GUIDE: &str = include_str!("../../../../docs/troubleshooting.md");

/// The messages that the guide shows.
fn shown() -> Vec<String> {
    let blocks = GUIDE.split("```text\n").skip(1);
    let blocks = blocks.map(|rest| rest.split_once("\n```").unwrap().0.to_owned());
    blocks.collect()
}

/// Whether a message is as a line of the guide has it, with anything for what is in `<brackets>`.
fn is_shown_by(message: &str, shown: &str) -> bool {
    let mut rest = message;
    let mut pieces = shown.split('<').map(|piece| match piece.split_once('>') {
        Some((_, fixed)) => fixed,
        None => piece,
    });
    let first = pieces.next().unwrap_or_default();
    let Some(after) = rest.strip_prefix(first) else {
        return false;
    };
    rest = after;
    let mut last = first;
    for piece in pieces {
        let Some((_, after)) = rest.split_once(piece) else {
            return false;
        };
        // What ends with something variable ends with anything.
        rest = if piece.is_empty() { "" } else { after };
        last = piece;
    }
    rest.is_empty() || message.ends_with(last)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_guide_shows_is_what_is_said() {
    let mut said = Vec::new();
    pulls(&mut said).await;
    Box::pin(containers(&mut said)).await;
    network(&mut said).await;
    daemons(&mut said).await;
    let shown = shown();
    assert!(shown.len() > 20, "{shown:#?}");
    let apparmor = Path::new("/sys/kernel/security/apparmor/profiles").exists();
    let elsewhere = if apparmor {
        "has no AppArmor"
    } else {
        "apparmor_parser"
    };
    for line in shown.iter().filter(|line| !line.contains(elsewhere)) {
        let is_said = said.iter().any(|message| {
            let message = message.trim_end();
            is_shown_by(message, line)
                || message
                    .strip_prefix("slipway: ")
                    .is_some_and(|message| is_shown_by(message, line))
        });
        assert!(is_said, "nobody says {line:?}, but {said:#?}");
    }
    for message in &said {
        let message = message.trim_end();
        let plain = message.strip_prefix("slipway: ").unwrap_or(message);
        let is_shown = shown
            .iter()
            .any(|line| is_shown_by(message, line) || is_shown_by(plain, line));
        assert!(is_shown, "the guide does not have {message:?}");
    }
    assert!(!is_shown_by("registry a: gone", "registry <host>: there"));
    assert!(!is_shown_by("a registry: b", "registry: <reason>"));
}
