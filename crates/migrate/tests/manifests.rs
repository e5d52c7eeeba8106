//! Files of objects, and what is found in each: `manifests/NAME.report` beside `manifests/NAME`.
//! `REGENERATE=1 cargo test -p slipway-migrate` writes the reports.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use slipway_migrate::{Report, manifests};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests")
}

fn print(report: &Report) -> String {
    let own = format!("{}/", directory().display());
    let mut text = String::new();
    for finding in &report.findings {
        let (severity, rule) = (finding.severity.name(), finding.rule);
        writeln!(text, "{severity} {rule}: {}", finding.found).unwrap();
        for evidence in &finding.evidence {
            writeln!(text, "    {evidence}").unwrap();
        }
    }
    for unseen in &report.unseen {
        writeln!(
            text,
            "unseen {}: {}, {}",
            unseen.what, unseen.why, unseen.todo
        )
        .unwrap();
    }
    writeln!(text, "exit {}", report.verdict().exit_code()).unwrap();
    text.replace(&own, "")
}

#[test]
fn each_file_gives_its_report() {
    let regenerate = std::env::var_os("REGENERATE").is_some();
    let mut wrong = Vec::new();
    let entries = fs::read_dir(directory()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    for path in paths.filter(|path| path.extension().is_some_and(|end| end != "report")) {
        let found = print(&manifests::check(&path));
        let golden = path.with_extension("report");
        if regenerate {
            fs::write(&golden, &found).unwrap();
        }
        if found != fs::read_to_string(&golden).unwrap_or_default() {
            wrong.push(format!("{}:\n{found}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A directory is all of its files, those of no format left out.
#[test]
fn a_directory_is_looked_at_as_a_whole() {
    let report = manifests::check(&directory());
    let seen = |name: &str| {
        let findings = serde_json::to_string(&report.findings).unwrap();
        findings.contains(name)
    };
    assert!(seen("workloads.yaml") && seen("pod.json") && !seen(".report"));
    assert_eq!(report.verdict().exit_code(), 2);
    let none = manifests::check(Path::new("/nonexistent"));
    assert_eq!(none.verdict().exit_code(), 3);
}

/// The line that evidence names has what was found.
#[test]
fn evidence_names_the_line() {
    let text = fs::read_to_string(directory().join("agents.yaml")).unwrap();
    let report = manifests::check(&directory().join("agents.yaml"));
    let mut seen = 0;
    for finding in report
        .findings
        .iter()
        .filter(|one| one.rule == "log-format")
    {
        let shown = finding.evidence[0].to_string();
        let line: usize = shown.rsplit(':').next().unwrap().parse().unwrap();
        let line = text.lines().nth(line - 1).unwrap();
        if !line.contains("\\n") {
            assert_eq!(line.trim(), finding.found, "{shown}");
            seen += 1;
        }
    }
    assert_eq!(seen, 2);
}

/// A place in which no object is, or not all of them are seen, is not fine.
#[test]
fn what_was_not_looked_at_is_told() {
    let pod = "{kind: Pod, apiVersion: v1, metadata: {name: a}}";
    let socket = "{kind: Pod, apiVersion: v1, metadata: {name: a}, spec: {volumes: [{name: v, hostPath: {path: /run/docker.sock}}]}}";
    let write = |path: &Path, text: &str| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    for (files, link, code, unseen) in [
        (vec![], None, 3, "no Kubernetes object is in it"),
        (
            vec![("a.tmpl", pod), ("b.txt", pod)],
            None,
            3,
            "no Kubernetes object is in it",
        ),
        (
            vec![("c.yaml", "# nothing\n")],
            None,
            3,
            "no Kubernetes object",
        ),
        (vec![("a.yaml", pod)], None, 0, ""),
        (vec![("a.YAML", socket)], None, 2, ""),
        (vec![("a.Yml", socket)], None, 2, ""),
        (vec![("a.JSON", "{}"), ("b.yaml", pod)], None, 0, ""),
        (
            vec![("a.yaml", pod)],
            Some("linked"),
            3,
            "linked: it is a link to a directory, which is not followed",
        ),
        (vec![], Some("linked"), 3, "linked: it is a link"),
        (
            vec![("a.yaml", pod), (".old/b.yaml", socket)],
            None,
            3,
            ".old: it is a hidden directory",
        ),
        (vec![("a.yaml", pod), (".git/b.yaml", socket)], None, 0, ""),
    ] {
        let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (name, text) in &files {
            write(&directory.path().join(name), text);
        }
        if let Some(name) = link {
            std::os::unix::fs::symlink(other.path(), directory.path().join(name)).unwrap();
        }
        let report = manifests::check(directory.path());
        let told: Vec<_> = report
            .unseen
            .iter()
            .map(|unseen| format!("{}: {}", unseen.what, unseen.why))
            .collect();
        assert_eq!(report.verdict().exit_code(), code, "{files:?}: {told:?}");
        assert!(told.join("\n").contains(unseen), "{files:?}: {told:?}");
        assert_eq!(told.is_empty(), unseen.is_empty(), "{files:?}: {told:?}");
    }
    let text = tempfile::NamedTempFile::new().unwrap();
    fs::write(text.path(), "some words").unwrap();
    assert_eq!(manifests::check(text.path()).verdict().exit_code(), 3);
}

/// What is said fits what is the matter.
#[test]
fn what_to_do_about_a_file_depends_on_what_is_wrong_with_it() {
    let utf16 = |text: &str| {
        let units = text.encode_utf16().flat_map(u16::to_le_bytes);
        [0xff, 0xfe].into_iter().chain(units).collect::<Vec<_>>()
    };
    let pod = "{kind: Pod, apiVersion: v1, metadata: {name: a}}";
    for (bytes, why, todo) in [
        (
            b"\x1f\x8b\x08\0\0{{ .Values.a }}\0".to_vec(),
            "it is no text",
            "take it out of the directory",
        ),
        (utf16(pod), "it is UTF-16", "write it as UTF-8"),
        (
            b"a: {{ .Values.a }}\n  b: c\n".to_vec(),
            "line ",
            "render it first (helm template)",
        ),
        (
            b"a: '{{ $labels.pod }}'\n  b: c\n".to_vec(),
            "line ",
            "repair it; if it is a template",
        ),
        (b"a: b\n  c: d\n".to_vec(), "line ", "repair it"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a.yaml"), &bytes).unwrap();
        let report = manifests::check(directory.path());
        assert_eq!(report.unseen.len(), 1, "{:?}", report.unseen);
        let unseen = &report.unseen[0];
        assert!(unseen.why.contains(why), "{unseen:?}");
        assert!(unseen.todo.contains(todo), "{unseen:?}");
        assert_eq!(report.verdict().exit_code(), 3);
    }
    let directory = tempfile::tempdir().unwrap();
    for (name, target) in [("a.yaml", "nowhere"), ("b.yaml", "b.yaml")] {
        std::os::unix::fs::symlink(target, directory.path().join(name)).unwrap();
    }
    let report = manifests::check(directory.path());
    let todo: Vec<_> = report.unseen.iter().map(|one| one.todo.as_str()).collect();
    assert_eq!(
        todo,
        [
            "the link leads nowhere: mend it, or remove it",
            "the links lead in a circle: mend them, or remove them"
        ]
    );
    let report = manifests::check(Path::new("/nonexistent"));
    assert_eq!(
        report.unseen[0].todo,
        "name a file or directory that is there"
    );
}

/// What kubectl has written of all of a cluster's objects.
#[test]
fn a_file_of_a_whole_cluster_is_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("all.yaml");
    let mut text = String::from("apiVersion: v1\nkind: List\nitems:\n");
    let filler = "x".repeat(4096);
    while text.len() < 9 << 20 {
        writeln!(
            text,
            "- {{apiVersion: v1, kind: ConfigMap, metadata: {{name: a}}, data: {{a: {filler}}}}}"
        )
        .unwrap();
    }
    text.push_str("- apiVersion: v1\n  kind: Pod\n  metadata: {name: last}\n  spec:\n    volumes: [{name: v, hostPath: {path: /run/docker.sock}}]\n");
    fs::write(&path, text).unwrap();
    let report = manifests::check(&path);
    assert_eq!(report.verdict().exit_code(), 2, "{:?}", report.unseen);

    let file = fs::File::create(&path).unwrap();
    file.set_len((256 << 20) + 1).unwrap();
    let report = manifests::check(&path);
    assert_eq!(report.verdict().exit_code(), 3);
    assert!(report.unseen[0].why.contains("more than 256 MiB"));
    assert!(report.unseen[0].todo.starts_with("write it in parts"));
}
