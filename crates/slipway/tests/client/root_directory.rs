//! A root directory of its own for `slipway`, whose paths are fixed.

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use tokio::process::Command;

const SLIPWAY: &str = env!("CARGO_BIN_EXE_slipway");

/// It has `slipway`, what that is linked to, and nothing else.
pub(crate) struct RootDirectory(TempDir);

impl RootDirectory {
    pub(crate) fn new() -> Self {
        let root = Self(tempfile::tempdir().unwrap());
        root.bring(Path::new(SLIPWAY), "slipway");
        let libraries = std::process::Command::new("ldd").arg(SLIPWAY).output();
        let listed = String::from_utf8(libraries.unwrap().stdout).unwrap();
        let words = listed.split_whitespace();
        for library in words.filter(|word| word.starts_with('/')) {
            root.bring(Path::new(library), library.trim_start_matches('/'));
        }
        // A client that uses no TLS wants them too.
        let certificates = "etc/ssl/certs/ca-certificates.crt";
        root.bring(&Path::new("/").join(certificates), certificates);
        root
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Copies a file into it.
    pub(crate) fn bring(&self, from: &Path, to: &str) {
        let to = self.path().join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        let from = from.canonicalize().unwrap();
        if fs::hard_link(&from, &to).is_err() {
            fs::copy(from, &to).unwrap();
        }
    }

    pub(crate) fn write(&self, to: &str, text: &str) {
        let to = self.path().join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, text).unwrap();
    }

    /// `slipway` in it, with an empty environment.
    pub(crate) fn slipway(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("/usr/sbin/chroot");
        command
            .arg(self.path())
            .arg("/slipway")
            .args(arguments)
            .env_clear()
            .kill_on_drop(true);
        command
    }
}
