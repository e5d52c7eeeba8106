//! Monitoring and security agents, collectors of logs and managers of containers that are known to
//! speak to Docker, and what their makers say is to be done.

use crate::rules::{self, Rule};

/// One of them.
#[derive(Debug)]
pub(crate) struct Agent {
    /// As people know it.
    pub(crate) name: &'static str,
    /// How it is found.
    pub(crate) rule: &'static Rule,
    /// Its programs.
    pub(crate) programs: &'static [&'static str],
    /// Parts of the names of its images, without tag.
    pub(crate) images: &'static [&'static str],
    /// Files and directories of its configuration on a node.
    pub(crate) files: &'static [&'static str],
    /// What to do.
    pub(crate) todo: &'static str,
}

const LOGS: &Rule = &rules::LOG_COLLECTOR;
const AGENT: &Rule = &rules::AGENT;

/// In the order of their names.
pub(crate) static ALL: &[Agent] = &[
    Agent {
        name: "AppDynamics",
        rule: AGENT,
        programs: &["machineagent"],
        images: &["appdynamics/machine-agent", "appdynamics/docker-visibility"],
        files: &["/opt/appdynamics/machine-agent/conf"],
        todo: "Replace the machine agent's Docker visibility by the Cluster Agent and the Infrastructure Visibility agent, which read containerd and CRI-O",
    },
    Agent {
        name: "Aqua Enforcer",
        rule: AGENT,
        programs: &["slkd"],
        images: &["aquasec/enforcer", "aquasec/agent", "aquasec/kube-enforcer"],
        files: &["/opt/aquasec"],
        todo: "Deploy the Enforcer anew for the new runtime: its DaemonSet mounts the CRI socket (containerd or CRI-O) in place of docker.sock",
    },
    Agent {
        name: "cAdvisor",
        rule: AGENT,
        programs: &["cadvisor"],
        images: &["google/cadvisor", "cadvisor/cadvisor"],
        files: &[],
        todo: "Start it with --containerd=SOCKET, or rely on what it reads from cgroups; names of containers become ids, and labels come with the CRI socket only",
    },
    Agent {
        name: "Crowdstrike Falcon",
        rule: AGENT,
        programs: &["falcon-sensor"],
        images: &["falcon-sensor", "crowdstrike/falcon"],
        files: &["/opt/CrowdStrike"],
        todo: "Look up which sensor version supports the runtime; sensors on the node find containers of containerd and CRI-O by themselves from 6.3x on",
    },
    Agent {
        name: "Datadog Agent",
        rule: AGENT,
        programs: &["datadog-agent", "trace-agent", "process-agent"],
        images: &[
            "datadog/agent",
            "datadog/docker-dd-agent",
            "datadoghq/agent",
            "datadog-agent",
        ],
        files: &["/etc/datadog-agent"],
        todo: "Mount the CRI socket in place of docker.sock and set DD_CRI_SOCKET_PATH (Helm: datadog.criSocketPath); the check `docker` becomes `container`, and logs come from /var/log/pods (logs_config.k8s_container_use_file)",
    },
    Agent {
        name: "Dynatrace OneAgent",
        rule: AGENT,
        programs: &["oneagentos", "oneagentwatchdog"],
        images: &["dynatrace/oneagent", "dynatrace-oneagent"],
        files: &[
            "/var/lib/dynatrace/oneagent/agent/config",
            "/opt/dynatrace/oneagent",
        ],
        todo: "Nothing needs a socket: OneAgent finds containerd and CRI-O by itself; update it (and the Dynatrace Operator) to a version that supports the cluster's Kubernetes",
    },
    Agent {
        name: "Elastic Filebeat",
        rule: LOGS,
        programs: &["filebeat"],
        images: &["beats/filebeat", "elastic/filebeat"],
        files: &["/etc/filebeat"],
        todo: "Use the input `filestream` with the parser `container` (or the input `container`) on /var/log/containers/*.log, which takes both formats; the input `docker`, the provider `docker` of autodiscover and add_docker_metadata become their kubernetes counterparts",
    },
    Agent {
        name: "Elastic Metricbeat",
        rule: AGENT,
        programs: &["metricbeat"],
        images: &["beats/metricbeat", "elastic/metricbeat"],
        files: &["/etc/metricbeat"],
        todo: "Replace the module docker by the module kubernetes (or containerd)",
    },
    Agent {
        name: "Falco",
        rule: AGENT,
        programs: &["falco"],
        images: &["falcosecurity/falco"],
        files: &["/etc/falco"],
        todo: "Enable the CRI engine with the new socket: container_engines.cri.sockets in falco.yaml (older: --cri SOCKET), and mount the socket; rules on container.name get names from CRI",
    },
    Agent {
        name: "Fluent Bit",
        rule: LOGS,
        programs: &["fluent-bit", "td-agent-bit"],
        images: &["fluent/fluent-bit", "fluent-bit"],
        files: &["/etc/fluent-bit", "/etc/td-agent-bit"],
        todo: "In the tail input, replace `Parser docker` by `multiline.parser docker, cri`, which takes both formats while nodes change",
    },
    Agent {
        name: "Fluentd",
        rule: LOGS,
        programs: &["fluentd", "td-agent"],
        images: &["fluent/fluentd", "fluentd-kubernetes-daemonset", "fluentd"],
        files: &["/etc/fluent", "/etc/td-agent", "/fluentd/etc"],
        todo: "In the tail source, replace the parser json by fluent-plugin-parser-cri (`@type cri`), or set FLUENT_CONTAINER_TAIL_PARSER_TYPE=cri in the daemonset image",
    },
    Agent {
        name: "Grafana Alloy",
        rule: LOGS,
        programs: &["alloy", "grafana-agent"],
        images: &["grafana/alloy", "grafana/agent"],
        files: &["/etc/alloy", "/etc/grafana-agent.yaml"],
        todo: "Replace discovery.docker and loki.source.docker by their kubernetes counterparts, and stage.docker by stage.cri",
    },
    Agent {
        name: "Grafana Promtail",
        rule: LOGS,
        programs: &["promtail"],
        images: &["grafana/promtail"],
        files: &["/etc/promtail"],
        todo: "In pipeline_stages, replace `- docker: {}` by `- cri: {}`; docker_sd_configs becomes kubernetes_sd_configs",
    },
    Agent {
        name: "Instana",
        rule: AGENT,
        programs: &["instana-agent"],
        images: &["instana/agent", "instana/release/agent"],
        files: &["/opt/instana/agent/etc"],
        todo: "Update the agent's DaemonSet or operator: it finds containerd and CRI-O through /run of the node, which has to be mounted in place of docker.sock",
    },
    Agent {
        name: "Lacework",
        rule: AGENT,
        programs: &["datacollector"],
        images: &["lacework/datacollector"],
        files: &["/var/lib/lacework/config"],
        todo: "Update the datacollector: newer ones read containerd and CRI-O; mount their sockets",
    },
    Agent {
        name: "Logspout",
        rule: LOGS,
        programs: &["logspout"],
        images: &["gliderlabs/logspout"],
        files: &[],
        todo: "It reads Docker's API alone: replace it by a collector of /var/log/pods",
    },
    Agent {
        name: "Logstash",
        rule: LOGS,
        programs: &["logstash"],
        images: &["logstash/logstash"],
        files: &["/etc/logstash"],
        todo: "Where it reads /var/lib/docker/containers with a json codec, let a collector read /var/log/containers and send to it",
    },
    Agent {
        name: "Netdata",
        rule: AGENT,
        programs: &["netdata"],
        images: &["netdata/netdata"],
        files: &["/etc/netdata"],
        todo: "Names of containers came from docker.sock: give it access to the kubelet or the Kubernetes API, as its Helm chart does",
    },
    Agent {
        name: "New Relic",
        rule: AGENT,
        programs: &["newrelic-infra", "nri-docker"],
        images: &["newrelic/infrastructure", "newrelic/nri-kubernetes"],
        files: &["/etc/newrelic-infra"],
        todo: "Use the Kubernetes integration version 3 or newer, which needs no socket; nri-docker has to go",
    },
    Agent {
        name: "Node Problem Detector",
        rule: AGENT,
        programs: &["node-problem-detector"],
        images: &["node-problem-detector"],
        files: &[
            "/etc/node-problem-detector",
            "/home/kubernetes/node-problem-detector/config",
        ],
        todo: "Take docker-monitor.json, health-checker-docker.json and docker-monitor-counter.json out of its flags, and put the containerd ones or a health check of the CRI socket in",
    },
    Agent {
        name: "Portainer",
        rule: AGENT,
        programs: &["portainer"],
        images: &["portainer/portainer", "portainer/agent"],
        files: &[],
        todo: "Deploy its agent for Kubernetes in place of the one for Docker",
    },
    Agent {
        name: "Prisma Cloud (Twistlock)",
        rule: AGENT,
        programs: &["defender", "twistlock_defender"],
        images: &["twistlock/defender", "twistlock/private", "twistlock"],
        files: &["/var/lib/twistlock"],
        todo: "Deploy the Defender DaemonSet anew with the option for CRI runtimes (containerd or CRI-O) instead of Docker",
    },
    Agent {
        name: "Splunk Connect",
        rule: LOGS,
        programs: &["splunkd", "otelcol"],
        images: &[
            "splunk/fluentd-hec",
            "splunk/k8s-metrics",
            "signalfx/splunk-otel-collector",
        ],
        files: &["/opt/splunkforwarder/etc/apps"],
        todo: "Set containerRuntime (logsCollection.containers.containerRuntime, or fluentd's logFormatType) to cri",
    },
    Agent {
        name: "StackRox Collector",
        rule: AGENT,
        programs: &["collector"],
        images: &[
            "stackrox.io/collector",
            "stackrox-io/collector",
            "advanced-cluster-security/rhacs-collector",
        ],
        files: &[],
        todo: "It reads containerd and CRI-O; update the secured cluster services, and look whether its scanner or compliance part mounts /var/run/docker.sock",
    },
    Agent {
        name: "Sysdig Agent",
        rule: AGENT,
        programs: &["dragent", "sdagent"],
        images: &[
            "sysdig/agent",
            "sysdig/node-analyzer",
            "sysdig/vuln-host-scanner",
        ],
        files: &["/opt/draios/etc"],
        todo: "Set cri: socket_path in dragent.yaml where the socket is not containerd's or CRI-O's usual one, and mount it",
    },
    Agent {
        name: "Telegraf",
        rule: AGENT,
        programs: &["telegraf"],
        images: &["telegraf"],
        files: &["/etc/telegraf"],
        todo: "Replace inputs.docker by inputs.kubernetes (or inputs.kube_inventory), and inputs.docker_log by inputs.tail of /var/log/pods",
    },
    Agent {
        name: "Traefik",
        rule: AGENT,
        programs: &["traefik"],
        images: &["traefik"],
        files: &["/etc/traefik"],
        todo: "Only its provider docker needs Docker: use the provider kubernetesIngress, kubernetesCRD or kubernetesGateway",
    },
    Agent {
        name: "Vector",
        rule: LOGS,
        programs: &["vector"],
        images: &["timberio/vector"],
        files: &["/etc/vector"],
        todo: "Replace the source docker_logs by kubernetes_logs, which takes both formats",
    },
    Agent {
        name: "Watchtower",
        rule: AGENT,
        programs: &["watchtower"],
        images: &["containrrr/watchtower"],
        files: &[],
        todo: "It restarts Docker's containers: nothing is left for it; Deployments roll out new images",
    },
    Agent {
        name: "Weave Scope",
        rule: AGENT,
        programs: &["scope"],
        images: &["weaveworks/scope"],
        files: &[],
        todo: "Start its probe with --probe.cri=true and --probe.cri.endpoint=SOCKET in place of --probe.docker=true",
    },
    Agent {
        name: "Zabbix agent",
        rule: AGENT,
        programs: &["zabbix_agent2"],
        images: &["zabbix/zabbix-agent2"],
        files: &["/etc/zabbix"],
        todo: "Its plugin Docker has no counterpart for CRI: use the templates for Kubernetes",
    },
];

/// Whose program it is.
pub(crate) fn of_program(program: &str) -> Option<&'static Agent> {
    ALL.iter().find(|agent| agent.programs.contains(&program))
}

/// Whose image it is, by its name without registry, tag and digest.
pub(crate) fn of_image(image: &str) -> Option<&'static Agent> {
    let name = image.split('@').next().unwrap_or_default();
    let name = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    };
    let fits = |part: &&&str| {
        // A whole path element, or several, at any place.
        let rest = name.match_indices(**part);
        rest.into_iter().any(|(at, _)| {
            let before = at == 0 || name.as_bytes()[at - 1] == b'/';
            let end = at + part.len();
            let after = end == name.len() || matches!(name.as_bytes()[end], b'/' | b'-' | b'_');
            before && after
        })
    };
    // The longest part says most: `fluent/fluent-bit` is not `fluent`.
    ALL.iter()
        .filter_map(|agent| {
            let longest = agent
                .images
                .iter()
                .filter(fits)
                .map(|part| part.len())
                .max()?;
            Some((longest, agent))
        })
        .max_by_key(|(length, _)| *length)
        .map(|(_, agent)| agent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_known_from_any_registry() {
        for (image, name) in [
            ("gcr.io/datadoghq/agent:7.50.0", "Datadog Agent"),
            (
                "registry.example.com:5000/mirror/datadog/agent",
                "Datadog Agent",
            ),
            ("fluent/fluent-bit:2.1@sha256:abc", "Fluent Bit"),
            ("cr.fluentbit.io/fluent/fluent-bit:2.1", "Fluent Bit"),
            ("fluent/fluentd-kubernetes-daemonset:v1", "Fluentd"),
            (
                "docker.elastic.co/beats/filebeat:7.17.0",
                "Elastic Filebeat",
            ),
            (
                "registry-auth.twistlock.com/tw_x/twistlock/defender:d",
                "Prisma Cloud (Twistlock)",
            ),
            ("gcr.io/cadvisor/cadvisor:v0.47", "cAdvisor"),
            ("docker.io/grafana/promtail:2.9", "Grafana Promtail"),
        ] {
            assert_eq!(
                of_image(image).map(|agent| agent.name),
                Some(name),
                "{image}"
            );
        }
        for image in [
            "nginx",
            "example.com/my-vector:1",
            "datadog/agentless",
            "x/fluentdx",
        ] {
            assert!(of_image(image).is_none(), "{image}");
        }
    }

    #[test]
    fn every_agent_can_be_found() {
        for agent in ALL {
            assert!(!agent.programs.is_empty() && !agent.images.is_empty());
            assert!(agent.files.iter().all(|file| file.starts_with('/')));
        }
        assert!(ALL.is_sorted_by_key(|agent| agent.name.to_lowercase()));
    }
}
