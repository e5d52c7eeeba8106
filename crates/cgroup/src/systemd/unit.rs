//! Units and their cgroups.

use crate::{CgroupPath, PathError};

const SLICE: &str = ".slice";
const SCOPE: &str = ".scope";

/// The longest name of a unit, in bytes (`UNIT_NAME_MAX` of systemd).
const LONGEST: usize = 255;

/// The cgroup of a slice: `a-b.slice` is `/a.slice/a-b.slice`, because a slice's name says which
/// ones it is in; `-.slice` is the root.
///
/// # Errors
///
/// [`PathError::NoSlice`] when it is not the name of a slice.
pub fn slice_path(name: &str) -> Result<CgroupPath, PathError> {
    if name.is_empty() {
        return Err(PathError::Empty);
    }
    let refused = || PathError::NoSlice(name.to_owned());
    let stem = name.strip_suffix(SLICE).ok_or_else(refused)?;
    if stem == "-" {
        return Ok(CgroupPath::root());
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":_.\\@-".contains(&byte);
    if name.len() > LONGEST || !stem.bytes().all(allowed) || stem.split('-').any(str::is_empty) {
        return Err(refused());
    }
    let ends = stem.match_indices('-').map(|(at, _)| at);
    ends.chain([stem.len()])
        .try_fold(CgroupPath::root(), |path, end| {
            path.join(&format!("{}{SLICE}", &stem[..end]))
        })
}

/// The cgroup of a slice that is given by its name, or by the way to it from the root: a kubelet
/// sends the latter (CRI's `LinuxPodSandboxConfig.cgroup_parent`).
///
/// # Errors
///
/// [`PathError::NoSlice`] when it is neither, also where the way is not the one that the name says.
pub fn slice_at(parent: &str) -> Result<CgroupPath, PathError> {
    let Some((_, name)) = parent.rsplit_once('/') else {
        return slice_path(parent);
    };
    let refused = || PathError::NoSlice(parent.to_owned());
    let path = slice_path(name).map_err(|_| refused())?;
    if CgroupPath::parse(parent)? == path {
        Ok(path)
    } else {
        Err(refused())
    }
}

/// The scope of a container.
pub fn scope_name(container: &str) -> String {
    format!("slipway-{container}{SCOPE}")
}

/// The unit that a cgroup belongs to, when systemd's name for one is in the path's last part.
pub fn unit_of(path: &CgroupPath) -> Option<&str> {
    let (_, last) = path.as_str().rsplit_once('/')?;
    [SLICE, SCOPE]
        .iter()
        .any(|kind| last.ends_with(kind))
        .then_some(last)
}

/// Whether a cgroup parent is meant for the systemd driver: a slice's name, or the
/// `slice:prefix:name` of an OCI runtime.
pub(crate) fn is_slice(parent: &str) -> bool {
    let slice = parent.split(':').next().unwrap_or(parent);
    !parent.contains('/') && slice.ends_with(SLICE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_slice_is_in_the_slices_that_its_name_begins_with() {
        for (slice, path) in [
            ("kubepods.slice", "/kubepods.slice"),
            (
                "kubepods-burstable-pod1_2.slice",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice",
            ),
            ("-.slice", "/"),
        ] {
            assert_eq!(slice_path(slice).unwrap().as_str(), path);
        }
    }

    #[test]
    fn what_is_no_slice_is_refused() {
        for name in [
            "/kubepods/pod1",
            "kubepods",
            ".slice",
            "a--b.slice",
            "-a.slice",
            "a-.slice",
            "a/b.slice",
            "../a.slice",
            "a b.slice",
            "kubepods.slice:cri:abc",
        ] {
            let refused = slice_path(name).unwrap_err();
            assert_eq!(refused, PathError::NoSlice(name.to_owned()));
        }
        assert_eq!(slice_path(""), Err(PathError::Empty));
        assert!(slice_path(&format!("{}.slice", "a".repeat(250))).is_err());
    }

    #[test]
    fn a_slice_is_where_a_kubelet_says_that_it_is() {
        let path = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice";
        for parent in [path, "kubepods-burstable-pod1_2.slice"] {
            assert_eq!(slice_at(parent).unwrap().as_str(), path);
        }
        for parent in [
            "/kubepods/burstable/pod1",
            "/kubepods-burstable-pod1_2.slice",
            "kubepods.slice/kubepods-pod1.slice",
            "/a.slice/kubepods-pod1.slice",
            "/kubepods.slice/../kubepods.slice",
            "/kubepods.slice/",
            "/",
        ] {
            assert!(slice_at(parent).is_err(), "{parent}");
        }
    }

    #[test]
    fn units_are_recognised_by_their_cgroups() {
        let path = slice_path("a-b.slice").unwrap();
        assert_eq!(unit_of(&path), Some("a-b.slice"));
        let scope = path.join(&scope_name("0123")).unwrap();
        assert_eq!(unit_of(&scope), Some("slipway-0123.scope"));
        assert_eq!(unit_of(&CgroupPath::parse("/kubepods/pod1").unwrap()), None);
        assert_eq!(unit_of(&CgroupPath::root()), None);
    }

    proptest! {
        #[test]
        fn a_path_leads_through_its_names(parts in prop::collection::vec("[a-z0-9_]{1,6}", 1..6)) {
            let slice = format!("{}.slice", parts.join("-"));
            let path = slice_path(&slice).unwrap();
            prop_assert_eq!(path.as_str().matches('/').count(), parts.len());
            prop_assert_eq!(unit_of(&path), Some(slice.as_str()));
        }

        #[test]
        fn any_name_is_survived(name in "[-a/.:\\n é]{0,12}(\\.slice)?") {
            let _ = slice_path(&name);
        }
    }
}
