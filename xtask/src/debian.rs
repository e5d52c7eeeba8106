//! Debian in a directory.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::program;

/// Debian's release, of the virtual machine and of the browser.
pub(crate) const RELEASE: &str = "bookworm";

/// Puts Debian's minimal set and these packages into a directory that is not there yet.
///
/// # Errors
/// When no mirror can be reached or a package is not to be had, with what debootstrap said.
pub(crate) fn bootstrap(root: &Path, packages: &[&str]) -> Result<()> {
    program::run(
        program::contained()
            .arg("debootstrap")
            .arg("--variant=minbase")
            .arg(format!("--include={}", packages.join(",")))
            .arg(RELEASE)
            .arg(root),
    )
    .with_context(|| {
        format!(
            "cannot make a Debian {RELEASE} with {}: this takes a mirror of Debian's packages, \
             deb.debian.org or a proxy for it in http_proxy",
            packages.join(", ")
        )
    })?;
    for cache in ["var/cache/apt", "var/lib/apt/lists"] {
        fs::remove_dir_all(root.join(cache))?;
        fs::create_dir_all(root.join(cache))?;
    }
    Ok(())
}
