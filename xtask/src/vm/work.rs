//! What a machine is booted for, and what is done in it.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use clap::Subcommand;

use super::moving::{self, Extent};
use super::package;
use crate::program;

/// The test program, in the machine.
const TESTS: &str = "/share/tests/e2e";

/// End-to-end tests whose outcome depends on what the node is, by parts of their names. Everywhere
/// there are more of cgroups v2 and systemd, of AppArmor and of root without restraints, than the
/// machines have that people build on; all else is the same there and here. A machine that runs
/// more would be waited for by everybody who runs `cargo xtask test`.
const SHAPED: &[&str] = &[
    // Those that are ignored everywhere else: systemd's slices and scopes, all of root's
    // capabilities, a clock that is set.
    "machine::",
    // Control files, limits, OOM kills, device rules, killing and counters of v2.
    "resource::limits_are_changed_in_place_and_reported_also_after_a_restart",
    "resource::what_a_kubelet_says_of_every_container_is_taken_set_and_kept",
    "resource::what_cannot_be_changed_is_refused_and_leaves_all_as_it_was",
    "resource::whoever_is_killed_for_want_of_memory_is_told_from_whoever_is_killed",
    "device::what_is_not_granted_is_denied_by_the_cgroup",
    "container::limits_reach_the_kernel",
    "container::every_process_of_a_container_ends_with_it",
    "exec::a_command_is_killed_at_its_timeout",
    "stats::a_containers_processor_time_memory_and_writable_layer_are_told",
    // CRIU, where kernels are new, is too old for them.
    "checkpoint::criu_writes_down_a_container_that_goes_on",
    "docker_checkpoint::docker_writes_down_a_container_that_goes_on",
    // AppArmor's default profile and those of the node's own.
    "security::an_apparmor_profile_is_applied_or_refused_by_name",
];

/// The same of pods on Docker.
const SHAPED_ON_DOCKER: &[&str] = &[
    "container::limits_reach_the_kernel",
    // Huge pages and files by name have controllers on v2 alone.
    "resource::what_a_kubelet_says_of_every_container_is_taken_set_and_kept",
    "docker_failures::a_container_is_limited_although_the_questions_after_its_start_are_lost",
    "security::an_apparmor_profile_is_applied_or_refused_by_name",
    "stats::a_containers_processor_time_memory_and_writable_layer_are_told",
];

/// What is done in a machine.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(crate) enum Work {
    /// End-to-end tests of these names, or all
    Tests {
        /// For pods on Docker
        #[arg(long)]
        docker: bool,
        names: Vec<String>,
    },
    /// The package's life
    Package,
    /// The package on a node without cgroup v2 and AppArmor
    Bare,
    /// Moves of a node away from Docker, with what may come in between
    Move,
    /// Moves of a node away from Docker that nothing comes in between
    MoveUndisturbed,
    /// All end-to-end tests, and the package's life
    All,
    /// The end-to-end tests that depend on the node's shape, and the package's life
    Shape,
}

impl Work {
    /// As it is said to this program in the machine.
    pub(super) fn arguments(&self) -> Vec<String> {
        let words = match self {
            Self::Tests { docker, names } => {
                let names = names.iter().map(String::as_str);
                return ["tests"]
                    .into_iter()
                    .chain(docker.then_some("--docker"))
                    .chain(["--"])
                    .chain(names)
                    .map(str::to_owned)
                    .collect();
            }
            Self::Package => "package",
            Self::Bare => "bare",
            Self::Move => "move",
            Self::MoveUndisturbed => "move-undisturbed",
            Self::All => "all",
            Self::Shape => "shape",
        };
        vec![words.to_owned()]
    }

    pub(super) fn tests(&self) -> Option<Vec<String>> {
        match self {
            Self::Tests { names, .. } => Some(names.clone()),
            Self::Package | Self::Bare | Self::Move | Self::MoveUndisturbed => None,
            Self::All => Some(Vec::new()),
            Self::Shape => {
                let names = SHAPED.iter().chain(SHAPED_ON_DOCKER);
                Some(names.map(ToString::to_string).collect())
            }
        }
    }

    pub(super) fn moves(&self) -> bool {
        matches!(self, Self::Move | Self::MoveUndisturbed)
    }

    pub(super) fn packages(&self) -> bool {
        matches!(self, Self::Package | Self::Bare | Self::All | Self::Shape)
    }

    /// Which tests are run for pods on which engine; no names stand for all.
    fn runs(&self) -> Vec<(&'static str, Vec<String>)> {
        let named = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        match self {
            Self::Tests { docker, names } => {
                let engine = if *docker { "docker" } else { "native" };
                vec![(engine, names.clone())]
            }
            Self::Package | Self::Bare | Self::Move | Self::MoveUndisturbed => Vec::new(),
            Self::All => vec![("native", Vec::new()), ("docker", named(SHAPED_ON_DOCKER))],
            Self::Shape => vec![
                ("native", named(SHAPED)),
                ("docker", named(SHAPED_ON_DOCKER)),
            ],
        }
    }

    /// Sees to it that every name is one of a test: one that is misspelt, or that a test had before,
    /// would not be missed otherwise.
    pub(super) fn check(&self, program: &Path) -> Result<()> {
        let names = self.tests().unwrap_or_default();
        let listed = program::run(Command::new(program).arg("--list"))?;
        let listed = String::from_utf8(listed)?;
        for name in names {
            ensure!(
                listed
                    .lines()
                    .filter_map(|line| line.strip_suffix(": test"))
                    .any(|test| test.contains(&name)),
                "there is no end-to-end test {name}"
            );
        }
        Ok(())
    }

    /// Does it, in the machine; goes on after the machine was rebooted in the middle of it.
    ///
    /// # Errors
    /// What failed; standard output has the details.
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::Bare => return package::bare(),
            Self::Move => return moving::inside(Extent::All),
            Self::MoveUndisturbed => return moving::inside(Extent::Undisturbed),
            _ => {}
        }
        if !package::has_begun() {
            for (engine, names) in self.runs() {
                tests(engine, &names)?;
            }
        }
        if self.packages() {
            package::inside()?;
        }
        Ok(())
    }
}

/// Those that every machine runs, then those that want one for themselves, one after the other.
fn tests(engine: &str, names: &[String]) -> Result<()> {
    let mut failed = Vec::new();
    for (which, arguments) in [
        ("end-to-end tests", &["--test-threads=2"][..]),
        (
            "end-to-end tests of a machine of its own",
            &["--ignored", "--test-threads=1"],
        ),
    ] {
        let mut command = Command::new(TESTS);
        command.args(arguments).args(names);
        command.env("SLIPWAY_TEST_ENGINE", engine);
        let status = command.env("SLIPWAY_OWN_MACHINE", "1").status()?;
        if !status.success() {
            failed.push(format!("{which} on the {engine} engine"));
        }
    }
    ensure!(failed.is_empty(), "{} FAILED", failed.join(" and "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn what_is_said_to_the_machine_is_what_it_hears() {
        #[derive(Debug, Parser)]
        struct Heard {
            #[command(subcommand)]
            work: Work,
        }
        let names = vec!["machine::".to_owned(), "--weird".to_owned()];
        let tests = |docker| Work::Tests {
            docker,
            names: names.clone(),
        };
        for work in [
            tests(false),
            tests(true),
            Work::Package,
            Work::Move,
            Work::MoveUndisturbed,
            Work::All,
            Work::Shape,
        ] {
            let words = ["inside".to_owned()].into_iter().chain(work.arguments());
            assert_eq!(Heard::parse_from(words).work, work);
        }
    }
}
