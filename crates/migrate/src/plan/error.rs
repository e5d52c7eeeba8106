//! What keeps a node from being moved.

use std::path::PathBuf;

use super::containerd::MAIN;
use super::{Target, unread};
use crate::document::Malformed;
use crate::node::Version;
use crate::{Finding, Unseen};

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing to move.
    #[error(
        "no kubelet runs here, and neither a unit nor a configuration of one is there: run it on a node of the cluster, or give --root the directory of one's files"
    )]
    NoKubelet,
    /// What starts the kubelet is not known.
    #[error(
        "the kubelet is not a service of systemd here: change what starts it by hand ({flags}), or use the migration of whoever installed it"
    )]
    NotSystemd {
        /// What it has to be started with.
        flags: String,
    },
    /// Flags that are added to the unit would be another program's.
    #[error(
        "{unit} starts {program}, which starts the kubelet: give the kubelet {flags} there by hand, or use the migration of whoever installed it"
    )]
    KubeletInside {
        /// The kubelet's unit.
        unit: String,
        /// What it starts.
        program: String,
        /// What the kubelet has to be started with.
        flags: String,
    },
    /// Which flags the kubelet takes is not known.
    #[error("the kubelet's version could not be found out: give it with --kubelet-version")]
    VersionUnknown,
    /// Nothing to do.
    #[error("this node's kubelet runs its pods on {target} already ({endpoint})")]
    AlreadyThere {
        /// What it runs on.
        target: Target,
        /// As the kubelet has it.
        endpoint: String,
    },
    /// Both engines at once are Slipway's.
    #[error(
        "--no-drain is for --to slipway, which has Docker's pods beside its own; to {target}, a node is drained"
    )]
    DrainNeeded {
        /// What was asked for.
        target: Target,
    },
    /// There is nothing to keep.
    #[error("--no-drain keeps Docker's pods, and this node's pods are not Docker's: leave it out")]
    NotOnDocker,
    /// Somebody else's work would end.
    #[error("Docker runs containers that no kubelet owns, and that would be stopped with it: {}; move them first, or say --stop-other-containers", .containers.join(", "))]
    Strangers {
        /// Their names.
        containers: Vec<String>,
    },
    /// Whether somebody else's work would end is not known.
    #[error(
        "whether Docker runs containers that no kubelet owns cannot be told ({why}): they would be stopped with it; mend that, or say --stop-other-containers"
    )]
    StrangersUnknown {
        /// Why not.
        why: String,
    },
    /// Neither its containers nor its images are known.
    #[error(
        "dockerd runs, and is found at no Unix socket: whether it runs containers that no kubelet owns cannot be told, and its images cannot be carried over; have it listen there too (-H unix://{socket}, or ListenStream={socket} in docker.socket), then ask again"
    )]
    DockerUnasked {
        /// Where it listens by default.
        socket: &'static str,
    },
    /// Pods would have no network.
    #[error(
        "pods are on Docker's own bridge ({found}), which goes with dockershim: install a CNI network plugin in the cluster first"
    )]
    NoNetwork {
        /// What says so.
        found: String,
    },
    /// What files say that are there and cannot be read would be left out.
    #[error("what the plan is made of cannot be read: {}; without it the node would lose what it says", unread::listed(.0))]
    Unread(Vec<Unseen>),
    /// A file that has to be read or changed is broken.
    #[error("{}: {}; {}", .0.found, places(.0), .0.todo)]
    Broken(Box<Finding>),
    /// A file is not what its format allows.
    #[error("{}, {malformed}: repair the file first", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        malformed: Malformed,
    },
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is where nothing can be written.
    #[error("{} is on a file system that is read-only: make it writable, or change the image that the node is made of", path.display())]
    ReadOnly {
        /// The file that would change.
        path: PathBuf,
    },
    /// cri-dockerd makes no pods itself.
    #[error(
        "cri-dockerd has a Docker Engine run the pods, and there is none on this node: install one and start it (apt install docker.io), then ask again"
    )]
    NoDocker,
    /// The kubelet and the runtime have no version of CRI in common.
    #[error("the kubelet is {kubelet} and speaks CRI {speaks} only, {runtime} has none: {todo}")]
    NoCommonCri {
        /// The kubelet's version.
        kubelet: Version,
        /// What it speaks.
        speaks: &'static str,
        /// The runtime and its release.
        runtime: String,
        /// What to do.
        todo: String,
    },
    /// The steps themselves cannot speak to the runtime.
    #[error(
        "{runtime} has no CRI v1, by which images are carried over and pods are removed on the way back: install {wanted}"
    )]
    NoCriV1 {
        /// The runtime and its release.
        runtime: String,
        /// What there has to be.
        wanted: String,
    },
    /// No file holds the kubelet's flags in a way that is known.
    #[error(
        "no file was found that the kubelet's unit takes its flags from: add {flags} to its command line by hand, then ask again"
    )]
    NoPlaceForFlags {
        /// What is missing.
        flags: String,
    },
    /// Registries are told to containerd in one way alone.
    #[error(
        "{}: registry.{key} says what the files of registry.config_path say, where Docker's registries go, and containerd takes no pods with both: move it to /etc/containerd/certs.d, then ask again", path.display()
    )]
    InsteadOfHosts {
        /// containerd's file.
        path: PathBuf,
        /// `mirrors` or `configs`.
        key: &'static str,
    },
    /// containerd has one directory for them.
    #[error(
        "CNI's plugins are in several directories ({}), and containerd looks in one (bin_dir): {directory} lacks {}; link them into it, or name all directories as bin_dirs in {MAIN} if this is containerd 2.1 or newer, then ask again", .directories.join(", "), .lacking.join(", ")
    )]
    PluginsApart {
        /// The one that has most of them.
        directory: String,
        /// What is in others alone.
        lacking: Vec<String>,
        /// As dockershim was told.
        directories: Vec<String>,
    },
    /// A package replaces its files.
    #[error("{} overrules {MAIN}, which imports it, and is a package's: copy it to /etc/containerd/conf.d, import the copy in its place, then ask again", path.display())]
    ImportOfPackage {
        /// The file that would change.
        path: PathBuf,
    },
    /// systemd takes no dependency back in a drop-in.
    #[error("{}: {key}= ties {unit} to Docker, which is going to be stopped: copy the file to /etc/systemd/system, take docker out of {key}= there, run systemctl daemon-reload, then ask again", path.display())]
    UnitNeedsDocker {
        /// The kubelet's unit.
        unit: String,
        /// Its file, which is a package's.
        path: PathBuf,
        /// `Requires` and the like.
        key: &'static str,
    },
    /// The configuration is written in a way that lines cannot be put into.
    #[error("{}: `{key}: {value}` cannot be put into this file; add it by hand, then ask again", path.display())]
    NoPlaceForKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
}

fn places(finding: &Finding) -> String {
    let places: Vec<_> = finding.evidence.iter().map(ToString::to_string).collect();
    places.join(", ")
}
