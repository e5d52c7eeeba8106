//! Kubelets and runtimes that speak no common version of CRI, or none that Slipway speaks, are refused
//! before anything is changed.

mod tree;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use slipway_migrate::Root;
use slipway_migrate::plan::{self, Plan, Target};

/// A node of kubeadm, whose kubelet has dockershim.
const NODE: &str = "kubeadm-1.22-debian-11.node";

/// Plans the move of a node with a kubelet of this version, and packages of these versions.
async fn planned(kubelet: &str, target: Target, packages: &[(&str, &str)]) -> Result<Plan, String> {
    let directory = tempfile::tempdir().unwrap();
    let nodes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nodes");
    let text = fs::read_to_string(nodes.join(NODE)).unwrap();
    let _ = tree::unpack(&text, directory.path());
    let write = |path: &str, text: &str| {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let mut status = String::new();
    for (package, version) in packages {
        let state = "install ok installed";
        writeln!(
            status,
            "Package: {package}\nStatus: {state}\nVersion: {version}\n"
        )
        .unwrap();
    }
    if !packages.is_empty() {
        write("var/lib/dpkg/status", &status);
        write(&format!("usr/bin/{}", target.program()), "");
    }
    let options = plan::Options {
        target,
        drain: true,
        stop_others: true,
        node: slipway_migrate::node::Options {
            kubelet_version: Some(kubelet.parse().unwrap()),
        },
    };
    let made = plan::make(&Root::new(directory.path()), &options).await;
    made.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_runtime_that_the_kubelet_cannot_speak_to_is_refused() {
    for (kubelet, target, package, version, words) in [
        (
            "1.22",
            Target::Containerd,
            "containerd.io",
            "2.0.1-1~debian.12~bookworm",
            "the kubelet is 1.22 and speaks CRI v1alpha2 only, containerd 2.0.1 has none: upgrade the kubelet to 1.23 or later first, or install containerd 1.6 or 1.7",
        ),
        (
            "1.28",
            Target::Containerd,
            "containerd",
            "1.5.9-0ubuntu1",
            "the kubelet is 1.28 and speaks CRI v1 only, containerd 1.5.9 has none: install containerd 1.6 or later",
        ),
        (
            "1.22",
            Target::Containerd,
            "containerd",
            "1.4.13~ds1-1~deb11u4",
            "containerd 1.4.13 has no CRI v1, by which images are carried over and pods are removed on the way back: install containerd 1.6 or 1.7",
        ),
        (
            "1.22",
            Target::Crio,
            "cri-o",
            "1.26.4~0",
            "the kubelet is 1.22 and speaks CRI v1alpha2 only, CRI-O 1.26.4 has none: upgrade the kubelet to 1.23 or later first, or install CRI-O 1.22",
        ),
        (
            "1.22",
            Target::CriDockerd,
            "cri-dockerd",
            "0.3.22.3-0.debian-bookworm",
            "the kubelet is 1.22 and speaks CRI v1alpha2 only, cri-dockerd 0.3.22 has none: upgrade the kubelet to 1.23 or later first, or install cri-dockerd 0.3.21 or earlier",
        ),
        (
            "1.26",
            Target::CriDockerd,
            "cri-dockerd",
            "0.2.6.3-0.debian-bullseye",
            "the kubelet is 1.26 and speaks CRI v1 only, cri-dockerd 0.2.6 has none: install cri-dockerd 0.3.0 or later",
        ),
    ] {
        let refused = planned(kubelet, target, &[(package, version)]).await;
        assert_eq!(refused.unwrap_err(), words);
    }
}

#[tokio::test]
async fn runtimes_that_kubelets_can_speak_to_are_planned_for() {
    for (kubelet, target, package, version) in [
        ("1.22", Target::Containerd, "containerd", "1.6.20~ds1-1+b1"),
        ("1.22", Target::Containerd, "containerd.io", "1.7.27-1"),
        ("1.23", Target::Containerd, "containerd.io", "2.1.0-1"),
        ("1.25", Target::Crio, "cri-o", "1.25.0~0"),
        ("1.25", Target::CriDockerd, "cri-dockerd", "0.2.6.3-0"),
        ("1.22", Target::CriDockerd, "cri-dockerd", "0.3.21.3-0"),
        ("1.30", Target::CriDockerd, "cri-dockerd", "0.4.3.3-0"),
    ] {
        let plan = planned(kubelet, target, &[(package, version)]).await;
        let remarks = plan.unwrap().remarks;
        assert!(
            remarks
                .iter()
                .all(|remark| !remark.contains("the kubelet is")),
            "{remarks:?}"
        );
    }
}

#[tokio::test]
async fn what_has_to_be_looked_at_by_hand_is_a_remark() {
    for (kubelet, target, packages, words) in [
        (
            "1.22",
            Target::Containerd,
            &[][..],
            "the kubelet is 1.22 and wants containerd 1.6 or 1.7; which version this node has, or would get, is not known here",
        ),
        (
            "1.27",
            Target::Crio,
            &[],
            "the kubelet is 1.27 and wants CRI-O 1.27;",
        ),
        // Of a program that is no package's.
        (
            "1.26",
            Target::CriDockerd,
            &[("docker-ce", "5:24.0.7-1")],
            "the kubelet is 1.26 and wants cri-dockerd 0.3.0 or later;",
        ),
        (
            "1.27",
            Target::Crio,
            &[("cri-o", "1.28.1-1.1")],
            "the kubelet is 1.27 and wants CRI-O 1.27, as CRI-O's minor versions are those of Kubernetes, and this is CRI-O 1.28.1",
        ),
    ] {
        let remarks = planned(kubelet, target, packages).await.unwrap().remarks;
        assert!(
            remarks.iter().any(|remark| remark.contains(words)),
            "{words}: {remarks:?}"
        );
    }
    for (kubelet, target) in [("1.24", Target::CriDockerd), ("1.22", Target::Slipway)] {
        let remarks = planned(kubelet, target, &[]).await.unwrap().remarks;
        assert!(
            remarks
                .iter()
                .all(|remark| !remark.contains("the kubelet is")),
            "{remarks:?}"
        );
    }
}
