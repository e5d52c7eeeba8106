//! What Docker is asked to make of a container's configuration.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use bollard::models::{
    ContainerCreateBody, DeviceMapping, DeviceRequest, HealthConfig, HostConfig,
    HostConfigLogConfig, Mount as DockerMount, MountBindOptions,
    MountBindOptionsPropagationEnum as Propagation, MountImageOptions, MountType, RestartPolicy,
    RestartPolicyNameEnum,
};
use slipway_cri_api::v1::{
    ContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext, Mount,
    MountPropagation, NamespaceMode, Signal,
};
use slipway_engine::refuse::device_target;
use slipway_engine::{ContainerName, Error, Result};

use crate::dockerd::{Facts, Labels};
use crate::inspect::Pod;
use crate::{limits, naming, refuse, security};

/// The log driver whose files a kubelet can read.
pub(crate) const JSON_FILE: &str = "json-file";

/// Where kubelets put logs that no request has told otherwise.
const LOGS: &str = "/var/log/pods";

/// What Docker is asked. Reads files that a seccomp profile names, so it blocks.
pub(crate) fn body(
    pod: &Pod,
    name: &ContainerName,
    config: &ContainerConfig,
    facts: &Facts,
) -> Result<ContainerCreateBody> {
    let image = config.image.clone().unwrap_or_default();
    if image.image.is_empty() {
        return Err(Error::invalid("ContainerConfig.image.image is empty"));
    }
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    let resources = linux.resources.unwrap_or_default();
    let mut labels = naming::labels(&config.labels, &config.annotations);
    let log_path = log_path(pod, config).map(|path| path.to_string_lossy().into_owned());
    let asked = if image.user_specified_image.is_empty() {
        &image.image
    } else {
        &image.user_specified_image
    };
    labels.extend(
        [
            (naming::TYPE, naming::CONTAINER.to_owned()),
            (naming::SANDBOX_ID, name.pod.clone()),
            (naming::LOG_PATH, log_path.unwrap_or_default()),
            (naming::IMAGE, asked.clone()),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    let limits = limits::labels(&resources).into_iter();
    labels.extend(limits.map(|(key, value)| (key.to_owned(), value)));
    let given = |words: &[String]| (!words.is_empty()).then(|| words.to_vec());
    let environment = config.envs.iter();
    let environment = environment.map(|entry| format!("{}={}", entry.key, entry.value));
    Ok(ContainerCreateBody {
        image: Some(image.image),
        entrypoint: given(&config.command),
        cmd: given(&config.args),
        env: Some(environment.collect()),
        working_dir: (!config.working_dir.is_empty()).then(|| config.working_dir.clone()),
        labels: Some(labels),
        user: user(&security),
        open_stdin: Some(config.stdin),
        stdin_once: Some(config.stdin_once),
        tty: Some(config.tty),
        stop_signal: stop_signal(config)?,
        // Probes are the kubelet's business.
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..HealthConfig::default()
        }),
        host_config: Some(host(pod, config, &security, facts)?),
        ..ContainerCreateBody::default()
    })
}

fn host(
    pod: &Pod,
    config: &ContainerConfig,
    security: &LinuxContainerSecurityContext,
    facts: &Facts,
) -> Result<HostConfig> {
    let of_pod = format!("container:{}", pod.id);
    let options = security.namespace_options.clone().unwrap_or_default();
    let pid = match NamespaceMode::try_from(options.pid) {
        Ok(NamespaceMode::Node) => Some("host".to_owned()),
        Ok(NamespaceMode::Pod) => Some(of_pod.clone()),
        Ok(NamespaceMode::Target) => Some(format!("container:{}", options.target_id)),
        Ok(NamespaceMode::Container) => None,
        Err(_) => {
            return Err(Error::invalid(format!(
                "ContainerConfig.linux.security_context.namespace_options.pid {} is unknown",
                options.pid
            )));
        }
    };
    let on_node = pod.namespaces.network == NamespaceMode::Node as i32;
    let resources = config
        .linux
        .as_ref()
        .and_then(|linux| linux.resources.clone());
    let groups = security.supplemental_groups.iter().map(i64::to_string);
    let listed = |paths: &[String]| {
        // A list that is empty on purpose looks the same in protobuf.
        (!security.privileged && !paths.is_empty()).then(|| paths.to_vec())
    };
    let capabilities = security.capabilities.clone().unwrap_or_default();
    let (cap_add, cap_drop) = security::capabilities(capabilities, facts.capabilities)?;
    let (binds, mounts) = mounts(&config.mounts, facts)?;
    let host = HostConfig {
        network_mode: Some(of_pod.clone()),
        ipc_mode: Some(of_pod),
        pid_mode: pid,
        // Each container has a UTS namespace of its own.
        sysctls: (!on_node).then(|| refuse::domain_name(pod)),
        uts_mode: on_node.then(|| "host".to_owned()),
        binds: Some(binds),
        mounts: Some(mounts),
        devices: Some(devices(config)),
        device_requests: cdi(config),
        privileged: Some(security.privileged),
        readonly_rootfs: Some(security.readonly_rootfs),
        cap_add: Some(cap_add),
        cap_drop: Some(cap_drop),
        group_add: Some(groups.collect()),
        masked_paths: listed(&security.masked_paths),
        readonly_paths: listed(&security.readonly_paths),
        security_opt: Some(security::options(security)?),
        cgroup_parent: (!pod.cgroup_parent.is_empty()).then(|| pod.cgroup_parent.clone()),
        runtime: (!pod.runtime.is_empty()).then(|| pod.runtime.clone()),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        log_config: (facts.logging_driver != JSON_FILE).then(|| HostConfigLogConfig {
            typ: Some(JSON_FILE.to_owned()),
            // dockerd's own options are another driver's.
            config: Some(rotation()),
        }),
        ..HostConfig::default()
    };
    Ok(match resources {
        Some(resources) => limited(host, &resources, facts),
        None => host,
    })
}

/// What keeps Docker's file from growing for ever: what a kubelet reads is written from it at once.
fn rotation() -> HashMap<String, String> {
    [("max-size", "10m"), ("max-file", "3")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// With the limits that Docker can set; for the others see [`limits`].
fn limited(host: HostConfig, resources: &LinuxContainerResources, facts: &Facts) -> HostConfig {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    // Less than nothing is no limit.
    let memory = resources.memory_limit_in_bytes.max(0);
    let swap = match resources.memory_swap_limit_in_bytes {
        // As much as of memory is none of swap.
        0 => memory,
        given => given,
    };
    HostConfig {
        memory: Some(memory),
        memory_swap: Some(swap),
        cpu_shares: Some(resources.cpu_shares),
        cpu_quota: Some(resources.cpu_quota),
        cpu_period: Some(resources.cpu_period),
        cpuset_cpus: text(&resources.cpuset_cpus),
        cpuset_mems: text(&resources.cpuset_mems),
        oom_score_adj: Some(resources.oom_score_adj.max(facts.lowest_oom_score)),
        ..host
    }
}

/// Where a kubelet will look for the container's log, if anywhere.
fn log_path(pod: &Pod, config: &ContainerConfig) -> Option<PathBuf> {
    if config.log_path.is_empty() {
        return None;
    }
    let of_pod = pod.checkpoint.as_ref().and_then(|made| made.config.clone());
    let directory = match of_pod {
        Some(config) if config.log_directory.is_empty() => return None,
        Some(config) => PathBuf::from(config.log_directory),
        // Dockershim has not kept it.
        None => {
            let name = &pod.name;
            Path::new(LOGS).join(format!("{}_{}_{}", name.namespace, name.name, name.uid))
        }
    };
    Some(directory.join(&config.log_path))
}

fn user(security: &LinuxContainerSecurityContext) -> Option<String> {
    let user = match &security.run_as_user {
        Some(user) => user.value.to_string(),
        None if security.run_as_username.is_empty() => return None,
        None => security.run_as_username.clone(),
    };
    Some(match &security.run_as_group {
        Some(group) => format!("{user}:{}", group.value),
        None => user,
    })
}

fn stop_signal(config: &ContainerConfig) -> Result<Option<String>> {
    match Signal::try_from(config.stop_signal) {
        Ok(Signal::RuntimeDefault) => Ok(None),
        Ok(signal) => slipway_engine::signal::parse(signal.as_str_name())
            .map(|number| Some(number.to_string()))
            .ok_or_else(|| {
                Error::invalid(format!(
                    "stop_signal {} has no number here",
                    signal.as_str_name()
                ))
            }),
        Err(_) => Err(Error::invalid(format!(
            "stop_signal {} is unknown",
            config.stop_signal
        ))),
    }
}

/// What is mounted, in the two forms that Docker knows: only the older one can have SELinux labels
/// changed. Of two at one place the last one is seen; Docker takes only one.
fn mounts(mounts: &[Mount], facts: &Facts) -> Result<(Vec<String>, Vec<DockerMount>)> {
    let place =
        |mount: &Mount| -> PathBuf { Path::new(&mount.container_path).components().collect() };
    let seen = mounts.iter().enumerate().filter(|(number, asked)| {
        let mut later = mounts[number + 1..].iter();
        !later.any(|other| place(other) == place(asked))
    });
    let (mut binds, mut others) = (Vec::new(), Vec::new());
    for (_, asked) in seen {
        if facts.labels == Labels::Given && asked.selinux_relabel && asked.image.is_none() {
            binds.push(relabelled(asked)?);
        } else {
            others.push(mount(asked, facts)?);
        }
    }
    Ok((binds, others))
}

/// A volume that gets the container's own label, as dockershim had it. One that is read-only is so
/// with all below it since Docker 25: this form cannot say otherwise.
fn relabelled(mount: &Mount) -> Result<String> {
    let (source, target) = (&mount.host_path, &mount.container_path);
    if let Some(path) = [source, target].into_iter().find(|path| path.contains(':')) {
        return Err(Error::precondition(format!(
            "Mount.selinux_relabel of {source:?}: Docker relabels no volume with a colon in a path \
             ({path:?})"
        )));
    }
    let propagation = propagation(mount)?;
    provide(Path::new(source))?;
    let access = if mount.readonly { "ro" } else { "rw" };
    Ok(format!("{source}:{target}:{access},Z,{propagation}"))
}

fn mount(mount: &Mount, facts: &Facts) -> Result<DockerMount> {
    let target = Some(mount.container_path.clone());
    if let Some(image) = mount.image.as_ref().filter(|image| !image.image.is_empty()) {
        let subpath = Some(mount.image_sub_path.clone()).filter(|path| !path.is_empty());
        return Ok(DockerMount {
            target,
            source: Some(image.image.clone()),
            typ: Some(MountType::IMAGE),
            read_only: Some(true),
            image_options: subpath.map(|subpath| MountImageOptions {
                subpath: Some(subpath),
            }),
            ..DockerMount::default()
        });
    }
    let propagation = propagation(mount)?;
    provide(Path::new(&mount.host_path))?;
    // Later versions would by themselves make read-only all that is below.
    let since = facts.api >= (1, 44);
    Ok(DockerMount {
        target,
        source: Some(mount.host_path.clone()),
        typ: Some(MountType::BIND),
        read_only: Some(mount.readonly),
        bind_options: Some(MountBindOptions {
            propagation: Some(propagation),
            read_only_non_recursive: (since && mount.readonly && !mount.recursive_read_only)
                .then_some(true),
            read_only_force_recursive: (since && mount.recursive_read_only).then_some(true),
            ..MountBindOptions::default()
        }),
        ..DockerMount::default()
    })
}

fn propagation(mount: &Mount) -> Result<Propagation> {
    match MountPropagation::try_from(mount.propagation) {
        Ok(MountPropagation::PropagationPrivate) => Ok(Propagation::RPRIVATE),
        Ok(MountPropagation::PropagationHostToContainer) => Ok(Propagation::RSLAVE),
        Ok(MountPropagation::PropagationBidirectional) => Ok(Propagation::RSHARED),
        Err(_) => Err(Error::invalid(format!(
            "Mount.propagation {} at {} is unknown",
            mount.propagation, mount.container_path
        ))),
    }
}

/// As dockershim had it: a volume of no type that is not there becomes a directory.
fn provide(source: &Path) -> Result<()> {
    if std::fs::metadata(source).is_ok() {
        return Ok(());
    }
    std::fs::create_dir_all(source).map_err(|error| {
        let words = format!(
            "Mount.host_path {} is not there and cannot be made: {error}",
            source.display()
        );
        match error.kind() {
            ErrorKind::NotADirectory => Error::invalid(words),
            _ => Error::precondition(words),
        }
    })
}

fn devices(config: &ContainerConfig) -> Vec<DeviceMapping> {
    let devices = config.devices.iter();
    devices
        .map(|device| DeviceMapping {
            path_on_host: Some(device.host_path.clone()),
            path_in_container: Some(device_target(device).to_owned()),
            cgroup_permissions: Some(device.permissions.clone()),
        })
        .collect()
}

fn cdi(config: &ContainerConfig) -> Option<Vec<DeviceRequest>> {
    let names: Vec<_> = refuse::cdi_devices(config).map(str::to_owned).collect();
    (!names.is_empty()).then(|| {
        vec![DeviceRequest {
            driver: Some("cdi".to_owned()),
            device_ids: Some(names),
            ..DeviceRequest::default()
        }]
    })
}

#[cfg(test)]
mod tests {
    use slipway_engine::Kind;

    use super::*;

    #[test]
    fn only_where_docker_labels_is_a_volume_relabelled() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("volume");
        let volume = |target: &str, selinux_relabel| Mount {
            host_path: source.to_str().unwrap().to_owned(),
            container_path: target.to_owned(),
            selinux_relabel,
            readonly: true,
            ..Mount::default()
        };
        let asked = [volume("/own", true), volume("/shared", false)];
        let targets = |mounts: &[DockerMount]| -> Vec<String> {
            let targets = mounts.iter().map(|mount| mount.target.clone().unwrap());
            targets.collect()
        };
        let labelling = |labels| Facts {
            labels,
            ..Facts::of_tests()
        };
        let (binds, others) = mounts(&asked, &labelling(Labels::None)).unwrap();
        assert_eq!(
            (binds.len(), targets(&others)),
            (0, vec!["/own".to_owned(), "/shared".to_owned()])
        );
        std::fs::remove_dir(&source).unwrap();
        let (binds, others) = mounts(&asked, &labelling(Labels::Given)).unwrap();
        assert_eq!(binds, [format!("{}:/own:ro,Z,rprivate", source.display())]);
        assert_eq!(targets(&others), ["/shared"]);
        assert!(
            source.is_dir(),
            "a volume that is not there becomes a directory"
        );
        let error = mounts(&[volume("/a:b", true)], &labelling(Labels::Given)).unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        assert!(error.to_string().contains("/a:b"), "{error}");
    }
}
