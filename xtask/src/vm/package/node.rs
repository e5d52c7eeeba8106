//! The node that the package is installed on: commands, the service, and a pod that counts.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use slipway_cri_api::v1::{
    ContainerState, ContainerStatusRequest, PodSandboxConfig, PodSandboxState,
};
use slipway_testbed::{Cri, Scratch, eventually, pod, read_log};

use crate::program;

/// Longer than anything takes in an emulated machine.
const LONG: Duration = Duration::from_mins(3);

/// How [`COUNTING`] ends when it is told to.
pub(super) const TERMINATED: i32 = 3;

/// What counts.
const COUNTING: &str =
    "trap 'exit 3' TERM; n=0; while :; do n=$((n + 1)); echo $n; sleep 0.2; done";

/// Runs a command of the shell and gives what it printed.
pub(in crate::vm) fn shell(script: &str) -> Result<String> {
    let printed = program::run(Command::new("sh").args(["-ec", script]))
        .with_context(|| format!("in the machine: {script}"))?;
    Ok(String::from_utf8(printed)?.trim_end().to_owned())
}

/// Runs a command of the shell that has to fail, and to say these words.
pub(in crate::vm) fn refused(script: &str, words: &[&str]) -> Result<()> {
    let output = Command::new("sh").args(["-ec", script]).output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(!output.status.success(), "{script} succeeded:\n{said}");
    for word in words {
        ensure!(
            said.contains(word),
            "{script} does not say {word:?}:\n{said}"
        );
    }
    Ok(())
}

/// A property of the service, as systemd has it.
pub(super) fn service(property: &str) -> Result<String> {
    shell(&format!(
        "systemctl show --value -p {property} slipway.service"
    ))
}

/// The daemon's process id.
pub(super) fn daemon() -> Result<String> {
    service("MainPID")
}

/// Waits until systemd has started another daemon than this one.
pub(super) async fn replaced(daemon_before: &str) -> Result<()> {
    eventually("another daemon", LONG, async || {
        Ok(service("ActiveState")? == "active" && daemon()? != daemon_before)
    })
    .await
}

/// Waits until the service is as it is after a boot.
pub(super) async fn started() -> Result<()> {
    eventually("the service", LONG, async || {
        Ok(service("ActiveState")? == "active")
    })
    .await
}

/// A client of the service.
pub(super) fn cri() -> Cri {
    Cri::new(Path::new("/run/slipway/slipway.sock"))
}

/// Whether the node is prepared for pods, as at every boot.
pub(super) fn is_prepared() -> Result<()> {
    for key in [
        "net/ipv4/ip_forward",
        "net/bridge/bridge-nf-call-iptables",
        "net/bridge/bridge-nf-call-ip6tables",
    ] {
        let value = fs::read_to_string(Path::new("/proc/sys").join(key)).context(key)?;
        ensure!(value.trim() == "1", "{key} is {value}");
    }
    for module in ["overlay", "br_netfilter"] {
        let loaded = Path::new("/sys/module").join(module).exists();
        ensure!(loaded, "the module {module} is not loaded");
    }
    Ok(())
}

/// A daemon that no service manager knows of. It is killed when this is dropped.
#[derive(Debug)]
pub(super) struct ByHand(Child);

impl ByHand {
    /// Starts it, and waits until it answers.
    pub(super) async fn start() -> Result<Self> {
        let mut command = Command::new("/usr/bin/slipway");
        let mut daemon = Self(command.arg("serve").spawn()?);
        let cri = cri();
        eventually("the daemon to answer", LONG, async || {
            let ended = daemon.0.try_wait()?;
            ensure!(ended.is_none(), "the daemon has ended: {ended:?}");
            Ok(cri.version().await.is_ok())
        })
        .await?;
        Ok(daemon)
    }

    /// Ends it as nobody would, and waits until it is gone.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        // It has been killed already where all went well.
        let _ = self.kill();
    }
}

/// Writes a network configuration where nodes have it.
pub(in crate::vm) fn network() -> Result<()> {
    fs::create_dir_all("/etc/cni/net.d")?;
    let plugins = serde_json::json!([
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            "ipMasq": true,
            "ipam": {
                "type": "host-local",
                "ranges": [[{ "subnet": "10.88.0.0/24" }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        },
        { "type": "portmap", "capabilities": { "portMappings": true } },
    ]);
    let list = serde_json::json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": plugins });
    Ok(fs::write(
        "/etc/cni/net.d/10-pods.conflist",
        list.to_string(),
    )?)
}

/// A pod with a container that counts in its log.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Counting {
    pub(super) pod: String,
    pub(super) container: String,
    process: i64,
    log: String,
    last: u64,
}

impl Counting {
    pub(super) async fn start(scratch: &Scratch, name: &str, image: &str) -> Result<Self> {
        let mut config: PodSandboxConfig = pod::config(scratch, name);
        if let Some(linux) = &mut config.linux {
            // The node's init is systemd: no path is a parent.
            linux.cgroup_parent.clear();
        }
        let container = pod::shell("counts", image, COUNTING);
        let log = pod::log_path(&config, &container);
        let cri = cri();
        let pod = cri.run_pod(&config).await?;
        let container = cri.launch(&pod, &config, &container).await?;
        Ok(Self {
            process: process(&cri, &container).await?,
            pod,
            container,
            log: log.display().to_string(),
            last: 0,
        })
    }

    /// Sees to it that the pod is ready, and its container the one that was started: the same
    /// process, which has gone on counting.
    pub(super) async fn goes_on(&mut self) -> Result<()> {
        let cri = cri();
        let state = cri.pod_status(&self.pod).await?.state();
        ensure!(
            state == PodSandboxState::SandboxReady,
            "the pod is {state:?}"
        );
        let state = cri.container_status(&self.container).await?.state();
        let running = state == ContainerState::ContainerRunning;
        ensure!(running, "the container is {state:?}");
        let now = process(&cri, &self.container).await?;
        let before = self.process;
        ensure!(
            now == before,
            "the container's process was {before} and is {now}"
        );
        self.counts().await
    }

    /// Sees to it that the container counts, whoever looks after it.
    pub(super) async fn counts(&mut self) -> Result<()> {
        let (log, last) = (Path::new(&self.log), self.last);
        let mut now = 0;
        eventually("the container to count", LONG, async || {
            let lines = read_log(log);
            now = lines
                .last()
                .map_or(0, |line| line.text.parse().unwrap_or(0));
            Ok(now > last + 1)
        })
        .await?;
        let lines = read_log(log).into_iter().map(|line| line.text);
        let wanted = (1..).map(|number: u64| number.to_string());
        let broken = lines.zip(wanted).find(|(line, number)| line != number);
        ensure!(broken.is_none(), "the log is broken at {broken:?}");
        self.last = now;
        Ok(())
    }
}

/// The process id of a container's init.
async fn process(cri: &Cri, container: &str) -> Result<i64> {
    let request = ContainerStatusRequest {
        container_id: container.to_owned(),
        verbose: true,
    };
    let answer = Box::pin(cri.runtime().container_status(request)).await?;
    let info = answer.into_inner().info;
    let info = info.get("info").context("the runtime tells no details")?;
    let info: serde_json::Value = serde_json::from_str(info)?;
    info["pid"].as_i64().context("the container has no process")
}
