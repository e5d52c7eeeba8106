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
