use clap::Parser;

use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    serve: ServeArgs,
}

/// A directory with `config.toml` and drop-ins.
struct Files(tempfile::TempDir);

impl Files {
    fn new(config: &str, drop_ins: &[(&str, &str)]) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        std::fs::write(files.path("config.toml"), config).unwrap();
        std::fs::create_dir(files.path("conf.d")).unwrap();
        for (name, text) in drop_ins {
            std::fs::write(files.path("conf.d").join(name), text).unwrap();
        }
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self, flags: &[&str]) -> anyhow::Result<Loaded> {
        let file = self.path("config.toml");
        let named = ["serve", "--config", file.to_str().unwrap()];
        Loaded::new(&Cli::parse_from(named.iter().chain(flags)).serve)
    }

    /// All that is said to be wrong, without the directory.
    fn mistakes(&self, flags: &[&str]) -> String {
        let error = self.load(flags).unwrap_err().to_string();
        error.replace(&format!("{}/", self.0.path().display()), "")
    }
}

fn mistakes(config: &str) -> String {
    Files::new(config, &[]).mistakes(&[])
}

#[test]
fn flags_win_over_drop_ins_and_those_over_the_file() {
    let files = Files::new(
        "root = \"/a\"\nstate = \"/b\"\n[runtime]\npids_limit = 5\ncgroup_driver = \"cgroupfs\"\n\
         cgroup_parent = \"/x\"\n",
        &[
            ("20-late.toml", "[runtime]\npids_limit = 7\n"),
            (
                "10-more.toml",
                "state = \"/c\"\n[runtime]\npids_limit = 6\n",
            ),
            ("not-read.conf", "rooot = 1\n"),
        ],
    );
    let loaded = files.load(&["--root", "/d"]).unwrap();
    let config = &loaded.config;
    assert_eq!(config.root, Path::new("/d"));
    assert_eq!(config.state, Path::new("/c"));
    assert_eq!(config.runtime.pids_limit, Some(7));
    assert_eq!(config.runtime.cgroup_parent.as_deref(), Some("/x"));
    let read = ["config.toml", "conf.d/10-more.toml", "conf.d/20-late.toml"];
    assert_eq!(loaded.files, read.map(|name| files.path(name)));
    let shown = document::effective(&Key::all(), &loaded);
    for line in [
        "root = \"/d\"  # --root\n".to_owned(),
        format!("state = \"/c\"  # {}:1:1\n", read_at(&files, read[1])),
        format!("pids_limit = 7  # {}:2:1\n", read_at(&files, read[2])),
        format!(
            "cgroup_parent = \"/x\"  # {}:6:1\n",
            read_at(&files, read[0])
        ),
        "log_level = \"info\"\n".to_owned(),
    ] {
        assert!(shown.contains(&line), "{line} is not in\n{shown}");
    }
    let again = toml::from_str::<Config>(&shown).unwrap();
    assert_eq!(&again, config, "what is shown is a configuration");
}

fn read_at(files: &Files, name: &str) -> String {
    files.path(name).display().to_string()
}

#[test]
fn each_mistake_is_named_with_its_place_and_what_was_meant() {
    let files = Files::new("root = \"/a\"\n", &[]);
    std::fs::remove_file(files.path("config.toml")).unwrap();
    assert!(
        files
            .load(&[])
            .unwrap_err()
            .to_string()
            .contains("not there")
    );
    for (config, said) in [
        (
            "rooot = '/a'",
            "config.toml:1:1: there is no key \"rooot\"; did you mean \"root\"?",
        ),
        (
            "\n  pids_limit = 1",
            "config.toml:2:3: there is no key \"pids_limit\"; did you mean \"runtime.pids_limit\"?",
        ),
        (
            "[network]\nconf-dir = '/x'",
            "config.toml:2:1: there is no key \"network.conf-dir\"; did you mean \"conf_dir\"?",
        ),
        (
            "qqqqqqq = 1",
            "config.toml:1:1: there is no key \"qqqqqqq\"; there are \"listen\", ",
        ),
        (
            "log_format = 'jsn'",
            "config.toml:1:14: log_format cannot be \"jsn\"; did you mean \"json\"?",
        ),
        (
            "runtime.cgroup_driver = 'sytemd'",
            "config.toml:1:25: runtime.cgroup_driver cannot be \"sytemd\"; did you mean \"systemd\"?",
        ),
        (
            "[runtime.rlimits]\nnofiles = { soft = 1, hard = 2 }",
            "config.toml:2:1: there is no \"runtime.rlimits.nofiles\"; did you mean \"nofile\"?",
        ),
        (
            "[runtime.rlimits]\nnofile = { soft = 1, hart = 2 }",
            "config.toml:2:22: there is no key \"runtime.rlimits.nofile.hart\"; did you mean \"hard\"?",
        ),
        (
            "root = 7",
            "config.toml:1:8: root is a string, and here it is a whole number",
        ),
        (
            "runtime = 7",
            "config.toml:1:11: runtime is a table, and here it is a whole number",
        ),
        (
            "runtime.pids_limit = 1.5",
            "config.toml:1:22: runtime.pids_limit is a whole number, and here",
        ),
        (
            "network.bin_dirs = ['/a', 1]",
            "config.toml:1:20: network.bin_dirs is a list of strings, and",
        ),
        (
            "metrics_listen = 'here'",
            "config.toml:1:18: metrics_listen: invalid socket address",
        ),
        (
            "image.stall_timeout_seconds = 0",
            "config.toml:1:31: image.stall_timeout_seconds: must be at least 1 second",
        ),
        (
            "[runtime.handlers.x]\nroot = '/x'",
            "config.toml:1:1: runtime.handlers.x: missing field `path`",
        ),
        ("a = [", "config.toml:1:"),
        (
            "listen = 'tcp://1.2.3.4:5'",
            "config.toml:1:1: listen: \"tcp://1.2.3.4:5\" is not unix://",
        ),
        (
            "root = 'relative'",
            "config.toml:1:1: root: \"relative\" is not an absolute path",
        ),
        (
            "state = '/a'\nroot = '/a'",
            "config.toml:1:1: state: is the same directory as root",
        ),
        (
            "metrics_listen = '0.0.0.0:99'\nstreaming.listen = '127.0.0.1:99'",
            "config.toml:1:1: metrics_listen: 0.0.0.0:99 is taken by streaming.listen",
        ),
        (
            "runtime.cgroup_driver = 'systemd'\nruntime.cgroup_parent = '/x'",
            "config.toml:2:9: runtime.cgroup_parent: \"/x\": ",
        ),
        (
            "runtime.pids_limit = 0",
            "config.toml:1:9: runtime.pids_limit: 0 is below 1",
        ),
        (
            "[runtime.rlimits]\nnofile = { soft = 3, hard = 2 }",
            "config.toml:2:1: runtime.rlimits.nofile: the soft limit of 3 is above the hard one of 2",
        ),
        (
            "[runtime.handlers.x]\npath = '/no/such'",
            "config.toml:2:1: runtime.handlers.x.path: /no/such does not exist",
        ),
        (
            "[runtime.handlers.slipway]\npath = '/bin/true'",
            "config.toml:1:19: runtime.handlers.slipway: that is the name of the built-in",
        ),
        (
            "state = '/s'\n[runtime.handlers.x]\npath = '/bin/true'\nroot = '/s/runtimes/y'",
            "config.toml:4:1: runtime.handlers.x.root: /s/runtimes/y is in a directory that Slipway cleans up",
        ),
        (
            "runtime.criu_path = 'criu'",
            "config.toml:1:9: runtime.criu_path: \"criu\" is not an absolute path",
        ),
        (
            "image.max_parallel_downloads = 0",
            "config.toml:1:7: image.max_parallel_downloads: 0 is not between",
        ),
        (
            "network.bin_dirs = []",
            "config.toml:1:9: network.bin_dirs: no directory is given",
        ),
        (
            "network.conf_dir = '/c'\nnetwork.conf_template = '/c/x.conf'",
            "config.toml:2:9: network.conf_template: /c/x.conf is in conf_dir",
        ),
        (
            "network.plugin_timeout = 0",
            "config.toml:1:9: network.plugin_timeout: 0 is not between",
        ),
        (
            "streaming.tls_key = '/x'",
            "config.toml:1:11: streaming.tls_key: streaming.tls_cert and streaming.tls_key are only good together",
        ),
        (
            "streaming.tls_key = '/x'\nstreaming.tls_cert = '/x'",
            "config.toml:2:11: streaming.tls_cert /x cannot be used",
        ),
        (
            "streaming.max_sessions = 0",
            "config.toml:1:11: streaming.max_sessions: 0 is not between",
        ),
    ] {
        let found = mistakes(config);
        assert!(
            found.starts_with(said),
            "{config}\nexpected: {said}\nfound:    {found}"
        );
    }
}

#[test]
fn mistakes_are_found_in_all_files_at_once_and_at_their_own_places() {
    let files = Files::new(
        "\u{feff}# Größe\nrooot = 1\nlisten = 'unix:///a'\n",
        &[
            ("10.toml", "'ü' = 1\n[runtime]\n'ü' = 2"),
            ("20.toml", "not toml"),
            ("30.toml", "[runtime]\npids_limit = true\n"),
        ],
    );
    let found = files.mistakes(&[]);
    let lines: Vec<_> = found.lines().collect();
    assert_eq!(lines[0], "5 mistakes in the configuration");
    for (line, place) in lines[1..].iter().zip([
        "config.toml:2:1: there is no key \"rooot\"",
        "conf.d/10.toml:1:1: there is no key \"ü\"",
        "conf.d/10.toml:3:1: there is no key \"runtime.ü\"",
        "conf.d/20.toml:1:",
        "conf.d/30.toml:2:14: runtime.pids_limit",
    ]) {
        assert!(line.starts_with(place), "{line}");
    }
    assert_eq!(lines.len(), 6);
}

#[test]
fn what_contradicts_is_named_where_it_is_written_last() {
    let files = Files::new(
        "metrics_listen = '127.0.0.1:9'\nroot = '/a'\n",
        &[(
            "x.toml",
            "[streaming]\nlisten = '127.0.0.1:9'\n[runtime.handlers.x]\npath = '/no'\n",
        )],
    );
    let found = files.mistakes(&["--state", "/a"]);
    let said = [
        "3 mistakes in the configuration",
        "config.toml:1:1: metrics_listen: 127.0.0.1:9 is taken by",
        "conf.d/x.toml:4:1: runtime.handlers.x.path: /no does not exist",
        "--state: state: is the same directory as root",
    ];
    for (line, said) in found.lines().zip(said) {
        assert!(line.starts_with(said), "{found}");
    }
    assert_eq!(found.lines().count(), said.len());
}

#[test]
fn a_drop_in_may_complete_a_table_and_correct_a_value() {
    let files = Files::new(
        "metrics_listen = 'nowhere'\n[runtime.handlers.x]\npath = '/bin/true'\n",
        &[(
            "x.toml",
            "metrics_listen = '127.0.0.1:9'\n[runtime.handlers.x]\ntimeout_seconds = 7\n",
        )],
    );
    let config = files.load(&[]).unwrap().config;
    let handler = &config.runtime.handlers["x"];
    assert_eq!(handler.path, Path::new("/bin/true"));
    assert_eq!(handler.timeout_seconds, 7);
    assert_eq!(config.metrics_listen.unwrap().port(), 9);
}

/// The default file with every line that is a key or a table.
fn uncommented() -> String {
    let text = document::default(&Key::all());
    let lines = text.lines().map(|line| match line.strip_prefix('#') {
        Some(code) if !code.starts_with(' ') => code,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_default_file_has_every_key_and_says_the_defaults() {
    fn compare(keys: &[Key], file: &toml::Table, default: &toml::Table) {
        for key in keys {
            let value = file.get(&key.name);
            let value = value.unwrap_or_else(|| panic!("{} is not there", key.name));
            assert!(
                !key.documentation.is_empty(),
                "{} is not explained",
                key.name
            );
            match &key.shape {
                keys::Shape::Table(keys) => {
                    let default = default[&key.name].as_table().unwrap();
                    compare(keys, value.as_table().unwrap(), default);
                }
                keys::Shape::Named { keys, .. } => {
                    for (_, value) in value.as_table().unwrap() {
                        compare(keys, value.as_table().unwrap(), &toml::Table::new());
                    }
                }
                _ => {
                    if let Some(default) = default.get(&key.name) {
                        assert_eq!(value, default, "{}", key.name);
                    }
                }
            }
        }
        let known: Vec<_> = keys.iter().map(|key| key.name.as_str()).collect();
        for name in file.keys().chain(default.keys()) {
            assert!(known.contains(&name.as_str()), "{name} is no key");
        }
    }
    let text = uncommented();
    let parsed = toml::from_str::<Config>(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let default = Config::default();
    compare(
        &Key::all(),
        &toml::from_str(&text).unwrap(),
        &default.table(),
    );
    // What the types have, the file has: also what is not set by default.
    assert_eq!(
        parsed.table(),
        toml::from_str::<toml::Table>(&text).unwrap()
    );

    let as_printed = document::default(&Key::all());
    assert_eq!(toml::from_str::<Config>(&as_printed).unwrap(), default);
    for line in as_printed.lines() {
        assert!(
            line.chars().count() <= 100 || !line.starts_with("# "),
            "{line}"
        );
    }
}

#[test]
fn changes_that_take_a_restart_are_told_from_others() {
    let before = Config::default();
    let after = |change: fn(&mut Config)| {
        let mut after = before.clone();
        change(&mut after);
        let changes = changes(&before, &after);
        (changes.on_hangup.join(" "), changes.by_restart.join(" "))
    };
    let both = |one: &str, other: &str| (one.to_owned(), other.to_owned());
    assert_eq!(after(|_| {}), both("", ""));
    let changed = after(|config| {
        config.listen.push('x');
        config.log_level = LogLevel::Debug;
        config.runtime.pids_limit = Some(1);
        config.runtime.cgroup_parent = Some("/x".to_owned());
        config.network.bin_dirs.clear();
        config.streaming.token_lifetime *= 2;
    });
    assert_eq!(
        changed,
        both(
            "log_level network.bin_dirs runtime.pids_limit",
            "listen runtime.cgroup_parent streaming.token_lifetime_seconds"
        )
    );
}
