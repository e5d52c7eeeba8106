//! Who a container's processes are and what they may do.

use std::path::{Path, PathBuf};
use std::process::Command;

use slipway_cri_api::v1::{
    Capability, Int64Value, LinuxContainerUser, SeLinuxOption, SecurityProfile,
    SupplementalGroupsPolicy, security_profile::ProfileType,
};
use slipway_testbed::{Image, Layer, Node, pod};
use tonic::Code;

use crate::container::{output, security};
use crate::{docker_lacks_a_capability, node, not_on_docker, on_docker, refused};

/// The identity of the process that says it, by the kernel's word.
const IDENTITY: &str = "grep -E '^(Uid|Gid|Groups):' /proc/self/status | awk '{$1=\"\"; print $0}'";

/// An image with the user `app`, who is a member of two more groups.
fn image_with_users(user: &str) -> Image {
    Image::busybox()
        .layer(
            Layer::new()
                .file(
                    "etc/passwd",
                    0o644,
                    "root:x:0:0::/:/bin/sh\napp:x:1000:1001::/srv:/bin/sh\n",
                )
                .file(
                    "etc/group",
                    0o644,
                    "root:x:0:\napp:x:1001:\nlogs:x:3000:app\nweb:x:3001:ann,app\n",
                ),
        )
        .user(user)
}

#[tokio::test]
async fn supplemental_groups_are_merged_or_not_and_reported() {
    let node = Node::start().await.unwrap();
    let cri = node.cri();
    let image = image_with_users("app");
    let image = node.provide("users:1", &image).await.unwrap().reference;
    let config = node.pod("groups");
    let pod = cri.run_pod(&config).await.unwrap();
    let id = |value| Some(Int64Value { value });
    let strict = SupplementalGroupsPolicy::Strict;
    let merge = SupplementalGroupsPolicy::Merge;
    for (name, user, group, policy, expected) in [
        (
            "merge",
            None,
            None,
            merge,
            (1000, 1001, vec![1001, 2000, 3000, 3001]),
        ),
        ("strict", None, None, strict, (1000, 1001, vec![1001, 2000])),
        (
            "number",
            id(1000),
            id(5),
            merge,
            (1000, 5, vec![5, 2000, 3000, 3001]),
        ),
        (
            "strict-number",
            id(1000),
            id(5),
            strict,
            (1000, 5, vec![5, 2000]),
        ),
        ("unknown", id(4321), None, merge, (4321, 0, vec![0, 2000])),
    ] {
        let mut container = pod::sleeper(name, &image);
        let asked = security(&mut container);
        asked.supplemental_groups = vec![2000];
        asked.supplemental_groups_policy = policy.into();
        asked.run_as_user = user;
        asked.run_as_group = group;
        if name == "number" && not_on_docker("Docker adds none where the request names a group") {
            continue;
        }
        if policy == strict && not_on_docker("Docker always adds the groups that the image has") {
            let answer = cri.create(&pod, &config, &container).await;
            let words = ["supplemental_groups_policy", "Strict"];
            refused(answer, Code::FailedPrecondition, &words);
            continue;
        }
        let container = cri.launch(&pod, &config, &container).await.unwrap();
        let (uid, gid, supplemental_groups) = expected;
        let groups: Vec<String> = supplemental_groups.iter().map(i64::to_string).collect();
        let said = cri.exec(&container, &["sh", "-c", IDENTITY]).await.unwrap();
        assert_eq!(
            String::from_utf8(said.stdout).unwrap(),
            format!(
                " {uid} {uid} {uid} {uid}\n {gid} {gid} {gid} {gid}\n {}\n",
                groups.join(" ")
            ),
            "{name}"
        );
        if not_on_docker("Docker tells nobody who it has found in the image") {
            continue;
        }
        let status = cri.container_status(&container).await.unwrap();
        assert_eq!(
            status.user.unwrap().linux,
            Some(LinuxContainerUser {
                uid,
                gid,
                supplemental_groups,
            }),
            "{name}"
        );
    }
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_user_is_a_name_or_a_number_and_a_group_is_not_enough() {
    let node = Node::start().await.unwrap();
    let cri = node.cri();
    let image = image_with_users("1000:3000");
    let image = node.provide("users:2", &image).await.unwrap().reference;
    let plain = pod::shell("main", &image, "id -u; id -g");
    assert_eq!(output(&node, "image", plain.clone()).await, "1000\n3000");
    let mut named = plain.clone();
    "app".clone_into(&mut security(&mut named).run_as_username);
    security(&mut named).run_as_group = Some(Int64Value { value: 7 });
    assert_eq!(output(&node, "named", named).await, "1000\n7");

    let config = node.pod("refused");
    let pod = cri.run_pod(&config).await.unwrap();
    let mut group_only = plain.clone();
    security(&mut group_only).run_as_group = Some(Int64Value { value: 7 });
    let answer = cri.create(&pod, &config, &group_only).await;
    refused(
        answer,
        Code::InvalidArgument,
        &["run_as_group", "run_as_user"],
    );
    let mut nobody = plain.clone();
    security(&mut nobody).run_as_user = Some(Int64Value { value: -1 });
    let answer = cri.create(&pod, &config, &nobody).await;
    refused(answer, Code::InvalidArgument, &["-1", "user number"]);
    let mut too_high = plain.clone();
    security(&mut too_high).supplemental_groups = vec![1 << 32];
    let answer = cri.create(&pod, &config, &too_high).await;
    refused(
        answer,
        Code::InvalidArgument,
        &["4294967296", "group number"],
    );
    let mut policy = plain;
    security(&mut policy).supplemental_groups_policy = 9;
    let answer = cri.create(&pod, &config, &policy).await;
    refused(
        answer,
        Code::InvalidArgument,
        &["supplemental_groups_policy", "9"],
    );
    assert!(cri.containers().await.unwrap().is_empty());
    node.finish().await.unwrap();
}

/// A line of the test's own `/proc/self/status`.
fn own(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let value = status.lines().find_map(|found| found.strip_prefix(line));
    u64::from_str_radix(value.unwrap().trim(), 16).unwrap()
}

#[tokio::test]
async fn capabilities_are_ambient_all_or_what_the_node_has() {
    let (node, image) = node().await;
    let cri = node.cri();
    let sets = "grep -E '^Cap(Inh|Eff|Amb):' /proc/self/status | tr -d '\\t' | tr '\\n' ' '";
    let plain = pod::shell("main", &image, sets);
    let capabilities = |add: &str, drop: &str, ambient: &str| {
        let list = |name: &str| name.split_whitespace().map(str::to_owned).collect();
        Some(Capability {
            add_capabilities: list(add),
            drop_capabilities: list(drop),
            add_ambient_capabilities: list(ambient),
        })
    };
    // What is ambient is in effect for a user as well.
    let mut ambient = plain.clone();
    security(&mut ambient).run_as_user = Some(Int64Value { value: 1000 });
    security(&mut ambient).capabilities = capabilities("", "ALL", "CAP_NET_BIND_SERVICE");
    if not_on_docker("Docker gives no ambient capabilities") {
        let config = node.pod("ambient");
        let pod = cri.run_pod(&config).await.unwrap();
        let answer = cri.create(&pod, &config, &ambient).await;
        let words = ["add_ambient_capabilities"];
        refused(answer, Code::FailedPrecondition, &words);
    } else {
        assert_eq!(
            output(&node, "ambient", ambient).await.trim(),
            "CapInh:0000000000000400 CapEff:0000000000000400 CapAmb:0000000000000400"
        );
    }
    // Docker 20.10 knows none of those that came after CAP_AUDIT_READ.
    let known = if on_docker() { (1 << 38) - 1 } else { u64::MAX };
    let everything = format!(
        "CapInh:0000000000000000 CapEff:{:016x} CapAmb:0000000000000000",
        own("CapBnd:") & known
    );
    let mut all = plain.clone();
    security(&mut all).capabilities = capabilities("all", "", "");
    let mut privileged = plain.clone();
    security(&mut privileged).privileged = true;
    assert_eq!(output(&node, "all", all).await.trim(), everything);
    if !docker_lacks_a_capability() {
        let said = output(&node, "privileged", privileged).await;
        assert_eq!(said.trim(), everything);
    }

    let config = node.pod("refused");
    let pod = cri.run_pod(&config).await.unwrap();
    for (field, asked) in [
        ("add_capabilities", capabilities("SYS_EVERYTHING", "", "")),
        ("drop_capabilities", capabilities("", "SYS_EVERYTHING", "")),
        (
            "add_ambient_capabilities",
            capabilities("", "", "SYS_EVERYTHING"),
        ),
    ]
    .into_iter()
    .filter(|(field, _)| !on_docker() || !field.contains("ambient"))
    {
        let mut unknown = plain.clone();
        security(&mut unknown).capabilities = asked;
        let answer = cri.create(&pod, &config, &unknown).await;
        refused(answer, Code::InvalidArgument, &[field, "SYS_EVERYTHING"]);
    }
    // CAP_SYS_RESOURCE is what nodes in containers often lack.
    let mut asking = plain;
    security(&mut asking).capabilities = capabilities("SYS_RESOURCE", "", "");
    let answer = cri.create(&pod, &config, &asking).await;
    if own("CapBnd:") & (1 << 24) == 0 {
        refused(
            answer,
            Code::FailedPrecondition,
            &["add_capabilities", "SYS_RESOURCE"],
        );
    } else {
        answer.unwrap();
    }
    node.finish().await.unwrap();
}

#[tokio::test]
async fn listed_paths_are_masked_or_read_only_for_exec_as_well() {
    let (node, image) = node().await;
    let cri = node.cri();
    let config = node.pod("paths");
    let pod = cri.run_pod(&config).await.unwrap();
    let mut container = pod::sleeper("main", &image);
    security(&mut container).masked_paths =
        vec!["/proc/uptime".to_owned(), "/sys/class".to_owned()];
    security(&mut container).readonly_paths = vec!["/tmp".to_owned(), "/proc/sys".to_owned()];
    let id = cri.launch(&pod, &config, &container).await.unwrap();
    let script = "cat /proc/uptime; ls /sys/class; touch /tmp/x 2>&1; wc -l </proc/interrupts";
    let said = cri.exec(&id, &["sh", "-c", script]).await.unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].contains("Read-only file system"), "{said}");
    // What is not on the list is as the kernel has it.
    assert_ne!(lines[1], "0", "{said}");

    let mut relative = pod::sleeper("relative", &image);
    security(&mut relative).masked_paths = vec!["proc/uptime".to_owned()];
    let answer = cri.create(&pod, &config, &relative).await;
    refused(
        answer,
        Code::InvalidArgument,
        &["masked_paths", "proc/uptime"],
    );
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_pods_sysctls_are_set_and_the_nodes_are_refused() {
    let (node, image) = node().await;
    let cri = node.cri();
    let mut config = node.pod("sysctls");
    let sysctls = [
        ("net.ipv4.ip_local_port_range", "20000 20999"),
        ("net/ipv4/tcp_syncookies", "0"),
        ("net.ipv4.ping_group_range", "0 7"),
        ("kernel.shm_rmid_forced", "1"),
        ("kernel.msgmax", "4096"),
        ("kernel.sem", "1 2 3 4"),
        ("fs.mqueue.msg_max", "20"),
        ("kernel.domainname", "example.test"),
    ];
    let list = |sysctls: &[(&str, &str)]| {
        let own = sysctls
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        own.collect()
    };
    config.linux.as_mut().unwrap().sysctls = list(&sysctls);
    let pod = cri.run_pod(&config).await.unwrap();
    let container = pod::sleeper("main", &image);
    let id = cri.launch(&pod, &config, &container).await.unwrap();
    for (name, value) in sysctls {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let said = cri.exec(&id, &["cat", &path]).await.unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let said: Vec<_> = said.split_whitespace().collect();
        assert_eq!(said.join(" "), value, "{name}");
    }

    let node_mode = slipway_cri_api::v1::NamespaceMode::Node.into();
    for (name, host_network, host_ipc) in [
        ("kernel.panic", false, false),
        ("kernel.hostname", false, false),
        ("vm.swappiness", false, false),
        ("user.max_user_namespaces", false, false),
        ("net/../kernel/panic", false, false),
        ("net.ipv4.ip_forward", true, false),
        ("net/ipv4/ip_forward", true, false),
        ("kernel.domainname", true, false),
        ("kernel.shm_rmid_forced", false, true),
        ("fs.mqueue.msg_max", false, true),
    ] {
        let mut config = node.pod("refused");
        let linux = config.linux.as_mut().unwrap();
        linux.sysctls = list(&[(name, "1")]);
        let security = linux.security_context.as_mut().unwrap();
        let namespaces = security.namespace_options.as_mut().unwrap();
        if host_network {
            namespaces.network = node_mode;
        }
        if host_ipc {
            namespaces.ipc = node_mode;
        }
        refused(
            cri.run_pod(&config).await,
            Code::InvalidArgument,
            &["sysctls", name],
        );
    }
    assert_eq!(cri.pods().await.unwrap().len(), 1);
    node.finish().await.unwrap();
}

/// A profile of the test's own, until it is dropped.
struct LoadedProfile {
    name: String,
    path: PathBuf,
}

impl LoadedProfile {
    fn new(node: &Node) -> Self {
        let name = format!(
            "slipway-test-{}-{}",
            std::process::id(),
            node.scratch.number()
        );
        let path = node.scratch.join("apparmor-profile");
        let rules = "file, capability, network, signal, ptrace, deny /tmp/denied w,";
        let text = format!("profile {name} flags=(attach_disconnected) {{ {rules} }}\n");
        std::fs::write(&path, text).unwrap();
        let own = Self { name, path };
        own.parse("--replace");
        own
    }

    fn parse(&self, option: &str) {
        let mut parser = Command::new("apparmor_parser");
        let status = parser
            .args([option, "--skip-cache"])
            .arg(&self.path)
            .status();
        assert!(status.unwrap().success(), "apparmor_parser {option}");
    }
}

impl Drop for LoadedProfile {
    fn drop(&mut self) {
        self.parse("--remove");
    }
}

#[tokio::test]
#[expect(
    deprecated,
    reason = "kubelets before 1.31 send the profile as a string"
)]
async fn an_apparmor_profile_is_applied_or_refused_by_name() {
    let (node, image) = node().await;
    let cri = node.cri();
    let enabled = std::fs::read("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|value| value.starts_with(b"Y"));
    let profile = |profile_type: ProfileType, name: &str| {
        Some(SecurityProfile {
            profile_type: profile_type.into(),
            localhost_ref: name.to_owned(),
        })
    };
    let current = "cat /proc/self/attr/apparmor/current 2>/dev/null || echo none";
    let plain = pod::shell("main", &image, current);
    let (default, unconfined) = if enabled && on_docker() {
        ("docker-default (enforce)", "unconfined")
    } else if enabled {
        ("slipway-default (enforce)", "unconfined")
    } else {
        ("none", "none")
    };
    assert_eq!(output(&node, "silent", plain.clone()).await, default);
    for (name, profile_type, old, expected) in [
        ("default", Some(ProfileType::RuntimeDefault), "", default),
        ("unconfined", Some(ProfileType::Unconfined), "", unconfined),
        ("old-default", None, "runtime/default", default),
        ("old-unconfined", None, "unconfined", unconfined),
    ] {
        let mut container = plain.clone();
        security(&mut container).apparmor = profile_type.and_then(|one| profile(one, ""));
        old.clone_into(&mut security(&mut container).apparmor_profile);
        assert_eq!(output(&node, name, container).await, expected, "{name}");
    }
    let mut privileged = plain.clone();
    security(&mut privileged).privileged = true;
    security(&mut privileged).apparmor = profile(ProfileType::RuntimeDefault, "");
    if !docker_lacks_a_capability() {
        assert_eq!(output(&node, "privileged", privileged).await, unconfined);
    }
    // It is in force: a mount is denied that all other walls let through.
    let mounts = "mkdir /m; mount -t tmpfs none /m 2>/dev/null && echo mounted || echo denied";
    let denied = if enabled { "denied" } else { "mounted" };
    for (name, profile_type, expected) in [
        ("enforced", ProfileType::RuntimeDefault, denied),
        ("free", ProfileType::Unconfined, "mounted"),
    ] {
        let mut container = pod::shell("main", &image, mounts);
        security(&mut container).apparmor = profile(profile_type, "");
        security(&mut container).capabilities = Some(Capability {
            add_capabilities: vec!["SYS_ADMIN".to_owned()],
            ..Capability::default()
        });
        assert_eq!(output(&node, name, container).await, expected, "{name}");
    }

    let config = node.pod("refused");
    let pod = cri.run_pod(&config).await.unwrap();
    if enabled {
        let own = LoadedProfile::new(&node);
        let mut confined = pod::sleeper("confined", &image);
        security(&mut confined).apparmor = profile(ProfileType::Localhost, &own.name);
        let id = cri.launch(&pod, &config, &confined).await.unwrap();
        // What is executed later is confined as well, and signals still come through.
        let script = format!("{current}; touch /tmp/free && touch /tmp/denied 2>&1");
        let said = cri.exec(&id, &["sh", "-c", &script]).await.unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        assert!(
            said.starts_with(&format!("{} (enforce)\n", own.name)),
            "{said}"
        );
        assert!(said.contains("/tmp/denied: Permission denied"), "{said}");
        cri.stop(&id, 30).await.unwrap();
        assert_eq!(cri.container_status(&id).await.unwrap().exit_code, 0);
    }
    let mut absent = plain.clone();
    security(&mut absent).apparmor = profile(ProfileType::Localhost, "no-such-profile");
    let words = ["security_context.apparmor", "no-such-profile"];
    let answer = cri.create(&pod, &config, &absent).await;
    refused(answer, Code::FailedPrecondition, &words);
    let mut old = plain.clone();
    "localhost/no-such-profile".clone_into(&mut security(&mut old).apparmor_profile);
    let answer = cri.create(&pod, &config, &old).await;
    refused(answer, Code::FailedPrecondition, &words);
    let mut nonsense = plain;
    "default".clone_into(&mut security(&mut nonsense).apparmor_profile);
    let answer = cri.create(&pod, &config, &nonsense).await;
    refused(answer, Code::InvalidArgument, &["apparmor_profile"]);
    node.finish().await.unwrap();
}

#[tokio::test]
async fn selinux_options_are_without_effect_where_there_is_no_selinux() {
    let (node, image) = node().await;
    // What two streams say is logged in no order.
    let script = "cat /proc/self/attr/current 2>&1; id -u";
    let mut container = pod::shell("main", &image, script);
    security(&mut container).selinux_options = Some(SeLinuxOption {
        r#type: "container_t".to_owned(),
        level: "s0:c1,c2".to_owned(),
        ..SeLinuxOption::default()
    });
    let said = output(&node, "labelled", container).await;
    if Path::new("/sys/fs/selinux/enforce").exists() {
        assert!(said.contains("container_t:s0:c1,c2"), "{said}");
    } else {
        assert!(
            said.ends_with('0') && !said.contains("container_t"),
            "{said}"
        );
    }
    node.finish().await.unwrap();
}
