//! `slipway`: the container runtime of a Kubernetes node, and a client for any runtime that speaks
//! CRI.
//!
//! The daemon (`serve`) runs on all processors; a client command runs on one thread, so that it is
//! there and gone within milliseconds.
#![deny(unsafe_code)]

mod check;
mod client;
mod completions;
mod config;
mod docker_pods;
mod engines;
mod log;
mod man;
mod metrics;
mod migrate;
mod reload;
mod serve;
mod service_manager;
mod traces;

use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use service_manager::ServiceManager;
use tokio::runtime;

const EXIT_CODES: &str = "\
Exit codes:
  0          it worked
  1          the operation failed, or there is no such container, pod or image
  2          the command line was wrong
  125        `run`: the runtime failed before the container ran
  130        `run`: ended by Ctrl-C or SIGTERM; pod and container have been removed.
             `migrate`: cut off by Ctrl-C (143: by SIGTERM), to be gone on with or taken back
  141        whoever read the output went away
  otherwise  `run` and `exec`: that of the command in the container (128+N: ended by signal N)";

/// A container runtime for Kubernetes nodes, and a client for any runtime that speaks CRI
#[derive(Debug, Parser)]
#[command(name = "slipway", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    connection: client::ConnectionArgs,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    #[command(after_help = "\
Examples:
  slipway serve
  slipway serve --listen unix:///tmp/s/slipway.sock --root /tmp/s/root --state /tmp/s/state")]
    Serve(serve::ServeArgs),

    #[command(flatten)]
    Client(client::Command),

    /// Print, show or check the daemon's configuration
    Config(config::ConfigArgs),

    /// Find out what depends on Docker, before it is taken away
    Check(check::CheckArgs),

    /// Move nodes away from dockershim, and take that back: plan, apply, resume, rollback, clean
    Migrate(migrate::MigrateArgs),

    /// Print the completions of a shell
    Completions(completions::CompletionsArgs),

    /// Print the manual page, or write all manual pages into a directory
    Man(man::ManArgs),
}

/// Commands that ask no runtime, and are not told which.
const NO_CLIENTS: [&str; 4] = ["serve", "config", "check", "migrate"];

/// The command line. Where [`ConnectionArgs`](client::ConnectionArgs) would be refused, no help offers
/// them.
fn command_line() -> clap::Command {
    let cli = Cli::command();
    let connection = cli
        .get_arguments()
        .filter(|argument| argument.is_global_set());
    let hidden: Vec<_> = connection
        .map(|argument| argument.clone().hide(true))
        .collect();
    NO_CLIENTS.into_iter().fold(cli, |cli, name| {
        cli.mut_subcommand(name, |command| command.args(&hidden))
    })
}

fn main() -> ExitCode {
    let matches = command_line().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let Command::Serve(_) | Command::Config(_) | Command::Check(_) | Command::Migrate(_) =
        cli.command
        && cli.connection.is_given()
    {
        command_line()
            .error(
                ErrorKind::ArgumentConflict,
                "--endpoint and --timeout are for clients; the daemon takes --listen",
            )
            .exit();
    }
    match cli.command {
        Command::Serve(args) => {
            serve(args).map_or_else(|error| client::fail(&error, 1), |()| ExitCode::SUCCESS)
        }
        Command::Client(command) => client::run(command, &cli.connection),
        Command::Config(args) => client::finish(args.run()),
        Command::Check(args) => args.run(),
        Command::Migrate(args) => args.run(),
        Command::Completions(args) => client::finish(args.run(command_line())),
        Command::Man(args) => client::finish(args.run(command_line())),
    }
}

/// How long what is still being written in the background may take once the daemon is to end.
const CUT_OFF: Duration = Duration::from_secs(5);

fn serve(args: serve::ServeArgs) -> anyhow::Result<()> {
    #[expect(unsafe_code, reason = "it changes the environment")]
    // SAFETY: the runtime, which starts the first threads, is not there yet.
    let manager = unsafe { ServiceManager::from_environment() }?;
    let runtime = runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(serve::run(args, manager));
    // A disk that takes no writes, say: what is cut off is what a kill cuts off.
    runtime.shutdown_timeout(CUT_OFF);
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command_line().debug_assert();
    }

    #[test]
    fn no_help_offers_what_is_refused() {
        let mut cli = command_line();
        cli.build();
        let help = |path: &[&str]| {
            let command = path
                .iter()
                .fold(&cli, |command, name| command.find_subcommand(name).unwrap());
            command.clone().render_long_help().to_string()
        };
        for path in [
            &["serve"][..],
            &["config", "check"],
            &["check"],
            &["check", "node"],
            &["migrate"],
            &["migrate", "plan"],
        ] {
            let help = help(path);
            let offered = help.contains("--endpoint") || help.contains("--timeout");
            assert!(
                !offered && !help.contains("Connection:"),
                "{path:?}: {help}"
            );
        }
        for path in [&["pods"][..], &[]] {
            assert!(help(path).contains("--endpoint"), "{path:?}");
        }
    }

    #[test]
    fn every_command_has_an_example() {
        let mut cli = command_line();
        cli.build();
        // Hidden ones are for other programs.
        let own = |command: &&clap::Command| command.get_name() != "help" && !command.is_hide_set();
        let commands = cli.get_subcommands().filter(own);
        for command in commands.flat_map(|command| {
            std::iter::once(command).chain(command.get_subcommands().filter(own))
        }) {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                help.contains("Examples:"),
                "{} has none",
                command.get_name()
            );
        }
    }
}
