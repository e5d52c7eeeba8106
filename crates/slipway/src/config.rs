//! The configuration file: each floor's own piece of it in one TOML document, with drop-ins beside
//! it and the command line over it.

mod command;
mod document;
mod keys;
mod mistake;
mod sources;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::bail;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engines::EngineConfig;
use crate::log::{LogFormat, LogLevel};
use crate::serve::ServeArgs;
use crate::traces;

pub(crate) use command::ConfigArgs;
pub(crate) use keys::{Key, changes};
use mistake::{Mistake, Mistakes, Place};
use sources::Sources;

const DEFAULT_FILE: &str = "/etc/slipway/config.toml";

/// The longest path that a socket's address holds (unix(7)), in bytes.
const MAX_SOCKET_PATH: usize = 107;

/// The daemon.
// What its comments say is what an administrator reads in the configuration's reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// The socket, as `unix://` and an absolute path.
    #[schemars(extend("x-restart" = true))]
    pub(crate) listen: String,
    /// What survives a reboot: images, layers, records.
    #[schemars(extend("x-restart" = true))]
    pub(crate) root: PathBuf,
    /// What a reboot ends: pods, sockets, namespaces.
    #[schemars(extend("x-restart" = true))]
    pub(crate) state: PathBuf,
    /// How the log is written.
    #[schemars(extend("x-restart" = true))]
    pub(crate) log_format: LogFormat,
    /// How much is logged, of what Slipway itself has to say. `SLIPWAY_LOG` in the daemon's
    /// environment wins over it: one of these words, or directives for single modules and
    /// libraries, such as `info,h2=debug`.
    pub(crate) log_level: LogLevel,
    /// Where Prometheus metrics are offered; nowhere when it is not set.
    #[schemars(
        extend("x-restart" = true),
        with = "Option<String>",
        example = "127.0.0.1:9428"
    )]
    pub(crate) metrics_listen: Option<SocketAddr>,
    pub(crate) engine: EngineConfig,
    pub(crate) runtime: slipway_native::Config,
    pub(crate) image: slipway_image::Config,
    pub(crate) network: slipway_network::Config,
    pub(crate) streaming: slipway_streaming::Config,
    pub(crate) tracing: traces::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "unix:///run/slipway/slipway.sock".to_owned(),
            root: PathBuf::from("/var/lib/slipway"),
            state: PathBuf::from("/run/slipway"),
            log_format: LogFormat::Text,
            log_level: LogLevel::Info,
            metrics_listen: None,
            engine: EngineConfig::default(),
            runtime: slipway_native::Config::default(),
            image: slipway_image::Config::default(),
            network: slipway_network::Config::default(),
            streaming: slipway_streaming::Config::default(),
            tracing: traces::Config::default(),
        }
    }
}

/// A configuration that can be used, and where it comes from.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    /// What was read, in the order in which the later wins; none where there is nothing.
    pub(crate) files: Vec<PathBuf>,
    /// Of each key that is set, by its dotted name.
    places: BTreeMap<String, Place>,
}

impl Loaded {
    /// The file that the command line names, or the usual one where it is there; the drop-ins in
    /// `conf.d` beside it in the order of their names; the command line.
    ///
    /// # Errors
    ///
    /// [`Mistakes`], or that a file that was named is not there. Blocking, briefly.
    pub(crate) fn new(args: &ServeArgs) -> anyhow::Result<Self> {
        let file = args.config.as_deref();
        let sources = Sources::read(file.unwrap_or(Path::new(DEFAULT_FILE)))?;
        if let Some(file) = file.filter(|file| !sources.has(file)) {
            bail!("the configuration {} is not there", file.display());
        }
        let (mut config, mut places) = sources.parse()?;
        config.override_with(args, &mut |key, flag| {
            places.insert(key.to_owned(), Place::Flag(flag));
        })?;
        let mut mistakes = Vec::new();
        config.check(&mut |key, reason| {
            mistakes.push(Mistake::of_key(mistake::place(&places, key), key, &reason));
        });
        Mistakes::none_of(mistakes)?;
        Ok(Self {
            config,
            files: sources.files(),
            places,
        })
    }
}

impl Config {
    /// Puts what the command line says over what the files say, and tells which key each flag is.
    fn override_with(
        &mut self,
        args: &ServeArgs,
        overridden: &mut dyn FnMut(&str, &'static str),
    ) -> anyhow::Result<()> {
        let mut set =
            |key: &str, flag: &'static str, path: &mut PathBuf, given: &Option<PathBuf>| {
                if let Some(given) = given {
                    *path = std::path::absolute(given)?;
                    overridden(key, flag);
                }
                anyhow::Ok(())
            };
        set("root", "--root", &mut self.root, &args.root)?;
        set("state", "--state", &mut self.state, &args.state)?;
        let network = &mut self.network;
        set(
            "network.conf_dir",
            "--cni-conf-dir",
            &mut network.conf_dir,
            &args.cni_conf_dir,
        )?;
        let image = &mut self.image;
        set(
            "image.registries_conf",
            "--registries-conf",
            &mut image.registries_conf,
            &args.registries_conf,
        )?;
        if args.shim.is_some() {
            let shim = self.runtime.shim.get_or_insert_default();
            set("runtime.shim", "--shim", shim, &args.shim)?;
        }
        if !args.cni_bin_dir.is_empty() {
            let directories = args.cni_bin_dir.iter().map(std::path::absolute);
            self.network.bin_dirs = directories.collect::<Result<_, _>>()?;
            overridden("network.bin_dirs", "--cni-bin-dir");
        }
        if let Some(listen) = &args.listen {
            self.listen.clone_from(listen);
            overridden("listen", "--listen");
        }
        if let Some(engine) = args.engine {
            self.engine.name = engine;
            overridden("engine.name", "--engine");
        }
        if let Some(also) = args.also {
            self.engine.also = Some(also);
            overridden("engine.also", "--also");
        }
        if let Some(format) = args.log_format {
            self.log_format = format;
            overridden("log_format", "--log-format");
        }
        if let Some(address) = args.metrics_listen {
            self.metrics_listen = Some(address);
            overridden("metrics_listen", "--metrics-listen");
        }
        Ok(())
    }

    /// Looks for values that cannot be used on this node, and for such as contradict each other.
    /// Each is told by its dotted key and in a sentence.
    fn check(&self, complain: &mut dyn FnMut(&str, String)) {
        match self.socket() {
            Err(error) => complain("listen", error.to_string()),
            Ok(path) if path.as_os_str().len() > MAX_SOCKET_PATH => complain(
                "listen",
                format!(
                    "the path {} has {} bytes, and a socket's has at most {MAX_SOCKET_PATH}",
                    path.display(),
                    path.as_os_str().len()
                ),
            ),
            Ok(_) => {}
        }
        for (key, path) in [("root", &self.root), ("state", &self.state)] {
            if !path.is_absolute() {
                let path = path.display().to_string();
                complain(key, format!("{path:?} is not an absolute path"));
            }
        }
        if self.root == self.state {
            let reason = "is the same directory as root; what survives a reboot and what does not \
                          need one each";
            complain("state", reason.to_owned());
        }
        if let Some(metrics) = self.metrics_listen
            && overlap(metrics, self.streaming.listen)
        {
            complain(
                "metrics_listen",
                format!(
                    "{metrics} is taken by streaming.listen {}; choose another port for one of them",
                    self.streaming.listen
                ),
            );
        }
        for (name, handler) in &self.runtime.handlers {
            let own = ["pods", "runtimes"].map(|directory| self.state.join(directory));
            if let Some(root) = &handler.root
                && own.iter().any(|own| root.starts_with(own))
            {
                complain(
                    &format!("runtime.handlers.{name}.root"),
                    format!(
                        "{} is in a directory that Slipway cleans up; leave it out, or choose one \
                         outside of {}",
                        root.display(),
                        self.state.display()
                    ),
                );
            }
        }
        self.engine.check(&mut below("engine", complain));
        self.runtime.check(&mut below("runtime", complain));
        self.image.check(&mut below("image", complain));
        self.network.check(&mut below("network", complain));
        self.streaming.check(&mut below("streaming", complain));
        self.tracing.check(&mut below("tracing", complain));
    }

    /// The path of the socket.
    pub(crate) fn socket(&self) -> anyhow::Result<&Path> {
        let path = Path::new(self.listen.strip_prefix("unix://").unwrap_or(&self.listen));
        if !path.is_absolute() {
            bail!(
                "{:?} is not unix:// and an absolute path, such as {:?}",
                self.listen,
                Self::default().listen
            );
        }
        Ok(path)
    }

    /// The same in TOML's own types, without what is not set.
    pub(crate) fn table(&self) -> toml::Table {
        toml::Table::try_from(self).expect("a configuration has nothing that TOML does not")
    }
}

/// Tells a floor's complaints with the name of its table.
fn below(table: &str, complain: &mut dyn FnMut(&str, String)) -> impl FnMut(&str, String) {
    move |key, reason| complain(&format!("{table}.{key}"), reason)
}

/// Whether two listeners cannot be there at the same time.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let all = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && (all || one.ip() == other.ip())
}

#[cfg(test)]
mod guides;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
