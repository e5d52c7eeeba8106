//! Whether a process can still write to where Docker reads.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

/// Whether a process holds the writing end of a pipe that its parent, containerd's shim, reads. As
/// long as it does, what it writes has not ended, whatever the connection to Docker says.
///
/// Blocks for a moment on proc(5).
pub(crate) fn is_open(pid: i32) -> bool {
    let Some(parent) = parent(pid) else {
        return false;
    };
    let written = pipes(pid, 0o200);
    written.intersection(&pipes(parent, 0o400)).next().is_some()
}

fn parent(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}

/// The pipes that a process has opened this way, as proc(5) names them: `pipe:[inode]`. Its links'
/// permissions say which way.
fn pipes(pid: i32, way: u32) -> HashSet<PathBuf> {
    let links = fs::read_dir(format!("/proc/{pid}/fd"));
    let links = links.into_iter().flatten().flatten();
    let opened = links.filter(|link| {
        let metadata = link.metadata();
        metadata.is_ok_and(|link| link.permissions().mode() & way != 0)
    });
    opened
        .filter_map(|link| fs::read_link(link.path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("pipe:["))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A child with this test's pipes, which has run the script when it says so.
    fn child(script: &str) -> Child {
        let script = format!("{script}; read -r line");
        let mut child = Command::new("/bin/sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = child.stdout.as_mut().unwrap().read(&mut [0]);
        assert!(said.is_ok());
        child
    }

    #[test]
    fn output_is_open_until_the_process_lets_go_of_it() {
        for (script, open) in [
            ("echo said", true),
            ("exec 1>&-", true),
            ("exec 2>&-; exec 1>&-", false),
            ("exec 2>/dev/null; exec >/dev/null", false),
        ] {
            let mut child = child(script);
            assert_eq!(is_open(child.id().try_into().unwrap()), open, "{script}");
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }

    #[test]
    fn a_process_that_is_gone_has_no_output() {
        let mut child = child("echo said");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_open(child.id().try_into().unwrap()));
    }
}
