//! A runtime behind CRI.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use slipway_cri_api::v1::{
    CgroupDriver, ContainerConfig, ContainerMetadata, ContainerState, ImageSpec,
    ImageStatusRequest, LinuxContainerConfig, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, ListImagesRequest, NamespaceMode, NamespaceOption,
    PodSandboxConfig, PodSandboxMetadata, PodSandboxState, RuntimeConfigRequest,
};
use slipway_testbed::Cri;

use crate::command_line::Kubelet;
use crate::pods::{self, Pod};
use crate::runtime::{Container, Sandbox};

/// A kubelet's connection to it.
pub(crate) struct Remote {
    cri: Cri,
    systemd: bool,
    logs: PathBuf,
}

impl Remote {
    pub(crate) async fn connect(socket: &Path, kubelet: &Kubelet) -> Result<Self> {
        let cri = Cri::new(socket);
        let cgroup_driver = &kubelet.cgroup_driver;
        let systemd = cgroup_driver == "systemd";
        cri.version().await?;
        // Runtimes from before 1.28 do not tell.
        if let Ok(answer) = cri.runtime().runtime_config(RuntimeConfigRequest {}).await
            && let Some(linux) = answer.into_inner().linux
        {
            let theirs = linux.cgroup_driver() == CgroupDriver::Systemd;
            ensure!(
                theirs == systemd,
                "misconfiguration: kubelet cgroup driver: {cgroup_driver:?} is different from the \
                 runtime's: {:?}",
                linux.cgroup_driver()
            );
        }
        Ok(Self {
            cri,
            systemd,
            logs: kubelet.pod_logs.clone(),
        })
    }

    pub(crate) async fn version(&self) -> Result<String> {
        let told = self.cri.version().await?;
        Ok(format!("{}://{}", told.runtime_name, told.runtime_version))
    }

    pub(crate) async fn images(&self) -> Result<Vec<Value>> {
        let answer = self
            .cri
            .images()
            .list_images(ListImagesRequest::default())
            .await?;
        let images = answer.into_inner().images.into_iter();
        let names = images.map(|image| [image.repo_tags, image.repo_digests].concat());
        Ok(names.map(|names| json!({ "names": names })).collect())
    }

    pub(crate) async fn sandboxes(&self) -> Result<Vec<Sandbox>> {
        let containers = self.cri.containers().await?;
        let mut sandboxes = Vec::new();
        for pod in self.cri.pods().await? {
            let mut sandbox = Sandbox {
                ready: pod.state() == PodSandboxState::SandboxReady,
                uid: pod.metadata.unwrap_or_default().uid,
                id: pod.id,
                containers: Vec::new(),
            };
            for container in containers
                .iter()
                .filter(|one| one.pod_sandbox_id == sandbox.id)
            {
                let metadata = container.metadata.clone().unwrap_or_default();
                let exit_code = match container.state() {
                    ContainerState::ContainerRunning => None,
                    ContainerState::ContainerCreated => Some(-1),
                    _ => Some(self.cri.container_status(&container.id).await?.exit_code),
                };
                sandbox.containers.push(Container {
                    id: container.id.clone(),
                    name: metadata.name,
                    attempt: metadata.attempt,
                    exit_code,
                });
            }
            sandboxes.push(sandbox);
        }
        Ok(sandboxes)
    }

    pub(crate) async fn run_sandbox(&self, pod: &Pod) -> Result<String> {
        Ok(self.cri.run_pod(&self.sandbox_config(pod)?).await?)
    }

    pub(crate) async fn run_container(
        &self,
        pod: &Pod,
        sandbox: &str,
        container: &Value,
        attempt: u32,
    ) -> Result<()> {
        let image = pods::text(&container["image"]);
        let spec = ImageSpec {
            image: image.to_owned(),
            ..ImageSpec::default()
        };
        let request = ImageStatusRequest {
            image: Some(spec.clone()),
            verbose: false,
        };
        let known = self.cri.images().image_status(request).await?;
        if known.into_inner().image.is_none() {
            self.cri.pull(image).await?;
        }
        let name = pods::text(&container["name"]).to_owned();
        let directory = pod.log_directory(&self.logs).join(&name);
        fs::create_dir_all(directory)?;
        let words = |field: &str| pods::words(&container[field]);
        let config = ContainerConfig {
            log_path: format!("{name}/{attempt}.log"),
            metadata: Some(ContainerMetadata {
                name: name.clone(),
                attempt,
            }),
            image: Some(spec),
            command: words("command"),
            args: words("args"),
            labels: labels(pod, Some(&name)),
            linux: Some(LinuxContainerConfig {
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces(pod)),
                    ..LinuxContainerSecurityContext::default()
                }),
                ..LinuxContainerConfig::default()
            }),
            ..ContainerConfig::default()
        };
        let sandbox_config = self.sandbox_config(pod)?;
        self.cri.launch(sandbox, &sandbox_config, &config).await?;
        Ok(())
    }

    pub(crate) async fn remove_container(&self, id: &str) -> Result<()> {
        Ok(self.cri.remove(id).await?)
    }

    pub(crate) async fn remove_sandbox(&self, sandbox: &Sandbox, grace: i64) -> Result<()> {
        for container in &sandbox.containers {
            self.cri.stop(&container.id, grace).await?;
            self.cri.remove(&container.id).await?;
        }
        self.cri.stop_pod(&sandbox.id).await?;
        Ok(self.cri.remove_pod(&sandbox.id).await?)
    }

    fn sandbox_config(&self, pod: &Pod) -> Result<PodSandboxConfig> {
        let directory = pod.log_directory(&self.logs);
        fs::create_dir_all(&directory)?;
        let cgroup_parent = if self.systemd {
            format!("kubepods-pod{}.slice", pod.uid.replace('-', "_"))
        } else {
            format!("/kubepods/pod{}", pod.uid)
        };
        Ok(PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: pod.name.clone(),
                uid: pod.uid.clone(),
                namespace: pod.namespace.clone(),
                attempt: 0,
            }),
            hostname: pod.name.clone(),
            log_directory: directory.display().to_string(),
            labels: labels(pod, None),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent,
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces(pod)),
                    ..LinuxSandboxSecurityContext::default()
                }),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        })
    }
}

fn namespaces(pod: &Pod) -> NamespaceOption {
    let network = if pod.host_network {
        NamespaceMode::Node
    } else {
        NamespaceMode::Pod
    };
    NamespaceOption {
        network: network.into(),
        pid: NamespaceMode::Container.into(),
        ..NamespaceOption::default()
    }
}

fn labels(pod: &Pod, container: Option<&str>) -> HashMap<String, String> {
    let mut labels = pod.labels();
    labels.extend(container.map(|name| ("io.kubernetes.container.name", name)));
    let owned = labels
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    owned.collect()
}
