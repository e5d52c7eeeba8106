//! The package on a node without cgroup v2 and without AppArmor: all of it works there.

use std::path::Path;

use anyhow::{Result, ensure};
use slipway_testbed::{Image, Registry, Scratch};

use super::life::{blocking, step};
use super::node::{Counting, cri, daemon, is_prepared, network, shell};
use super::refusals::nothing_is_there;
use super::{VERSIONS, archive, package};

/// What makes the machine such a node.
pub(in crate::vm) const KERNEL: &str = "systemd.unified_cgroup_hierarchy=0 apparmor=0";

/// Installs, runs a pod, restarts and purges.
///
/// # Errors
/// What a step found.
pub(in crate::vm) fn bare() -> Result<()> {
    blocking(async {
        for path in [
            "/sys/fs/cgroup/cgroup.controllers",
            "/sys/kernel/security/apparmor",
        ] {
            ensure!(!Path::new(path).exists(), "the machine has {path}");
        }
        step("the archive", unpacked()).await?;
        let [first, _] = VERSIONS.map(package);
        let said = step("install without cgroup v2 and AppArmor", async {
            shell(&format!("dpkg -i {first} 2>&1"))
        })
        .await?;
        ensure!(!said.contains("slipway: "), "it complains:\n{said}");
        network()?;
        let scratch = Scratch::new()?;
        let registry = Registry::start(&scratch).await?;
        let image = registry.push("busybox:1", &Image::busybox()).await?;
        cri().pull(&image.reference).await?;
        let mut counting = Counting::start(&scratch, "bare", &image.reference).await?;
        step("a running pod", counting.goes_on()).await?;
        let before = daemon()?;
        shell("systemctl restart slipway.service")?;
        ensure!(daemon()? != before, "the daemon is the same");
        step("restart", counting.goes_on()).await?;
        cri().stop_pod(&counting.pod).await?;
        cri().remove_pod(&counting.pod).await?;
        shell("dpkg --purge slipway")?;
        nothing_is_there()
    })
}

/// What README says, and back.
async fn unpacked() -> Result<()> {
    let archive = archive();
    shell(&format!(
        "tar -C / -xf {archive}
        systemctl daemon-reload
        systemctl restart systemd-modules-load systemd-sysctl
        systemctl enable --now slipway"
    ))?;
    cri().version().await?;
    is_prepared()?;
    let said = shell("slipway info")?;
    ensure!(said.contains("slipway"), "slipway info says:\n{said}");
    shell(&format!(
        "systemctl disable --now slipway
        tar -tf {archive} | grep -v '/$' | sed 's|^|/|' | xargs rm
        systemctl daemon-reload
        rm -r /var/lib/slipway /run/slipway"
    ))?;
    nothing_is_there()
}
