//! What can go wrong, told to the person who has to set it right.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::plugin::Command;

/// Why a pod could not be attached or detached, or why the node's network is not ready.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing to attach pods to.
    #[error("{}", no_configuration(directory, problems))]
    NoConfiguration {
        /// The directory that was searched.
        directory: PathBuf,
        /// What is wrong with each file in it.
        problems: Vec<Problem>,
    },
    /// A plugin is not installed.
    #[error(
        "network `{network}` needs the CNI plugin `{plugin}`, and there is no such executable in \
         {}: install it there, or correct the configuration {}",
        list(searched),
        file.display()
    )]
    PluginMissing {
        /// The network's name.
        network: String,
        /// The file that configures the network.
        file: PathBuf,
        /// The plugin's `type`.
        plugin: String,
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// The caller's parameters cannot be passed to a plugin.
    #[error("the pod's {field} `{value}` cannot be passed to CNI plugins: {reason}")]
    InvalidAttachment {
        /// Which parameter.
        field: &'static str,
        /// What it was.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is no network namespace to attach.
    #[error("pod {pod_id}: {} is not a network namespace: {found}", path.display())]
    NotANamespace {
        /// The pod.
        pod_id: String,
        /// Where its network namespace should be.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// CNI forbids a second ADD without a DEL in between.
    #[error("pod {pod_id} has been attached to a network already; delete that attachment first")]
    AlreadyAttached {
        /// The pod.
        pod_id: String,
    },
    /// A plugin failed.
    #[error("network `{network}`, plugin `{plugin}`, {command}: {failure}")]
    Plugin {
        /// The network's name.
        network: String,
        /// The plugin's `type`.
        plugin: String,
        /// What it was asked to do.
        command: Command,
        /// What it did instead.
        failure: Box<PluginFailure>,
    },
    /// Every plugin succeeded, and the pod still has no address.
    #[error(
        "network `{network}`: its plugins gave the pod no IP address; a plugin that does (`bridge` \
         with an `ipam` section, or the network add-on's own) is missing from {}",
        file.display()
    )]
    NoAddress {
        /// The network's name.
        network: String,
        /// The file that configures it.
        file: PathBuf,
    },
    /// An ADD failed, and so did a DEL after it. The cache entry is still there.
    #[error(
        "{cause}; what had been set up before that could not all be taken back, which is tried \
         again when the pod is stopped or removed: {undo}"
    )]
    NotUndone {
        /// Why the ADD failed.
        cause: Box<Error>,
        /// Why the DEL failed.
        undo: Box<Error>,
    },
    /// Another operation on the same pod does not come to its end.
    #[error(
        "pod {pod_id}: a CNI plugin from an earlier operation on it has not ended within \
         {} s; `fuser {}` shows the process",
        waited.as_secs(),
        path.display()
    )]
    Busy {
        /// The pod.
        pod_id: String,
        /// The file that the plugin has as its standard input, and locked.
        path: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The record of attachments, or a configuration, could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Cache {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it did not work.
        source: io::Error,
    },
    /// A range of pod addresses that is none.
    #[error(
        "NetworkConfig.pod_cidr {given:?} is no address range such as 10.1.0.0/24, nor several with \
         commas between them"
    )]
    PodCidr {
        /// What was given.
        given: String,
    },
    /// The template for a configuration cannot be used.
    #[error("the template network.conf_template {}: {reason}", file.display())]
    Template {
        /// The template.
        file: PathBuf,
        /// What is wrong with it, and where.
        reason: String,
    },
    /// The daemon is ending and starts nothing new.
    #[error("the daemon is shutting down; nothing was done")]
    ShuttingDown,
}

/// A configuration file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", file.display())]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// What a plugin did instead of succeeding. Output is as it was, up to 1 MiB of each stream, and is
/// shortened when it is displayed.
#[derive(Debug)]
pub enum PluginFailure {
    /// It reported an error as CNI specifies.
    Reported {
        /// The error code; below 100 they are CNI's, from 100 on the plugin's own.
        code: u64,
        /// The short message.
        message: String,
        /// The long message, often empty.
        details: String,
        /// What it wrote to standard error.
        stderr: Vec<u8>,
    },
    /// It failed without a CNI error on standard output.
    Exited {
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to standard output.
        stdout: Vec<u8>,
        /// What it wrote to standard error.
        stderr: Vec<u8>,
    },
    /// It, or a process that it started and that holds its output open, had to be killed.
    TimedOut {
        /// The time it was given.
        after: Duration,
        /// What it wrote to standard output.
        stdout: Vec<u8>,
        /// What it wrote to standard error.
        stderr: Vec<u8>,
    },
    /// It claimed success, with a result that is none.
    Unreadable {
        /// What is wrong with the result.
        reason: String,
        /// What it wrote to standard output.
        stdout: Vec<u8>,
        /// What it wrote to standard error.
        stderr: Vec<u8>,
    },
    /// It could not be started, or not be attended to.
    NotRun {
        /// Its executable.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl fmt::Display for PluginFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reported {
                code,
                message,
                details,
                stderr,
            } => {
                write!(f, "{} (code {code})", Excerpt(message.as_bytes()))?;
                if !details.is_empty() {
                    write!(f, ": {}", Excerpt(details.as_bytes()))?;
                }
                output(f, b"", stderr)
            }
            Self::Exited {
                status,
                stdout,
                stderr,
            } => {
                write!(f, "it ended with {status} and no CNI error")?;
                output(f, stdout, stderr)
            }
            Self::TimedOut {
                after,
                stdout,
                stderr,
            } => {
                write!(
                    f,
                    "it did not end within {} s and was killed",
                    after.as_secs()
                )?;
                output(f, stdout, stderr)
            }
            Self::Unreadable {
                reason,
                stdout,
                stderr,
            } => {
                write!(
                    f,
                    "it ended with success, but its result cannot be used: {reason}"
                )?;
                output(f, stdout, stderr)
            }
            Self::NotRun { path, source } => write!(f, "cannot run {}: {source}", path.display()),
        }
    }
}

fn output(f: &mut fmt::Formatter<'_>, stdout: &[u8], stderr: &[u8]) -> fmt::Result {
    for (name, bytes) in [("stdout", stdout), ("stderr", stderr)] {
        if !bytes.trim_ascii().is_empty() {
            write!(f, "; {name}: {}", Excerpt(bytes))?;
        }
    }
    Ok(())
}

/// Displays the beginning and the end of what may be long, on one line.
struct Excerpt<'a>(&'a [u8]);

impl Excerpt<'_> {
    /// How many bytes are shown of either end.
    const END: usize = 400;
}

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.trim_ascii();
        if text.len() <= 2 * Self::END {
            return one_line(f, text);
        }
        one_line(f, &text[..Self::END])?;
        write!(f, " … ({} bytes in all) … ", text.len())?;
        one_line(f, &text[text.len() - Self::END..])
    }
}

fn one_line(f: &mut fmt::Formatter<'_>, text: &[u8]) -> fmt::Result {
    for character in String::from_utf8_lossy(text).chars() {
        if character.is_control() {
            write!(f, "{}", character.escape_default())?;
        } else {
            write!(f, "{character}")?;
        }
    }
    Ok(())
}

fn no_configuration(directory: &std::path::Path, problems: &[Problem]) -> String {
    if problems.is_empty() {
        return format!(
            "there is no CNI network configuration (*.conflist, *.conf or *.json) in {}: install a \
             network add-on, or put one there",
            directory.display()
        );
    }
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    format!(
        "no CNI network configuration in {} can be used: {}",
        directory.display(),
        problems.join("; ")
    )
}

fn list(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    if paths.is_empty() {
        "no directory at all".into()
    } else {
        paths.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_output_is_shown_by_its_ends_on_one_line() {
        let long = [b"begin\n".as_slice(), &vec![b'x'; 100_000], b"\nend\n"].concat();
        let shown = Excerpt(&long).to_string();
        assert!(shown.starts_with("begin\\nxxx"), "{shown}");
        assert!(shown.ends_with("xxx\\nend"), "{shown}");
        assert!(shown.contains("100010 bytes in all"), "{shown}");
        assert!(shown.len() < 1000 && !shown.contains('\n'));
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_all_the_same() {
        assert_eq!(
            Excerpt(b" \xff\x1b[31m ").to_string(),
            "\u{fffd}\\u{1b}[31m"
        );
    }
}
