//! The kinds of objects that the server has, and where they are found in URLs.

/// A kind of objects.
#[derive(Debug)]
pub(super) struct Resource {
    pub(super) kind: &'static str,
    /// As URLs and RBAC have it.
    pub(super) name: &'static str,
    /// Empty for the core group.
    pub(super) group: &'static str,
    /// The newest first.
    pub(super) versions: &'static [&'static str],
    pub(super) namespaced: bool,
}

const fn in_namespace(
    group: &'static str,
    versions: &'static [&'static str],
    kind: &'static str,
    name: &'static str,
) -> Resource {
    Resource {
        kind,
        name,
        group,
        versions,
        namespaced: true,
    }
}

const fn of_cluster(
    group: &'static str,
    versions: &'static [&'static str],
    kind: &'static str,
    name: &'static str,
) -> Resource {
    Resource {
        namespaced: false,
        ..in_namespace(group, versions, kind, name)
    }
}

const RBAC: &str = "rbac.authorization.k8s.io";
const OLD_AND_NEW: &[&str] = &["v1", "v1beta1"];

/// All there are. A server of an old cluster withdraws some of the versions.
pub(super) static RESOURCES: [Resource; 23] = [
    of_cluster("", &["v1"], "Node", "nodes"),
    of_cluster("", &["v1"], "Namespace", "namespaces"),
    of_cluster("", &["v1"], "PersistentVolume", "persistentvolumes"),
    in_namespace("", &["v1"], "Pod", "pods"),
    in_namespace("", &["v1"], "ConfigMap", "configmaps"),
    in_namespace("", &["v1"], "Secret", "secrets"),
    in_namespace("", &["v1"], "ServiceAccount", "serviceaccounts"),
    in_namespace("", &["v1"], "Event", "events"),
    in_namespace(
        "",
        &["v1"],
        "ReplicationController",
        "replicationcontrollers",
    ),
    in_namespace("apps", &["v1"], "Deployment", "deployments"),
    in_namespace("apps", &["v1"], "DaemonSet", "daemonsets"),
    in_namespace("apps", &["v1"], "StatefulSet", "statefulsets"),
    in_namespace("apps", &["v1"], "ReplicaSet", "replicasets"),
    in_namespace("batch", &["v1"], "Job", "jobs"),
    in_namespace("batch", OLD_AND_NEW, "CronJob", "cronjobs"),
    in_namespace("coordination.k8s.io", OLD_AND_NEW, "Lease", "leases"),
    in_namespace(
        "policy",
        OLD_AND_NEW,
        "PodDisruptionBudget",
        "poddisruptionbudgets",
    ),
    of_cluster(RBAC, &["v1"], "ClusterRole", "clusterroles"),
    of_cluster(RBAC, &["v1"], "ClusterRoleBinding", "clusterrolebindings"),
    in_namespace(RBAC, &["v1"], "Role", "roles"),
    in_namespace(RBAC, &["v1"], "RoleBinding", "rolebindings"),
    in_namespace(
        "monitoring.coreos.com",
        &["v1"],
        "PrometheusRule",
        "prometheusrules",
    ),
    of_cluster(
        "scheduling.k8s.io",
        &["v1"],
        "PriorityClass",
        "priorityclasses",
    ),
];

impl Resource {
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        RESOURCES.iter().find(|resource| resource.name == name)
    }

    pub(super) fn of_kind(kind: &str) -> Option<&'static Self> {
        RESOURCES.iter().find(|resource| resource.kind == kind)
    }

    /// `apps/v1`, or `v1` in the core group.
    pub(super) fn api_version(&self, version: &str) -> String {
        group_version(self.group, version)
    }

    /// As error messages have it: `deployments.apps`.
    pub(super) fn qualified(&self) -> String {
        match self.group {
            "" => self.name.to_owned(),
            group => format!("{}.{group}", self.name),
        }
    }
}

pub(super) fn group_version(group: &str, version: &str) -> String {
    match group {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    }
}

/// What the path of a request names.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) resource: &'static Resource,
    pub(super) version: &'static str,
    /// Empty for objects of the cluster, and for all namespaces.
    pub(super) namespace: String,
    /// Empty for the whole collection.
    pub(super) name: String,
    /// Empty for the object itself.
    pub(super) subresource: String,
}

impl Place {
    /// What `/api/v1/namespaces/a/pods/b/eviction` and the like name.
    pub(super) fn of(path: &str) -> Option<Self> {
        let parts: Vec<_> = path.trim_matches('/').split('/').collect();
        let (group, version, parts) = match parts.as_slice() {
            ["api", version, parts @ ..] => ("", *version, parts),
            ["apis", group, version, parts @ ..] => (*group, *version, parts),
            _ => return None,
        };
        let (namespace, parts) = match parts {
            ["namespaces", namespace, parts @ ..]
                if parts
                    .first()
                    .is_some_and(|name| Resource::named(name).is_some()) =>
            {
                (*namespace, parts)
            }
            parts => ("", parts),
        };
        let (name, subresource) = match parts {
            [_] => ("", ""),
            [_, name] => (*name, ""),
            [_, name, subresource] => (*name, *subresource),
            _ => return None,
        };
        let resource = Resource::named(parts[0])
            .filter(|resource| resource.group == group)
            .filter(|resource| resource.namespaced || namespace.is_empty())?;
        let mut versions = resource.versions.iter();
        Some(Self {
            resource,
            version: versions.find(|known| **known == version)?,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_objects() {
        for (path, expected) in [
            ("/api/v1/nodes", ["nodes", "", "", ""]),
            ("/api/v1/nodes/a/status", ["nodes", "", "a", "status"]),
            ("/api/v1/namespaces/a", ["namespaces", "", "a", ""]),
            (
                "/api/v1/namespaces/a/status",
                ["namespaces", "", "a", "status"],
            ),
            ("/api/v1/namespaces/a/pods", ["pods", "a", "", ""]),
            (
                "/api/v1/namespaces/a/pods/b/eviction",
                ["pods", "a", "b", "eviction"],
            ),
            ("/apis/batch/v1/jobs", ["jobs", "", "", ""]),
            (
                "/apis/policy/v1beta1/namespaces/a/poddisruptionbudgets/b",
                ["poddisruptionbudgets", "a", "b", ""],
            ),
        ] {
            let place = Place::of(path).expect(path);
            let found = [
                place.resource.name,
                &place.namespace,
                &place.name,
                &place.subresource,
            ];
            assert_eq!(found, expected, "{path}");
        }
        for path in [
            "/api/v1/jobs",
            "/apis/batch/v2/jobs",
            "/api/v1/namespaces/a/nodes/b",
            "/x",
            "/api/v1",
        ] {
            assert!(Place::of(path).is_none(), "{path}");
        }
    }
}
