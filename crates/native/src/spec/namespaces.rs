//! A container's namespaces: which of them it shares with its pod, the node or another container,
//! and how the users of a pod's own user namespace are numbered on the node.

use std::path::PathBuf;

use oci_spec::runtime::{
    Linux, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceBuilder,
    LinuxNamespaceType, Mount,
};
use slipway_cri_api::v1::{
    ContainerConfig, IdMapping, LinuxContainerSecurityContext, Mount as Request, MountPropagation,
    NamespaceMode, NamespaceOption, PodSandboxConfig, UserNamespace,
};
use slipway_engine::{Error, Result, refuse};
use slipway_shim::protocol;

use super::{Plan, built, pod_namespaces, security};
use crate::user::User;

const OF_POD: &str = "PodSandboxConfig.linux.security_context.namespace_options";
const OF_CONTAINER: &str = "ContainerConfig.linux.security_context.namespace_options";

/// As many ranges as user_namespaces(7) lets a map have.
const MOST_RANGES: usize = 340;

/// The namespaces of a container's OCI configuration.
pub(super) fn of(
    plan: &Plan<'_>,
    security: &LinuxContainerSecurityContext,
) -> Result<Vec<LinuxNamespace>> {
    use LinuxNamespaceType as Type;
    let pins = plan.pod_directory.join("ns");
    let pinned = |typ, name: &str| namespace(typ, Some(pins.join(name)));
    let of_pod = pod_namespaces(plan.pod);
    let of_container = security.namespace_options.clone().unwrap_or_default();
    let node = NamespaceMode::Node as i32;
    let mut namespaces = vec![namespace(Type::Mount, None)?];
    if user_of(&of_pod).is_some() {
        namespaces.push(pinned(Type::User, "user")?);
    }
    if of_pod.network != node {
        namespaces.push(pinned(Type::Network, "net")?);
        namespaces.push(pinned(Type::Uts, "uts")?);
    }
    if of_pod.ipc != node {
        namespaces.push(pinned(Type::Ipc, "ipc")?);
    }
    match NamespaceMode::try_from(of_container.pid) {
        Ok(NamespaceMode::Pod) => namespaces.push(pinned(Type::Pid, "pid")?),
        Ok(NamespaceMode::Container) => namespaces.push(namespace(Type::Pid, None)?),
        Ok(NamespaceMode::Target) => {
            let pid = plan.target.ok_or_else(|| {
                Error::internal("a container with a target was planned without it")
            })?;
            let path = PathBuf::from(format!("/proc/{pid}/ns/pid"));
            namespaces.push(namespace(Type::Pid, Some(path))?);
        }
        Ok(NamespaceMode::Node) | Err(_) => {}
    }
    // A privileged container sees the node's cgroups, as the peers have it.
    if plan.cgroups == slipway_cgroup::Version::V2 && !security.privileged {
        namespaces.push(namespace(Type::Cgroup, None)?);
    }
    Ok(namespaces)
}

fn namespace(typ: LinuxNamespaceType, path: Option<PathBuf>) -> Result<LinuxNamespace> {
    let mut namespace = LinuxNamespaceBuilder::default()
        .typ(typ)
        .build()
        .map_err(built)?;
    namespace.set_path(path);
    Ok(namespace)
}

/// Writes down how the pod's user namespace numbers its users, if it has one.
pub(super) fn map_users(linux: &mut Linux, pod: &PodSandboxConfig) -> Result<()> {
    if let Some(user) = user_of(&pod_namespaces(pod)) {
        linux.set_uid_mappings(Some(ranges(&user.uids)?));
        linux.set_gid_mappings(Some(ranges(&user.gids)?));
    }
    Ok(())
}

/// Has a mount show its files' owners by the mappings that the request asks for.
pub(super) fn map_mount(mount: &mut Mount, request: &Request) -> Result<()> {
    if !request.uid_mappings.is_empty() {
        mount.set_uid_mappings(Some(ranges(&request.uid_mappings)?));
        mount.set_gid_mappings(Some(ranges(&request.gid_mappings)?));
    }
    Ok(())
}

fn ranges(mappings: &[IdMapping]) -> Result<Vec<LinuxIdMapping>> {
    let range = |mapping: &IdMapping| {
        LinuxIdMappingBuilder::default()
            .container_id(mapping.container_id)
            .host_id(mapping.host_id)
            .size(mapping.length)
            .build()
            .map_err(built)
    };
    mappings.iter().map(range).collect()
}

/// The pod's own user namespace, if it asks for one.
fn user_of(options: &NamespaceOption) -> Option<&UserNamespace> {
    options
        .userns_options
        .as_ref()
        .filter(|user| user.mode == NamespaceMode::Pod as i32)
}

/// How the users of a pod's own user namespace are numbered on the node; none where the pod has no
/// such namespace.
pub(crate) fn user_mappings(pod: &PodSandboxConfig) -> Option<protocol::UserMappings> {
    let options = pod_namespaces(pod);
    let user = user_of(&options)?;
    let ranges = |mappings: &[IdMapping]| {
        let range = |mapping: &IdMapping| protocol::IdMapping {
            container: mapping.container_id,
            host: mapping.host_id,
            length: mapping.length,
        };
        mappings.iter().map(range).collect()
    };
    Some(protocol::UserMappings {
        uids: ranges(&user.uids),
        gids: ranges(&user.gids),
    })
}

/// Refuses modes that a pod cannot have.
pub(super) fn check_pod(config: &PodSandboxConfig) -> Result<()> {
    let options = pod_namespaces(config);
    known(&options, OF_POD)?;
    refuse::pod_namespaces(&options)?;
    let Some(user) = user_of(&options) else {
        return Ok(());
    };
    check_ranges(&user.uids, "uids")?;
    check_ranges(&user.gids, "gids")?;
    for (field, mode) in [
        ("network", options.network),
        ("pid", options.pid),
        ("ipc", options.ipc),
    ] {
        if mode == NamespaceMode::Node as i32 {
            return Err(Error::invalid(format!(
                "{OF_POD}.{field} is NODE and userns_options.mode is POD: a pod with a user \
                 namespace of its own cannot use the node's {field} namespace"
            )));
        }
    }
    let privileged = config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref())
        .is_some_and(|security| security.privileged);
    if privileged {
        return Err(privileged_in_user_namespace(
            "LinuxSandboxSecurityContext.privileged",
        ));
    }
    Ok(())
}

fn privileged_in_user_namespace(field: &str) -> Error {
    Error::invalid(format!(
        "{field} is set and the pod has a user namespace of its own (userns_options.mode POD): \
         nothing in it can have the node's rights"
    ))
}

/// Refuses modes that a container cannot have in its pod.
pub(super) fn check_container(pod: &PodSandboxConfig, config: &ContainerConfig) -> Result<()> {
    let security = security(config);
    let options = security.namespace_options.clone().unwrap_or_default();
    let of_pod = pod_namespaces(pod);
    known(&options, OF_CONTAINER)?;
    refuse::container_namespaces(&of_pod, &options)?;
    let user = user_of(&of_pod);
    if options.userns_options.is_some() && user_of(&options) != user {
        return Err(Error::invalid(format!(
            "{OF_CONTAINER}.userns_options is not what the pod was made with"
        )));
    }
    if user.is_some() {
        if security.privileged {
            return Err(privileged_in_user_namespace(
                "LinuxContainerSecurityContext.privileged",
            ));
        }
        if options.pid == NamespaceMode::Node as i32 {
            return Err(Error::invalid(format!(
                "{OF_CONTAINER}.pid is NODE, but the pod has a user namespace of its own"
            )));
        }
    }
    config
        .mounts
        .iter()
        .try_for_each(|mount| check_mount(mount, user))
}

fn check_mount(mount: &Request, user: Option<&UserNamespace>) -> Result<()> {
    let path = &mount.container_path;
    if mount.uid_mappings.is_empty() && mount.gid_mappings.is_empty() {
        if user.is_some() && mount.propagation == MountPropagation::PropagationBidirectional as i32
        {
            return Err(Error::invalid(format!(
                "Mount.propagation of {path:?} is bidirectional, but nothing that is mounted in a \
                 pod's own user namespace reaches the node"
            )));
        }
        return Ok(());
    }
    match user {
        None => Err(Error::invalid(format!(
            "Mount.uidMappings and gidMappings of {path:?} need a pod with a user namespace of \
             its own (userns_options.mode POD)"
        ))),
        Some(user) if mount.uid_mappings != user.uids || mount.gid_mappings != user.gids => {
            Err(Error::invalid(format!(
                "Mount.uidMappings and gidMappings of {path:?} are not the uids and gids of the \
                 pod's userns_options; a mount can be mapped only as the pod is"
            )))
        }
        Some(_) if mount.propagation == MountPropagation::PropagationBidirectional as i32 => {
            Err(Error::invalid(format!(
                "Mount.propagation of {path:?} is bidirectional, but nothing that is mounted in a \
                 pod's own user namespace reaches the node"
            )))
        }
        Some(_) => Ok(()),
    }
}

/// Refuses a user of the container that the pod's user namespace does not have.
pub(crate) fn check_user(pod: &PodSandboxConfig, user: &User) -> Result<()> {
    let options = pod_namespaces(pod);
    let Some(namespace) = user_of(&options) else {
        return Ok(());
    };
    let mapped = |ranges: &[IdMapping], id: u32| {
        ranges.iter().any(|range| {
            id.checked_sub(range.container_id)
                .is_some_and(|it| it < range.length)
        })
    };
    let groups = user.groups.iter().map(|&group| ("group", group));
    let missing = if mapped(&namespace.uids, user.uid) {
        [("group", user.gid)]
            .into_iter()
            .chain(groups)
            .find(|&(_, group)| !mapped(&namespace.gids, group))
    } else {
        Some(("user", user.uid))
    };
    match missing {
        None => Ok(()),
        Some((what, id)) => Err(Error::invalid(format!(
            "the container's {what} {id} (of run_as_user, run_as_group, supplemental_groups or \
             the image) is not mapped by the pod's userns_options"
        ))),
    }
}

fn known(options: &NamespaceOption, field: &str) -> Result<()> {
    let user = options.userns_options.as_ref();
    for (part, mode) in [
        ("network", options.network),
        ("pid", options.pid),
        ("ipc", options.ipc),
        ("userns_options.mode", user.map_or(0, |user| user.mode)),
    ] {
        if NamespaceMode::try_from(mode).is_err() {
            return Err(Error::invalid(format!(
                "{field}.{part} has the unknown mode {mode}"
            )));
        }
    }
    let Some(user) = user else { return Ok(()) };
    match NamespaceMode::try_from(user.mode) {
        Ok(NamespaceMode::Pod) => Ok(()),
        Ok(NamespaceMode::Node) if user.uids.is_empty() && user.gids.is_empty() => Ok(()),
        Ok(NamespaceMode::Node) => Err(Error::invalid(format!(
            "{field}.userns_options has uids or gids, but its mode is NODE"
        ))),
        _ => Err(Error::invalid(format!(
            "{field}.userns_options.mode is POD or NODE, the request says {}",
            refuse::mode_name(user.mode)
        ))),
    }
}

/// What the kernel would refuse, and what would leave the container without a root.
fn check_ranges(ranges: &[IdMapping], field: &str) -> Result<()> {
    let refuse = |why: String| {
        Err(Error::invalid(format!(
            "{OF_POD}.userns_options.{field}: {why}"
        )))
    };
    if ranges.is_empty() {
        return refuse("it is empty, but mode is POD".to_owned());
    }
    if ranges.len() > MOST_RANGES {
        return refuse(format!(
            "it has {} ranges; the kernel takes {MOST_RANGES}",
            ranges.len()
        ));
    }
    for range in ranges {
        let text = describe(range);
        if range.length == 0 {
            return refuse(format!("the range {text} is empty"));
        }
        // The last number of all stands for "none" (chown(2)).
        let fits = |first: u32| first.checked_add(range.length).is_some();
        if !fits(range.container_id) || !fits(range.host_id) {
            return refuse(format!("the range {text} goes beyond the last id"));
        }
    }
    for (index, one) in ranges.iter().enumerate() {
        for other in &ranges[index + 1..] {
            let meet = |one: u32, one_length: u32, other: u32, other_length: u32| {
                one < other + other_length && other < one + one_length
            };
            if meet(
                one.container_id,
                one.length,
                other.container_id,
                other.length,
            ) || meet(one.host_id, one.length, other.host_id, other.length)
            {
                return refuse(format!(
                    "the ranges {} and {} overlap",
                    describe(one),
                    describe(other)
                ));
            }
        }
    }
    if !ranges.iter().any(|range| range.container_id == 0) {
        return refuse("no range begins at container_id 0, the container's root".to_owned());
    }
    Ok(())
}

fn describe(range: &IdMapping) -> String {
    let IdMapping {
        host_id,
        container_id,
        length,
    } = range;
    format!("(container_id {container_id}, host_id {host_id}, length {length})")
}

#[cfg(test)]
mod tests {
    use slipway_engine::Kind;

    use super::*;

    fn range(container_id: u32, host_id: u32, length: u32) -> IdMapping {
        IdMapping {
            host_id,
            container_id,
            length,
        }
    }

    fn pod(change: impl FnOnce(&mut NamespaceOption)) -> PodSandboxConfig {
        let mut options = NamespaceOption {
            pid: NamespaceMode::Container.into(),
            userns_options: Some(UserNamespace {
                mode: NamespaceMode::Pod.into(),
                uids: vec![range(0, 100_000, 65536)],
                gids: vec![range(0, 200_000, 65536)],
            }),
            ..NamespaceOption::default()
        };
        change(&mut options);
        let mut config = PodSandboxConfig::default();
        let linux = config.linux.get_or_insert_default();
        linux
            .security_context
            .get_or_insert_default()
            .namespace_options = Some(options);
        config
    }

    #[track_caller]
    fn refused(result: Result<()>, words: &[&str]) {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
        for word in words {
            assert!(error.to_string().contains(word), "{word:?}: {error}");
        }
    }

    #[test]
    fn maps_that_the_kernel_would_refuse_are_refused_by_name() {
        let with = |uids: Vec<IdMapping>| {
            check_pod(&pod(|options| {
                options.userns_options.as_mut().unwrap().uids = uids;
            }))
        };
        with(vec![range(0, 100_000, 65536)]).unwrap();
        with(vec![range(0, 100_000, 10), range(10, 300_000, 5)]).unwrap();
        with(vec![range(0, 0, u32::MAX)]).unwrap();
        for (uids, word) in [
            (vec![], "empty"),
            (vec![range(0, 100_000, 0)], "empty"),
            (vec![range(1, 100_000, 5)], "container_id 0"),
            (vec![range(0, u32::MAX, 1)], "beyond"),
            (vec![range(0, 5, 10), range(9, 50, 1)], "overlap"),
            (vec![range(0, 5, 10), range(10, 14, 1)], "overlap"),
            ((0..341).map(|id| range(id, 1000 + id, 1)).collect(), "341"),
        ] {
            refused(with(uids), &["userns_options.uids", word]);
        }
    }

    #[test]
    fn a_user_namespace_does_not_go_with_the_nodes_namespaces() {
        let node = NamespaceMode::Node as i32;
        refused(check_pod(&pod(|it| it.network = node)), &[".network"]);
        refused(check_pod(&pod(|it| it.pid = node)), &[".pid"]);
        refused(check_pod(&pod(|it| it.ipc = node)), &[".ipc"]);
        let mut privileged = pod(|_| {});
        let linux = privileged.linux.as_mut().unwrap();
        linux.security_context.as_mut().unwrap().privileged = true;
        refused(check_pod(&privileged), &["privileged"]);
        for mode in [NamespaceMode::Container, NamespaceMode::Target] {
            let config = pod(|it| it.userns_options.as_mut().unwrap().mode = mode.into());
            refused(
                check_pod(&config),
                &["userns_options.mode", mode.as_str_name()],
            );
        }
    }

    #[test]
    fn a_mount_is_mapped_as_its_pod_is() {
        let container = |mount: Request| {
            let mut config = ContainerConfig {
                mounts: vec![mount],
                ..ContainerConfig::default()
            };
            let linux = config.linux.get_or_insert_default();
            let security = linux.security_context.get_or_insert_default();
            security.namespace_options.get_or_insert_default().pid =
                NamespaceMode::Container.into();
            config
        };
        let mapped = Request {
            container_path: "/data".to_owned(),
            uid_mappings: vec![range(0, 100_000, 65536)],
            gid_mappings: vec![range(0, 200_000, 65536)],
            ..Request::default()
        };
        check_container(&pod(|_| {}), &container(mapped.clone())).unwrap();
        check_container(&pod(|_| {}), &container(Request::default())).unwrap();
        let plain = pod(|options| options.userns_options = None);
        refused(
            check_container(&plain, &container(mapped.clone())),
            &["uidMappings", "/data"],
        );
        let other = Request {
            gid_mappings: vec![range(0, 100_000, 65536)],
            ..mapped
        };
        refused(
            check_container(&pod(|_| {}), &container(other)),
            &["gidMappings", "/data"],
        );
    }

    #[test]
    fn users_must_be_mapped() {
        let user = |uid, gid, groups: &[u32]| User {
            uid,
            gid,
            groups: groups.to_vec(),
        };
        check_user(&pod(|_| {}), &user(65535, 0, &[7])).unwrap();
        refused(
            check_user(&pod(|_| {}), &user(65536, 0, &[])),
            &["user 65536"],
        );
        refused(
            check_user(&pod(|_| {}), &user(0, 70_000, &[])),
            &["group 70000"],
        );
        refused(
            check_user(&pod(|_| {}), &user(0, 0, &[0, 80_000])),
            &["group 80000"],
        );
        let plain = pod(|options| options.userns_options = None);
        check_user(&plain, &user(80_000, 80_000, &[])).unwrap();
    }
}
