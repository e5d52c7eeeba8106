//! Programs of the system.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Runs a command and gives what it printed.
///
/// # Errors
/// When it cannot be started or fails, with all that it said.
pub(crate) fn run(command: &mut Command) -> Result<Vec<u8>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    ensure!(
        output.status.success(),
        "{program} ended with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

/// A command in mount, process and IPC namespaces of its own, with the program and its arguments
/// to be added: whatever it mounts and starts is gone with it, and it goes with this process,
/// however that ends. It takes root.
pub(crate) fn contained() -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL"])
        .args(["unshare", "--mount", "--mount-proc", "--pid", "--ipc"])
        .args(["--fork", "--kill-child=KILL"]);
    command
}
