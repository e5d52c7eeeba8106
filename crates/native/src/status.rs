//! Whether pods can be run on this node now.

use std::collections::HashMap;

use slipway_cgroup::Version;
use slipway_cri_api::v1::{
    LinuxRuntimeConfiguration, RuntimeConfigResponse, RuntimeFeatures, RuntimeHandler,
    RuntimeHandlerFeatures, RuntimeStatus, StatusResponse,
};
use slipway_engine::{Verbosity, condition, network_condition};

use crate::node::Node;

pub(crate) fn status(node: &Node, verbosity: Verbosity) -> StatusResponse {
    let network = network_condition(node.network.ready());
    let info = match verbosity {
        Verbosity::Plain => HashMap::new(),
        Verbosity::Verbose => {
            let cgroups = match node.hierarchy.version() {
                Version::V1 => "v1",
                Version::V2 => "v2",
            };
            let config = serde_json::json!({
                "root": node.root,
                "state": node.state,
                "cgroups": cgroups,
                "runtime": node.reloaded().config,
            });
            HashMap::from([("config".to_owned(), config.to_string())])
        }
    };
    let reloaded = node.reloaded();
    let handlers = reloaded
        .handlers
        .list()
        .map(|(name, features)| RuntimeHandler {
            name: name.to_owned(),
            features: Some(RuntimeHandlerFeatures {
                recursive_read_only_mounts: features.recursive_read_only_mounts,
                user_namespaces: features.user_namespaces && node.user_namespaces.available(),
            }),
        });
    StatusResponse {
        status: Some(RuntimeStatus {
            // Whoever can answer this can run a pod without a network.
            conditions: vec![condition("RuntimeReady", None), network],
        }),
        info,
        runtime_handlers: handlers.collect(),
        features: Some(RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: false,
        }),
    }
}

pub(crate) fn runtime_config(node: &Node) -> RuntimeConfigResponse {
    RuntimeConfigResponse {
        linux: Some(LinuxRuntimeConfiguration {
            cgroup_driver: node.cgroups.reported().into(),
        }),
    }
}
