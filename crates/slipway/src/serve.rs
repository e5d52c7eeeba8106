//! `slipway serve`: the daemon.

use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Args;
use futures_util::TryFutureExt as _;
use prometheus_client::registry::Registry;
use slipway_cri::CallMetrics;
use slipway_streaming::Streaming;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::config::Loaded;
use crate::engines::{EngineName, Started};
use crate::log::LogFormat;
use crate::metrics::Process;
use crate::reload::Reload;
use crate::service_manager::{ServiceManager, State};
use crate::traces::Traces;
use crate::{log, metrics};

/// What `slipway serve` is told on its command line. Each flag is also a key of the configuration
/// file, and wins over it.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ServeArgs {
    /// Configuration file [default: /etc/slipway/config.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Socket to answer on [key: listen; default: unix:///run/slipway/slipway.sock]
    #[arg(long, value_name = "ENDPOINT")]
    pub(crate) listen: Option<String>,

    /// Directory of what survives a reboot: images, layers, records [key: root; default: /var/lib/slipway]
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,

    /// Directory of what a reboot ends: pods, sockets, namespaces [key: state; default: /run/slipway]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,

    /// What new pods are made with [key: engine.name; default: native]
    #[arg(long, value_name = "ENGINE")]
    pub(crate) engine: Option<EngineName>,

    /// Another engine, which keeps the pods that it has until they end: docker beside native
    /// [key: engine.also; default: none]
    #[arg(long, value_name = "ENGINE")]
    pub(crate) also: Option<EngineName>,

    /// Directory of the network configurations [key: network.conf_dir; default: /etc/cni/net.d]
    #[arg(long, value_name = "DIR")]
    pub(crate) cni_conf_dir: Option<PathBuf>,

    /// Directory of network plugins; may be repeated [key: network.bin_dirs; default: /opt/cni/bin and /usr/lib/cni]
    #[arg(long, value_name = "DIR")]
    pub(crate) cni_bin_dir: Vec<PathBuf>,

    /// Registries, their mirrors and blocks [key: image.registries_conf; default: /etc/containers/registries.conf]
    #[arg(long, value_name = "FILE")]
    pub(crate) registries_conf: Option<PathBuf>,

    /// How the log is written [key: log_format; default: text]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,

    /// Address on which to offer Prometheus metrics [key: metrics_listen; default: none]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics_listen: Option<SocketAddr>,

    /// The shim's executable [key: runtime.shim; default: slipway-shim beside this executable]
    #[arg(long, value_name = "FILE")]
    pub(crate) shim: Option<PathBuf>,
}

impl ServeArgs {
    /// No flags but `--config`.
    pub(crate) fn of_file(config: Option<PathBuf>) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }
}

/// Runs the daemon until it is told to stop by SIGTERM or SIGINT: calls that are under way are
/// finished, pods go on. A second signal ends it at once.
pub(crate) async fn run(args: ServeArgs, manager: ServiceManager) -> anyhow::Result<()> {
    let config = Loaded::new(&args)?.config;
    let (traces, spans) = Traces::start(&config.tracing)?;
    let log = log::start(config.log_format, config.log_level, spans);
    // From here on it does not end the process.
    let hangups = signal(SignalKind::hangup())?;
    let socket = config.socket()?.to_owned();
    let manager = Arc::new(manager);
    manager.tell(State::Status("Looking for pods that were running"));
    let mut registry = Registry::default();
    let calls = CallMetrics::new(&mut registry);
    let started = Started::new(&config).await?;
    let engine = Arc::clone(&started.engine);
    let streaming = Streaming::start(&config.streaming, Arc::clone(&engine)).await?;
    if let Some(address) = config.metrics_listen {
        metrics::register_build(&mut registry);
        traces.register_metrics(&mut registry);
        registry.register_collector(Box::new(Process::new()));
        started.register_metrics(&mut registry);
        metrics::serve(address, registry).await?;
    }
    let listener = listen(&socket)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        socket = %socket.display(),
        root = %config.root.display(),
        state = %config.state.display(),
        streaming = streaming.base(),
        "slipway answers"
    );
    let reload = Reload {
        args,
        started: config.clone(),
        engine: started,
        streaming: streaming.reloader(),
        log,
        manager: Arc::clone(&manager),
    };
    tokio::spawn(reload.follow(hangups));
    let stop = stop_signal()?;
    let (stopping, stopped) = oneshot::channel::<()>();
    let stop = async {
        stop.await;
        manager.tell(State::Stopping);
        drop(stopping);
    };
    let server = slipway_cri::serve(
        listener,
        engine,
        streaming,
        env!("CARGO_PKG_VERSION"),
        calls,
        stop,
    );
    let attended = async {
        tokio::select! {
            failed = manager.attend(&socket) => failed,
            _ = stopped => Ok(()),
        }
    };
    tokio::try_join!(server.map_err(anyhow::Error::from), attended)?;
    traces.finish().await;
    // Another daemon may have bound it anew only after this one's lock is gone.
    let _ = std::fs::remove_file(&socket);
    tracing::info!("slipway has stopped; pods go on");
    Ok(())
}

/// Binds the socket, for root alone. One that a killed daemon left is replaced; whoever holds the
/// root's lock is the only one to use it.
fn listen(socket: &Path) -> anyhow::Result<UnixListener> {
    let directory = socket.parent().context("the socket has no directory")?;
    std::fs::create_dir_all(directory)
        .with_context(|| format!("{} cannot be made", directory.display()))?;
    match std::fs::symlink_metadata(socket) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            bail!(
                "{} is there and is not a socket; choose another --listen",
                socket.display()
            )
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(socket).is_ok() => bail!(
            "another process answers on {} already; stop it or choose another --listen",
            socket.display()
        ),
        Ok(_) => std::fs::remove_file(socket)
            .with_context(|| format!("{} cannot be removed", socket.display()))?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(socket)
        .with_context(|| format!("{} cannot be bound", socket.display()))?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o660))
        .with_context(|| format!("{} cannot be given its mode", socket.display()))?;
    Ok(listener)
}

/// Ends with the first SIGTERM or SIGINT; the second one ends the process.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping when the calls under way have ended; a second signal stops now");
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            std::process::exit(1);
        });
    })
}
