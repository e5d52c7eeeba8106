//! Versions of Kubernetes, and which one the node's kubelet has.

use std::fmt;
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::process::Command;
use tokio::time::timeout;

use super::kubelet::Kubelet;
use super::look::Look;

/// Printing a version takes a busy node no longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// `1.23`: what a kubelet accepts does not change within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl Version {
    pub(crate) const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.major, self.minor)
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for Version {
    type Err = String;

    /// Reads `1.23`, `v1.23.17`, `1.23.17-00`, `v1.21.5+k3s1`.
    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix('v').unwrap_or(text);
        let mut parts = bare.split('.');
        let mut number = || {
            let part = parts.next()?;
            let end = part.find(|letter: char| !letter.is_ascii_digit());
            part[..end.unwrap_or(part.len())].parse().ok()
        };
        match (number(), number()) {
            (Some(major), Some(minor)) => Ok(Self { major, minor }),
            _ => Err(format!("{text:?} is not a version like 1.23")),
        }
    }
}

/// The version of the node's kubelet: that of its package, or what the program says.
pub(super) async fn find(look: &mut Look<'_>, kubelet: &Kubelet) -> Option<Version> {
    if !kubelet.is_there() {
        return None;
    }
    let packaged = packaged(look, "kubelet");
    if let Some(version) = packaged.and_then(|version| version.parse().ok()) {
        return Some(version);
    }
    if look.root.is_live()
        && let Some(version) = asked(kubelet).await
    {
        return Some(version);
    }
    look.report.miss(
        "the kubelet's version",
        "no package says it, and the kubelet could not be asked",
        "give it with --kubelet-version",
    );
    None
}

/// The version of a package that dpkg has.
pub(super) fn packaged(look: &mut Look<'_>, package: &str) -> Option<String> {
    let status = look.read("/var/lib/dpkg/status")?;
    let mut paragraphs = status.text().split("\n\n");
    let field = |paragraph: &'_ str, name: &str| {
        let mut lines = paragraph.lines();
        lines.find_map(|line| Some(line.strip_prefix(name)?.trim().to_string()))
    };
    let own = paragraphs.find(|paragraph| {
        field(paragraph, "Package:").as_deref() == Some(package)
            && field(paragraph, "Status:").is_some_and(|status| status.ends_with(" installed"))
    })?;
    field(own, "Version:")
}

/// What `kubelet --version` prints, `Kubernetes v1.23.17`. It is the program that systemd starts
/// as root anyway.
async fn asked(kubelet: &Kubelet) -> Option<Version> {
    let program = kubelet.program.as_ref().filter(|path| path.is_absolute())?;
    let mut command = Command::new(program);
    if program.ends_with("hyperkube") {
        command.arg("kubelet");
    }
    command
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_they_are_written() {
        for text in ["1.23", "v1.23.17", "1.23.17-00", "v1.23.5+k3s1", "1.23+"] {
            assert_eq!(text.parse(), Ok(Version::new(1, 23)), "{text}");
        }
        for text in ["", "1", "x.y", "v1.", ".1"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
        assert!(Version::new(1, 9) < Version::new(1, 23));
    }
}
