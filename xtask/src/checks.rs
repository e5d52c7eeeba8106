//! `cargo xtask test`: every check there is, one after the other, with a summary.

use std::fs::File;
use std::io::{self, Seek as _};
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cargo;
use crate::prerequisites::{self, Needs};
use crate::table::Table;

/// A check; `needed` if nothing after it can succeed without it.
struct Step {
    name: &'static str,
    arguments: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
    needed: bool,
}

/// Everything is built with one selection of packages and targets, so that no dependency is built
/// twice with other features.
const STEPS: &[Step] = &[
    Step {
        name: "format",
        arguments: &["fmt", "--all", "--check"],
        environment: &[],
        needed: false,
    },
    Step {
        name: "lints",
        arguments: &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
        environment: &[],
        needed: false,
    },
    Step {
        name: "build",
        arguments: &["build", "--workspace", "--all-targets"],
        environment: &[],
        needed: true,
    },
    // Documentation tests are among them; asked for alone, they would have dependencies built anew.
    Step {
        name: "tests",
        arguments: &["test", "--workspace", "--no-fail-fast"],
        environment: &[],
        needed: false,
    },
    // What CRI promises, for pods on Docker; see `NOT_ON_DOCKER` for what is left out.
    Step {
        name: DOCKER,
        arguments: &[
            "test",
            "--workspace",
            "--test",
            "e2e",
            "--",
            "client::",
            "container::",
            "device::",
            "events::",
            "exec::",
            "image::",
            "lists::",
            "log::",
            "metrics::",
            "mount::",
            "namespace::",
            "pod::",
            "pod_cidr::",
            "port_forward::",
            "resource::",
            "restart::",
            "seccomp::",
            "security::",
            "serve::",
            "session::",
            "stats::",
            "streaming_port::",
            "v1alpha2::",
        ],
        environment: &[("SLIPWAY_TEST_ENGINE", "docker")],
        needed: false,
    },
    Step {
        name: "browser",
        arguments: &["xtask", "browser"],
        environment: &[],
        needed: false,
    },
    Step {
        name: MACHINE,
        arguments: &["xtask", "vm", "test"],
        environment: &[],
        needed: false,
    },
    Step {
        name: "fuzz",
        arguments: &["xtask", "fuzz", "--seconds", "20"],
        environment: &[],
        needed: false,
    },
];

/// The step in which the end-to-end tests run on a Docker Engine.
const DOCKER: &str = "docker";

/// The step that takes a virtual machine.
const MACHINE: &str = "machine";

/// The step that runs beside the machine, which leaves most of a processor to it: it is a build, for
/// the greater part of it, into a directory of its own. What it prints is held back until it ends.
const BESIDE: &str = "fuzz";

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    NotRun,
}

/// Runs all steps, prints the summary and returns failure if one of them failed.
///
/// # Errors
/// When something that the tests need is missing; see [`prerequisites::provide`].
pub(crate) fn run(install: bool, machine: bool) -> Result<ExitCode> {
    prerequisites::provide(Needs::NodeAndContainerd, install)?;
    prerequisites::provide(Needs::Browser, install)?;
    if machine {
        prerequisites::provide(Needs::VirtualMachine, install)?;
    }
    prerequisites::components(&["fmt", "clippy"])?;
    let mut results = Vec::new();
    let mut blocked = false;
    let mut beside = None;
    for step in STEPS {
        if step.name == MACHINE && !machine {
            continue;
        }
        if blocked {
            results.push((step.name, Outcome::NotRun, Duration::ZERO));
            continue;
        }
        if step.name == MACHINE {
            let step = STEPS.iter().find(|step| step.name == BESIDE);
            beside = step.map(Beside::start).transpose()?;
        }
        let begin = Instant::now();
        let passed = if let Some(beside) = beside.take_if(|_| step.name == BESIDE) {
            beside.succeeds()?
        } else {
            step.announce();
            succeeds(&mut step.command()?)
        };
        blocked = step.needed && !passed;
        if step.needed {
            // What follows times what waits for the disk, which has gigabytes of this to write.
            rustix::fs::sync();
        }
        let outcome = if passed {
            Outcome::Passed
        } else {
            Outcome::Failed
        };
        results.push((step.name, outcome, begin.elapsed()));
    }
    print!("\n{}", summary(&results));
    let all = results
        .iter()
        .all(|(_, outcome, _)| *outcome == Outcome::Passed);
    Ok(if all {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Step {
    fn announce(&self) {
        println!("\n==> {}: cargo {}", self.name, self.arguments.join(" "));
    }

    fn command(&self) -> Result<Command> {
        let slipway = cargo::target_directory()?.join("debug/slipway");
        let mut command = cargo::command(self.arguments);
        command
            .env("SLIPWAY_BIN", slipway)
            .envs(self.environment.iter().copied());
        Ok(command)
    }
}

/// A step that runs while others do.
struct Beside {
    step: &'static Step,
    process: Child,
    printed: File,
}

impl Beside {
    fn start(step: &'static Step) -> Result<Self> {
        let printed = tempfile::tempfile()?;
        let mut command = step.command()?;
        command.stdout(printed.try_clone()?);
        command.stderr(printed.try_clone()?);
        println!("\n==> {} runs meanwhile", step.name);
        Ok(Self {
            step,
            process: command.spawn().context("cargo cannot be run")?,
            printed,
        })
    }

    /// Waits for its end, and prints what it has printed.
    fn succeeds(mut self) -> Result<bool> {
        self.step.announce();
        let status = self.process.wait()?;
        self.printed.rewind()?;
        io::copy(&mut self.printed, &mut io::stdout())?;
        Ok(status.success())
    }
}

impl Drop for Beside {
    /// Of one that nobody has waited for.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn succeeds(command: &mut Command) -> bool {
    cargo::run(command)
        .inspect_err(|error| eprintln!("{error:#}"))
        .is_ok()
}

fn summary(results: &[(&str, Outcome, Duration)]) -> Table {
    let mut table = Table::new(["step", "result", "time"]);
    for (name, outcome, time) in results {
        let word = match outcome {
            Outcome::Passed => "ok",
            Outcome::Failed => "FAILED",
            Outcome::NotRun => "not run",
        };
        table.row([
            (*name).to_owned(),
            word.to_owned(),
            format!("{:.1} s", time.as_secs_f64()),
        ]);
    }
    let total: Duration = results.iter().map(|(_, _, time)| *time).sum();
    table.row([
        "all".to_owned(),
        String::new(),
        format!("{:.1} s", total.as_secs_f64()),
    ]);
    table
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The modules of end-to-end tests that are not run on Docker once more, and why.
    const NOT_ON_DOCKER: &[(&[&str], &str)] = &[
        (
            &[
                "adoption",
                "docker",
                "docker_checkpoint",
                "docker_failures",
                "docker_logs",
                "import",
                "leaving",
            ],
            "start a Docker themselves, and were among the tests",
        ),
        (
            &["authority", "config", "dashboards", "machine", "notify"],
            "no engine has a part in them",
        ),
        (
            &["check", "rollout"],
            "are about the node, whatever runs its pods",
        ),
        (
            &["cdi"],
            "Docker 20.10 knows no CDI, and later ones apply its specifications themselves",
        ),
        (&["cgroup_driver"], "systemd is dockerd's to talk to"),
        (&["checkpoint"], "what is CRIU's is in docker_checkpoint"),
        (&["disk"], "what Docker does on a full disk is its own"),
        (
            &["handler"],
            "Docker runs the runtimes that it is configured with itself",
        ),
        (&["prometheus"], "what is counted of Docker is in leaving"),
        (
            &["traces", "troubleshooting"],
            "have the spans and the words of the native engine",
        ),
    ];

    #[test]
    fn every_end_to_end_test_runs_on_docker_too_or_it_is_said_why_not() {
        let main = include_str!("../../crates/slipway/tests/e2e/main.rs");
        let modules = main.lines().filter_map(|line| line.strip_prefix("mod "));
        let modules: BTreeSet<_> = modules.map(|line| line.trim_end_matches(';')).collect();
        let step = STEPS.iter().find(|step| step.name == DOCKER).unwrap();
        let run = step.arguments.iter().filter_map(|it| it.strip_suffix("::"));
        let left_out = NOT_ON_DOCKER.iter().flat_map(|(modules, _)| *modules);
        let named: Vec<_> = run.chain(left_out.copied()).collect();
        let all: BTreeSet<_> = named.iter().copied().collect();
        assert_eq!(all, modules);
        assert_eq!(named.len(), modules.len(), "one is named twice");
    }

    #[test]
    fn the_summary_names_every_step_and_the_sum() {
        let results = [
            ("format", Outcome::Passed, Duration::from_millis(500)),
            ("build", Outcome::Failed, Duration::from_millis(1500)),
            ("tests", Outcome::NotRun, Duration::ZERO),
        ];
        let text = summary(&results).to_string();
        for words in ["format", "ok", "FAILED", "not run", "2.0 s"] {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
    }
}
