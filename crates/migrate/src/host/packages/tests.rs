//! With stand-ins for the package managers. The real one of Debian is tried in a machine
//! (`e2e::machine::host`).

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process;

use super::*;

/// The directory with the stand-ins, of the process that has them in its path.
const INSIDE: &str = "SLIPWAY_TEST_PACKAGES";

/// Each writes down what it is asked, and answers by files that are there.
const PROGRAM: &str = r#"#!/bin/sh
cd "$(dirname "$0")/.."
me=${0##*/}
for word; do :; done
case $me in
dpkg-query) [ -e "has/$word" ] || exit 1; cat "has/$word"; exit 0 ;;
rpm) [ "$1" != --query ] || { [ -e "has/$word" ]; exit; } ;;
apt-cache) [ -e "offers/$word" ] || exit 100; echo "Package: $word"; cat "offers/$word"; exit 0 ;;
dnf|yum) [ "$2" != --cacheonly ] || { cat "offers/$word"; exit; }
    [ "$2" != info ] || { [ -e "offers/$word" ] && echo "$word"; exit; } ;;
zypper) [ "$2" != --no-refresh ] || { cat "offers/$word" || echo "package '$word' not found."; exit 0; }
    [ "$2" != search ] || { [ -e "offers/$word" ] || exit 104; echo "$word"; exit 0; } ;;
esac
echo "$me $* offline=${SYSTEMD_OFFLINE:-0} restart=${NEEDRESTART_SUSPEND:-0}" >> asked
if [ "$word" = update ]; then echo "E: no network" >&2; exit 100; fi
if [ -e "fails/$me" ]; then cat "fails/$me" >&2; mv "fails/$me" "fails/$me.done"; exit 100; fi
case "$*" in
*--purge*|*--erase*) rm "has/$word" ;;
*install*)
    echo Unpacking
    echo half-installed > "has/$word"
    while [ -e slow ]; do sleep 0.05; done
    # Whose output is gone ends here.
    echo Done
    echo installed > "has/$word" ;;
esac
"#;

/// Runs the test of that name again, with the stand-ins of a manager in its path.
fn with(manager: &str, test: &str) {
    let tree = tempfile::tempdir().unwrap();
    for directory in ["programs", "has", "offers", "fails", "usr/bin"] {
        fs::create_dir_all(tree.path().join(directory)).unwrap();
    }
    for program in [manager, "apt-cache", "dpkg", "dpkg-query", "rpm"] {
        let path = tree.path().join("programs").join(program);
        fs::write(&path, PROGRAM).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(tree.path().join("usr/bin").join(manager), "").unwrap();
    let path = std::env::var("PATH").unwrap();
    let output = process::Command::new(std::env::current_exe().unwrap())
        .args(["--nocapture", "--exact"])
        .arg(format!("host::packages::tests::{test}"))
        .env(INSIDE, tree.path())
        .env("PATH", format!("{}/programs:{path}", tree.path().display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{manager}: {said}\n{complained}"
    );
}

struct Node<'a>(&'a Path);

impl Node<'_> {
    fn packages(&self) -> Packages {
        Packages::new(Root::new(self.0))
    }

    fn put(&self, path: &str, text: &str) {
        fs::write(self.0.join(path), text).unwrap();
    }

    /// What was asked that changes something, since the last time.
    fn asked(&self) -> Vec<String> {
        let path = self.0.join("asked");
        let text = fs::read_to_string(&path).unwrap_or_default();
        fs::write(path, "").unwrap();
        text.lines().map(str::to_string).collect()
    }

    async fn install(&self, name: &str) -> Result<Vec<String>, Error> {
        let said = RefCell::new(Vec::new());
        let progress = |line: &str| said.borrow_mut().push(line.to_string());
        self.packages().install(name, &progress).await?;
        Ok(said.into_inner())
    }
}

#[tokio::test]
async fn apt_installs_the_first_that_it_has_and_removes_it() {
    let Some(tree) = std::env::var_os(INSIDE) else {
        return with(
            "apt-get",
            "apt_installs_the_first_that_it_has_and_removes_it",
        );
    };
    let node = Node(Path::new(&tree));
    node.put("offers/containerd", "");
    assert!(!node.packages().has("containerd", &|_| {}).await.unwrap());
    let said = node.install("containerd").await.unwrap();
    assert_eq!(said[1], "E: no network");
    assert!(
        said[2].contains("not all of them answered") && said[2].contains("E: no network"),
        "{said:?}"
    );
    assert_eq!(
        said[3..],
        ["apt-get installs containerd", "Unpacking", "Done"]
    );
    let asked = node.asked();
    assert!(asked[1].contains(" --no-remove "), "{asked:?}");
    assert!(
        asked[1].ends_with("install containerd offline=1 restart=1"),
        "{asked:?}"
    );
    assert!(node.packages().has("containerd", &|_| {}).await.unwrap());
    node.install("containerd").await.unwrap();
    assert!(node.asked().is_empty());
    for _ in 0..2 {
        node.packages().remove("containerd", &|_| {}).await.unwrap();
    }
    assert_eq!(
        node.asked(),
        ["dpkg --purge containerd offline=0 restart=1"]
    );

    // Docker's own repository, and a dpkg that was killed in the middle.
    assert_eq!(node.packages().offered("containerd").await, None);
    node.put("offers/containerd", "Version: 1.6.20~ds1-1+b1\n");
    let offered = async || node.packages().offered("containerd").await.unwrap();
    let expected = |version: &str| ("apt-get", version.to_string());
    assert_eq!(offered().await, expected("1.6.20~ds1-1+b1"));
    node.put("offers/containerd.io", "Version: 2.0.1-1~debian.12\n");
    assert_eq!(offered().await, expected("2.0.1-1~debian.12"));
    node.put("has/containerd.io", "half-configured");
    node.put(
        "fails/apt-get",
        "E: dpkg was interrupted, you must manually run",
    );
    node.install("containerd").await.unwrap();
    let asked = node.asked();
    assert!(asked[2].starts_with("dpkg --force-confdef --force-confold --configure -a"));
    assert!(asked[3].contains("install containerd.io"), "{asked:?}");
    node.put("has/containerd.io", "config-files");
    assert!(!node.packages().has("containerd", &|_| {}).await.unwrap());
    node.packages().remove("containerd", &|_| {}).await.unwrap();
    assert!(!node.0.join("has/containerd.io").exists());
}

#[tokio::test]
async fn one_that_outlives_us_comes_to_its_end_and_is_waited_for() {
    let Some(tree) = std::env::var_os(INSIDE) else {
        return with(
            "apt-get",
            "one_that_outlives_us_comes_to_its_end_and_is_waited_for",
        );
    };
    let node = Node(Path::new(&tree));
    node.put("offers/containerd", "");
    node.put("slow", "");
    let unpacking = tokio::sync::Notify::new();
    let progress = |line: &str| {
        if line == "Unpacking" {
            unpacking.notify_one();
        }
    };
    let packages = node.packages();
    tokio::select! {
        installed = packages.install("containerd", &progress) => panic!("{installed:?}"),
        () = unpacking.notified() => {}
    }
    drop(packages);

    let said = RefCell::new(Vec::new());
    let waiting = tokio::sync::Notify::new();
    let progress = |line: &str| {
        said.borrow_mut().push(line.to_string());
        waiting.notify_one();
    };
    let packages = node.packages();
    let looked = packages.has("containerd", &progress);
    let goes_on = async {
        waiting.notified().await;
        fs::remove_file(node.0.join("slow")).unwrap();
    };
    let (has, ()) = tokio::join!(looked, goes_on);
    assert!(has.unwrap(), "it was ended half-way");
    let said = said.into_inner();
    assert!(
        said[0].contains("is still at work, and is waited for") && said[0].contains("packages.log"),
        "{said:?}"
    );
    assert_eq!(said[1], "Done");

    // What is removed is waited for as well.
    node.put("slow", "");
    node.put("has/containerd", "half-installed");
    let unpacking = tokio::sync::Notify::new();
    let progress = |line: &str| {
        if line == "Unpacking" {
            unpacking.notify_one();
        }
    };
    tokio::select! {
        installed = packages.install("containerd", &progress) => panic!("{installed:?}"),
        () = unpacking.notified() => {}
    }
    let waiting = tokio::sync::Notify::new();
    let progress = |_: &str| waiting.notify_one();
    let removed = packages.remove("containerd", &progress);
    let goes_on = async {
        waiting.notified().await;
        fs::remove_file(node.0.join("slow")).unwrap();
    };
    let (removed, ()) = tokio::join!(removed, goes_on);
    removed.unwrap();
    assert!(!node.0.join("has/containerd").exists());
}

#[tokio::test]
async fn what_cannot_be_had_is_named_with_where_it_is_described() {
    let Some(tree) = std::env::var_os(INSIDE) else {
        return with(
            "apt-get",
            "what_cannot_be_had_is_named_with_where_it_is_described",
        );
    };
    let node = Node(Path::new(&tree));
    for (name, words) in [
        (
            "cri-o",
            [
                "apt-get has no package cri-o here",
                "github.com/cri-o/packaging",
            ],
        ),
        (
            "cri-dockerd",
            ["no package cri-dockerd", "mirantis.github.io"],
        ),
        (
            "containerd",
            [
                "no package containerd.io or containerd here",
                "getting-started.md",
            ],
        ),
    ] {
        let refused = node.install(name).await.unwrap_err().to_string();
        for word in words {
            assert!(refused.contains(word), "{refused}");
        }
    }
    node.put("offers/cri-o", "");
    node.put(
        "fails/apt-get",
        "E: Packages need to be removed but remove is disabled.",
    );
    let packages = node.packages();
    node.asked();
    let refused = packages
        .install("cri-o", &|_| {})
        .await
        .unwrap_err()
        .to_string();
    // The repositories' lists failed first.
    assert!(refused.contains("remove is disabled"), "{refused}");
    assert!(refused.contains("install cri-o by hand"), "{refused}");
    fs::remove_file(node.0.join("usr/bin/apt-get")).unwrap();
    let refused = node.install("cri-o").await.unwrap_err().to_string();
    assert!(
        refused.contains("none of apt-get, dnf, yum and zypper"),
        "{refused}"
    );
}

#[tokio::test]
async fn dnf_yum_and_zypper_do_the_same() {
    let Some(tree) = std::env::var_os(INSIDE) else {
        for manager in ["dnf", "yum", "zypper"] {
            with(manager, "dnf_yum_and_zypper_do_the_same");
        }
        return;
    };
    let node = Node(Path::new(&tree));
    let refused = node.install("cri-o").await.unwrap_err().to_string();
    assert!(refused.contains("has no package cri-o here"), "{refused}");
    assert_eq!(node.packages().offered("cri-o").await, None);
    node.put(
        "offers/cri-o",
        "Name         : cri-o\nEpoch        : 0\nVersion      : 1.24.6\nRelease      : 1.el8\n",
    );
    let (manager, version) = node.packages().offered("cri-o").await.unwrap();
    assert!(node.0.join("usr/bin").join(manager).exists(), "{manager}");
    assert_eq!(version, "1.24.6");
    node.install("cri-o").await.unwrap();
    let asked = node.asked();
    assert!(asked[0].contains(" install "), "{asked:?}");
    assert!(
        asked[0].ends_with(" cri-o offline=1 restart=1"),
        "{asked:?}"
    );
    assert!(node.packages().has("cri-o", &|_| {}).await.unwrap());
    node.packages().remove("cri-o", &|_| {}).await.unwrap();
    assert!(!node.packages().has("cri-o", &|_| {}).await.unwrap());
}
