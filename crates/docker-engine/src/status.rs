//! Whether pods can be run on this Docker now.

use std::collections::HashMap;

use slipway_cri_api::v1::{
    CgroupDriver, LinuxRuntimeConfiguration, RuntimeConfigResponse, RuntimeFeatures,
    RuntimeHandler, RuntimeHandlerFeatures, RuntimeStatus, StatusResponse,
};
use slipway_engine::{Result, Verbosity, condition, network_condition};

use crate::dockerd::Facts;
use crate::node::Node;

pub(crate) fn status(node: &Node, verbosity: Verbosity) -> StatusResponse {
    let up = node.dockerd.up();
    let runtime = match &up {
        Ok(_) => condition("RuntimeReady", None),
        Err(error) => condition(
            "RuntimeReady",
            Some(("DockerNotReachable", error.to_string())),
        ),
    };
    let network = network_condition(node.network.ready());
    let info = match verbosity {
        Verbosity::Plain => HashMap::new(),
        Verbosity::Verbose => {
            let facts = up.as_ref().ok().map(|up| &up.facts);
            let config = serde_json::json!({
                "engine": "docker",
                "endpoint": node.dockerd.endpoint(),
                "docker": facts.map(|facts| &facts.version),
                "api": facts.map(|facts| format!("{}.{}", facts.api.0, facts.api.1)),
                "root": facts.map(|facts| &facts.root),
                "cgroups": facts.map(|facts| if facts.cgroups_v1 { "v1" } else { "v2" }),
                "liveRestore": facts.map(|facts| facts.live_restore),
            });
            HashMap::from([("config".to_owned(), config.to_string())])
        }
    };
    StatusResponse {
        status: Some(RuntimeStatus {
            conditions: vec![runtime, network],
        }),
        info,
        runtime_handlers: up.map(|up| handlers(&up.facts)).unwrap_or_default(),
        features: Some(RuntimeFeatures {
            supplemental_groups_policy: false,
            user_namespaces_host_network: false,
        }),
    }
}

/// Docker's runtimes, and its default one without a name.
fn handlers(facts: &Facts) -> Vec<RuntimeHandler> {
    let mut names: Vec<_> = facts.runtimes.clone();
    names.sort();
    names.insert(0, String::new());
    let handler = |name| RuntimeHandler {
        name,
        features: Some(RuntimeHandlerFeatures {
            recursive_read_only_mounts: facts.api >= (1, 44),
            user_namespaces: false,
        }),
    };
    names.into_iter().map(handler).collect()
}

pub(crate) fn runtime_config(node: &Node) -> Result<RuntimeConfigResponse> {
    let driver = if node.dockerd.up()?.facts.systemd_cgroups {
        CgroupDriver::Systemd
    } else {
        CgroupDriver::Cgroupfs
    };
    Ok(RuntimeConfigResponse {
        linux: Some(LinuxRuntimeConfiguration {
            cgroup_driver: driver.into(),
        }),
    })
}
