//! `cargo xtask dist`: what is published of a version.
//!
//! The same sources make the same bytes: files have the time of the last commit and belong to root.

mod deb;
mod image;
mod sbom;
mod tarball;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};

use crate::build::{self, Sizes};
use crate::table::Table;
use crate::{cargo, prerequisites, program};
pub(crate) use deb::Packing;
use tree::{Layout, Tree};

/// Slipway's version, which all of its crates have.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What is made.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// What to make; all if nothing is named
    #[arg(value_name = "ARTIFACT")]
    artifacts: Vec<Artifact>,
}

/// Something that is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Artifact {
    /// A package for Debian and its relatives
    Deb,
    /// An archive for any distribution, with static programs, to be unpacked at /
    Tarball,
    /// An image with the static program, for `slipway migrate cluster`
    Image,
    /// A list of all that the programs are made of (CycloneDX)
    Sbom,
}

/// Makes what is asked for, in `target/dist`.
///
/// # Errors
/// When a tool is missing or a build fails.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let wanted = match arguments.artifacts.as_slice() {
        [] => Artifact::value_variants(),
        named => named,
    };
    prerequisites::packaging(build::STATIC)?;
    let directory = cargo::target_directory()?.join("dist");
    fs::create_dir_all(&directory)?;
    let mut table = Table::new(["artifact", "KiB"]);
    for artifact in wanted {
        let file = match artifact {
            Artifact::Deb => {
                let slipway = build::release(Sizes::Hidden)?;
                debian(&slipway, VERSION, Packing::Small, &directory)?
            }
            Artifact::Tarball => archive(&build::portable()?, VERSION, &directory)?,
            Artifact::Image => image::write(&build::portable()?, VERSION, &directory)?,
            Artifact::Sbom => {
                let file = directory.join(format!("slipway_{VERSION}.cdx.json"));
                fs::write(&file, sbom::text()?)?;
                file
            }
        };
        let size = fs::metadata(&file)?.len() / 1024;
        table.row([file.display().to_string(), size.to_string()]);
    }
    print!("{table}");
    Ok(())
}

/// Makes a Debian package of `slipway` and the shim beside it.
///
/// # Errors
/// When a file is missing or `dpkg-deb` fails.
pub(crate) fn debian(
    slipway: &Path,
    version: &str,
    packing: Packing,
    directory: &Path,
) -> Result<PathBuf> {
    deb::write(
        &stage(slipway, Layout::Debian)?,
        version,
        packing,
        directory,
    )
}

/// Makes an archive of `slipway` and the shim beside it.
///
/// # Errors
/// When a file is missing or `tar` fails.
pub(crate) fn archive(slipway: &Path, version: &str, directory: &Path) -> Result<PathBuf> {
    tarball::write(&stage(slipway, Layout::Local)?, version, directory)
}

fn stage(slipway: &Path, layout: Layout) -> Result<Tree> {
    Tree::new(layout, slipway, &configuration(slipway)?, &sbom::text()?)
}

/// The text of `/etc/slipway/config.toml`: every key, commented out.
fn configuration(slipway: &Path) -> Result<String> {
    let printed = program::run(Command::new(slipway).args(["config", "default"]))?;
    Ok(String::from_utf8(printed)?)
}

/// A `tar` that archives what is named after it in a directory: the same tree makes the same bytes,
/// and all may read it.
fn tar(directory: &Path, file: &Path) -> Result<Command> {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--sort=name", "--mode=u=rwX,go=rX"])
        .args(["--owner=0", "--group=0", "--numeric-owner"])
        .arg(format!("--mtime=@{}", source_date()?))
        .arg("--file")
        .arg(file)
        .arg("--directory")
        .arg(directory);
    Ok(tar)
}

/// When the sources were last changed, in seconds since 1970, as the variable `SOURCE_DATE_EPOCH`
/// of reproducible builds has it.
fn source_date() -> Result<String> {
    if let Ok(date) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(date);
    }
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%ct"])
        .current_dir(cargo::workspace());
    let date = program::run(&mut git)
        .context("without a repository, set SOURCE_DATE_EPOCH to the date of the sources")?;
    Ok(String::from_utf8(date)?.trim_end().to_owned())
}
