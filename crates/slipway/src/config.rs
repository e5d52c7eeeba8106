//! The configuration file: each floor's own piece of it in one TOML document, with drop-ins beside
//! it and the command line over it.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::serve::{LogFormat, ServeArgs};

const DEFAULT_FILE: &str = "/etc/slipway/config.toml";

/// All that the daemon can be told; every key has a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// The socket, as `unix://` and an absolute path.
    pub(crate) listen: String,
    /// What survives a reboot: images, layers, records.
    pub(crate) root: PathBuf,
    /// What a reboot ends: pods, sockets, namespaces.
    pub(crate) state: PathBuf,
    /// How the log is written.
    pub(crate) log_format: LogFormat,
    /// Where Prometheus metrics are offered; nowhere when it is not set.
    pub(crate) metrics_listen: Option<SocketAddr>,
    pub(crate) runtime: slipway_native::Config,
    pub(crate) image: slipway_image::Config,
    pub(crate) network: slipway_network::Config,
    pub(crate) streaming: slipway_streaming::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "unix:///run/slipway/slipway.sock".to_owned(),
            root: PathBuf::from("/var/lib/slipway"),
            state: PathBuf::from("/run/slipway"),
            log_format: LogFormat::Text,
            metrics_listen: None,
            runtime: slipway_native::Config::default(),
            image: slipway_image::Config::default(),
            network: slipway_network::Config::default(),
            streaming: slipway_streaming::Config::default(),
        }
    }
}

impl Config {
    /// The file that the command line names, or the usual one where it is there; the drop-ins in
    /// `conf.d` beside it in the order of their names; the command line.
    pub(crate) fn load(args: &ServeArgs) -> anyhow::Result<Self> {
        let file = args
            .config
            .clone()
            .unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        let mut table = match read(&file) {
            Ok(table) => table,
            Err(Unreadable::NotThere) if args.config.is_none() => toml::Table::new(),
            Err(Unreadable::NotThere) => bail!("the configuration {} is not there", file.display()),
            Err(Unreadable::Bad(error)) => return Err(error),
        };
        for drop_in in drop_ins(&file)? {
            match read(&drop_in) {
                Ok(more) => merge(&mut table, more),
                Err(Unreadable::NotThere) => {}
                Err(Unreadable::Bad(error)) => return Err(error),
            }
        }
        let mut config: Self = toml::Value::Table(table)
            .try_into()
            .with_context(|| format!("configuration {} and its conf.d", file.display()))?;
        config.override_with(args);
        config.check()?;
        Ok(config)
    }

    fn override_with(&mut self, args: &ServeArgs) {
        fn set<T: Clone>(key: &mut T, flag: Option<&T>) {
            if let Some(value) = flag {
                key.clone_from(value);
            }
        }
        set(&mut self.listen, args.listen.as_ref());
        set(&mut self.root, args.root.as_ref());
        set(&mut self.state, args.state.as_ref());
        set(&mut self.log_format, args.log_format.as_ref());
        set(&mut self.network.conf_dir, args.cni_conf_dir.as_ref());
        set(
            &mut self.image.registries_conf,
            args.registries_conf.as_ref(),
        );
        if !args.cni_bin_dir.is_empty() {
            self.network.bin_dirs.clone_from(&args.cni_bin_dir);
        }
        self.metrics_listen = args.metrics_listen.or(self.metrics_listen);
        self.runtime.shim = args.shim.clone().or(self.runtime.shim.take());
    }

    fn check(&self) -> anyhow::Result<()> {
        self.socket()?;
        for (key, path) in [("root", &self.root), ("state", &self.state)] {
            if !path.is_absolute() {
                bail!("{key} {} is not an absolute path", path.display());
            }
        }
        Ok(())
    }

    /// The path of the socket.
    pub(crate) fn socket(&self) -> anyhow::Result<&Path> {
        let path = Path::new(self.listen.strip_prefix("unix://").unwrap_or(&self.listen));
        if !path.is_absolute() {
            bail!(
                "listen {:?} is not unix:// and an absolute path, such as {:?}",
                self.listen,
                Self::default().listen
            );
        }
        Ok(path)
    }
}

enum Unreadable {
    NotThere,
    Bad(anyhow::Error),
}

fn read(file: &Path) -> Result<toml::Table, Unreadable> {
    let text = std::fs::read_to_string(file).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Unreadable::NotThere,
        _ => Unreadable::Bad(anyhow::anyhow!(
            "{} cannot be read: {error}",
            file.display()
        )),
    })?;
    // Checked for itself, so that a mistake is reported with its own file, line and column.
    toml::from_str::<Config>(&text)
        .and_then(|_| toml::from_str(&text))
        .map_err(|error| Unreadable::Bad(anyhow::anyhow!("{}: {error}", file.display())))
}

fn drop_ins(file: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let directory = file.with_file_name("conf.d");
    let listed = match std::fs::read_dir(&directory) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => bail!("{} cannot be read: {error}", directory.display()),
    };
    let mut files: Vec<PathBuf> = listed
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    files.sort();
    Ok(files)
}

/// Puts a document over another: tables are merged, everything else is replaced.
fn merge(below: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (below.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(over)) => merge(below, over),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn load(directory: &Path, flags: &[&str]) -> anyhow::Result<Config> {
        let file = directory.join("config.toml");
        let named = ["serve", "--config", file.to_str().unwrap()];
        Config::load(&Cli::parse_from(named.iter().chain(flags)).serve)
    }

    #[test]
    fn flags_win_over_drop_ins_and_those_over_the_file() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("conf.d")).unwrap();
        std::fs::write(
            directory.path().join("config.toml"),
            "root = \"/a\"\nstate = \"/b\"\n[runtime]\npids_limit = 5\ncgroup_parent = \"/x\"\n",
        )
        .unwrap();
        std::fs::write(
            directory.path().join("conf.d/10-more.toml"),
            "state = \"/c\"\n[runtime]\npids_limit = 6\n",
        )
        .unwrap();
        let config = load(directory.path(), &["--root", "/d"]).unwrap();
        assert_eq!(config.root, Path::new("/d"));
        assert_eq!(config.state, Path::new("/c"));
        assert_eq!(config.runtime.pids_limit, Some(6));
        assert_eq!(config.runtime.cgroup_parent.as_deref(), Some("/x"));
    }

    #[test]
    fn a_mistake_is_named_with_its_file() {
        let directory = tempfile::tempdir().unwrap();
        assert!(
            load(directory.path(), &[]).is_err(),
            "a file that was named must be there"
        );
        let file = directory.path().join("config.toml");
        for (text, word) in [
            ("rooot = \"/a\"\n", "rooot"),
            ("[runtime]\nshims = 1\n", "shims"),
            ("root = 7\n", "line 1"),
            ("listen = \"tcp://1.2.3.4:5\"\n", "unix://"),
            ("root = \"relative\"\n", "absolute"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = format!("{:#}", load(directory.path(), &[]).unwrap_err());
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
