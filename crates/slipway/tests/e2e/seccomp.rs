//! Filters over system calls, by what containers can and cannot do.

use std::path::PathBuf;

use slipway_cri_api::v1::{
    Capability, ContainerConfig, Int64Value, SecurityProfile, security_profile::ProfileType,
};
use slipway_testbed::{Node, pod};
use tonic::Code;

use crate::container::{output, security};
use crate::{docker_lacks_a_capability, handler, node, not_on_docker, refused};

/// Says how many filters there are, and whether a user namespace can be made: that takes no
/// capability, so that only a filter can refuse it.
const UNSHARE: &str = "grep -E '^Seccomp:' /proc/self/status | tr -d '\\t'; \
                       unshare -U true 2>&1 | sed 's/.*: //'";
const FILTERED: &str = "Seccomp:2\nOperation not permitted";
const UNFILTERED: &str = "Seccomp:0";

fn profile(profile_type: ProfileType, reference: &str) -> SecurityProfile {
    SecurityProfile {
        profile_type: profile_type.into(),
        localhost_ref: reference.to_owned(),
    }
}

/// Writes a profile where a kubelet would have it.
fn write(node: &Node, name: &str, json: &str) -> PathBuf {
    let directory = node.scratch.join("seccomp");
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join(name);
    std::fs::write(&path, json).unwrap();
    path
}

/// Everything is allowed, but `mkdir`: the disk is full, it says.
const NO_MKDIR: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
    {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28, "args": null}]}"#;

fn with_localhost(container: &ContainerConfig, path: &std::path::Path) -> ContainerConfig {
    let mut container = container.clone();
    security(&mut container).seccomp =
        Some(profile(ProfileType::Localhost, path.to_str().unwrap()));
    container
}

#[tokio::test]
async fn the_runtimes_default_refuses_what_reaches_beyond_a_container() {
    let (node, image) = node().await;
    let plain = pod::shell("main", &image, UNSHARE);
    // A kubelet that wants its default profile says so.
    assert_eq!(output(&node, "silent", plain.clone()).await, UNFILTERED);

    let mut default = plain.clone();
    security(&mut default).seccomp = Some(profile(ProfileType::RuntimeDefault, ""));
    assert_eq!(output(&node, "default", default.clone()).await, FILTERED);
    let mut user = default.clone();
    security(&mut user).run_as_user = Some(Int64Value { value: 1000 });
    assert_eq!(output(&node, "user", user.clone()).await, FILTERED);
    security(&mut user).no_new_privs = true;
    assert_eq!(output(&node, "no-new", user).await, FILTERED);

    let mut unconfined = plain.clone();
    security(&mut unconfined).seccomp = Some(profile(ProfileType::Unconfined, ""));
    assert_eq!(output(&node, "unconfined", unconfined).await, UNFILTERED);
    let mut privileged = default.clone();
    security(&mut privileged).privileged = true;
    if !docker_lacks_a_capability() {
        assert_eq!(output(&node, "privileged", privileged).await, UNFILTERED);
    }

    // With the capability for it the same profile lets it through.
    let mut capable = default.clone();
    security(&mut capable).capabilities = Some(Capability {
        add_capabilities: vec!["SYS_ADMIN".to_owned()],
        ..Default::default()
    });
    assert_eq!(output(&node, "capable", capable).await, "Seccomp:2");

    // Ordinary programs see nothing of it, threads and terminals included.
    let mut ordinary = pod::shell(
        "main",
        &image,
        "tty; (echo a; echo b) | sort -r | head -n 1; chroot / id -u; adjtimex >/dev/null && date +%Y | wc -c",
    );
    security(&mut ordinary).seccomp = Some(profile(ProfileType::RuntimeDefault, ""));
    ordinary.tty = true;
    assert_eq!(
        output(&node, "ordinary", ordinary).await.replace('\r', ""),
        "/dev/pts/0\nb\n0\n5"
    );
    node.finish().await.unwrap();
}

#[tokio::test]
#[expect(deprecated, reason = "kubelets before 1.25 send the paths of profiles")]
async fn an_old_kubelets_paths_mean_the_same() {
    let (node, image) = node().await;
    let plain = pod::shell("main", &image, UNSHARE);
    let mut localhost = pod::shell("main", &image, "mkdir /m 2>&1 | sed 's/.*: //'");
    let path = write(&node, "no-mkdir.json", NO_MKDIR);
    security(&mut localhost).seccomp_profile_path = format!("localhost/{}", path.display());
    assert_eq!(
        output(&node, "localhost", localhost).await,
        "No space left on device"
    );
    for (name, old, expected) in [
        ("runtime", "runtime/default", FILTERED),
        ("docker", "docker/default", FILTERED),
        ("unconfined", "unconfined", UNFILTERED),
    ] {
        let mut container = plain.clone();
        old.clone_into(&mut security(&mut container).seccomp_profile_path);
        assert_eq!(output(&node, name, container).await, expected, "{old}");
    }
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_profile_of_the_nodes_own_holds_for_everything_in_the_container() {
    let (node, image) = node().await;
    let cri = node.cri();
    let path = write(&node, "no-mkdir.json", NO_MKDIR);
    let config = node.pod("localhost");
    let pod = cri.run_pod(&config).await.unwrap();
    for (name, user, no_new_privs) in [
        ("root", 0, false),
        ("root-bound", 0, true),
        ("user", 1000, false),
        ("user-bound", 1000, true),
    ] {
        let mut container = with_localhost(&pod::sleeper(name, &image), &path);
        security(&mut container).run_as_user = Some(Int64Value { value: user });
        security(&mut container).no_new_privs = no_new_privs;
        let id = cri.launch(&pod, &config, &container).await.unwrap();
        // What is executed in it later is filtered as well, and has no more capabilities for it.
        let made = cri.exec(&id, &["mkdir", "/tmp/m"]).await.unwrap();
        assert_eq!(made.exit_code, 1, "{name}");
        let said = String::from_utf8(made.stderr).unwrap();
        assert!(said.contains("No space left on device"), "{name}: {said}");
        let script = "for p in 1 self; do grep -E 'Seccomp:|CapPrm|NoNew' /proc/$p/status; done";
        let status = cri.exec(&id, &["sh", "-c", script]).await.unwrap();
        let status = String::from_utf8(status.stdout).unwrap().replace('\t', "");
        let capabilities = if user == 0 {
            "00000000a80425fb"
        } else {
            "0000000000000000"
        };
        let one = format!(
            "CapPrm:{capabilities}\nNoNewPrivs:{}\nSeccomp:2\n",
            u8::from(no_new_privs)
        );
        assert_eq!(status, one.repeat(2), "{name}");
    }
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_strict_profile_needs_to_allow_nothing_for_slipway() {
    if not_on_docker("runc needs more calls between the filter and execve") {
        return;
    }
    let (node, image) = node().await;
    // What /bin/true of a static busybox needs, and the one call between the filter and execve.
    let json = r#"{"defaultAction": "SCMP_ACT_KILL_PROCESS",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []},
                    {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": []}],
        "syscalls": [
        {"names": ["capset", "execve", "arch_prctl", "brk", "set_tid_address", "set_robust_list",
                   "rseq", "prlimit64", "readlink", "readlinkat", "getrandom", "mprotect", "mmap",
                   "uname", "newfstatat", "prctl", "getuid", "getgid", "setuid", "setgid",
                   "write", "exit_group", "futex"], "action": "SCMP_ACT_ALLOW"}]}"#;
    let path = write(&node, "strict.json", json);
    for (name, no_new_privs) in [("free", false), ("bound", true)] {
        let container = pod::container("main", &image, ["/bin/echo", "done"]);
        let mut container = with_localhost(&container, &path);
        security(&mut container).no_new_privs = no_new_privs;
        assert_eq!(output(&node, name, container).await, "done");
    }
    // What is not on the list ends the process, by SIGSYS.
    let cri = node.cri();
    let config = node.pod("killed");
    let pod = cri.run_pod(&config).await.unwrap();
    let container = pod::container("main", &image, ["/bin/mkdir", "/m"]);
    let container = with_localhost(&container, &path);
    let id = cri.launch(&pod, &config, &container).await.unwrap();
    assert_eq!(cri.wait_for_exit(&id).await.unwrap().exit_code, 128 + 31);
    node.finish().await.unwrap();
}

#[tokio::test]
async fn an_external_runtime_gets_the_same_filter() {
    if not_on_docker("the runtime is Docker's own") {
        return;
    }
    let (node, image) = handler::node_with(&handler::runc(), "").await;
    let cri = node.cri();
    let config = node.pod("external");
    let pod = handler::run_pod(cri, &config, "runc").await.unwrap();
    let path = write(&node, "no-mkdir.json", NO_MKDIR);
    let localhost = with_localhost(&pod::sleeper("localhost", &image), &path);
    let mut default = pod::sleeper("default", &image);
    security(&mut default).seccomp = Some(profile(ProfileType::RuntimeDefault, ""));
    for (container, command, refusal) in [
        (localhost, "mkdir /tmp/m", "No space left on device"),
        (default, "unshare -U true", "Operation not permitted"),
    ] {
        let id = cri.launch(&pod, &config, &container).await.unwrap();
        let said = cri.exec(&id, &["sh", "-c", command]).await.unwrap();
        let said = String::from_utf8(said.stderr).unwrap();
        assert!(said.contains(refusal), "{said}");
    }
    handler::finish(node).await;
}

#[tokio::test]
async fn a_profile_that_cannot_be_used_is_refused_by_its_name() {
    let (node, image) = node().await;
    let cri = node.cri();
    let config = node.pod("refused");
    let pod = cri.run_pod(&config).await.unwrap();
    let broken = write(
        &node,
        "broken.json",
        "{\n  \"defaultAction\": \"SCMP_ACT_MAYBE\" }",
    );
    let listening = write(
        &node,
        "listening.json",
        r#"{"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}"#,
    );
    let missing = node.scratch.join("seccomp/missing.json");
    for (asked, code, words) in [
        (
            profile(ProfileType::Localhost, broken.to_str().unwrap()),
            Code::InvalidArgument,
            ["broken.json", "line 2"],
        ),
        (
            profile(ProfileType::Localhost, listening.to_str().unwrap()),
            Code::InvalidArgument,
            ["listening.json", "SCMP_ACT_NOTIFY"],
        ),
        (
            profile(ProfileType::Localhost, missing.to_str().unwrap()),
            Code::FailedPrecondition,
            ["seccomp", "missing.json"],
        ),
        (
            profile(ProfileType::Localhost, "profile.json"),
            Code::InvalidArgument,
            ["localhost_ref", "profile.json"],
        ),
        (
            profile(ProfileType::Localhost, ""),
            Code::InvalidArgument,
            ["security_context.seccomp", "localhost_ref"],
        ),
        (
            SecurityProfile {
                profile_type: 17,
                localhost_ref: String::new(),
            },
            Code::InvalidArgument,
            ["seccomp.profile_type", "17"],
        ),
    ] {
        let mut container = pod::sleeper("main", &image);
        security(&mut container).seccomp = Some(asked);
        refused(cri.create(&pod, &config, &container).await, code, &words);
    }
    assert!(cri.containers().await.unwrap().is_empty());
    node.finish().await.unwrap();
}
