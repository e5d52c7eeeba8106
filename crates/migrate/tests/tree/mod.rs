//! Nodes' files, as text.

use std::fs;
use std::path::Path;

/// Writes the files that `text` has, each below a line `== PATH`, into a directory. A line `->`
/// is a symbolic link; a file whose PATH is followed by a backslash does not end its last line; in
/// command lines of processes, spaces are NULs. Answers the kubelet's version, which the first line
/// may name.
pub(crate) fn unpack(text: &str, directory: &Path) -> Option<String> {
    let mut parts = text.split("\n== ");
    let mut head = parts.next().unwrap_or_default().lines();
    let version = head.find_map(|line| line.strip_prefix("kubelet "));
    for part in parts {
        let (path, content) = part.split_once('\n').unwrap_or((part, ""));
        let (path, end) = match path.strip_suffix(" \\") {
            Some(path) => (path, ""),
            None => (path, "\n"),
        };
        let target = directory.join(path.trim_start_matches('/'));
        if let Some(directory) = path.strip_suffix('/') {
            let directory = target
                .parent()
                .unwrap()
                .join(directory.rsplit('/').next().unwrap());
            fs::create_dir_all(directory).unwrap();
            continue;
        }
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        if let Some(link) = content.trim().strip_prefix("-> ") {
            std::os::unix::fs::symlink(link, target).unwrap();
        } else if path.ends_with("/cmdline") {
            fs::write(target, content.trim().replace(' ', "\0")).unwrap();
        } else {
            fs::write(target, format!("{content}{end}")).unwrap();
        }
    }
    version.map(str::to_owned)
}
