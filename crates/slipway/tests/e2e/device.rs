//! Devices: which nodes a container has, what it may do with them, and what is refused.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode};
use slipway_cri_api::v1::{ContainerConfig, Device, Int64Value, Mount};
use slipway_testbed::{Image, Node, pod};
use tonic::Code;

use crate::container::{output, security};
use crate::{docker_lacks_a_capability, node, not_on_docker, refused};

fn device(host: &Path, container: &str, permissions: &str) -> Device {
    Device {
        host_path: host.display().to_string(),
        container_path: container.to_owned(),
        permissions: permissions.to_owned(),
    }
}

fn with(mut container: ContainerConfig, devices: Vec<Device>) -> ContainerConfig {
    container.devices = devices;
    container
}

/// The numbers of /dev/fuse, /dev/net/tun and /dev/loop-control, which containers do not have, and
/// which root can open without capabilities.
const FUSE: (u32, u32) = (10, 229);
const TUN: (u32, u32) = (10, 200);
const LOOP_CONTROL: (u32, u32) = (10, 237);

/// What opening tun without permission says.
fn tun_refused() -> &'static str {
    if not_on_docker("its runc lets every container use tun") {
        ""
    } else {
        "not permitted\n"
    }
}

/// Makes a device node.
fn make(path: &Path, (major, minor): (u32, u32)) {
    let device = rustix::fs::makedev(major, minor);
    let mode = Mode::from_raw_mode(0o640);
    rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, mode, device).unwrap();
}

#[tokio::test]
async fn a_device_can_be_used_as_its_permissions_say() {
    let (node, image) = node().await;
    let devices = node.scratch.join("devices");
    fs::create_dir_all(devices.join("more/deep")).unwrap();
    make(&devices.join("fuse"), FUSE);
    make(&devices.join("more/tun"), TUN);
    make(&devices.join("more/deep/loop"), LOOP_CONTROL);
    fs::write(devices.join("more/no-device"), "").unwrap();
    symlink("fuse", devices.join("link")).unwrap();
    let stat = "stat -c '%n %t:%T %a' /dev/read /dev/linked /dev/all/tun /dev/all/deep/loop /own; \
                ls /dev/all";
    let script = format!(
        "{stat}; (: < /dev/read) && echo read; \
         (: > /dev/read) 2>&1 | grep -o 'not permitted'; \
         (: < /dev/all/tun) 2>&1 | grep -o 'not permitted'; \
         mknod /tmp/loop c 10 237 && (: < /tmp/loop) 2>&1 | grep -o 'not permitted'; \
         mknod /tmp/fuse c 10 229 && (: < /tmp/fuse) && echo granted"
    );
    let listed = vec![
        device(&devices.join("fuse"), "/dev/read", "r"),
        device(&devices.join("link"), "/dev/linked", "rm"),
        device(&devices.join("more"), "/dev/all", "m"),
        device(&devices.join("fuse"), "/own", "r"),
        // The same once more is one.
        device(&devices.join("fuse"), "/dev/read", "m"),
    ];
    let container = with(pod::shell("main", &image, &script), listed);
    assert_eq!(
        output(&node, "permissions", container).await,
        format!(
            "/dev/read a:e5 640\n/dev/linked a:e5 640\n/dev/all/tun a:c8 640\n\
             /dev/all/deep/loop a:ed 640\n/own a:e5 640\ndeep\ntun\nread\n\
             not permitted\n{tun}not permitted\ngranted",
            tun = tun_refused()
        )
    );
    // Where the request names no path, it is the node's.
    let fuse = devices.join("fuse");
    let script = format!("stat -c %t:%T {}", fuse.display());
    let container = with(
        pod::shell("main", &image, &script),
        vec![device(&fuse, "", "rw")],
    );
    assert_eq!(output(&node, "same", container).await, "a:e5");
    node.finish().await.unwrap();
}

#[tokio::test]
async fn what_is_not_granted_is_denied_by_the_cgroup() {
    let (node, image) = node().await;
    let script = "for device in '10 229' '10 237' '10 200'; do mknod /tmp/d c $device; \
                  (: < /tmp/d) 2>&1 | grep -o 'not permitted'; rm /tmp/d; done; \
                  mknod /tmp/null c 1 3 && echo x > /tmp/null && echo null";
    let container = pod::shell("main", &image, script);
    assert_eq!(
        output(&node, "denied", container).await,
        format!("not permitted\nnot permitted\n{}null", tun_refused())
    );
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_privileged_container_has_the_nodes_devices_and_those_to_come() {
    if docker_lacks_a_capability() {
        return;
    }
    let (node, image) = node().await;
    let own = node.scratch.join("fuse");
    make(&own, FUSE);
    // One that has no node yet, and one under another name.
    let script = "mknod /tmp/later c 10 229 && (: < /tmp/later) && echo later; \
                  stat -c %t:%T /dev/renamed; find /dev -maxdepth 1 -type b -o -type c | wc -l";
    let mut container = with(
        pod::shell("main", &image, script),
        vec![device(&own, "/dev/renamed", "r")],
    );
    security(&mut container).privileged = true;
    // A terminal and its multiplexer are the container's own.
    let own = |entry: &fs::DirEntry| {
        ["console", "ptmx"]
            .iter()
            .any(|own| *own == entry.file_name())
    };
    // Before it is made: others may add some at any time.
    let entries = fs::read_dir("/dev").unwrap().flatten();
    let kinds = entries
        .filter(|entry| !own(entry))
        .filter_map(|entry| entry.file_type().ok());
    let nodes = kinds
        .filter(|kind| kind.is_block_device() || kind.is_char_device())
        .count();
    let text = output(&node, "privileged", container).await;
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..2], ["later", "a:e5"]);
    assert!(
        lines[2].parse::<usize>().unwrap() >= nodes,
        "{text}, of {nodes}"
    );
    node.finish().await.unwrap();
}

#[tokio::test]
async fn devices_belong_to_the_containers_user_where_the_configuration_says_so() {
    if not_on_docker("devices belong to whom Docker says") {
        return;
    }
    let owner = async |configuration: &str| {
        let node = Node::start_with(|daemon| daemon.config(configuration))
            .await
            .unwrap();
        let pushed = node.provide("busybox:1", &Image::busybox()).await.unwrap();
        let fuse = node.scratch.join("fuse");
        make(&fuse, FUSE);
        let script = "stat -c %u:%g:%a /dev/fuse; (: < /dev/fuse) 2>/dev/null && echo opens; true";
        let mut container = with(
            pod::shell("main", &pushed.reference, script),
            vec![device(&fuse, "/dev/fuse", "rw")],
        );
        security(&mut container).run_as_user = Some(Int64Value { value: 1000 });
        security(&mut container).run_as_group = Some(Int64Value { value: 2000 });
        let text = output(&node, "owned", container).await;
        node.finish().await.unwrap();
        text
    };
    assert_eq!(owner("").await, "0:0:640");
    let configuration = "[runtime]\ndevice_ownership_from_security_context = true\n";
    assert!(owner(configuration).await.starts_with("1000:2000:640"));
}

#[tokio::test]
async fn what_cannot_be_a_device_is_refused_by_its_field() {
    let (node, image) = node().await;
    let cri = node.cri();
    let config = node.pod("bad");
    let sandbox = cri.run_pod(&config).await.unwrap();
    let before = slipway_testbed::leaks::snapshot(&node.scratch);
    let file = node.scratch.join("file");
    fs::write(&file, "").unwrap();
    let empty = node.scratch.join("empty");
    fs::create_dir(&empty).unwrap();
    let null = Path::new("/dev/null");
    for (device, code, words) in [
        (
            device(&file, "/dev/x", "rw"),
            Code::InvalidArgument,
            ["Device.host_path", "file"],
        ),
        (
            device(&empty, "/dev/x", "rw"),
            Code::InvalidArgument,
            ["Device.host_path", "empty"],
        ),
        (
            device(Path::new("/dev/nothing-there"), "/dev/x", "rw"),
            Code::FailedPrecondition,
            ["Device.host_path", "nothing-there"],
        ),
        (
            device(Path::new("null"), "/dev/x", "rw"),
            Code::InvalidArgument,
            ["Device.host_path", "absolute"],
        ),
        (
            device(null, "dev/x", "rw"),
            Code::InvalidArgument,
            ["Device.container_path", "dev/x"],
        ),
        (
            device(null, "/dev/../etc/x", "rw"),
            Code::InvalidArgument,
            ["Device.container_path", ".."],
        ),
        (
            device(null, "/dev/x", ""),
            Code::InvalidArgument,
            ["Device.permissions", "/dev/null"],
        ),
        (
            device(null, "/dev/x", "rwx"),
            Code::InvalidArgument,
            ["Device.permissions", "rwx"],
        ),
        (
            device(null, "/etc/passwd", "r"),
            Code::InvalidArgument,
            ["/etc/passwd", "something else"],
        ),
    ] {
        let in_the_image = words[1] == "something else";
        if in_the_image && not_on_docker("Docker makes devices in the place of what the image has")
        {
            continue;
        }
        let container = with(pod::sleeper("main", &image), vec![device]);
        refused(
            cri.create(&sandbox, &config, &container).await,
            code,
            &words,
        );
    }
    let twice = vec![
        device(null, "/dev/x", "r"),
        device(Path::new("/dev/zero"), "/dev/x", "r"),
    ];
    let container = with(pod::sleeper("main", &image), twice);
    let answer = cri.create(&sandbox, &config, &container).await;
    refused(
        answer,
        Code::InvalidArgument,
        &["Device.container_path", "twice"],
    );
    let mut container = with(
        pod::sleeper("main", &image),
        vec![device(null, "/dev/x", "r")],
    );
    container.mounts = vec![Mount {
        host_path: "/dev".to_owned(),
        container_path: "/dev".to_owned(),
        ..Default::default()
    }];
    let answer = cri.create(&sandbox, &config, &container).await;
    refused(
        answer,
        Code::InvalidArgument,
        &["Device.container_path", "covered"],
    );
    slipway_testbed::leaks::assert_no_more(&node.scratch, &before);
    node.finish().await.unwrap();
}
