//! Nodes of which file systems are read-only: what cannot be written is said before anything is done.

mod tree;

use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};
use slipway_migrate::Root;
use slipway_migrate::node;
use slipway_migrate::plan::{self, Plan, Target};

const NODE: &str = include_str!("nodes/kubeadm-1.22-debian-11.node");

/// A directory that nothing can be written to, until this is dropped.
struct ReadOnly(PathBuf);

impl ReadOnly {
    fn mount(directory: PathBuf) -> Self {
        mount_bind(&directory, &directory).unwrap();
        let mounted = Self(directory);
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        mount_remount(&mounted.0, flags, "").unwrap();
        mounted
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

/// Plans the move of a node on which this directory is read-only.
async fn plan_with(read_only: &str) -> Result<Plan, plan::Error> {
    let directory = tempfile::tempdir().unwrap();
    let version = tree::unpack(NODE, directory.path());
    let read_only = directory.path().join(read_only);
    std::fs::create_dir_all(&read_only).unwrap();
    let _mounted = ReadOnly::mount(read_only);
    let options = plan::Options {
        target: Target::Containerd,
        drain: true,
        stop_others: false,
        node: node::Options {
            kubelet_version: version.map(|version| version.parse().unwrap()),
        },
    };
    plan::make(&Root::new(directory.path()), &options).await
}

#[tokio::test]
async fn a_file_that_could_not_be_written_is_named() {
    for (read_only, file) in [
        ("etc", "/etc/containerd/config.toml"),
        ("var/lib/kubelet", "/var/lib/kubelet/kubeadm-flags.env"),
    ] {
        let error = plan_with(read_only)
            .await
            .map(|plan| plan.steps)
            .unwrap_err();
        let plan::Error::ReadOnly { path } = &error else {
            panic!("{error}");
        };
        assert!(path.starts_with(Path::new("/").join(read_only)), "{error}");
        let words = error.to_string();
        assert!(words.contains("read-only"), "{words}");
        assert!(words.contains(file) || read_only == "etc", "{words}");
    }
    // Where nothing is to be written, nothing has to be.
    plan_with("opt").await.unwrap();
}
