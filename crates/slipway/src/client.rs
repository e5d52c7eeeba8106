//! The client commands. They speak nothing but CRI v1, so that they work on any runtime; where
//! Slipway offers more (`slipway.v1`), they use it and do without where it is not there.

mod attach;
mod connection;
mod containers;
mod credentials;
pub(crate) mod duration;
mod engines;
mod exec;
mod failure;
mod follow;
mod images;
mod info;
mod inspect;
mod log_format;
mod logs;
pub(crate) mod output;
mod pods;
mod port_forward;
mod pull;
mod resolve;
mod run;
mod session;
mod stats;
pub(crate) mod table;

use std::process::ExitCode;

use clap::Subcommand;
use tokio::runtime;

use connection::{Client, Timeout};
pub(crate) use connection::{ConnectionArgs, open};
pub(crate) use failure::{describe, fail, finish};

/// How `run` ends where the runtime, not the command in the container, failed.
const RUNTIME_FAILED: u8 = 125;

/// The commands that ask a runtime.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Pull an image
    Pull(pull::PullArgs),
    /// List images
    Images(images::ImagesArgs),
    /// Remove images
    Rmi(images::RmiArgs),
    /// Run a command in a new container, show its output and remove it
    Run(run::RunArgs),
    /// List pods
    Pods(pods::PodsArgs),
    /// List containers
    Ps(containers::PsArgs),
    /// Show the log of a container
    Logs(logs::LogsArgs),
    /// Run a command in a running container
    Exec(exec::ExecArgs),
    /// Show what a running container writes, and type into it
    Attach(attach::AttachArgs),
    /// Make ports of a pod reachable here
    PortForward(port_forward::PortForwardArgs),
    /// Show all there is to know about a container, a pod or an image
    Inspect(inspect::InspectArgs),
    /// Stop containers
    Stop(containers::StopArgs),
    /// Remove containers
    Rm(containers::RmArgs),
    /// Stop and remove pods with all their containers
    Rmp(pods::RmpArgs),
    /// Show what containers use
    Stats(stats::StatsArgs),
    /// List the engines that pods run on, and who is left in one that gets no new pods
    Engines(engines::EnginesArgs),
    /// Show the state and the configuration of the runtime
    Info(info::InfoArgs),
    /// Show the versions of this client and of the runtime
    Version(info::VersionArgs),
}

impl Command {
    /// What `--timeout` means to it.
    fn timeout(&self) -> Timeout {
        match self {
            Self::Exec(_) | Self::Stop(_) | Self::Rm(_) | Self::Rmp(_) => Timeout::OfContainer,
            _ => Timeout::OfAnswer,
        }
    }
}

/// Carries out `command` to its end.
pub(crate) fn run(command: Command, connection: &ConnectionArgs) -> ExitCode {
    let failed = if matches!(command, Command::Run(_)) {
        RUNTIME_FAILED
    } else {
        1
    };
    let result = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(dispatch(command, connection)));
    result.unwrap_or_else(|error| fail(&error, failed))
}

async fn dispatch(command: Command, connection: &ConnectionArgs) -> anyhow::Result<ExitCode> {
    if let Command::Version(args) = command {
        return args.run(connection).await;
    }
    let client = Client::connect(connection, command.timeout()).await?;
    match command {
        Command::Pull(args) => args.run(&client).await,
        Command::Images(args) => args.run(&client).await,
        Command::Rmi(args) => args.run(&client).await,
        Command::Run(args) => Box::pin(args.run(&client)).await,
        Command::Pods(args) => args.run(&client).await,
        Command::Ps(args) => args.run(&client).await,
        Command::Logs(args) => args.run(&client).await,
        Command::Exec(args) => args.run(&client).await,
        Command::Attach(args) => args.run(&client).await,
        Command::PortForward(args) => args.run(&client).await,
        Command::Inspect(args) => args.run(&client).await,
        Command::Stop(args) => args.run(&client).await,
        Command::Rm(args) => args.run(&client).await,
        Command::Rmp(args) => args.run(&client).await,
        Command::Stats(args) => args.run(&client).await,
        Command::Engines(args) => args.run(&client).await,
        Command::Info(args) => args.run(&client).await,
        Command::Version(args) => args.run(connection).await,
    }
}
