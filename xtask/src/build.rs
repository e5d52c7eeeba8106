//! The two programs, side by side in one directory, where `slipway` looks for its shim.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::cargo;
use crate::table::Table;

/// What makes a shim small: no dynamic linker and no relocations, so that its pages stay those of
/// the file and are shared among all shims.
const SHIM_FLAGS: &str = "-Ctarget-feature=+crt-static\x1f-Crelocation-model=static";

/// Builds both for development; returns the path of `slipway`.
///
/// # Errors
/// When a build fails.
pub(crate) fn development() -> Result<PathBuf> {
    // The same selection as in the tests, so that nothing is built twice with other features.
    cargo::run(&mut cargo::command(&[
        "build",
        "--workspace",
        "--all-targets",
    ]))?;
    let slipway = cargo::target_directory()?.join("debug/slipway");
    print_sizes(&slipway)?;
    Ok(slipway)
}

/// Builds both for use; returns the path of `slipway`.
///
/// # Errors
/// When a build fails, or when the shim came out dynamic.
pub(crate) fn release(sizes: Sizes) -> Result<PathBuf> {
    let target = cargo::target_directory()?;
    let host = cargo::host()?;
    cargo::run(&mut cargo::command(&[
        "build",
        "--release",
        "--package=slipway",
    ]))?;
    // Of its own, and with an explicit target: the flags are for the shim, and not for build
    // scripts and procedural macros.
    cargo::run(
        cargo::command(&[
            "build",
            "--release",
            "--package=slipway-shim",
            "--bin=slipway-shim",
        ])
        .args(["--target", &host])
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", SHIM_FLAGS),
    )?;
    let slipway = target.join("release/slipway");
    let shim = target.join(host).join("release/slipway-shim");
    let kind = elf_type(&fs::read(&shim)?);
    ensure!(
        kind == Some(EXECUTABLE),
        "{} is not a position-dependent program (ELF type {kind:?})",
        shim.display()
    );
    install(&shim, &slipway.with_file_name("slipway-shim"))?;
    if sizes == Sizes::Printed {
        print_sizes(&slipway)?;
    }
    Ok(slipway)
}

/// Whether a build ends with a table of the programs' sizes on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sizes {
    Printed,
    Hidden,
}

/// `ET_EXEC` of elf(5): linked for fixed addresses.
const EXECUTABLE: u16 = 2;

fn elf_type(elf: &[u8]) -> Option<u16> {
    let kind = elf.get(16..18)?.try_into().ok()?;
    elf.starts_with(b"\x7fELF")
        .then(|| u16::from_ne_bytes(kind))
}

/// Replaces `to` in one step: a shim of an earlier build may be running from it.
fn install(from: &Path, to: &Path) -> Result<()> {
    let temporary = to.with_extension("new");
    fs::copy(from, &temporary).with_context(|| format!("cannot copy {}", from.display()))?;
    fs::rename(&temporary, to).with_context(|| format!("cannot replace {}", to.display()))
}

fn print_sizes(slipway: &Path) -> Result<()> {
    let mut table = Table::new(["program", "KiB"]);
    for program in [slipway.to_owned(), slipway.with_file_name("slipway-shim")] {
        let size = fs::metadata(&program)
            .with_context(|| format!("{} was not built", program.display()))?
            .len();
        table.row([program.display().to_string(), (size / 1024).to_string()]);
    }
    print!("{table}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_is_an_elf_file_and_a_script_is_none() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(matches!(elf_type(&own), Some(EXECUTABLE | 3)));
        assert_eq!(elf_type(b"#!/bin/sh\nexec slipway-shim\n"), None);
    }
}
