//! The developer's commands: `cargo xtask <command>`.
#![forbid(unsafe_code)]

mod bench;
mod browser;
mod build;
mod cache;
mod cargo;
mod checks;
mod debian;
mod directory;
mod dist;
mod fuzz;
mod prerequisites;
mod program;
mod quickstart;
mod table;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// What developers of Slipway run.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build slipway and slipway-shim, side by side
    Build {
        /// Optimized, with a static shim
        #[arg(long)]
        release: bool,
    },
    /// Run every check: format, lints, unit tests, end-to-end tests, documentation tests, pages in a
    /// browser, fuzz targets
    Test {
        /// Install missing Debian packages first (as root); continuous integration always does
        #[arg(long, env = "CI", value_parser = clap::builder::FalseyValueParser::new())]
        install: bool,
        /// Leave the virtual machine out, while working on something else
        #[arg(long)]
        no_vm: bool,
    },
    /// Feed each fuzz target with inputs that nobody thought of
    Fuzz {
        /// How long each target runs
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Targets, by the names of fuzz/fuzz_targets; all if none is named
        #[arg(value_name = "TARGET")]
        targets: Vec<String>,
    },
    /// See a pod run: build, start a registry and the daemon in a scratch directory, and use them
    Quickstart,
    /// Open the HTML reports of `slipway check` in a browser, on a phone, a screen and paper
    Browser(browser::Arguments),
    /// Measure
    #[command(subcommand)]
    Bench(bench::Benchmark),
    /// Make packages of an optimized build, in target/dist
    Dist(dist::Arguments),
    /// Work in a virtual machine with systemd, cgroup v2 and AppArmor
    #[command(subcommand)]
    Vm(vm::Action),
    /// What `vm test` and `vm package` do in their machine
    #[command(hide = true, subcommand)]
    Inside(vm::Work),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Build { release: true } => {
            build::release(build::Sizes::Printed).map(|_| ExitCode::SUCCESS)
        }
        Task::Build { release: false } => build::development().map(|_| ExitCode::SUCCESS),
        Task::Test { install, no_vm } => checks::run(install, !no_vm),
        Task::Fuzz { seconds, targets } => fuzz::run(&targets, seconds),
        Task::Quickstart => quickstart::run().map(|()| ExitCode::SUCCESS),
        Task::Browser(arguments) => browser::run(&arguments),
        Task::Dist(arguments) => dist::run(&arguments).map(|()| ExitCode::SUCCESS),
        Task::Inside(work) => work.run().map(|()| ExitCode::SUCCESS),
        Task::Vm(action) => vm::run(action),
        Task::Bench(benchmark) => bench::run(&benchmark).map(|()| ExitCode::SUCCESS),
    }
}
