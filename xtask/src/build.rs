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
    cargo::run(&mut cargo::command(&[
        "build",
        "--release",
        "--package=slipway",
    ]))?;
    let slipway = cargo::target_directory()?.join("release/slipway");
    shim(&cargo::host()?, &slipway)?;
    if sizes == Sizes::Printed {
        print_sizes(&slipway)?;
    }
    Ok(slipway)
}

/// The platform whose programs need no library of the system that they run on.
pub(crate) const STATIC: &str = "x86_64-unknown-linux-musl";

/// Builds both for use on any distribution, linked with nothing; returns the path of `slipway`.
///
/// # Errors
/// As [`release`].
pub(crate) fn portable() -> Result<PathBuf> {
    cargo::run(
        cargo::command(&["build", "--release", "--package=slipway"]).args(["--target", STATIC]),
    )?;
    let directory = cargo::target_directory()?.join(STATIC);
    let slipway = directory.join("release/slipway");
    ensure!(
        !is_dynamic(&fs::read(&slipway)?),
        "{} needs a dynamic linker",
        slipway.display()
    );
    shim(STATIC, &slipway)?;
    Ok(slipway)
}

/// Builds the shim for a platform, and puts it beside `slipway`.
fn shim(platform: &str, slipway: &Path) -> Result<()> {
    // Of its own, and with an explicit target: the flags are for the shim, and not for build
    // scripts and procedural macros.
    cargo::run(
        cargo::command(&[
            "build",
            "--release",
            "--package=slipway-shim",
            "--bin=slipway-shim",
        ])
        .args(["--target", platform])
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", SHIM_FLAGS),
    )?;
    let built = cargo::target_directory()?
        .join(platform)
        .join("release/slipway-shim");
    let kind = elf_type(&fs::read(&built)?);
    ensure!(
        kind == Some(EXECUTABLE),
        "{} is not a position-dependent program (ELF type {kind:?})",
        built.display()
    );
    let wanted = slipway.with_file_name("slipway-shim");
    if built != wanted {
        install(&built, &wanted)?;
    }
    Ok(())
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

/// Whether a program names a dynamic linker: `PT_INTERP` of elf(5), for 64 bits.
fn is_dynamic(elf: &[u8]) -> bool {
    const INTERPRETER: usize = 3;
    let number = |at: usize, size: usize| -> Option<usize> {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(elf.get(at..at + size)?);
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    };
    let headers = || Some((number(32, 8)?, number(54, 2)?, number(56, 2)?));
    headers().is_some_and(|(first, size, count)| {
        (0..count).any(|index| number(first + index * size, 4) == Some(INTERPRETER))
    })
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
    fn a_program_that_names_a_linker_is_dynamic() {
        // The tests are, unless somebody builds them for musl.
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(is_dynamic(&own), cfg!(target_env = "gnu"));
        assert!(!is_dynamic(b"#!/bin/sh\n"));
    }

    #[test]
    fn this_test_is_an_elf_file_and_a_script_is_none() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(matches!(elf_type(&own), Some(EXECUTABLE | 3)));
        assert_eq!(elf_type(b"#!/bin/sh\nexec slipway-shim\n"), None);
    }
}
