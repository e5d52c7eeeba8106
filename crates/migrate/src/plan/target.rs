//! What a node can move to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::node::Socket;

/// Whom the kubelet is to speak to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Slipway.
    Slipway,
    /// containerd.
    Containerd,
    /// CRI-O.
    Crio,
    /// cri-dockerd: Docker stays.
    CriDockerd,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Slipway,
        Self::Containerd,
        Self::Crio,
        Self::CriDockerd,
    ];

    /// As it is written on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Slipway => "slipway",
            Self::Containerd => "containerd",
            Self::Crio => "crio",
            Self::CriDockerd => "cri-dockerd",
        }
    }

    /// The kubelet's `--container-runtime-endpoint`.
    pub fn endpoint(self) -> &'static str {
        match self {
            Self::Slipway => "unix:///run/slipway/slipway.sock",
            Self::Containerd => "unix:///run/containerd/containerd.sock",
            Self::Crio => "unix:///var/run/crio/crio.sock",
            Self::CriDockerd => "unix:///var/run/cri-dockerd.sock",
        }
    }

    /// What is enabled and started, in this order.
    pub fn units(self) -> &'static [&'static str] {
        match self {
            Self::Slipway => &["slipway.service"],
            Self::Containerd => &["containerd.service"],
            Self::Crio => &["crio.service"],
            Self::CriDockerd => &["cri-docker.socket", "cri-docker.service"],
        }
    }

    /// The service among its units.
    pub fn service(self) -> &'static str {
        match self {
            Self::CriDockerd => "cri-docker.service",
            other => other.units()[0],
        }
    }

    /// The program that the service starts.
    pub fn program(self) -> &'static str {
        self.name()
    }

    /// The package that has it, by the name that its makers gave it.
    pub fn package(self) -> &'static str {
        match self {
            Self::Crio => "cri-o",
            other => other.name(),
        }
    }

    /// Whether a kubelet that speaks to this socket is there already.
    pub(crate) fn is_at(self, socket: Socket) -> bool {
        match self {
            Self::Slipway => socket == Socket::Slipway,
            Self::Containerd => socket == Socket::Containerd,
            Self::Crio => socket == Socket::Crio,
            Self::CriDockerd => socket == Socket::Docker,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|target| target.name() == text);
        known.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("{text:?} is none of {names}")
        })
    }
}
