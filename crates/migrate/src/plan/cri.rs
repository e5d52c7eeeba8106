//! Which versions of CRI kubelets and runtimes speak, and whether they have one in common.

use super::{Error, Target};
use crate::node::{Release, Version};

/// A kubelet up to this one speaks v1alpha2 alone; those up to the next fall back to it (Kubernetes 1.23,
/// "Container Runtime Interface (CRI) v1 is default"; 1.26, "CRI v1alpha2 removed").
const LAST_WITHOUT_V1: Version = Version::new(1, 22);
const LAST_WITH_V1ALPHA2: Version = Version::new(1, 25);

/// A runtime that is there, or would be installed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) release: Release,
    /// The program that would install it.
    pub(super) offered_by: Option<&'static str>,
}

/// What a person has to look at.
///
/// # Errors
///
/// Where the kubelet cannot have its pods there, or Slipway cannot move them.
pub(super) fn judge(
    kubelet: Version,
    target: Target,
    found: Option<Found>,
) -> Result<Option<String>, Error> {
    let Some(wanted) = wanted(kubelet, target) else {
        return Ok(None);
    };
    let Some(Found {
        release,
        offered_by,
    }) = found
    else {
        return Ok(Some(format!(
            "the kubelet is {kubelet} and wants {wanted}; which version this node has, or would get, is not known here: look with {} --version, or ask the package manager",
            target.program()
        )));
    };
    let mut runtime = format!("{} {release}", title(target));
    if let Some(manager) = offered_by {
        runtime = format!("{runtime} (which {manager} would install)");
    }
    let (v1, v1alpha2) = (has_v1(target, release), has_v1alpha2(target, release));
    if kubelet <= LAST_WITHOUT_V1 && !v1alpha2 {
        let todo = format!("upgrade the kubelet to 1.23 or later first, or install {wanted}");
        let speaks = "v1alpha2";
        return Err(Error::NoCommonCri {
            kubelet,
            speaks,
            runtime,
            todo,
        });
    }
    if kubelet > LAST_WITH_V1ALPHA2 && !v1 {
        let todo = format!("install {wanted}");
        let speaks = "v1";
        return Err(Error::NoCommonCri {
            kubelet,
            speaks,
            runtime,
            todo,
        });
    }
    // Slipway leaves Docker's images and pods to cri-dockerd, and speaks v1 to all others.
    if target != Target::CriDockerd && !v1 {
        return Err(Error::NoCriV1 { runtime, wanted });
    }
    let minor = of_crio(kubelet);
    let differs = (release.major, release.minor) != (minor.major, minor.minor);
    Ok((target == Target::Crio && differs).then(|| {
        format!(
            "the kubelet is {kubelet} and wants {wanted}, as CRI-O's minor versions are those of Kubernetes, and this is {runtime}"
        )
    }))
}

/// What there has to be; nothing where all releases that are in use will do.
fn wanted(kubelet: Version, target: Target) -> Option<String> {
    let wanted = match target {
        Target::Slipway => return None,
        Target::Containerd if kubelet <= LAST_WITHOUT_V1 => "containerd 1.6 or 1.7",
        Target::Containerd => "containerd 1.6 or later",
        Target::Crio => return Some(format!("CRI-O {}", of_crio(kubelet))),
        Target::CriDockerd if kubelet <= LAST_WITHOUT_V1 => "cri-dockerd 0.3.21 or earlier",
        Target::CriDockerd if kubelet <= LAST_WITH_V1ALPHA2 => return None,
        Target::CriDockerd => "cri-dockerd 0.3.0 or later",
    };
    Some(wanted.to_string())
}

/// CRI-O's minor version for a kubelet: the same one (its README.md, "Compatibility matrix"), of those that
/// have v1.
fn of_crio(kubelet: Version) -> Version {
    kubelet.max(Version::new(1, 20))
}

/// containerd/containerd#5619, cri-o/cri-o#4408, Mirantis/cri-dockerd#139.
fn has_v1(target: Target, release: Release) -> bool {
    match target {
        Target::Slipway => true,
        Target::Containerd => release >= Release::new(1, 6, 0),
        Target::Crio => release >= Release::new(1, 20, 0),
        Target::CriDockerd => release >= Release::new(0, 3, 0),
    }
}

/// containerd/containerd#8276, cri-o/cri-o#6347, Mirantis/cri-dockerd#525: that one is in 0.3.22 and 0.4.2.
fn has_v1alpha2(target: Target, release: Release) -> bool {
    match target {
        Target::Slipway => true,
        Target::Containerd => release < Release::new(2, 0, 0),
        Target::Crio => release < Release::new(1, 26, 0),
        Target::CriDockerd => {
            let last_of_0_4 = Release::new(0, 4, 0)..=Release::new(0, 4, 1);
            release < Release::new(0, 3, 22) || last_of_0_4.contains(&release)
        }
    }
}

/// As its makers write it.
fn title(target: Target) -> &'static str {
    match target {
        Target::Crio => "CRI-O",
        other => other.name(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_release_has_what_its_makers_gave_it() {
        for (target, release, v1, v1alpha2) in [
            (Target::Containerd, Release::new(1, 5, 18), false, true),
            (Target::Containerd, Release::new(1, 6, 0), true, true),
            (Target::Containerd, Release::new(1, 7, 30), true, true),
            (Target::Containerd, Release::new(2, 0, 0), true, false),
            (Target::Crio, Release::new(1, 19, 4), false, true),
            (Target::Crio, Release::new(1, 20, 0), true, true),
            (Target::Crio, Release::new(1, 25, 5), true, true),
            (Target::Crio, Release::new(1, 26, 0), true, false),
            (Target::CriDockerd, Release::new(0, 2, 6), false, true),
            (Target::CriDockerd, Release::new(0, 3, 21), true, true),
            (Target::CriDockerd, Release::new(0, 3, 22), true, false),
            (Target::CriDockerd, Release::new(0, 4, 1), true, true),
            (Target::CriDockerd, Release::new(0, 4, 2), true, false),
        ] {
            let found = (has_v1(target, release), has_v1alpha2(target, release));
            assert_eq!(found, (v1, v1alpha2), "{target} {release}");
        }
    }

    #[test]
    fn what_would_be_installed_is_said_to_be() {
        let found = Found {
            release: Release::new(2, 0, 0),
            offered_by: Some("apt-get"),
        };
        let kubelet = Version::new(1, 22);
        let refused = judge(kubelet, Target::Containerd, Some(found)).unwrap_err();
        let words = "containerd 2.0.0 (which apt-get would install) has none:";
        assert!(refused.to_string().contains(words), "{refused}");
    }
}
