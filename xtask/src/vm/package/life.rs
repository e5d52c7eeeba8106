//! What is done in the machine. It goes on after the machine was rebooted in the middle of it.

use std::fs;
use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use slipway_cri_api::v1::{ContainerState, PodSandboxState};
use slipway_testbed::{Image, Registry, Scratch};

use super::node::{
    Counting, TERMINATED, cri, daemon, is_prepared, network, refused, replaced, service, shell,
    started,
};
use super::refusals::{
    nothing_is_there, old_kernel, refusals, without_packet_filter, without_systemd,
};
use super::{VERSIONS, package};

/// What has to be known after the reboot.
const NOTE: &str = "/var/lib/package-test.json";

/// systemd gives whatever does not end by itself 90 seconds.
const ENDING: Duration = Duration::from_secs(80);

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    boot: String,
    /// When the reboot was asked for.
    asked: SystemTime,
    image: String,
    counting: Counting,
}

/// Whether this machine has been rebooted in the middle of it.
pub(in crate::vm) fn has_begun() -> bool {
    Path::new(NOTE).exists()
}

/// Goes on where it was before the machine was rebooted, or begins.
///
/// # Errors
/// What a step found; those before it are named on standard output.
pub(in crate::vm) fn inside() -> Result<()> {
    blocking(async {
        match fs::read(NOTE) {
            Err(_) => before_reboot().await,
            Ok(note) => after_reboot(serde_json::from_slice(&note)?).await,
        }
    })
}

pub(in crate::vm) fn blocking<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build()?.block_on(work)
}

pub(in crate::vm) async fn step<T>(name: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let begin = Instant::now();
    let done = work.await.with_context(|| format!("{name}: FAILED"))?;
    println!("{name}: ok ({:.1} s)", begin.elapsed().as_secs_f64());
    Ok(done)
}

async fn before_reboot() -> Result<()> {
    let [first, second] = VERSIONS.map(package);
    step("a node that cannot be one is refused", async {
        refusals(&first)
    })
    .await?;
    step("a node without systemd", without_systemd(&first)).await?;
    step("install", install(&first)).await?;
    network()?;
    let scratch = Scratch::new()?;
    let registry = Registry::start(&scratch).await?;
    let image = registry.push("busybox:1", &Image::busybox()).await?;
    cri().pull(&image.reference).await?;
    let mut counting = Counting::start(&scratch, "survivor", &image.reference).await?;
    step("a running pod", counting.goes_on()).await?;
    step("a node without a packet filter", async {
        without_packet_filter(&scratch, &mut counting).await
    })
    .await?;
    step("a kernel that is too old", old_kernel(&mut counting)).await?;
    step("restart by systemd", restart(&mut counting)).await?;
    step("a daemon that is killed", killed(&mut counting)).await?;
    step("a daemon that hangs", hung(&mut counting)).await?;
    step("upgrade", upgrade(&second, &mut counting)).await?;
    step(
        "upgrade with a wrong configuration",
        mistaken(&second, &mut counting),
    )
    .await?;
    step(
        "upgrade of a service that is disabled",
        disabled(&second, &mut counting),
    )
    .await?;
    let note = Note {
        boot: boot()?,
        asked: SystemTime::now(),
        image: image.reference,
        counting,
    };
    fs::write(NOTE, serde_json::to_vec(&note)?)?;
    println!("reboot");
    shell("sync; systemctl reboot")?;
    // The machine's agent is ended by the reboot, and must not see this program end before it.
    std::future::pending().await
}

async fn after_reboot(note: Note) -> Result<()> {
    ensure!(boot()? != note.boot, "the machine was not rebooted");
    let ended = SystemTime::now() - uptime()?;
    let ending = ended.duration_since(note.asked).unwrap_or_default();
    println!("  the machine was down after {} s", ending.as_secs());
    ensure!(ending < ENDING, "something has held the reboot up");
    let second = package(VERSIONS[1]);
    step("after the reboot", rebooted(&note.counting)).await?;
    let scratch = Scratch::new()?;
    let mut counting = Counting::start(&scratch, "another", &note.image).await?;
    step("remove", remove(&mut counting)).await?;
    step("purge with pods", purge_with_pods(&mut counting)).await?;
    step("install again", install_again(&second, &mut counting)).await?;
    step("purge", purge(&counting)).await
}

fn boot() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?)
}

/// How long ago the machine was booted.
fn uptime() -> Result<Duration> {
    let text = fs::read_to_string("/proc/uptime")?;
    let seconds = text.split(' ').next().unwrap_or_default();
    Ok(Duration::from_secs_f64(seconds.parse()?))
}

async fn install(first: &str) -> Result<()> {
    let said = shell(&format!("dpkg -i {first} 2>&1"))?;
    ensure!(!said.contains("slipway: "), "it complains:\n{said}");
    // At once: systemd has waited until CRI was answered.
    cri().version().await?;
    for (property, wanted) in [
        ("ActiveState", "active"),
        ("UnitFileState", "enabled"),
        ("StatusText", "Answers CRI on /run/slipway/slipway.sock"),
        ("OOMScoreAdjust", "-999"),
        ("LimitNOFILE", "1048576"),
        ("Delegate", "yes"),
    ] {
        let found = service(property)?;
        ensure!(found == wanted, "{property} is {found} instead of {wanted}");
    }
    is_prepared()?;
    shell("dpkg --verify slipway; test -z \"$(dpkg --verify slipway)\"")?;
    for file in [
        "/etc/slipway/config.toml",
        "/usr/share/man/man1/slipway-serve.1.gz",
        "/usr/share/bash-completion/completions/slipway",
        "/usr/share/doc/slipway/examples/crictl.yaml",
        "/usr/share/doc/slipway/sbom.cdx.json",
    ] {
        ensure!(Path::new(file).exists(), "there is no {file}");
    }
    Ok(())
}

async fn restart(counting: &mut Counting) -> Result<()> {
    let before = daemon()?;
    shell("systemctl restart slipway.service")?;
    ensure!(daemon()? != before, "the daemon is the same");
    counting.goes_on().await
}

async fn killed(counting: &mut Counting) -> Result<()> {
    let before = daemon()?;
    shell(&format!("kill -KILL {before}"))?;
    replaced(&before).await?;
    counting.goes_on().await
}

/// systemd's watchdog finds it.
async fn hung(counting: &mut Counting) -> Result<()> {
    let directory = "/run/systemd/system/slipway.service.d";
    fs::create_dir_all(directory)?;
    let soon = "[Service]\nWatchdogSec=6\nTimeoutAbortSec=3\n";
    fs::write(format!("{directory}/soon.conf"), soon)?;
    shell("systemctl daemon-reload; systemctl restart slipway.service")?;
    let before = daemon()?;
    shell(&format!("sleep 8; kill -STOP {before}"))?;
    replaced(&before).await?;
    let log = shell("journalctl -u slipway.service --no-pager")?;
    ensure!(
        log.contains("Watchdog timeout"),
        "it was something else:\n{log}"
    );
    fs::remove_dir_all(directory)?;
    shell("systemctl daemon-reload; systemctl restart slipway.service")?;
    counting.goes_on().await
}

async fn upgrade(second: &str, counting: &mut Counting) -> Result<()> {
    shell("echo '# a line of the administrator' >>/etc/slipway/config.toml")?;
    let before = daemon()?;
    shell(&format!("dpkg -i {second}"))?;
    ensure!(daemon()? != before, "the daemon was not restarted");
    cri().version().await?;
    counting.goes_on().await?;
    let config = fs::read_to_string("/etc/slipway/config.toml")?;
    ensure!(config.contains("\n#pids_limit = "), "keys are missing");
    ensure!(
        config.contains("administrator"),
        "the configuration is lost"
    );
    let version = shell("dpkg-query -W -f '${Version}' slipway")?;
    ensure!(version == VERSIONS[1], "the version is {version}");
    Ok(())
}

/// The daemon that runs is not given up for one that could not start.
async fn mistaken(second: &str, counting: &mut Counting) -> Result<()> {
    let drop_in = "/etc/slipway/conf.d/mistake.toml";
    fs::write(drop_in, "rooot = \"/var/lib/slipway\"\n")?;
    let before = daemon()?;
    let said = shell(&format!("dpkg -i {second} 2>&1"))?;
    for word in ["mistake.toml", "rooot", "systemctl restart"] {
        ensure!(said.contains(word), "it does not say {word}:\n{said}");
    }
    ensure!(daemon()? == before, "the daemon was restarted");
    fs::remove_file(drop_in)?;
    shell("systemctl reload slipway.service")?;
    ensure!(daemon()? == before, "the daemon was restarted");
    counting.goes_on().await
}

async fn disabled(second: &str, counting: &mut Counting) -> Result<()> {
    shell("systemctl disable --now slipway.service 2>&1")?;
    shell(&format!("dpkg -i {second} 2>&1"))?;
    for (property, wanted) in [("ActiveState", "inactive"), ("UnitFileState", "disabled")] {
        let found = service(property)?;
        ensure!(found == wanted, "{property} is {found} instead of {wanted}");
    }
    counting.counts().await?;
    shell("systemctl enable --now slipway.service 2>&1")?;
    counting.goes_on().await
}

/// The kernel's part of a pod is gone; what CRI reports lets a kubelet begin anew.
async fn rebooted(counting: &Counting) -> Result<()> {
    started().await?;
    is_prepared()?;
    let cri = cri();
    let state = cri.pod_status(&counting.pod).await?.state();
    let gone = state == PodSandboxState::SandboxNotready;
    ensure!(gone, "the pod is {state:?}");
    let status = cri.container_status(&counting.container).await?;
    let exited = status.state() == ContainerState::ContainerExited;
    // What it made of the SIGTERM of a node that goes down, if that was written down in time.
    let ends = [(TERMINATED, "Error"), (255, "Unknown")];
    ensure!(
        exited && ends.contains(&(status.exit_code, status.reason.as_str())),
        "the container is {status:?}"
    );
    println!(
        "  reported: {} {:?} {:?}",
        status.exit_code, status.reason, status.message
    );
    cri.stop_pod(&counting.pod).await?;
    cri.remove_pod(&counting.pod).await?;
    ensure!(cri.pods().await?.is_empty(), "the pod is still listed");
    Ok(())
}

async fn remove(counting: &mut Counting) -> Result<()> {
    let said = shell("dpkg --remove slipway 2>&1")?;
    ensure!(
        said.contains("pods go on"),
        "it does not say that pods go on:\n{said}"
    );
    let state = service("ActiveState")?;
    ensure!(state == "inactive", "the service is {state}");
    ensure!(!Path::new("/usr/bin/slipway").exists(), "it is still there");
    counting.counts().await
}

async fn purge_with_pods(counting: &mut Counting) -> Result<()> {
    refused("dpkg --purge slipway", &["pods are still running"])?;
    for path in ["/var/lib/slipway/pods.redb", "/run/slipway/pods"] {
        ensure!(Path::new(path).exists(), "{path} is gone");
    }
    counting.counts().await
}

async fn install_again(second: &str, counting: &mut Counting) -> Result<()> {
    shell(&format!("dpkg -i {second}"))?;
    cri().version().await?;
    counting.goes_on().await
}

async fn purge(counting: &Counting) -> Result<()> {
    cri().stop_pod(&counting.pod).await?;
    cri().remove_pod(&counting.pod).await?;
    shell("dpkg --purge slipway")?;
    nothing_is_there()?;
    let left = shell("grep -c slipway /proc/mounts || true")?;
    ensure!(left == "0", "{left} mounts are left");
    Ok(())
}
