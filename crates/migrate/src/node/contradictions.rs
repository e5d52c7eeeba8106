//! Where flags, files and the running kubelet say different things of one setting.

use std::path::Path;
use std::sync::Arc;

use super::Facts;
use super::flags;
use super::kubelet::{ENVIRONMENT_FILES, reads};
use super::look::{Look, Origin, Said};
use super::runtime::WITHOUT_DOCKERSHIM;
use crate::Evidence;
use crate::document::EnvFile;
use crate::rules;

/// What has to do with the runtime: other flags are nobody's business here.
const FLAGS: [&str; 17] = [
    "config",
    "container-runtime",
    "container-runtime-endpoint",
    "image-service-endpoint",
    "cgroup-driver",
    "cgroup-root",
    "runtime-cgroups",
    "network-plugin",
    "cni-bin-dir",
    "cni-conf-dir",
    "docker-endpoint",
    "pod-infra-container-image",
    "runtime-request-timeout",
    "container-log-max-size",
    "container-log-max-files",
    "non-masquerade-cidr",
    "root-dir",
];

/// A flag and the key of the configuration that says the same.
const KEYS: [(&str, &str); 5] = [
    ("container-runtime-endpoint", "containerRuntimeEndpoint"),
    ("cgroup-driver", "cgroupDriver"),
    ("runtime-request-timeout", "runtimeRequestTimeout"),
    ("container-log-max-size", "containerLogMaxSize"),
    ("container-log-max-files", "containerLogMaxFiles"),
];

pub(super) fn check(look: &mut Look<'_>, facts: &Facts) {
    after_a_restart(look, facts);
    twice(look, facts);
    against_configuration(look, facts);
    unread_files(look, facts);
    requirements(look, facts);
    settings(look, facts);
}

/// What the running kubelet was told, and what its files would tell it now.
fn after_a_restart(look: &mut Look<'_>, facts: &Facts) {
    let kubelet = &facts.kubelet;
    let Some(process) = kubelet.processes.first() else {
        return;
    };
    if kubelet.planned.is_empty() {
        return;
    }
    for name in FLAGS {
        let now = flags::find(&kubelet.running, name);
        let then = flags::find(&kubelet.planned, name);
        if now.map(|flag| &flag.value) == then.map(|flag| &flag.value) {
            continue;
        }
        let value = |flag: Option<&flags::Flag>| match flag {
            Some(flag) => format!("--{name}={}", flag.value),
            None => format!("no --{name}"),
        };
        let place = then.map(|flag| flag.origin.evidence());
        let unit = || Evidence::file(kubelet.unit.as_ref()?.files.first()?.0.path()).into();
        look.report.find(
            &rules::KUBELET_CONTRADICTION,
            [place.or_else(unit), Some(process.evidence())]
                .into_iter()
                .flatten(),
            format!(
                "the running kubelet has {}, and its files would start it with {}",
                value(now),
                value(then)
            ),
            "Find out which is meant, and make the files say so: the next restart goes by them (systemctl daemon-reload counts as well)",
        );
    }
}

/// One flag with two values: the last one counts.
fn twice(look: &mut Look<'_>, facts: &Facts) {
    let planned = &facts.kubelet.planned;
    for name in FLAGS {
        let all: Vec<_> = planned.iter().filter(|flag| flag.name == name).collect();
        let Some((last, before)) = all.split_last() else {
            continue;
        };
        if before.iter().any(|flag| flag.value != last.value) {
            look.report.find(
                &rules::KUBELET_CONTRADICTION,
                all.iter().rev().map(|flag| flag.origin.evidence()),
                format!(
                    "--{name} is given {} times; {} counts",
                    all.len(),
                    last.value
                ),
                "Keep the one that counts",
            );
        }
    }
}

/// A flag and the configuration: the flag counts.
fn against_configuration(look: &mut Look<'_>, facts: &Facts) {
    let kubelet = &facts.kubelet;
    for (flag, key) in KEYS {
        let flag_said = kubelet.flag(flag);
        let configured = kubelet.configured(&[key]);
        let instance = kubelet.instance.as_ref().and_then(|tree| tree.said(&[key]));
        let mut contradict = |counts: &Said, counts_name: &str, other: &Said| {
            if counts.value != other.value {
                look.report.find(
                    &rules::KUBELET_CONTRADICTION,
                    [counts.origin.evidence(), other.origin.evidence()],
                    format!(
                        "{counts_name} is {}, and {key} is {}; the first counts",
                        counts.value, other.value
                    ),
                    format!("Say it once, as {key} in the kubelet's configuration"),
                );
            }
        };
        match (&flag_said, &configured) {
            (Some(flag_said), Some(configured)) => {
                contradict(flag_said, &format!("--{flag}"), configured);
            }
            (None, Some(configured)) => {
                if let Some(instance) = &instance {
                    contradict(instance, &format!("{key} of this node"), configured);
                }
            }
            _ => {}
        }
    }
}

/// Files of variables that hold flags, and that nobody reads.
fn unread_files(look: &mut Look<'_>, facts: &Facts) {
    let Some(unit) = &facts.kubelet.unit else {
        return;
    };
    for path in ENVIRONMENT_FILES.map(Path::new) {
        let Some(source) = look.read(path) else {
            continue;
        };
        let file = EnvFile::read(&source);
        let read = reads(unit, path);
        for one in &file.assignments {
            if !one.value.text().contains("--") {
                continue;
            }
            let origin = Origin::File(Arc::clone(&source), one.range.clone());
            let why = if !read {
                format!("{} does not read this file", unit.name)
            } else if one.exported {
                "systemd does not take `export` for an assignment".to_string()
            } else {
                continue;
            };
            look.report.find(
                &rules::KUBELET_CONTRADICTION,
                [origin.evidence()],
                format!(
                    "{} holds flags that the kubelet does not get: {why}",
                    one.name
                ),
                "Remove it, or have the unit read it; edit the file that counts",
            );
        }
    }
}

/// Units that go down together.
fn requirements(look: &mut Look<'_>, facts: &Facts) {
    let Some(unit) = &facts.kubelet.unit else {
        return;
    };
    for key in ["Requires", "BindsTo", "Requisite", "PartOf"] {
        for (source, setting) in unit.all("Unit", key) {
            for word in setting.value.words() {
                if matches!(word.text(), "docker.service" | "docker.socket") {
                    look.report.find(
                        &rules::KUBELET_REQUIRES_DOCKER,
                        [Evidence::at(source, word.range.start)],
                        format!("{} has {key}={}", unit.name, word.text()),
                        "Remove it, or name the new runtime's unit, before Docker is stopped",
                    );
                }
            }
        }
    }
}

/// Settings that mean something else once Docker is gone.
fn settings(look: &mut Look<'_>, facts: &Facts) {
    if !facts.is_on_docker() {
        return;
    }
    let kubelet = &facts.kubelet;
    if let Some(config) = &kubelet.config {
        let file = Evidence::file(config.source.path());
        if kubelet
            .setting("container-log-max-size", "containerLogMaxSize")
            .is_none()
        {
            look.report.find(
                &rules::KUBELET_LOG_ROTATION,
                [file.clone()],
                "containerLogMaxSize is not set: logs are rotated at 10Mi, five files a container",
                "Set containerLogMaxSize and containerLogMaxFiles to what Docker's log-opts allow now, if logs have to reach back as far",
            );
        }
        if kubelet.request_timeout_is_short() {
            let timeout = kubelet.request_timeout();
            let evidence = timeout.map_or(file, |said| said.origin.evidence());
            look.report.find(
                &rules::KUBELET_REQUEST_TIMEOUT,
                [evidence],
                "runtimeRequestTimeout is two minutes or less",
                "Set runtimeRequestTimeout to 5m: dockershim had a limit of its own for pulls, a CRI runtime goes by this one",
            );
        }
    }
    if kubelet
        .version
        .is_none_or(|version| version < WITHOUT_DOCKERSHIM)
        && let Some(flag) = flags::find(kubelet.flags(), "runtime-cgroups")
        && flag.value.contains("docker")
    {
        look.report.find(
            &rules::KUBELET_DOCKER_SETTING,
            [flag.origin.evidence()],
            format!("--runtime-cgroups={} names Docker's cgroup", flag.value),
            "Name the new runtime's cgroup (/system.slice/containerd.service and the like), or remove it",
        );
    }
}
