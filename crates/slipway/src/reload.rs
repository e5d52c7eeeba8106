//! SIGHUP: the configuration is read again, and what can be changed while pods run is changed.

use std::sync::Arc;

use slipway_streaming::Reloader;
use tokio::signal::unix::Signal;

use crate::config::{Config, Loaded, changes};
use crate::engines::Started;
use crate::log::SetLogLevel;
use crate::serve::ServeArgs;
use crate::service_manager::{ServiceManager, State};

/// What a reload works on.
pub(crate) struct Reload {
    pub(crate) args: ServeArgs,
    /// What the daemon was started with.
    pub(crate) started: Config,
    pub(crate) engine: Started,
    pub(crate) streaming: Reloader,
    pub(crate) log: SetLogLevel,
    pub(crate) manager: Arc<ServiceManager>,
}

impl Reload {
    /// Reloads at every signal, one after the other, until the process ends.
    pub(crate) async fn follow(self, mut hangups: Signal) {
        let mut current = self.started.clone();
        while hangups.recv().await.is_some() {
            self.manager.tell(State::Reloading);
            match self.once(&current).await {
                Ok(new) => current = new,
                Err(error) => tracing::error!(
                    error = format!("{error:#}"),
                    "the configuration is not reloaded, and stays what it was"
                ),
            }
            self.manager.tell(State::Ready);
        }
    }

    /// Puts what is in the files now into force, as far as that takes no restart. All that can be
    /// wrong with it is found before the first part changes.
    async fn once(&self, current: &Config) -> anyhow::Result<Config> {
        let args = self.args.clone();
        let Loaded { config, files, .. } =
            tokio::task::spawn_blocking(move || Loaded::new(&args)).await??;
        self.streaming.reload(&config.streaming)?;
        self.engine.reload(&config).await?;
        (self.log)(config.log_level);
        let changed = changes(current, &config).on_hangup;
        tracing::info!(
            ?files,
            changed = changed.join(", "),
            "configuration reloaded"
        );
        let waiting = changes(&self.started, &config).by_restart;
        if !waiting.is_empty() {
            tracing::warn!(
                keys = waiting.join(", "),
                "these keys have other values than the daemon was started with; restart it to put \
                 them into force"
            );
        }
        Ok(config)
    }
}
