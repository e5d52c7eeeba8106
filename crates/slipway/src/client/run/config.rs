//! What `slipway run` asks the runtime to make.

use std::path::Path;

use anyhow::anyhow;
use slipway_cri_api::v1::security_profile::ProfileType;
use slipway_cri_api::v1::{
    ContainerConfig, ContainerMetadata, ImageSpec, Int64Value, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, SecurityProfile,
};

use super::RunArgs;
use super::values::{CPU_PERIOD, UserName};

/// What of /proc and /sys tells a container about the host, and what of it lets it change the host.
/// A kubelet sends the same lists (`pkg/securitycontext`).
const MASKED_PATHS: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
];
const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Unlike a kubelet's, such pods are nobody's; the name says whose tool made them.
const NAMESPACE: &str = "slipway-run";

impl RunArgs {
    pub(super) fn pod_config(&self, uid: &str, logs: &Path) -> anyhow::Result<PodSandboxConfig> {
        let log_directory = logs.to_str().ok_or_else(|| {
            anyhow!(
                "the log directory {} has a name that is not UTF-8",
                logs.display()
            )
        })?;
        let name = self
            .name
            .clone()
            .unwrap_or_else(|| format!("run-{}", &uid[..8]));
        let hostname = match &self.hostname {
            Some(hostname) => hostname.clone(),
            // The host's network comes with the host's name.
            None if self.host_network => String::new(),
            None => name.clone(),
        };
        Ok(PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name,
                uid: uid.into(),
                namespace: NAMESPACE.into(),
                attempt: 0,
            }),
            hostname,
            log_directory: log_directory.into(),
            port_mappings: self.ports.clone(),
            linux: Some(LinuxPodSandboxConfig {
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(self.namespaces()),
                    seccomp: Some(unconfined()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    pub(super) fn container_config(&self, pod: &PodSandboxConfig) -> ContainerConfig {
        let name = pod
            .metadata
            .as_ref()
            .map(|metadata| metadata.name.clone())
            .unwrap_or_default();
        ContainerConfig {
            metadata: Some(ContainerMetadata { name, attempt: 0 }),
            image: Some(ImageSpec {
                image: self.image.clone(),
                user_specified_image: self.image.clone(),
                ..Default::default()
            }),
            // As in a Pod's `args`: the image's entry point stays.
            args: self.command.clone(),
            working_dir: self.workdir.clone().unwrap_or_default(),
            envs: self.environment.clone(),
            mounts: self.mounts.clone(),
            log_path: "0.log".into(),
            linux: Some(LinuxContainerConfig {
                resources: Some(self.resources()),
                security_context: Some(self.security_context()),
            }),
            ..Default::default()
        }
    }

    fn namespaces(&self) -> NamespaceOption {
        let network = if self.host_network {
            NamespaceMode::Node
        } else {
            NamespaceMode::Pod
        };
        NamespaceOption {
            network: network.into(),
            pid: NamespaceMode::Container.into(),
            ipc: NamespaceMode::Pod.into(),
            ..Default::default()
        }
    }

    fn resources(&self) -> LinuxContainerResources {
        let mut resources = LinuxContainerResources {
            memory_limit_in_bytes: self.memory.unwrap_or_default(),
            ..Default::default()
        };
        if let Some(cpus) = self.cpus {
            resources.cpu_period = CPU_PERIOD;
            resources.cpu_quota = cpus.quota;
            resources.cpu_shares = cpus.shares;
        }
        resources
    }

    fn security_context(&self) -> LinuxContainerSecurityContext {
        let mut context = LinuxContainerSecurityContext {
            namespace_options: Some(self.namespaces()),
            masked_paths: MASKED_PATHS.map(Into::into).into(),
            readonly_paths: READONLY_PATHS.map(Into::into).into(),
            seccomp: Some(unconfined()),
            ..Default::default()
        };
        if let Some(user) = &self.user {
            match &user.user {
                UserName::Number(number) => {
                    context.run_as_user = Some(Int64Value { value: *number });
                }
                UserName::Name(name) => context.run_as_username.clone_from(name),
            }
            context.run_as_group = user.group.map(|value| Int64Value { value });
        }
        context
    }
}

fn unconfined() -> SecurityProfile {
    SecurityProfile {
        profile_type: ProfileType::Unconfined.into(),
        ..Default::default()
    }
}
