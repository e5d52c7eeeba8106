//! Nodes that lack something: the package is refused, or says what does not work, and in between
//! there is nothing.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use slipway_testbed::{Scratch, pod};

use super::node::{ByHand, Counting, cri, daemon, refused, service, shell};

/// Whether dpkg knows nothing of the package, and nothing of it is there.
pub(super) fn nothing_is_there() -> Result<()> {
    let known = shell("dpkg-query -W -f '${db:Status-Status}' slipway 2>/dev/null || true")?;
    ensure!(
        known.is_empty() || known == "not-installed",
        "it is {known}"
    );
    for path in [
        "/usr/bin/slipway",
        "/usr/lib/systemd/system/slipway.service",
        "/etc/slipway",
        "/etc/systemd/system/multi-user.target.wants/slipway.service",
        "/var/lib/slipway",
        "/run/slipway",
    ] {
        ensure!(fs::symlink_metadata(path).is_err(), "{path} is there");
    }
    ensure!(shell("dpkg --audit")?.is_empty(), "dpkg has complaints");
    Ok(())
}

pub(super) fn refusals(first: &str) -> Result<()> {
    let read_only = "mount --bind /etc /etc; mount -o remount,bind,ro /etc";
    let script = format!("unshare --mount sh -ec '{read_only}; dpkg -i {first}'");
    refused(&script, &["/etc is read-only"])?;
    nothing_is_there()?;
    fs::create_dir("/root/old")?;
    fs::write("/root/old/uname", "#!/bin/sh\necho 5.11.0-76-generic\n")?;
    let script = format!("chmod +x /root/old/uname; PATH=/root/old:$PATH dpkg -i {first}");
    refused(&script, &["Linux 5.11.0-76-generic", "5.12"])?;
    nothing_is_there()?;
    // The kernel itself says that it is another one (UNAME26 of personality(2)).
    let script = format!("setarch --uname-2.6 dpkg -i {first}");
    refused(&script, &["Linux 2.6.", "5.12"])?;
    nothing_is_there()
}

/// It can be started by something else, which purging does not take for a daemon that has ended.
pub(super) async fn without_systemd(first: &str) -> Result<()> {
    // By this directory systemd is recognised: sd_booted(3).
    let hide = "mv /run/systemd/system /run/systemd/hidden";
    let show = "mv /run/systemd/hidden /run/systemd/system";
    let said = shell(&format!("{hide}; dpkg -i {first} 2>&1; {show}"))?;
    ensure!(
        said.contains("there is no systemd here"),
        "it says:\n{said}"
    );
    let state = service("ActiveState")?;
    ensure!(state == "inactive", "the service is {state}");
    shell(hide)?;
    let mut daemon = ByHand::start().await?;
    refused("dpkg --purge slipway", &["a daemon is still working"])?;
    ensure!(Path::new("/var/lib/slipway/lock").exists(), "it was purged");
    daemon.kill()?;
    shell(&format!("{show}; dpkg --purge slipway"))?;
    nothing_is_there()
}

/// A daemon that finds that the kernel cannot do what pods need says so and ends, whatever the
/// kernel's version is. What runs goes on.
pub(super) async fn old_kernel(counting: &mut Counting) -> Result<()> {
    let directory = "/run/systemd/system/slipway.service.d";
    fs::create_dir_all(directory)?;
    // As a kernel has them that has none.
    let without = "[Service]\nSystemCallFilter=~openat2:ENOSYS mount_setattr:ENOSYS\n";
    fs::write(format!("{directory}/old.conf"), without)?;
    let begin = shell("date '+%F %T'")?;
    let restart = "systemctl daemon-reload; systemctl restart slipway.service";
    refused(restart, &["slipway.service"])?;
    let log = shell(&format!(
        "journalctl -u slipway.service --no-pager --since '{begin}'"
    ))?;
    for word in ["openat2(2)", "mount_setattr(2)", "Linux 5.12"] {
        ensure!(log.contains(word), "it does not say {word}:\n{log}");
    }
    counting.counts().await?;
    fs::remove_dir_all(directory)?;
    shell(restart)?;
    counting.goes_on().await
}

/// The network's plugins need it: a pod with a network of its own is refused with their reason, and
/// what needs none works.
pub(super) async fn without_packet_filter(
    scratch: &Scratch,
    counting: &mut Counting,
) -> Result<()> {
    let programs = "/usr/sbin/iptables /usr/sbin/ip6tables /usr/sbin/nft";
    shell(&format!("mkdir /root/filter; mv {programs} /root/filter"))?;
    let before = daemon()?;
    let mut config = pod::config(scratch, "filtered");
    if let Some(linux) = &mut config.linux {
        linux.cgroup_parent.clear();
    }
    let refused = cri().run_pod(&config).await;
    let said = refused.err().context("the pod runs")?;
    ensure!(said.message().contains("iptables"), "it says: {said}");
    ensure!(cri().pods().await?.len() == 1, "something of it is left");
    ensure!(daemon()? == before, "the daemon has ended");
    counting.goes_on().await?;
    shell("mv /root/filter/* /usr/sbin")?;
    let pod = cri().run_pod(&config).await?;
    Ok(cri().remove_pod(&pod).await?)
}
