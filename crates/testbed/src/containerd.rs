//! Debian's containerd with everything that it keeps in a scratch directory, to compare with.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::runtime::{Launch, Runtime};
use crate::{Cni, Image, Layer, Registry, Scratch};

/// A running `containerd` with runc; see [`Runtime`] for what can be done with it.
#[derive(Debug)]
pub struct Containerd {
    runtime: Runtime,
}

impl Containerd {
    /// Starts containerd with its own root, state, socket and runc state in `scratch`, which it
    /// should have to itself, on the network of `cni`. It pulls its pause image from `registry`,
    /// where one made from busybox is pushed for it.
    ///
    /// # Errors
    /// When containerd is not installed or does not come up; with its log.
    pub async fn start(scratch: &Arc<Scratch>, cni: &Cni, registry: &Registry) -> Result<Self> {
        let pause = Image::empty().layer(Layer::busybox()?).entrypoint([
            "/bin/busybox",
            "sleep",
            "2147483647",
        ]);
        let pause = registry.push("pause:1", &pause).await?.reference;
        let socket = scratch.join("containerd.sock");
        let directories = ["root", "run"].map(|name| scratch.join(name));
        let [root, state] = &directories;
        // Without CAP_SYS_RESOURCE a negative OOM score is refused, unless it is restricted.
        let config = format!(
            r#"version = 2
root = "{root}"
state = "{state}"
disabled_plugins = {UNUSED:?}
[grpc]
address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{root}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{bin_dir}"
conf_dir = "{conf_dir}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "{runc}"
"#,
            root = root.display(),
            state = state.display(),
            socket = socket.display(),
            bin_dir = cni.bin_dir().display(),
            conf_dir = cni.conf_dir().display(),
            runc = scratch.join("runc").display(),
        );
        let file = scratch.join("containerd.toml");
        std::fs::write(&file, config)?;
        let launch = Launch {
            name: "containerd",
            program: "containerd".into(),
            arguments: vec!["--config".into(), file.into()],
            environment: Vec::new(),
            socket,
            directories: directories.into(),
        };
        let runtime = Runtime::start(scratch, launch)
            .await
            .context("are the packages containerd and runc installed?")?;
        Ok(Self { runtime })
    }
}

/// Snapshotters that only complain where they cannot work.
const UNUSED: [&str; 4] = [
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
];

impl Deref for Containerd {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        &self.runtime
    }
}

impl DerefMut for Containerd {
    fn deref_mut(&mut self) -> &mut Runtime {
        &mut self.runtime
    }
}
