//! What a container's processes hold and do, as proc(5) shows it.

use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, RawDir, openat, readlinkat_raw};
use slipway_cgroup::read_kernel_file;

/// What the link of a socket's descriptor begins with.
const SOCKET: &[u8] = b"socket:";

/// What descriptors are read into at once, in bytes; each takes 24 or 32.
const ENTRIES: usize = 2048;

/// Of all processes of a container together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Processes {
    pub(super) count: u64,
    pub(super) threads: u64,
    pub(super) file_descriptors: u64,
    pub(super) sockets: u64,
    pub(super) states: States,
}

/// How many processes are doing what.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct States {
    pub(super) sleeping: u64,
    pub(super) running: u64,
    pub(super) stopped: u64,
    pub(super) uninterruptible: u64,
}

impl Processes {
    /// Blocking, for as long as it takes to look at every descriptor; what ends meanwhile is not
    /// counted.
    pub(super) fn read(pids: impl IntoIterator<Item = i32>) -> Self {
        let mut all = Self::default();
        for pid in pids {
            let directory = PathBuf::from(format!("/proc/{pid}"));
            let stat = read_kernel_file(&directory.join("stat"));
            if let Some((state, threads)) = stat.ok().and_then(|stat| state_and_threads(&stat)) {
                all.add(state, threads);
                // It has ended since.
                let _ = all.descriptors(&directory.join("fd"));
            }
        }
        all
    }

    fn add(&mut self, state: u8, threads: u64) {
        self.count += 1;
        self.threads += threads;
        match state {
            b'R' => self.states.running += 1,
            b'S' | b'I' => self.states.sleeping += 1,
            b'T' | b't' => self.states.stopped += 1,
            b'D' => self.states.uninterruptible += 1,
            _ => {}
        }
    }

    fn descriptors(&mut self, directory: &Path) -> rustix::io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, directory, flags, Mode::empty())?;
        let mut entries = [const { MaybeUninit::uninit() }; ENTRIES];
        let mut entries = RawDir::new(&directory, &mut entries);
        let mut target = [0; SOCKET.len()];
        while let Some(entry) = entries.next() {
            let entry = entry?;
            if entry.file_name().to_bytes().starts_with(b".") {
                continue;
            }
            self.file_descriptors += 1;
            let read = readlinkat_raw(&directory, entry.file_name(), &mut target);
            let is_socket = read.is_ok_and(|length| target[..length] == *SOCKET);
            self.sockets += u64::from(is_socket);
        }
        Ok(())
    }
}

/// From `/proc/<pid>/stat`. A process may give itself any name, also one with blanks, parentheses
/// and bytes that are no text.
fn state_and_threads(stat: &[u8]) -> Option<(u8, u64)> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    // The state is the 3rd field, the number of threads the 20th.
    let threads = fields.nth(16)?.parse().ok()?;
    Some((state, threads))
}

/// The soft limits of a process that has any, by cAdvisor's names for them: `max_open_files`.
pub(super) fn soft_limits(pid: i32) -> Vec<(String, u64)> {
    let text = read_kernel_file(Path::new(&format!("/proc/{pid}/limits"))).unwrap_or_default();
    parse_limits(&String::from_utf8_lossy(&text))
}

fn parse_limits(text: &str) -> Vec<(String, u64)> {
    // The columns begin where their headings do.
    let Some(column) = text.find("Soft Limit") else {
        return Vec::new();
    };
    let limit = |line: &str| {
        let (name, values) = line.split_at_checked(column)?;
        let soft = values.split_ascii_whitespace().next()?.parse().ok()?;
        Some((name.trim().to_lowercase().replace(' ', "_"), soft))
    };
    text.lines().skip(1).filter_map(limit).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_cannot_forge_the_rest() {
        let stat = b"7 (a) R 1) S 1 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 13 0 99 4096 1";
        assert_eq!(state_and_threads(stat), Some((b'S', 13)));
        let bytes = b"7 (\xff\n) Z 1 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 99 4096 1";
        assert_eq!(state_and_threads(bytes), Some((b'Z', 1)));
    }

    #[test]
    fn this_process_is_seen_as_it_is() {
        let own = i32::try_from(std::process::id()).unwrap();
        let _socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let seen = Processes::read([own, -1]);
        assert_eq!(seen.count, 1);
        assert!(seen.threads >= 1 && seen.sockets >= 1, "{seen:?}");
        assert!(seen.file_descriptors >= seen.sockets + 3, "{seen:?}");
        assert!(
            soft_limits(own)
                .iter()
                .any(|(name, limit)| name == "max_open_files" && *limit > 0)
        );
    }

    #[test]
    fn an_unlimited_resource_has_no_value() {
        let text = "\
Limit                     Soft Limit           Hard Limit           Units     \n\
Max cpu time              unlimited            unlimited            seconds   \n\
Max open files            1024                 524288               files     \n";
        assert_eq!(parse_limits(text), [("max_open_files".to_owned(), 1024)]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>, text: String) {
            let _ = state_and_threads(&bytes);
            let _ = parse_limits(&text);
        }
    }
}
