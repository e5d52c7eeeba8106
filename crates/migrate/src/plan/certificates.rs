//! Certificates that Docker has for registries, a directory for each host
//! (dockerd's `/etc/docker/certs.d`).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::PathBuf;

use crate::node::Look;

/// Where they are. CRI-O looks there by itself, and containerd where it is told to.
pub(super) const DIRECTORY: &str = "/etc/docker/certs.d";

/// What is there for one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Certificates {
    /// Of those who vouch for the host: `*.crt`.
    pub authorities: Vec<PathBuf>,
    /// What the host is shown, and its key: `*.cert` and `*.key`.
    pub clients: Vec<(PathBuf, PathBuf)>,
}

impl Certificates {
    /// Those of all hosts.
    pub(super) fn of_hosts(look: &mut Look<'_>) -> BTreeMap<String, Self> {
        let mut all = BTreeMap::new();
        for directory in look.list(DIRECTORY) {
            let host = directory.file_name().and_then(OsStr::to_str);
            if let Some(host) = host.map(str::to_string) {
                all.insert(host, Self::new(look.list(&directory)));
            }
        }
        all
    }

    fn new(files: Vec<PathBuf>) -> Self {
        let mut found = Self::default();
        for file in files {
            match file.extension().and_then(OsStr::to_str) {
                Some("crt") => found.authorities.push(file),
                Some("cert") => {
                    let key = file.with_extension("key");
                    found.clients.push((file, key));
                }
                _ => {}
            }
        }
        found
    }

    /// As containerd's `hosts.toml` names them.
    pub(super) fn in_hosts_toml(&self) -> String {
        let mut text = String::new();
        if !self.authorities.is_empty() {
            let _ = writeln!(text, "ca = {:?}", self.authorities);
        }
        if !self.clients.is_empty() {
            let clients = self.clients.iter().map(|(file, key)| [file, key]);
            let clients: Vec<_> = clients.collect();
            let _ = writeln!(text, "client = {clients:?}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart_by_their_ends() {
        let paths = ["/x/ca.crt", "/x/client.cert", "/x/client.key", "/x/README"];
        let certificates = Certificates::new(paths.map(PathBuf::from).into());
        assert_eq!(
            certificates.in_hosts_toml(),
            "ca = [\"/x/ca.crt\"]\nclient = [[\"/x/client.cert\", \"/x/client.key\"]]\n"
        );
        assert_eq!(Certificates::default().in_hosts_toml(), "");
    }
}
