//! Pods on Docker alone, named, labelled and networked as dockershim did it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Request;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::api;
use crate::command_line::Kubelet;
use crate::pods::{self, Pod};
use crate::runtime::{Container, Sandbox};

const SOCKET: &str = "/var/run/docker.sock";

/// Where libcni keeps what plugins have answered.
const RESULTS: &str = "/var/lib/cni/results";

/// The `docker` of the node, and its networks.
pub(crate) struct Dockershim {
    pause_image: String,
    systemd: bool,
    plugins: PathBuf,
    configurations: PathBuf,
    logs: PathBuf,
}

impl Dockershim {
    /// Looks for Docker, and refuses one with another cgroup driver.
    pub(crate) fn connect(kubelet: &Kubelet) -> Result<Self> {
        let theirs = docker(&["info", "-f", "{{.CgroupDriver}}"])?;
        let own = &kubelet.cgroup_driver;
        ensure!(
            theirs == *own,
            "failed to run Kubelet: misconfiguration: kubelet cgroup driver: {own:?} is different \
             from docker cgroup driver: {theirs:?}"
        );
        Ok(Self {
            pause_image: kubelet.pause_image.clone(),
            systemd: theirs == "systemd",
            plugins: kubelet.cni_plugins.clone(),
            configurations: kubelet.cni_configurations.clone(),
            logs: kubelet.pod_logs.clone(),
        })
    }

    pub(crate) fn run_sandbox(&self, pod: &Pod) -> Result<String> {
        let network = if pod.host_network { "host" } else { "none" };
        let mut words = vec![
            format!(
                "--name=k8s_POD_{}_{}_{}_0",
                pod.name, pod.namespace, pod.uid
            ),
            format!("--network={network}"),
            "--ipc=shareable".to_owned(),
            "--label=io.kubernetes.docker.type=podsandbox".to_owned(),
            "--label=io.kubernetes.container.name=POD".to_owned(),
        ];
        words.extend(self.common(pod));
        words.push(self.pause_image.clone());
        let id = run(&words)?;
        if !pod.host_network {
            self.attach(pod, &id)?;
        }
        Ok(id)
    }

    pub(crate) fn run_container(
        &self,
        pod: &Pod,
        sandbox: &str,
        container: &Value,
        attempt: u32,
    ) -> Result<()> {
        let name = pods::text(&container["name"]);
        let directory = pod.log_directory(&self.logs).join(name);
        let log = directory.join(format!("{attempt}.log"));
        let log = log.display();
        let mut words = vec![
            format!(
                "--name=k8s_{name}_{}_{}_{}_{attempt}",
                pod.name, pod.namespace, pod.uid
            ),
            format!("--network=container:{sandbox}"),
            format!("--ipc=container:{sandbox}"),
            "--label=io.kubernetes.docker.type=container".to_owned(),
            format!("--label=io.kubernetes.container.name={name}"),
            format!("--label=io.kubernetes.sandbox.id={sandbox}"),
            format!("--label=io.kubernetes.container.logpath={log}"),
        ];
        words.extend(self.common(pod));
        let command = pods::words(&container["command"]);
        let (first, rest) = command
            .split_first()
            .map_or((None, &[][..]), |(a, b)| (Some(a), b));
        words.extend(first.map(|program| format!("--entrypoint={program}")));
        words.push(pods::text(&container["image"]).to_owned());
        words.extend(rest.iter().cloned());
        words.extend(pods::words(&container["args"]));
        let id = run(&words)?;
        fs::create_dir_all(&directory)?;
        let kept = docker(&["inspect", "-f", "{{.LogPath}}", &id])?;
        symlink(kept, log.to_string())?;
        Ok(())
    }

    pub(crate) fn remove_sandbox(&self, sandbox: &Sandbox, grace: i64) -> Result<()> {
        for container in &sandbox.containers {
            docker(&["stop", "-t", &grace.to_string(), &container.id])?;
            docker(&["rm", "-f", &container.id])?;
        }
        self.detach(&sandbox.id)?;
        docker(&["rm", "-f", &sandbox.id]).map(drop)
    }

    fn common(&self, pod: &Pod) -> Vec<String> {
        let labels = pod.labels().into_iter();
        let mut words: Vec<_> = labels
            .map(|(key, value)| format!("--label={key}={value}"))
            .collect();
        words.push(if self.systemd {
            format!(
                "--cgroup-parent=kubepods-pod{}.slice",
                pod.uid.replace('-', "_")
            )
        } else {
            format!("--cgroup-parent=/kubepods/pod{}", pod.uid)
        });
        words
    }

    /// Has the first plugin of the first list make the pod's network, and keeps its answer as
    /// libcni does.
    fn attach(&self, pod: &Pod, id: &str) -> Result<()> {
        let (path, list) = self.network()?;
        let result = self.plugin(&list, "ADD", id)?;
        let record = json!({
            "kind": "cniCacheV1", "containerId": id, "ifName": "eth0",
            "config": STANDARD.encode(fs::read(path)?), "networkName": list["name"],
            "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAME", pod.name]],
            "capabilityArgs": { "portMappings": [] },
            "result": serde_json::from_slice::<Value>(&result)?,
        });
        fs::create_dir_all(RESULTS)?;
        Ok(fs::write(record_of(&list, id), record.to_string())?)
    }

    fn detach(&self, id: &str) -> Result<()> {
        let (_, list) = self.network()?;
        let record = record_of(&list, id);
        if record.exists() {
            self.plugin(&list, "DEL", id)?;
            fs::remove_file(record)?;
        }
        Ok(())
    }

    fn network(&self) -> Result<(PathBuf, Value)> {
        let files = fs::read_dir(&self.configurations)?;
        let mut files: Vec<_> = files.map(|file| Ok(file?.path())).collect::<Result<_>>()?;
        files.sort();
        let path = files
            .into_iter()
            .next()
            .context("cni config uninitialized")?;
        let list = serde_json::from_slice(&fs::read(&path)?)?;
        Ok((path, list))
    }

    fn plugin(&self, list: &Value, command: &str, id: &str) -> Result<Vec<u8>> {
        let mut config = list["plugins"][0].clone();
        config["name"] = list["name"].clone();
        config["cniVersion"] = list["cniVersion"].clone();
        let pid = docker(&["inspect", "-f", "{{.State.Pid}}", id])?;
        let mut child = Command::new(self.plugins.join(pods::text(&config["type"])))
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", format!("/proc/{pid}/ns/net"))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.plugins)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("there is no pipe")?;
        stdin.write_all(config.to_string().as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "CNI {command}: {said}");
        Ok(output.stdout)
    }
}

pub(crate) async fn version() -> Result<String> {
    let told = get("/version").await?;
    Ok(format!("docker://{}", pods::text(&told["Version"])))
}

pub(crate) async fn images() -> Result<Vec<Value>> {
    let images = get("/images/json").await?;
    let images = images.as_array().into_iter().flatten();
    Ok(images
        .map(|image| json!({ "names": image["RepoTags"] }))
        .collect())
}

pub(crate) async fn sandboxes() -> Result<Vec<Sandbox>> {
    let all = get("/containers/json?all=1").await?;
    let all: Vec<&Value> = all.as_array().into_iter().flatten().collect();
    let of = |kind: &'static str| {
        let all = all.iter().copied();
        all.filter(move |one| label(one, "docker.type") == kind)
    };
    Ok(of("podsandbox")
        .map(|sandbox| Sandbox {
            id: pods::text(&sandbox["Id"]).to_owned(),
            uid: label(sandbox, "pod.uid").to_owned(),
            ready: sandbox["State"] == "running",
            containers: of("container")
                .filter(|one| sandbox["Id"] == label(one, "sandbox.id"))
                .map(container)
                .collect(),
        })
        .collect())
}

pub(crate) fn remove_container(id: &str) -> Result<()> {
    docker(&["rm", "-f", id]).map(drop)
}

fn record_of(list: &Value, id: &str) -> PathBuf {
    Path::new(RESULTS).join(format!("{}-{id}-eth0", pods::text(&list["name"])))
}

fn label<'a>(listed: &'a Value, name: &str) -> &'a str {
    pods::text(&listed["Labels"][format!("io.kubernetes.{name}")])
}

fn container(listed: &Value) -> Container {
    // `Exited (3) 5 minutes ago`
    let status = pods::text(&listed["Status"]).split(['(', ')']).nth(1);
    let code = status.and_then(|code| code.parse().ok()).unwrap_or(-1);
    let name = pods::text(&listed["Names"][0]).rsplit('_').next();
    Container {
        id: pods::text(&listed["Id"]).to_owned(),
        name: label(listed, "container.name").to_owned(),
        attempt: name.and_then(|last| last.parse().ok()).unwrap_or(0),
        exit_code: (listed["State"] != "running").then_some(code),
    }
}

/// What is asked all the time is asked without `docker`, which takes seconds in an emulated machine.
async fn get(path: &str) -> Result<Value> {
    let stream = UnixStream::connect(SOCKET)
        .await
        .with_context(|| format!("Cannot connect to the Docker daemon at unix://{SOCKET}"))?;
    api::send(stream, Request::get(path).header("host", "docker"), "")
        .await?
        .with_context(|| format!("Docker has no {path}"))
}

/// `docker run -d`; what a start that failed has left is removed.
fn run(words: &[String]) -> Result<String> {
    let all: Vec<_> = ["run", "-d"]
        .into_iter()
        .chain(words.iter().map(String::as_str))
        .collect();
    docker(&all).inspect_err(|_| {
        let name = words[0].trim_start_matches("--name=");
        let _ = docker(&["rm", "-f", name]);
    })
}

fn docker(words: &[&str]) -> Result<String> {
    let output = Command::new("docker").args(words).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "docker {}: {}",
        words[0],
        said.trim()
    );
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
