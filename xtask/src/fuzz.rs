//! `cargo xtask fuzz`: every fuzz target for a while.
//!
//! The targets are laid out for cargo-fuzz and run with it, too. Here they are built by the
//! toolchain that builds everything else: what libFuzzer needs is counters in the code, which the
//! stable compiler can put there, and no sanitizer, for nearly all of the code is safe.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cargo;

/// Targets that run at the same time: the cores of a machine of continuous integration.
const AT_ONCE: usize = 2;

/// How long one input may take, in seconds.
const TIMEOUT: &str = "10";

/// Counters at every edge, and comparisons, for whoever looks for new paths.
const INSTRUMENTED: &str = "--cfg=fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Runs the targets of these names, or all, each for so many seconds.
///
/// # Errors
/// When they cannot be built, or when there is none of a name.
pub(crate) fn run(names: &[String], seconds: u32) -> Result<ExitCode> {
    let all = targets()?;
    for name in names {
        ensure!(
            all.contains(name),
            "no fuzz target {name}; there are {}",
            all.join(", ")
        );
    }
    let chosen = if names.is_empty() { &all } else { names };
    let built = build(chosen)?;
    let waiting = Mutex::new(chosen.iter());
    let failed = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                scope.spawn(|| {
                    let next = || waiting.lock().expect("no worker panics").next();
                    std::iter::from_fn(next)
                        .filter(|name| !fuzz(name, &built, seconds))
                        .count()
                })
            })
            .collect();
        let counts = workers.into_iter().map(ScopedJoinHandle::join);
        counts.map(|count| count.unwrap_or(1)).sum::<usize>()
    });
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn directory() -> PathBuf {
    cargo::workspace().join("fuzz")
}

/// The names of all targets.
fn targets() -> Result<Vec<String>> {
    let directory = directory().join("fuzz_targets");
    let listed = fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
    let mut names: Vec<String> = listed
        .filter_map(|entry| entry.ok()?.path().file_stem()?.to_str().map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

/// Builds targets and answers the directory in which they and their findings are.
fn build(names: &[String]) -> Result<PathBuf> {
    let target = cargo::target_directory()?.join("fuzz");
    let manifest = directory().join("Cargo.toml");
    // Naming the platform keeps what runs while building free of the counters.
    let host = cargo::host()?;
    let mut command = cargo::command(&["build", "--release", "--locked", "--target", &host]);
    command.arg("--manifest-path").arg(&manifest);
    for name in names {
        command.args(["--bin", name]);
    }
    command
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTFLAGS", INSTRUMENTED);
    cargo::run(&mut command)?;
    Ok(target.join(host).join("release"))
}

/// Runs one target, says how it went, and answers whether it went well.
fn fuzz(name: &str, built: &Path, seconds: u32) -> bool {
    fuzzed(name, built, seconds).unwrap_or_else(|error| {
        eprintln!("{name}: {error:#}");
        false
    })
}

fn fuzzed(name: &str, built: &Path, seconds: u32) -> Result<bool> {
    // What is found on the way is kept from one run to the next, beside what is committed.
    let found = built.join("corpus").join(name);
    let artifacts = directory().join("artifacts").join(name);
    for directory in [&found, &artifacts] {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    let output = Command::new(built.join(name))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={TIMEOUT}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg("-print_final_stats=1")
        .arg(&found)
        .arg(directory().join("corpus").join(name))
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{name} cannot be run"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        let inputs = stat(&said, "number_of_executed_units").unwrap_or("?");
        println!(
            "{name}: {inputs} inputs in {:?}, none failed",
            Duration::from_secs(seconds.into())
        );
    } else {
        eprintln!("{name}: {}\n{}", output.status, last_lines(&said));
        let artifacts = artifacts.display();
        eprintln!("{name}: the input is in {artifacts}; put it into the corpus with the repair");
    }
    Ok(output.status.success())
}

/// A number of libFuzzer's last lines.
fn stat<'a>(said: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = said.split_once(&format!("stat::{name}:"))?;
    rest.split_whitespace().next()
}

/// The last lines, which say what happened.
fn last_lines(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_a_corpus_and_is_built() {
        let names = targets().unwrap();
        let manifest = fs::read_to_string(directory().join("Cargo.toml")).unwrap();
        assert!(names.len() >= 3, "{names:?}");
        for name in names {
            let corpus = directory().join("corpus").join(&name);
            assert!(fs::read_dir(&corpus).unwrap().next().is_some(), "{name}");
            assert!(
                manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")),
                "{name}"
            );
        }
    }

    #[test]
    fn numbers_are_found_in_what_the_fuzzer_says() {
        let said = "Done\nstat::number_of_executed_units: 1234\nstat::average: 5\n";
        assert_eq!(stat(said, "number_of_executed_units"), Some("1234"));
        assert_eq!(stat(said, "other"), None);
    }
}
