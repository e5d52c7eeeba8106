//! What steps of a move do to the node, with its own systemd, package manager and kernel.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use slipway_migrate::Root;
use slipway_migrate::host::{
    DockerNode, DockerPods, Enablement, Error, Host as _, Live, Progress, Services as _, UnitState,
};

use super::own;
use super::systemd::{property, systemctl};

/// These tests touch no pods.
struct NoPods;

impl DockerPods for NoPods {
    async fn stop(&self, _: &DockerNode, _: Progress<'_>) -> Result<(), Error> {
        unreachable!()
    }

    fn forget(&self) -> Result<(), Error> {
        Ok(())
    }
}

async fn live() -> Live<NoPods> {
    Live::new(NoPods, DockerNode::gather(&Root::new("/")).await)
}

/// A file of the machine that goes with this.
struct Made(PathBuf);

impl Made {
    fn new(path: impl Into<PathBuf>, text: &str) -> Self {
        let path = path.into();
        fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        let _ = Command::new("systemctl").arg("daemon-reload").status();
    }
}

fn unit(name: &str, service: &str) -> Made {
    let text = format!("[Service]\n{service}\n[Install]\nWantedBy=multi-user.target\n");
    let made = Made::new(format!("/etc/systemd/system/{name}"), &text);
    systemctl(&["daemon-reload"]);
    made
}

/// What the tests compare: whether it is enabled, and whether it runs.
fn seen(name: &str) -> (String, String) {
    (
        property(name, "UnitFileState"),
        property(name, "ActiveState"),
    )
}

fn state(enablement: Enablement, active: bool) -> UnitState {
    UnitState {
        enablement,
        active,
        linked: None,
        links: Vec::new(),
    }
}

async fn disable(host: &Live<NoPods>, name: &str) {
    let before = host.unit(name).await.unwrap();
    host.disable(name, &before).await.unwrap();
}

fn pair(enabled: &str, active: &str) -> (String, String) {
    (enabled.to_owned(), active.to_owned())
}

#[tokio::test]
#[ignore = "changes units of the machine"]
async fn a_unit_is_enabled_started_anew_and_made_what_it_was() {
    own();
    let host = live().await;
    let name = "slipway-e2e-sleeps.service";
    assert_eq!(
        host.unit(name).await.unwrap(),
        state(Enablement::Absent, false)
    );
    host.stop(name).await.unwrap();
    disable(&host, name).await;
    let refused = host.start(name).await.unwrap_err().to_string();
    assert!(refused.contains("there is no such unit"), "{refused}");

    // systemd has not been told of its file.
    let text =
        "[Service]\nType=exec\nExecStart=/bin/sleep 1000\n[Install]\nWantedBy=multi-user.target\n";
    // One in /etc could not be masked.
    let directory = "/usr/local/lib/systemd/system";
    fs::create_dir_all(directory).unwrap();
    let file = Made::new(format!("{directory}/{name}"), text);
    let before = host.unit(name).await.unwrap();
    assert_eq!(before, state(Enablement::Disabled, false));
    host.start(name).await.unwrap();
    assert_eq!(seen(name), pair("enabled", "active"));
    let first = property(name, "MainPID");
    host.start(name).await.unwrap();
    assert_ne!(property(name, "MainPID"), first, "it is the same process");
    assert_eq!(
        host.unit(name).await.unwrap(),
        state(Enablement::Enabled, true)
    );
    for _ in 0..2 {
        host.restore_unit(name, &before).await.unwrap();
        assert_eq!(seen(name), pair("disabled", "inactive"));
    }
    let all = [
        (Enablement::Enabled, false),
        (Enablement::Disabled, true),
        (Enablement::Enabled, true),
    ];
    for (enablement, active) in all {
        let before = state(enablement, active);
        host.restore_unit(name, &before).await.unwrap();
        assert_eq!(host.unit(name).await.unwrap(), before);
    }
    for _ in 0..2 {
        disable(&host, name).await;
        assert_eq!(seen(name), pair("disabled", "inactive"));
    }

    // Its file changes, and is read before it is started.
    fs::write(&file.0, text.replace("1000", "2000")).unwrap();
    host.start(name).await.unwrap();
    let process = format!("/proc/{}/cmdline", property(name, "MainPID"));
    assert_eq!(fs::read_to_string(process).unwrap(), "/bin/sleep\x002000\0");
    disable(&host, name).await;
    systemctl(&["mask", name]);
    assert_eq!(
        host.unit(name).await.unwrap(),
        state(Enablement::Masked, false)
    );
    let refused = host.start(name).await.unwrap_err().to_string();
    assert!(refused.contains("systemctl unmask"), "{refused}");
    disable(&host, name).await;
    systemctl(&["unmask", name]);
    assert_eq!(host.unit(name).await.unwrap(), before);
}

#[tokio::test]
#[ignore = "changes units of the machine"]
async fn why_a_unit_does_not_run_is_said_and_forgotten_before_the_next_start() {
    own();
    let host = live().await;
    let name = "slipway-e2e-fails.service";
    let service = "Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'test -e /run/slipway-e2e-ready || exit 7'";
    let made = unit(name, service);
    let text = fs::read_to_string(&made.0).unwrap();
    let limits = "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=2\n";
    fs::write(&made.0, format!("{limits}{text}")).unwrap();
    let refused = host.start(name).await.unwrap_err().to_string();
    for words in ["\"failed\"", "ended with status 7", "journalctl -u"] {
        assert!(refused.contains(words), "{refused}");
    }
    // It fails too often, so that systemd does not start it any more when it would run.
    let started = || {
        let output = Command::new("systemctl").args(["start", name]).output();
        output.unwrap().status.success()
    };
    assert!(!started());
    let _ready = Made::new("/run/slipway-e2e-ready", "");
    assert!(!started());
    host.start(name).await.unwrap();
    assert_eq!(seen(name), pair("enabled", "active"));
    disable(&host, name).await;

    // It is started again and again, and a start of it is under way when it is asked for.
    let text = "[Service]\nType=notify\nRestart=always\nRestartSec=0\nTimeoutStartSec=2\nExecStart=/bin/sleep 1000\n";
    fs::write(&made.0, text).unwrap();
    systemctl(&["daemon-reload"]);
    systemctl(&["start", "--no-block", name]);
    let refused = host.start(name).await.unwrap_err().to_string();
    assert!(refused.contains("its result"), "{refused}");
    host.stop(name).await.unwrap();
    assert!(!host.unit(name).await.unwrap().active);
    systemctl(&["reset-failed"]);

    let absent = unit("slipway-e2e-skipped.service", "ExecStart=/bin/sleep 1000");
    let text = fs::read_to_string(&absent.0).unwrap();
    let text = format!("[Unit]\nConditionPathExists=/nonexistent\n{text}");
    fs::write(&absent.0, text).unwrap();
    let refused = host
        .start("slipway-e2e-skipped.service")
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("a condition of its unit is not met"),
        "{refused}"
    );
    disable(&host, "slipway-e2e-skipped.service").await;
}

#[tokio::test]
#[ignore = "changes units of the machine"]
async fn sockets_links_and_units_for_this_boot_stay_what_they_are() {
    own();
    let host = live().await;
    let socket = "slipway-e2e-heard.socket";
    let text =
        "[Socket]\nListenStream=/run/slipway-e2e-heard.sock\n[Install]\nWantedBy=sockets.target\n";
    let _socket = Made::new(format!("/etc/systemd/system/{socket}"), text);
    let service = "slipway-e2e-heard.service";
    let _service = unit(service, "ExecStart=/bin/sleep 1000");
    for name in [socket, service, socket, service] {
        host.start(name).await.unwrap();
        assert_eq!(seen(name), pair("enabled", "active"));
    }
    for name in [socket, service, socket] {
        disable(&host, name).await;
        assert_eq!(seen(name), pair("disabled", "inactive"));
    }

    let linked = "slipway-e2e-linked.service";
    let _file = Made::new(
        format!("/opt/{linked}"),
        "[Service]\nExecStart=/bin/sleep 1000\n[Install]\nWantedBy=multi-user.target\n",
    );
    systemctl(&["link", &format!("/opt/{linked}")]);
    let before = host.unit(linked).await.unwrap();
    host.start(linked).await.unwrap();
    assert_eq!(seen(linked), pair("enabled", "active"));
    host.restore_unit(linked, &before).await.unwrap();
    assert_eq!(seen(linked), pair("linked", "inactive"));
    host.start(linked).await.unwrap();
    disable(&host, linked).await;
    assert_eq!(seen(linked), pair("linked", "inactive"));
    // Killed before it was linked again.
    systemctl(&["disable", linked]);
    host.disable(linked, &before).await.unwrap();
    assert_eq!(seen(linked), pair("linked", "inactive"));
    systemctl(&["disable", linked]);
    host.restore_unit(linked, &before).await.unwrap();
    assert_eq!(seen(linked), pair("linked", "inactive"));
    systemctl(&["disable", linked]);

    let runtime = "slipway-e2e-runtime.service";
    let _made = unit(runtime, "ExecStart=/bin/sleep 1000");
    systemctl(&["enable", "--runtime", runtime]);
    let before = host.unit(runtime).await.unwrap();
    assert_eq!(before, state(Enablement::Fixed, false));
    host.start(runtime).await.unwrap();
    assert_eq!(seen(runtime), pair("enabled-runtime", "active"));
    host.restore_unit(runtime, &before).await.unwrap();
    assert_eq!(seen(runtime), pair("enabled-runtime", "inactive"));
    systemctl(&["disable", "--runtime", runtime]);
}

#[tokio::test]
#[ignore = "changes units of the machine"]
async fn links_that_people_made_are_made_again() {
    own();
    let host = live().await;
    let name = "slipway-e2e-wanted.service";
    let _made = unit(name, "ExecStart=/bin/sleep 1000");
    systemctl(&["add-requires", "sleep.target", name]);
    let directory = Path::new("/etc/systemd/system");
    let alias = directory.join("slipway-e2e-alias.service");
    std::os::unix::fs::symlink(name, &alias).unwrap();
    systemctl(&["daemon-reload"]);
    let before = host.unit_to_keep(name).await.unwrap();
    assert_eq!(before.links.len(), 2, "{before:?}");
    for _ in 0..2 {
        host.disable(name, &before).await.unwrap();
        let disabled = host.unit_to_keep(name).await.unwrap();
        assert_eq!(disabled.links, [], "systemd takes all of them away");
        host.restore_unit(name, &before).await.unwrap();
        // What the unit's [Install] section names was not there.
        assert_eq!(host.unit_to_keep(name).await.unwrap(), before);
    }
    assert_eq!(fs::read_link(&alias).unwrap(), Path::new(name));
    disable(&host, name).await;
}

#[tokio::test]
#[ignore = "loads modules into the machine's kernel"]
async fn modules_and_parameters_are_set_and_made_what_they_were() {
    own();
    let host = live().await;
    let _ = Command::new("modprobe")
        .args(["-r", "br_netfilter"])
        .status();
    fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
    let modules = ["overlay", "br_netfilter"].map(str::to_owned);
    let bridge = "net.bridge.bridge-nf-call-iptables".to_owned();
    let parameters = ["net.ipv4.ip_forward".to_owned(), bridge.clone()];
    let before = host.kernel(&modules, &parameters).await.unwrap();
    assert!(before.missing.contains(&modules[1]), "{before:?}");
    assert_eq!(before.parameters[1], (bridge, Option::None));
    for _ in 0..2 {
        host.set_kernel(&modules, &parameters).await.unwrap();
    }
    let now = host.kernel(&modules, &parameters).await.unwrap();
    assert!(now.missing.is_empty(), "{now:?}");
    for (name, value) in &now.parameters {
        assert_eq!(value.as_deref(), Some("1"), "{name}");
    }
    for _ in 0..2 {
        host.restore_kernel(&before).await.unwrap();
        assert_eq!(host.kernel(&modules, &parameters).await.unwrap(), before);
    }
    let refused = host
        .set_kernel(&["no-such".to_owned()], &[])
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("not found"), "{refused}");
}

/// What debhelper makes of a package with a service.
const POSTINST: &str = "#!/bin/sh
set -e
[ \"$1\" = configure ] || exit 0
deb-systemd-helper unmask cri-dockerd-e2e.service >/dev/null || true
deb-systemd-helper enable cri-dockerd-e2e.service >/dev/null
deb-systemd-helper update-state cri-dockerd-e2e.service >/dev/null || true
[ -d /run/systemd/system ] || exit 0
systemctl --system daemon-reload >/dev/null || true
deb-systemd-invoke start cri-dockerd-e2e.service >/dev/null
";

const POSTRM: &str = "#!/bin/sh
set -e
[ \"$1\" != purge ] || deb-systemd-helper purge cri-dockerd-e2e.service >/dev/null
";

/// A repository of the machine's own with a package that is called as a target is.
struct Repository {
    directory: tempfile::TempDir,
    _list: Made,
}

impl Repository {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        // apt reads it as a user of its own.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for path in ["tree/DEBIAN", "tree/lib/systemd/system", "tree/etc"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        let control = "Package: cri-dockerd\nVersion: 1\nArchitecture: all\nMaintainer: e2e <root@localhost>\nDescription: e2e\n";
        fs::write(at("tree/DEBIAN/control"), control).unwrap();
        fs::write(at("tree/DEBIAN/conffiles"), "/etc/cri-dockerd-e2e\n").unwrap();
        fs::write(at("tree/etc/cri-dockerd-e2e"), "as packaged\n").unwrap();
        for (name, script) in [("postinst", POSTINST), ("postrm", POSTRM)] {
            let path = at("tree/DEBIAN").join(name);
            fs::write(&path, script).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(
            at("tree/lib/systemd/system/cri-dockerd-e2e.service"),
            "[Service]\nExecStart=/bin/sleep 1000\n[Install]\nWantedBy=multi-user.target\n",
        )
        .unwrap();
        let script = "dpkg-deb --build --root-owner-group tree p.deb >&2
            sum=$(sha256sum p.deb | cut -d' ' -f1); size=$(stat -c %s p.deb)
            { cat tree/DEBIAN/control; echo \"Filename: ./p.deb\nSize: $size\nSHA256: $sum\"; } > Packages";
        let mut built = Command::new("sh");
        let built = built.args(["-ec", script]).current_dir(directory.path());
        assert!(built.status().unwrap().success());
        let line = format!("deb [trusted=yes] file:{} ./\n", directory.path().display());
        let list = Made::new("/etc/apt/sources.list.d/slipway-e2e.list", &line);
        Self {
            directory,
            _list: list,
        }
    }
}

#[tokio::test]
#[ignore = "installs a package on the machine"]
async fn a_package_is_installed_its_service_does_not_run_and_nothing_is_left_of_it() {
    own();
    let host = live().await;
    let (package, service) = ("cri-dockerd", "cri-dockerd-e2e.service");
    let said = std::cell::RefCell::new(Vec::new());
    let progress = |line: &str| said.borrow_mut().push(line.to_owned());
    let refused = host
        .install(package, &progress)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("apt-get has no package cri-dockerd here"),
        "{refused}"
    );

    let repository = Repository::new();
    assert!(!host.has_package(package, &progress).await.unwrap());
    for _ in 0..2 {
        host.install(package, &progress).await.unwrap();
        assert!(
            host.has_package(package, &progress).await.unwrap(),
            "{said:?}"
        );
    }
    assert_eq!(
        host.unit(service).await.unwrap(),
        state(Enablement::Enabled, false)
    );
    host.start(service).await.unwrap();
    assert_eq!(seen(service), pair("enabled", "active"));
    host.restore_unit(service, &state(Enablement::Absent, false))
        .await
        .unwrap();
    fs::write("/etc/cri-dockerd-e2e", "as configured\n").unwrap();
    for _ in 0..2 {
        host.remove(package, &progress).await.unwrap();
        assert!(!host.has_package(package, &progress).await.unwrap());
    }
    host.reload().await.unwrap();
    assert_eq!(
        host.unit(service).await.unwrap(),
        state(Enablement::Absent, false)
    );
    assert!(!Path::new("/etc/cri-dockerd-e2e").exists());
    drop(repository.directory);
}
