//! What containerd's files become, in the ways in which people and packages write them.

mod tree;

use std::fs;
use std::path::Path;

use slipway_migrate::node::{self, Options};
use slipway_migrate::plan::{self, Error, Plan, Step, Target};
use slipway_migrate::{Report, Root};

const MAIN: &str = "/etc/containerd/config.toml";
const DROP_IN: &str = "/etc/containerd/conf.d/50-own.toml";

/// A node of kubeadm's with Debian's containerd.
const NODE: &str = include_str!("nodes/kubeadm-1.23-debian-containerd.node");

/// The same with other files in the place of those of containerd; what is changed in the rest.
fn with(files: &[(&str, &str)], changed: (&str, &str)) -> String {
    let start = NODE.find(&format!("\n== {MAIN}\n")).unwrap();
    let end = start + 1 + NODE[start + 1..].find("\n== ").unwrap();
    let files = files
        .iter()
        .map(|(path, text)| format!("\n== {path}\n{text}"));
    let files: String = files.collect();
    let rest = [&NODE[..start], &NODE[end..]].map(|rest| rest.replace(changed.0, changed.1));
    format!("{}{files}{}", rest[0], rest[1])
}

async fn planned(node: &str) -> Result<Plan, Error> {
    let directory = tempfile::tempdir().unwrap();
    let options = unpack(node, directory.path());
    let options = plan::Options {
        target: Target::Containerd,
        drain: true,
        stop_others: false,
        node: options,
    };
    plan::make(&Root::new(directory.path()), &options).await
}

async fn checked(node: &str) -> Report {
    let directory = tempfile::tempdir().unwrap();
    let options = unpack(node, directory.path());
    node::check(&Root::new(directory.path()), &options).await
}

fn unpack(node: &str, directory: &Path) -> Options {
    fs::create_dir_all(directory).unwrap();
    let version = tree::unpack(node, directory);
    Options {
        kubelet_version: version.map(|version| version.parse().unwrap()),
    }
}

/// What becomes of a file; nothing where it stays as it is.
fn after(plan: &Plan, path: &str) -> Option<String> {
    plan.steps.iter().find_map(|step| match step {
        Step::File(change) if change.path == Path::new(path) => {
            Some(String::from_utf8(change.after.clone()).unwrap())
        }
        _ => None,
    })
}

/// The lines of a file that say where CNI's files are.
fn cni(text: &str) -> Vec<&str> {
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| line.starts_with("bin_dir") || line.starts_with("conf_dir"))
        .collect()
}

const TWO: (&str, &str) = (
    "--network-plugin=cni",
    "--network-plugin=cni --cni-bin-dir=/usr/lib/cni,/opt/cni/bin",
);
const NONE: (&str, &str) = ("--network-plugin=cni", "--network-plugin=cni");

#[tokio::test]
async fn plugins_are_looked_for_where_dockershim_found_them() {
    let second = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\n";
    let third = "version = 3\n[plugins.\"io.containerd.cri.v1.runtime\".cni]\n";
    let first = "[plugins.cri.cni]\n";
    let one = "bin_dir = \"/opt/cni/bin\"";
    for (section, said, flags, expected) in [
        (second, "bin_dir = \"/usr/lib/cni\"", NONE, &[one][..]),
        (third, "bin_dir = \"/usr/lib/cni\"", NONE, &[one]),
        (first, "bin_dir = \"/usr/lib/cni\"", NONE, &[one]),
        (
            second,
            "bin_dir = \"/opt/cni/bin/\"",
            NONE,
            &["bin_dir = \"/opt/cni/bin/\""],
        ),
        (
            second,
            "conf_dir = \"/etc/containerd/net.d\"",
            NONE,
            &["conf_dir = \"/etc/cni/net.d\""],
        ),
        (second, "", NONE, &[]),
        // Calico is in the second of them alone.
        (second, "bin_dir = \"/usr/lib/cni\"", TWO, &[one]),
        (second, "", TWO, &[]),
        (
            third,
            "bin_dirs = [\"/usr/lib/cni\"]",
            NONE,
            &["bin_dirs = [\"/opt/cni/bin\"]"],
        ),
        (
            third,
            "bin_dirs = [\"/usr/lib/cni\"]",
            TWO,
            &["bin_dirs = [\"/usr/lib/cni\", \"/opt/cni/bin\"]"],
        ),
        (
            "version = 4\n[plugins.\"io.containerd.cri.v1.runtime\".cni]\n",
            "",
            TWO,
            &["bin_dirs = [\"/usr/lib/cni\", \"/opt/cni/bin\"]"],
        ),
    ] {
        let node = with(&[(MAIN, &format!("{section}{said}"))], flags);
        let plan = planned(&node).await.unwrap();
        let text = after(&plan, MAIN).unwrap();
        assert_eq!(cni(&text), expected, "{section}{said}: {text}");
        let has_one = !text.contains("bin_dirs");
        let left_out = plan.remarks.iter().any(|one| one.contains("left out"));
        assert_eq!(left_out, has_one && flags == TWO, "{:?}", plan.remarks);
    }
}

#[tokio::test]
async fn plugins_apart_are_refused_where_containerd_has_one_place_for_them() {
    let flags = (
        "--network-plugin=cni",
        "--network-plugin=cni --cni-bin-dir=/opt/cni/bin,/opt/calico",
    );
    let main = "version = 3\n[plugins.\"io.containerd.cri.v1.runtime\".cni]\n";
    let apart = |main: &str| {
        with(&[(MAIN, main)], flags).replace("/opt/cni/bin/calico", "/opt/calico/calico")
    };
    let error = planned(&apart(main)).await.unwrap_err().to_string();
    assert!(
        error.contains("/opt/cni/bin lacks calico, calico-ipam; link them"),
        "{error}"
    );
    let plan = planned(&apart(&format!("{main}bin_dirs = [\"/opt/cni/bin\"]"))).await;
    let text = after(&plan.unwrap(), MAIN).unwrap();
    assert_eq!(
        cni(&text),
        ["bin_dirs = [\"/opt/cni/bin\", \"/opt/calico\"]"]
    );
}

#[tokio::test]
async fn what_an_import_overrules_is_changed_there() {
    let main = "version = 2\nimports = [\"conf.d/*.toml\"]\n";
    let mirror = (
        "\"log-opts\"",
        "\"registry-mirrors\": [\"https://mirror.example.com\"], \"log-opts\"",
    );
    let section = "[plugins.\"io.containerd.grpc.v1.cri\"";
    let systemd = format!("{section}.containerd.runtimes.runc.options]\nSystemdCgroup = false\n");
    let node = with(&[(MAIN, main), (DROP_IN, &systemd)], mirror);
    let plan = planned(&node).await.unwrap();
    assert_eq!(after(&plan, MAIN), None);
    let text = after(&plan, DROP_IN).unwrap();
    for expected in ["SystemdCgroup = true", "config_path = ", "sandbox_image = "] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let remarks = &plan.remarks;
    assert!(
        remarks.iter().any(|one| one.contains(DROP_IN)),
        "{remarks:?}"
    );

    // Of the parts that version 3 has, each is said where it was said last.
    let images = "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/etc/own\"\n";
    let third = "version = 3\nimports = [\"/etc/containerd/conf.d/50-own.toml\"]\n";
    let plan = planned(&with(&[(MAIN, third), (DROP_IN, images)], mirror)).await;
    let plan = plan.unwrap();
    let (main_text, text) = (after(&plan, MAIN).unwrap(), after(&plan, DROP_IN).unwrap());
    assert!(main_text.contains("SystemdCgroup = true"), "{main_text}");
    assert!(!main_text.contains("config_path"), "{main_text}");
    assert!(
        text.contains("config_path = \"/etc/containerd/certs.d:/etc/own\""),
        "{text}"
    );

    let mirrors = format!("{section}.registry.mirrors.\"docker.io\"]\nendpoint = [\"https://x\"]");
    let error = planned(&with(&[(MAIN, main), (DROP_IN, &mirrors)], mirror)).await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.starts_with(DROP_IN) && error.contains("registry.mirrors"),
        "{error}"
    );

    let packaged = "/usr/share/containerd/own.toml";
    let main = format!("version = 2\nimports = [\"{packaged}\"]\n");
    let error = planned(&with(&[(MAIN, &main), (packaged, &systemd)], mirror)).await;
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with(packaged), "{error}");
}

#[tokio::test]
async fn imports_of_imports_count_and_circles_end() {
    let main = "version = 2\nimports = [\"conf.d/50-own.toml\"]\n";
    let own =
        "imports = [\"../config.toml\", \"/etc/containerd/config.toml\", \"/opt/last.toml\"]\n";
    let last = "disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/usr/lib/cni\"\n";
    let files = [(MAIN, main), (DROP_IN, own), ("/opt/last.toml", last)];
    let plan = planned(&with(&files, NONE)).await.unwrap();
    let text = after(&plan, "/opt/last.toml").unwrap();
    assert_eq!(cni(&text), ["bin_dir = \"/opt/cni/bin\""]);
    assert!(text.contains("disabled_plugins = []"), "{text}");
    assert_eq!(after(&plan, MAIN), None);
}

/// Somebody has pointed the kubelet at containerd, and its plugins are elsewhere.
#[tokio::test]
async fn a_node_on_containerd_has_its_plugins_where_that_looks() {
    let endpoint = (
        "--network-plugin=cni",
        "--container-runtime=remote --container-runtime-endpoint=unix:///run/containerd/containerd.sock",
    );
    let cni_of = |directory: &str| {
        format!(
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"{directory}\"\n"
        )
    };
    let missing = |report: Report| {
        let all = report.findings.into_iter();
        let all = all.filter(|finding| finding.rule == "cni-plugin-missing");
        all.map(|finding| finding.found).collect::<Vec<_>>()
    };
    let debian = with(&[(MAIN, &cni_of("/usr/lib/cni"))], endpoint);
    assert_eq!(
        missing(checked(&debian).await),
        ["calico", "bandwidth"].map(|name| format!("the plugin {name} is in none of /usr/lib/cni"))
    );
    let fine = with(&[(MAIN, &cni_of("/opt/cni/bin"))], endpoint);
    assert!(missing(checked(&fine).await).is_empty());

    // Its cgroup drivers differ, so that the plan ends what was begun.
    let plan = planned(&debian).await.unwrap();
    assert_eq!(
        cni(&after(&plan, MAIN).unwrap()),
        ["bin_dir = \"/opt/cni/bin\""]
    );
    let own = with(&[(MAIN, &cni_of("/srv/cni"))], endpoint).replace("/opt/cni/bin", "/srv/cni");
    let plan = planned(&own).await.unwrap();
    assert_eq!(
        cni(&after(&plan, MAIN).unwrap()),
        ["bin_dir = \"/srv/cni\""]
    );
}
