//! `cargo xtask vm`: a machine as nodes are in production, with systemd, cgroup v2 alone and
//! AppArmor, on any machine.

mod guest;
mod image;
mod machine;
mod moving;
mod package;
mod pair;
mod share;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};

use crate::prerequisites::{self, Needs};
use crate::{build, cargo};
use image::Image;
use machine::Machine;
use share::Share;
pub(crate) use work::Work;

/// What can be done with a virtual machine.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Make the machine's image, unless it is there already
    Build {
        /// Install missing Debian packages first
        #[arg(long, env = "CI", value_parser = clap::builder::FalseyValueParser::new())]
        install: bool,
    },
    /// Boot a machine, run a command in it with slipway and slipway-shim in its PATH, and end with
    /// the command's exit code; the machine is thrown away
    Run(RunArguments),
    /// Boot a machine and give its console; it ends with `poweroff`
    Shell(MachineArguments),
    /// Run the end-to-end tests that depend on what a node is in a machine, those that want one for
    /// themselves as well, then what `package` and `meet` do, and of `move` what nothing comes in between
    Test(TestArguments),
    /// Install, upgrade, remove and purge the Debian package in a machine that is also rebooted,
    /// with pods running; then on a node without cgroup v2 and AppArmor
    Package(PackageArguments),
    /// Move a node away from Docker in a machine that is also rebooted, to each target that Debian has,
    /// and take it back
    Move(MoveArguments),
    /// Boot two machines on a private network, and have one call the other
    Meet,
}

/// How a machine is made.
#[derive(Debug, Args)]
pub(crate) struct MachineArguments {
    /// Memory in MiB
    #[arg(long, default_value_t = 4096, value_name = "MIB")]
    memory: u32,

    /// A private network that machines of the same name share
    #[arg(long, value_name = "NAME", requires = "address")]
    network: Option<String>,

    /// More parameters of the kernel, such as apparmor=0
    #[arg(
        long,
        default_value = "",
        value_name = "PARAMETERS",
        allow_hyphen_values = true
    )]
    kernel: String,

    /// This machine's address on the private network
    #[arg(long, value_name = "ADDRESS/BITS", requires = "network")]
    address: Option<String>,
}

/// What is run, and where.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    machine: MachineArguments,

    /// A file or directory to put into /share; may be repeated
    #[arg(long, value_name = "PATH")]
    file: Vec<PathBuf>,

    /// After how many seconds the machine is taken for hung
    #[arg(long, default_value_t = 1800, value_name = "SECONDS")]
    timeout: u64,

    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Which tests are run.
#[derive(Debug, Args)]
pub(crate) struct TestArguments {
    #[command(flatten)]
    machine: MachineArguments,

    /// After how many seconds the machine is taken for hung
    #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
    timeout: u64,

    /// All end-to-end tests, not only those that depend on what the node is, and all of what `move` does
    #[arg(long, conflicts_with = "tests")]
    all: bool,

    /// For pods on Docker, with the tests' names
    #[arg(long, requires = "tests")]
    docker: bool,

    /// Names or parts of names of end-to-end tests, to run these alone
    #[arg(value_name = "TEST")]
    tests: Vec<String>,
}

/// How the package and moves are tested.
#[derive(Debug, Args)]
pub(crate) struct PackageArguments {
    #[command(flatten)]
    machine: MachineArguments,

    /// After how many seconds the machine is taken for hung
    #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
    timeout: u64,
}

/// Which moves are tried.
#[derive(Debug, Args)]
pub(crate) struct MoveArguments {
    #[command(flatten)]
    machine: PackageArguments,

    /// Kill nothing and reboot nothing: what `test` does
    #[arg(long)]
    undisturbed: bool,
}

/// Carries out a command of `cargo xtask vm`.
///
/// # Errors
/// When the image cannot be made or the machine does not come up; a hung machine's console is in
/// the message.
pub(crate) fn run(action: Action) -> Result<ExitCode> {
    let install = matches!(action, Action::Build { install: true });
    prerequisites::provide(Needs::VirtualMachine, install)?;
    let image = Image::provide()?;
    match action {
        Action::Build { .. } => {
            println!("{}", image.directory().display());
            Ok(ExitCode::SUCCESS)
        }
        Action::Run(arguments) => {
            let mut share = Share::new()?;
            share.programs(&build::development()?)?;
            for file in &arguments.file {
                share.add(file)?;
            }
            share.command(&arguments.command)?;
            boot(&image, &arguments.machine, share, arguments.timeout)
        }
        Action::Shell(arguments) => {
            let mut share = Share::new()?;
            share.programs(&build::development()?)?;
            describe(Machine::new(&image), &arguments).shell(&share.into_disk()?)
        }
        Action::Package(arguments) => {
            let share = prepare(&Work::Package)?;
            let code = boot(&image, &arguments.machine, share, arguments.timeout)?;
            if code != ExitCode::SUCCESS {
                return Ok(code);
            }
            bare(&image, arguments.machine, arguments.timeout)
        }
        Action::Move(arguments) => {
            let work = if arguments.undisturbed {
                Work::MoveUndisturbed
            } else {
                Work::Move
            };
            let PackageArguments { machine, timeout } = arguments.machine;
            boot(&image, &machine, prepare(&work)?, timeout)
        }
        Action::Meet => pair::meet(&image).map(|()| ExitCode::SUCCESS),
        Action::Test(arguments) => {
            let work = match arguments {
                TestArguments { all: true, .. } => Work::All,
                TestArguments { ref tests, .. } if tests.is_empty() => Work::Shape,
                TestArguments { ref tests, .. } => Work::Tests {
                    docker: arguments.docker,
                    names: tests.clone(),
                },
            };
            let share = prepare(&work)?;
            let code = boot(&image, &arguments.machine, share, arguments.timeout)?;
            if code != ExitCode::SUCCESS || !work.packages() {
                return Ok(code);
            }
            let moves = if work == Work::All {
                Work::Move
            } else {
                Work::MoveUndisturbed
            };
            let share = prepare(&moves)?;
            let code = boot(&image, &arguments.machine, share, arguments.timeout)?;
            if code != ExitCode::SUCCESS {
                return Ok(code);
            }
            let code = bare(&image, arguments.machine, arguments.timeout)?;
            if code == ExitCode::SUCCESS {
                pair::meet(&image)?;
            }
            Ok(code)
        }
    }
}

/// What a package does on a node that lacks what can be done without.
fn bare(image: &Image, machine: MachineArguments, timeout: u64) -> Result<ExitCode> {
    let machine = MachineArguments {
        kernel: package::BARE.to_owned(),
        ..machine
    };
    boot(image, &machine, prepare(&Work::Bare)?, timeout)
}

/// What the machine needs for some work.
fn prepare(work: &Work) -> Result<Share> {
    let mut share = Share::new()?;
    let slipway = build::development()?;
    share.programs(&slipway)?;
    if work.tests().is_some() {
        let tests = cargo::test_program("e2e")?;
        work.check(&tests)?;
        share.tests(&tests)?;
    }
    if work.packages() {
        package::prepare(&mut share, &slipway)?;
    }
    if work.moves() {
        moving::prepare(&mut share, &slipway)?;
    }
    // Not this very file: the build may have replaced it.
    share.program(&slipway.with_file_name("xtask"))?;
    let mut command = ["/share/bin/xtask", "inside"].map(str::to_owned).to_vec();
    command.extend(work.arguments());
    share.command(&command)?;
    Ok(share)
}

fn boot(image: &Image, machine: &MachineArguments, share: Share, timeout: u64) -> Result<ExitCode> {
    ensure!(timeout > 0, "--timeout is 0 seconds");
    let disk = share.into_disk()?;
    let code = describe(Machine::new(image), machine).run(&disk, Duration::from_secs(timeout))?;
    Ok(ExitCode::from(code))
}

fn describe<'a>(machine: Machine<'a>, arguments: &MachineArguments) -> Machine<'a> {
    let machine = machine
        .memory(arguments.memory)
        .parameters(&arguments.kernel);
    match (&arguments.network, &arguments.address) {
        (Some(network), Some(address)) => machine.network(network, address),
        _ => machine,
    }
}
