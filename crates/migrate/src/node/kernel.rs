//! What Docker did for the node without being asked: kernel parameters, modules and the packet
//! filter. It is there now, and missing after the next reboot.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::Command;

use super::Facts;
use super::look::Look;
use crate::Evidence;
use crate::rules;

/// What pods need (kubernetes.io, "Container Runtimes"), and dockerd sets at its start.
const PARAMETERS: [&str; 3] = [
    "net.ipv4.ip_forward",
    "net.bridge.bridge-nf-call-iptables",
    "net.bridge.bridge-nf-call-ip6tables",
];

const MODULES: [&str; 2] = ["overlay", "br_netfilter"];

/// Where rules of the packet filter are kept for the next boot.
const SAVED_RULES: [&str; 5] = [
    "/etc/iptables/rules.v4",
    "/etc/iptables/rules.v6",
    "/etc/sysconfig/iptables",
    "/etc/sysconfig/ip6tables",
    "/etc/nftables.conf",
];

const CLEAN: &str = "Once Docker's containers are gone, remove its chains (DOCKER, DOCKER-USER, DOCKER-FORWARD, DOCKER-ISOLATION-STAGE-1 and -2) and set the policy of FORWARD to what it was, or reboot";

pub(super) async fn check(look: &mut Look<'_>, facts: &Facts) {
    let Some(docker) = &facts.runtimes.docker else {
        return;
    };
    parameters(look);
    modules(look);
    saved_rules(look);
    let switched_off = docker.says("iptables").as_deref() == Some("false");
    if docker.process.is_some() && !switched_off {
        packet_filter(look, docker).await;
    }
    if look.root.has("/sys/class/net/docker0") {
        look.report.find(
            &rules::DOCKER_BRIDGE,
            [Evidence::file("/sys/class/net/docker0")],
            "the bridge docker0 is there",
            "Remove it once Docker is stopped (ip link delete docker0), or reboot",
        );
    }
}

/// The files of a kind in the order in which systemd reads them: of two with one name, that of the
/// directory that counts more.
fn dropins(look: &mut Look<'_>, kind: &str) -> Vec<PathBuf> {
    let mut files = BTreeMap::new();
    for above in ["/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib"] {
        for path in look.list(format!("{above}/{kind}")) {
            if path.extension().is_some_and(|end| end == "conf")
                && let Some(name) = path.file_name()
            {
                files.entry(name.to_os_string()).or_insert(path);
            }
        }
    }
    files.into_values().collect()
}

/// What a parameter is set to at boot, and where: the last that says it.
fn at_boot(look: &mut Look<'_>, parameter: &str) -> Option<(String, Evidence)> {
    let mut files = dropins(look, "sysctl.d");
    files.push("/etc/sysctl.conf".into());
    let mut found = None;
    for path in files {
        let Some(source) = look.read(&path) else {
            continue;
        };
        for (start, line) in source.lines() {
            let line = line.trim_start();
            if line.starts_with(['#', ';']) {
                continue;
            }
            let Some((name, value)) = line.split_once('=') else {
                continue;
            };
            // sysctl.d(5): either a dot or a slash separates.
            let name = name.trim().trim_start_matches('-');
            if name.replace('/', ".") == parameter {
                found = Some((value.trim().to_string(), Evidence::at(&source, start)));
            }
        }
    }
    found
}

fn parameters(look: &mut Look<'_>) {
    for parameter in PARAMETERS {
        let path = format!("/proc/sys/{}", parameter.replace('.', "/"));
        let now = look
            .read(&path)
            .map(|source| source.text().trim().to_string());
        let boot = at_boot(look, parameter);
        if boot.as_ref().is_some_and(|(value, _)| value == "1") {
            continue;
        }
        let todo = format!("Write `{parameter} = 1` into a file of /etc/sysctl.d");
        let evidence = Evidence::file(&path);
        let place = boot.as_ref().map(|(_, evidence)| evidence.clone());
        let evidence = place.into_iter().chain([evidence]);
        match (now.as_deref(), boot) {
            (Some("1"), Some((value, _))) => look.report.find(
                &rules::SYSCTL_NOT_PERSISTENT,
                evidence,
                format!("{parameter} is 1 now and set to {value} at each boot"),
                todo,
            ),
            (Some("1"), None) => look.report.find(
                &rules::SYSCTL_NOT_PERSISTENT,
                evidence,
                format!("{parameter} is 1 now, and no file says so"),
                todo,
            ),
            (now, _) => look.report.find(
                &rules::SYSCTL_UNSET,
                evidence,
                match now {
                    Some(now) => format!("{parameter} is {now}"),
                    None => format!("{parameter} is not there, and no file sets it"),
                },
                todo,
            ),
        }
    }
}

/// The parameters that pods need and that no file sets at boot.
pub(crate) fn parameters_not_at_boot(look: &mut Look<'_>) -> Vec<&'static str> {
    let mut missing = PARAMETERS.to_vec();
    missing.retain(|parameter| at_boot(look, parameter).is_none_or(|(value, _)| value != "1"));
    missing
}

/// The modules that pods need and that no file has loaded at boot.
pub(crate) fn modules_not_at_boot(look: &mut Look<'_>) -> Vec<&'static str> {
    let is_there = modules_at_boot(look);
    MODULES.into_iter().filter(|one| !is_there(one)).collect()
}

/// Whether a module is loaded at boot, or a part of the kernel.
fn modules_at_boot(look: &mut Look<'_>) -> impl Fn(&str) -> bool + use<> {
    let mut files = dropins(look, "modules-load.d");
    files.push("/etc/modules".into());
    let mut listed = Vec::new();
    for path in files {
        if let Some(source) = look.read(&path) {
            listed.extend(
                source
                    .lines()
                    .map(|(_, line)| line.trim().replace('-', "_")),
            );
        }
    }
    let release = look.read("/proc/sys/kernel/osrelease");
    let release = release.map(|source| source.text().trim().to_string());
    let built_in = release
        .and_then(|release| look.read(format!("/lib/modules/{release}/modules.builtin")))
        .map(|source| source.text().replace('-', "_"));
    move |module: &str| {
        let file = format!("/{module}.ko");
        listed.iter().any(|line| line == module)
            || built_in.as_ref().is_some_and(|list| list.contains(&file))
    }
}

fn modules(look: &mut Look<'_>) {
    let is_there = modules_at_boot(look);
    for module in MODULES.into_iter().chain(["nf_conntrack"]) {
        if is_there(module) {
            continue;
        }
        let path = format!("/sys/module/{module}");
        let now = if look.root.has(&path) {
            "loaded now, and"
        } else {
            "not loaded, and"
        };
        let found = format!("{module} is {now} in no file of modules-load.d");
        let evidence = [Evidence::file(path)];
        let todo = format!("Write {module} into a file of /etc/modules-load.d");
        if MODULES.contains(&module) {
            look.report
                .find(&rules::MODULE_NOT_PERSISTENT, evidence, found, todo);
        } else if look.root.has(format!("/sys/module/{module}")) {
            let todo = "kube-proxy loads it where it runs; without kube-proxy, write it into a file of /etc/modules-load.d";
            look.report
                .find(&rules::MODULE_CONNTRACK, evidence, found, todo);
        }
    }
}

fn saved_rules(look: &mut Look<'_>) {
    for path in SAVED_RULES {
        let Some(source) = look.read(path) else {
            continue;
        };
        let line = source.lines().find(|(_, line)| {
            let line = line.trim_start();
            !line.starts_with('#') && (line.contains("DOCKER") || line.contains("docker0"))
        });
        if let Some((start, line)) = line {
            look.report.find(
                &rules::PACKET_FILTER_SAVED,
                [Evidence::at(&source, start)],
                format!("Docker's rules are loaded at each boot: {}", line.trim()),
                "Take Docker's chains and rules out of the file, and do not save them again while Docker runs",
            );
        }
    }
}

/// The rules in force, where this is the node; elsewhere, what dockerd is known to do.
async fn packet_filter(look: &mut Look<'_>, docker: &super::runtimes::Docker) {
    let process = docker.process.as_ref().map(super::Process::evidence);
    if !look.root.is_live() {
        look.report.find(
            &rules::PACKET_FILTER_DOCKER,
            process,
            "dockerd runs, and makes its chains in the packet filter",
            CLEAN,
        );
        return;
    }
    let output = Command::new("iptables-save")
        .args(["-t", "filter"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    match output {
        Ok(output) if output.status.success() => {
            judge_rules(look, &String::from_utf8_lossy(&output.stdout));
        }
        Ok(output) => look.report.miss(
            "the packet filter's rules",
            format!("iptables-save ended with {}", output.status),
            "run it as root",
        ),
        Err(error) => look.report.miss(
            "the packet filter's rules",
            format!("iptables-save cannot be started: {error}"),
            "look at iptables -S FORWARD, or nft list ruleset, by hand",
        ),
    }
}

fn judge_rules(look: &mut Look<'_>, rules_text: &str) {
    let evidence = |line: &str| Evidence::Output {
        command: "iptables-save -t filter".to_string(),
        text: line.to_string(),
    };
    let chain = |line: &&str| line.starts_with(":DOCKER");
    let Some(docker) = rules_text.lines().find(chain) else {
        return;
    };
    look.report.find(
        &rules::PACKET_FILTER_DOCKER,
        [evidence(docker)],
        "Docker's chains are in the packet filter",
        CLEAN,
    );
    if let Some(line) = rules_text
        .lines()
        .find(|line| line.starts_with(":FORWARD DROP"))
    {
        look.report.find(
            &rules::PACKET_FILTER_FORWARD,
            [evidence(line)],
            "the policy of FORWARD is DROP: packets between pods pass only where a rule lets them",
            CLEAN,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Root;

    #[test]
    fn rules_in_force_are_judged() {
        let root = Root::new("/nonexistent");
        let mut look = Look::new(&root);
        judge_rules(
            &mut look,
            "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\nCOMMIT\n",
        );
        assert!(look.report.findings.is_empty(), "somebody else's firewall");
        judge_rules(
            &mut look,
            "*filter\n:FORWARD DROP [12:720]\n:DOCKER - [0:0]\n:DOCKER-USER - [0:0]\n",
        );
        let rules: Vec<_> = look.report.findings.iter().map(|one| one.rule).collect();
        assert_eq!(rules, ["packet-filter-docker", "packet-filter-forward"]);
    }
}
