//! The processes of a node.

use std::io::ErrorKind;
use std::path::Path;

use super::look::{Look, Origin};
use super::systemd::Argument;
use crate::{Evidence, secrets};

/// As much of a command line as evidence has of it, in characters.
const SHOWN: usize = 48;

/// A process with a command line: not a thread of the kernel.
#[derive(Debug, Clone)]
pub struct Process {
    /// As the node counts.
    pub pid: u32,
    /// Its words.
    pub arguments: Vec<String>,
    /// Whether it has the PID namespace of the node's first process, as far as can be told.
    pub of_host: bool,
}

impl Process {
    /// The last part of the path that it was started with.
    pub fn program(&self) -> &str {
        let first = self.arguments.first().map_or("", String::as_str);
        // Some write a title over their arguments: `nginx: worker process`.
        let first = first.split([' ', ':']).next().unwrap_or_default();
        first.rsplit('/').next().unwrap_or_default()
    }

    /// Its words as those of a command line.
    pub(super) fn command(&self) -> Vec<Argument> {
        let argument = |text: &String| Argument {
            text: text.clone(),
            origin: Origin::Process(self.evidence()),
        };
        self.arguments.iter().map(argument).collect()
    }

    /// As a finding names it.
    pub fn evidence(&self) -> Evidence {
        // What is cut off in the middle would not be known for a secret any more.
        let mut command = secrets::hidden(&self.arguments.join(" "));
        if let Some((end, _)) = command.char_indices().nth(SHOWN) {
            command.truncate(end);
            command.push('…');
        }
        Evidence::Process {
            pid: self.pid,
            command,
        }
    }
}

/// All processes, in the order of their ids.
pub(super) fn all(look: &mut Look<'_>) -> Vec<Process> {
    let names = match look.root.list("/proc") {
        Ok(names) => names,
        Err(error) => {
            look.unreadable("/proc", error, "run it as root");
            return Vec::new();
        }
    };
    let pids = names.iter().filter_map(|name| name.to_str()?.parse().ok());
    let mut pids: Vec<u32> = pids.collect();
    pids.sort_unstable();
    if pids.first() != Some(&1) {
        look.report.miss(
            "/proc",
            "the node's first process is not in it, so that others may be missing as well",
            "run it on the node as root, outside of any container",
        );
    }
    let namespace = |pid: u32| look.root.link(format!("/proc/{pid}/ns/pid"));
    let of_first = namespace(1);
    let mut processes = Vec::new();
    for pid in pids {
        let path = format!("/proc/{pid}/cmdline");
        let source = match look.root.read(Path::new(&path)) {
            Ok(Some(source)) => source,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                let why = "command lines of others are hidden";
                look.unreadable("/proc", why, "run it as root");
                continue;
            }
            // One that has ended meanwhile is not there, or says that it is not (ESRCH).
            _ => continue,
        };
        let arguments = source.text().trim_end_matches('\0').split('\0');
        let arguments: Vec<_> = arguments.map(str::to_string).collect();
        if arguments[0].is_empty() {
            continue;
        }
        let of_host = match (&of_first, namespace(pid)) {
            (Some(first), Some(own)) => *first == own,
            _ => true,
        };
        processes.push(Process {
            pid,
            arguments,
            of_host,
        });
    }
    processes
}
