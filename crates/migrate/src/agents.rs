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
    todo: &'static str,
    /// Where its makers say so, or say more.
    source: &'static str,
}

impl Agent {
    /// What to do about which of them, and where that is documented: one rule has texts of several.
    pub(crate) fn todo(&self) -> String {
        format!("{}: {}; see {}", self.name, self.todo, self.source)
    }
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
        todo: "Set containerd-enabled in the machine agent's controller-info.xml (APPDYNAMICS_CONTAINERD_ENABLED=true) in place of Docker's visibility, or have the Cluster Agent's operator deploy it (InfraViz)",
        source: "https://help.splunk.com/en/appdynamics-saas/infrastructure-visibility",
    },
    Agent {
        name: "Aqua Enforcer",
        rule: AGENT,
        programs: &["slkd"],
        images: &[
            "aquasec/enforcer",
            "aquasec/agent",
            "aquasec/kube-enforcer",
            "registry.aquasec.com/enforcer",
            "registry.aquasec.com/kube-enforcer",
        ],
        files: &["/opt/aquasec"],
        todo: "Nothing has to be changed, says its maker; look whether its DaemonSet mounts the socket of the new runtime, and deploy it anew if it mounts docker.sock alone",
        source: "https://kubernetes.io/docs/tasks/administer-cluster/migrating-from-dockershim/migrating-telemetry-and-security-agents",
    },
    Agent {
        name: "cAdvisor",
        rule: AGENT,
        programs: &["cadvisor"],
        images: &[
            "google/cadvisor",
            "cadvisor/cadvisor",
            "k8s.gcr.io/cadvisor",
            "google_containers/cadvisor",
        ],
        files: &[],
        todo: "Give it --containerd=SOCKET and --containerd-namespace=k8s.io where these are not the default, and mount the socket in place of docker.sock; labels and environment variables of containers (--store_container_labels, --env_metadata_whitelist) are others without Docker",
        source: "https://github.com/google/cadvisor/blob/master/docs/runtime_options.md",
    },
    Agent {
        name: "Crowdstrike Falcon",
        rule: AGENT,
        programs: &["falcon-sensor"],
        images: &["falcon-sensor", "crowdstrike/falcon"],
        files: &["/opt/CrowdStrike"],
        todo: "Look up whether the sensor's version supports the node's kernel and its new runtime, and deploy it with its chart falcon-sensor or its operator (FalconNodeSensor)",
        source: "https://github.com/CrowdStrike/falcon-helm/tree/main/helm-charts/falcon-sensor",
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
        todo: "From 7.27 on it finds the runtime by itself; an older one needs DD_CRI_SOCKET_PATH (Helm: datadog.criSocketPath) and the socket mounted. Take docker.sock and DOCKER_HOST out. Metrics docker.* become containerd.* or cri.*: change monitors, dashboards and SLOs",
        source: "https://docs.datadoghq.com/agent/guide/docker-deprecation",
    },
    Agent {
        name: "Dynatrace OneAgent",
        rule: AGENT,
        programs: &["oneagentos", "oneagentwatchdog"],
        images: &["dynatrace/oneagent", "dynatrace-oneagent", "linux/oneagent"],
        files: &[
            "/var/lib/dynatrace/oneagent/agent/config",
            "/opt/dynatrace/oneagent",
        ],
        todo: "Nothing needs a socket: OneAgent monitors containerd and CRI-O as well; what uses metrics of Docker alone goes to the generic container metrics. The OneAgent Operator has ended: use the Dynatrace Operator",
        source: "https://docs.dynatrace.com/docs/setup-and-configuration/setup-on-container-platforms",
    },
    Agent {
        name: "Elastic Filebeat",
        rule: LOGS,
        programs: &["filebeat"],
        images: &["beats/filebeat", "elastic/filebeat"],
        files: &["/etc/filebeat"],
        todo: "Use the input `filestream` with the parser `container` (format: auto takes both formats) on /var/log/containers/*.log, with an id of its own and prospector.scanner.symlinks: true; the input `container` is off from 9.0 on. The input `docker`, the provider `docker` of autodiscover and add_docker_metadata become their kubernetes counterparts",
        source: "https://www.elastic.co/docs/reference/beats/filebeat/filebeat-input-container",
    },
    Agent {
        name: "Elastic Metricbeat",
        rule: AGENT,
        programs: &["metricbeat"],
        images: &["beats/metricbeat", "elastic/metricbeat"],
        files: &["/etc/metricbeat"],
        todo: "Replace the module docker by the module kubernetes; the module containerd is beta, and needs [metrics] address in containerd's config.toml",
        source: "https://www.elastic.co/docs/reference/beats/metricbeat/metricbeat-module-containerd",
    },
    Agent {
        name: "Falco",
        rule: AGENT,
        programs: &["falco"],
        images: &["falcosecurity/falco"],
        files: &["/etc/falco"],
        todo: "Name the new socket and mount it: from 0.41 on under plugins, in init_config.engines of the plugin container (engines containerd and cri both enabled; the whole block has to be there), in 0.39 and 0.40 as container_engines.cri.sockets, before as --cri",
        source: "https://github.com/falcosecurity/plugins/tree/main/plugins/container",
    },
    Agent {
        name: "Fluent Bit",
        rule: LOGS,
        programs: &["fluent-bit", "td-agent-bit"],
        images: &[
            "fluent/fluent-bit",
            "fluent-bit",
            "mirrored-fluent-fluent-bit",
            "aws-for-fluent-bit",
            "newrelic-fluentbit-output",
        ],
        files: &["/etc/fluent-bit", "/etc/td-agent-bit"],
        todo: "In the tail input (1.8 or newer), replace `Parser docker` by `multiline.parser docker, cri`, which tries both formats while nodes change, and puts divided lines together",
        source: "https://docs.fluentbit.io/manual/data-pipeline/inputs/tail",
    },
    Agent {
        name: "Fluentd",
        rule: LOGS,
        programs: &["fluentd", "td-agent"],
        images: &[
            "fluent/fluentd",
            "fluentd-kubernetes-daemonset",
            "fluentd",
            "sumologic/kubernetes-fluentd",
        ],
        files: &["/etc/fluent", "/etc/td-agent", "/fluentd/etc"],
        todo: "In the tail source, replace the parser json by fluent-plugin-parser-cri (`@type cri`); in the daemonset image set FLUENT_CONTAINER_TAIL_PARSER_TYPE=cri and FLUENT_CONTAINER_TAIL_PARSER_TIME_FORMAT=%Y-%m-%dT%H:%M:%S.%N%:z",
        source: "https://github.com/fluent/fluentd-kubernetes-daemonset",
    },
    Agent {
        name: "Grafana Alloy",
        rule: LOGS,
        programs: &["alloy", "grafana-agent"],
        images: &["grafana/alloy", "grafana/agent"],
        files: &["/etc/alloy", "/etc/grafana-agent.yaml"],
        todo: "Replace discovery.docker and loki.source.docker by their kubernetes counterparts, and stage.docker by stage.cri. Grafana Agent has ended (November 2025): alloy convert takes its configuration over",
        source: "https://grafana.com/docs/alloy/latest/set-up/migrate/from-static/",
    },
    Agent {
        name: "Grafana Promtail",
        rule: LOGS,
        programs: &["promtail"],
        images: &["grafana/promtail", "bitnami/promtail"],
        files: &["/etc/promtail"],
        todo: "It has ended (March 2026): alloy convert --source-format=promtail makes a configuration of Grafana Alloy. Until then, in pipeline_stages, replace `- docker: {}` by `- cri: {}`; docker_sd_configs becomes kubernetes_sd_configs",
        source: "https://grafana.com/docs/alloy/latest/set-up/migrate/from-promtail/",
    },
    Agent {
        name: "Instana",
        rule: AGENT,
        programs: &["instana-agent"],
        images: &["instana/agent", "instana/release/agent"],
        files: &["/opt/instana/agent/etc"],
        todo: "Nothing has to be set: the agent's sensors for containerd and CRI-O find containers by themselves, but the one for containerd is off as long as containers run in Docker on the node; restart the agent's pod after the move",
        source: "https://www.ibm.com/docs/en/instana-observability?topic=technologies-monitoring-containerd",
    },
    Agent {
        name: "Lacework",
        rule: AGENT,
        programs: &["datacollector"],
        images: &["lacework/datacollector"],
        files: &["/var/lib/lacework/config"],
        todo: "Older versions of its chart (lacework-agent) mount docker.sock and docker.pid: update it, and look up that the agent's version supports the new runtime",
        source: "https://github.com/lacework/helm-charts",
    },
    Agent {
        name: "Logspout",
        rule: LOGS,
        programs: &["logspout"],
        images: &["gliderlabs/logspout"],
        files: &[],
        todo: "It reads Docker's API alone: replace it by a collector of /var/log/pods",
        source: "https://github.com/gliderlabs/logspout",
    },
    Agent {
        name: "Logstash",
        rule: LOGS,
        programs: &["logstash"],
        images: &["logstash/logstash"],
        files: &["/etc/logstash"],
        todo: "Where it reads /var/lib/docker/containers with a json codec, let a collector (Filebeat's filestream) read /var/log/containers and send to it",
        source: "https://www.elastic.co/docs/reference/beats/filebeat/filebeat-input-container",
    },
    Agent {
        name: "Netdata",
        rule: AGENT,
        programs: &["netdata"],
        images: &["netdata/netdata"],
        files: &["/etc/netdata"],
        todo: "Names of containers came from docker.sock: as a pod it asks the Kubernetes API for them, as its Helm chart deploys it",
        source: "https://learn.netdata.cloud/docs/collecting-metrics/containers-and-cgroups",
    },
    Agent {
        name: "New Relic",
        rule: AGENT,
        programs: &["newrelic-infra", "nri-docker"],
        images: &["newrelic/infrastructure", "newrelic/nri-kubernetes"],
        files: &["/etc/newrelic-infra"],
        todo: "The infrastructure agent reads containerd from 1.42 on: mount its socket; nri-docker has to go. In a cluster use the Kubernetes integration (version 3 or newer), which asks the kubelet",
        source: "https://docs.newrelic.com/docs/infrastructure/infrastructure-agent/linux-installation/infra-agent-as-container",
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
        source: "https://github.com/kubernetes/node-problem-detector",
    },
    Agent {
        name: "Portainer",
        rule: AGENT,
        programs: &["portainer"],
        images: &["portainer/portainer", "portainer/agent"],
        files: &[],
        todo: "Deploy its agent for Kubernetes in place of the one for Docker",
        source: "https://docs.portainer.io",
    },
    Agent {
        name: "Prisma Cloud (Twistlock)",
        rule: AGENT,
        programs: &["defender", "twistlock_defender"],
        images: &["twistlock/defender", "twistlock/private", "twistlock"],
        files: &["/var/lib/twistlock"],
        todo: "Deploy the Defender DaemonSet anew for the runtime: Container Runtime type containerd or CRI-O in the console (containerRuntime in the API; --cri with older versions of twistcli)",
        source: "https://pan.dev/compute/api/31-02/post-defenders-daemonset-yaml/",
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
        todo: "Use the chart splunk-otel-collector, whose collector reads /var/log/pods, with logsCollection.containers.containerRuntime containerd or cri-o where it is set; in Splunk Connect set fluentd's logFormatType to cri. Of the SignalFx Smart Agent, replace docker-container-stats by kubelet-metrics",
        source: "https://github.com/signalfx/splunk-otel-collector-chart",
    },
    Agent {
        name: "StackRox Collector",
        rule: AGENT,
        programs: &["collector"],
        images: &[
            "stackrox.io/collector",
            "collector.stackrox.io/collector",
            "stackrox/collector",
            "stackrox-io/collector",
            "advanced-cluster-security/rhacs-collector",
        ],
        files: &[],
        todo: "Older versions mount docker.sock, today's no socket of a runtime at all: update the secured cluster services",
        source: "https://github.com/stackrox/stackrox/tree/master/image/templates/helm/stackrox-secured-cluster",
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
        todo: "Its DaemonSet has to mount /run and /var/run of the node for the CRI socket; set cri: socket_path in dragent.yaml (Helm: agent.sysdig.settings.cri.socket_path) where that is not containerd's or CRI-O's usual one",
        source: "https://github.com/draios/sysdig-cloud-scripts/tree/master/agent_deploy/kubernetes",
    },
    Agent {
        name: "Telegraf",
        rule: AGENT,
        programs: &["telegraf"],
        images: &["telegraf"],
        files: &["/etc/telegraf"],
        todo: "Replace inputs.docker by inputs.kubernetes (or inputs.kube_inventory), and inputs.docker_log by inputs.tail of /var/log/pods",
        source: "https://docs.influxdata.com/telegraf/v1/plugins/",
    },
    Agent {
        name: "Traefik",
        rule: AGENT,
        programs: &["traefik"],
        images: &["traefik"],
        files: &["/etc/traefik"],
        todo: "Only its provider docker needs Docker: use the provider kubernetesIngress, kubernetesCRD or kubernetesGateway",
        source: "https://doc.traefik.io/traefik/providers/overview/",
    },
    Agent {
        name: "Vector",
        rule: LOGS,
        programs: &["vector"],
        images: &["timberio/vector"],
        files: &["/etc/vector"],
        todo: "Replace the source docker_logs by kubernetes_logs, which reads /var/log/pods in both formats and puts divided lines together (auto_partial_merge)",
        source: "https://vector.dev/docs/reference/configuration/sources/kubernetes_logs/",
    },
    Agent {
        name: "Watchtower",
        rule: AGENT,
        programs: &["watchtower"],
        images: &["containrrr/watchtower"],
        files: &[],
        todo: "It restarts Docker's containers, and has ended (December 2025): nothing is left for it; Deployments roll out new images",
        source: "https://github.com/containrrr/watchtower",
    },
    Agent {
        name: "Weave Scope",
        rule: AGENT,
        programs: &["scope"],
        images: &["weaveworks/scope"],
        files: &[],
        todo: "Start its probe with --probe.cri=true and --probe.cri.endpoint=SOCKET in place of --probe.docker=true",
        source: "https://github.com/weaveworks/scope",
    },
    Agent {
        name: "Zabbix agent",
        rule: AGENT,
        programs: &["zabbix_agent2"],
        images: &["zabbix/zabbix-agent2"],
        files: &["/etc/zabbix"],
        todo: "Its plugin Docker has no counterpart for CRI: use the templates for Kubernetes",
        source: "https://www.zabbix.com/integrations/kubernetes",
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
            ("bitnami/promtail:2.9", "Grafana Promtail"),
            ("registry.aquasec.com/enforcer:2022.4", "Aqua Enforcer"),
            ("registry.aquasec.com/kube-enforcer:6.5", "Aqua Enforcer"),
            ("k8s.gcr.io/cadvisor:v0.30.2", "cAdvisor"),
            ("collector.stackrox.io/collector:3.8", "StackRox Collector"),
            ("docker.io/stackrox/collector:3.8", "StackRox Collector"),
            (
                "abc123.live.dynatrace.com/linux/oneagent:1.2",
                "Dynatrace OneAgent",
            ),
            ("rancher/mirrored-fluent-fluent-bit:1.9.3", "Fluent Bit"),
            ("amazon/aws-for-fluent-bit:2.31", "Fluent Bit"),
            ("newrelic/newrelic-fluentbit-output:1.14", "Fluent Bit"),
            ("sumologic/kubernetes-fluentd:1.12", "Fluentd"),
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
            "example.com/enforcer",
            "otel/collector:1",
            "x/oneagent-docs",
        ] {
            assert!(of_image(image).is_none(), "{image}");
        }
    }

    #[test]
    fn every_agent_can_be_found() {
        for agent in ALL {
            assert!(!agent.programs.is_empty() && !agent.images.is_empty());
            assert!(agent.files.iter().all(|file| file.starts_with('/')));
            assert!(agent.source.starts_with("https://"), "{}", agent.name);
            assert!(!agent.todo.ends_with(['.', ' ']), "{}", agent.name);
            assert!(agent.todo().starts_with(agent.name), "{}", agent.name);
        }
        assert!(ALL.is_sorted_by_key(|agent| agent.name.to_lowercase()));
    }
}
