//! Calls of cargo, in the workspace that this command was started from.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The cargo that runs this command, in the workspace's directory.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(workspace());
    // What `cargo run` has set for this command would change what is built for the next one.
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_"))
        {
            command.env_remove(name);
        }
    }
    command
}

/// Runs cargo with its output on the terminal.
///
/// # Errors
/// When it cannot be started or does not succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().context("cannot start cargo")?;
    let words: Vec<_> = command
        .get_args()
        .map(|word| word.to_string_lossy())
        .collect();
    ensure!(
        status.success(),
        "`cargo {}` ended with {status}",
        words.join(" ")
    );
    Ok(())
}

/// The workspace's directory.
pub(crate) fn workspace() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    package
        .and_then(|package| Some(package.parent()?.to_owned()))
        .unwrap_or_else(|| ".".into())
}

/// Where cargo puts what it builds.
///
/// # Errors
/// When cargo does not say.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let output = command(&["metadata", "--no-deps", "--format-version=1"]).output()?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("`cargo metadata` printed no JSON")?;
    let directory = metadata["target_directory"]
        .as_str()
        .context("no target directory")?;
    Ok(directory.into())
}

/// The platform that is built on, such as `x86_64-unknown-linux-gnu`.
///
/// # Errors
/// When rustc does not say.
pub(crate) fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .arg("-vV")
        .current_dir(workspace())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}

/// Builds everything, and gives the path of the integration test of this name.
///
/// # Errors
/// When the build fails or cargo names no such program.
pub(crate) fn test_program(test: &str) -> Result<PathBuf> {
    // The same selection as everywhere, so that nothing is built twice with other features.
    let selection = ["test", "--workspace", "--all-targets"];
    let output = command(&selection)
        .args(["--no-run", "--message-format=json"])
        .stderr(std::process::Stdio::inherit())
        .output()?;
    ensure!(
        output.status.success(),
        "`cargo test --no-run` ended with {}",
        output.status
    );
    let text = String::from_utf8(output.stdout).context("cargo printed no UTF-8")?;
    let found = text.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let target = &message["target"];
        let wanted = target["name"] == test && target["kind"][0] == "test";
        wanted.then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    found.with_context(|| format!("cargo built no integration test {test}"))
}
