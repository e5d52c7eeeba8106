//! `cargo xtask bench`: the same CRI calls against Slipway and a peer, in alternating rounds.

mod cycle;
mod lists;
mod memory;
mod overhead;
mod pods;
mod pull;
mod report;
mod statistics;
mod subject;

use std::io::IsTerminal;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use crate::build;
use crate::prerequisites::{self, Needs};

/// What can be measured.
#[derive(Debug, Subcommand)]
pub(crate) enum Benchmark {
    /// Pods with one container: time of every CRI call, memory a pod, memory of the daemon
    Pods(Pods),
    /// Many pods at once: time of the calls that list them and what they use
    Lists(Lists),
    /// An image of eight layers from a registry on this machine: time of PullImage
    Pull(Pull),
}

/// Options of every benchmark.
#[derive(Debug, Args)]
pub(crate) struct Contest {
    /// Measure this runtime too, and print ratios
    #[arg(long, value_enum)]
    against: Option<Peer>,
    /// What runs Slipway's pods
    #[arg(long, value_enum, default_value_t = Engine::Native)]
    engine: Engine,
    /// Measure only the peer, to see what a machine gives
    #[arg(long, requires = "against")]
    alone: bool,
    /// How to print the figures
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Options of `bench pods`.
#[derive(Debug, Args)]
pub(crate) struct Pods {
    #[command(flatten)]
    contest: Contest,
    /// Pods of each runtime
    #[arg(short, long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..))]
    number: u16,
    /// Pods at a time; each call is made for all of them at once
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    parallel: u16,
    /// Idle pods for the memory figures
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=100))]
    idle: u16,
}

/// Options of `bench pull`.
#[derive(Debug, Args)]
pub(crate) struct Pull {
    #[command(flatten)]
    contest: Contest,
    /// Pulls of each runtime
    #[arg(short, long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    number: u16,
    /// Size of the compressed image in MiB
    #[arg(long, default_value_t = 205, value_parser = clap::value_parser!(u16).range(8..=4096))]
    size: u16,
}

/// Options of `bench lists`.
#[derive(Debug, Args)]
pub(crate) struct Lists {
    #[command(flatten)]
    contest: Contest,
    /// Pods with one container each, on the node's network
    #[arg(short, long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=1000))]
    number: u16,
    /// Calls of each kind
    #[arg(short, long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    calls: u16,
}

/// What Slipway's pods run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// This machine's kernel
    Native,
    /// A Docker Engine of its own
    Docker,
}

/// A runtime to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// Debian's containerd with runc
    Containerd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// Runs a benchmark and prints its figures on standard output; progress goes to standard error.
///
/// # Errors
/// When something is missing, does not build or does not start, and when a call fails.
pub(crate) fn run(benchmark: &Benchmark) -> Result<()> {
    let (Benchmark::Pods(Pods { contest, .. })
    | Benchmark::Lists(Lists { contest, .. })
    | Benchmark::Pull(Pull { contest, .. })) = benchmark;
    let needs = contest
        .against
        .map_or(Needs::Node, |Peer::Containerd| Needs::NodeAndContainerd);
    prerequisites::provide(needs, false)?;
    let slipway = if contest.alone {
        None
    } else {
        Some(build::release(build::Sizes::Hidden)?)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    match benchmark {
        Benchmark::Pods(options) => {
            let report = runtime.block_on(pods::measure(options, slipway))?;
            print(contest.output, &report, report::Report::table)
        }
        Benchmark::Lists(options) => {
            let report = runtime.block_on(lists::measure(options, slipway))?;
            print(contest.output, &report, lists::Report::table)
        }
        Benchmark::Pull(options) => {
            let report = runtime.block_on(pull::measure(options, slipway))?;
            print(contest.output, &report, pull::Report::table)
        }
    }
}

/// Says how far it is, on one line of a terminal; nothing is said into a file.
fn progress(number: usize, rounds: usize) {
    if std::io::stderr().is_terminal() {
        eprint!(
            "\rround {number} of {rounds}{}",
            if number == rounds { "\n" } else { "" }
        );
    }
}

fn print<R: Serialize>(output: Output, report: &R, table: fn(&R) -> String) -> Result<()> {
    match output {
        Output::Table => print!("\n{}", table(report)),
        Output::Json => println!("{}", serde_json::to_string_pretty(report)?),
    }
    Ok(())
}
