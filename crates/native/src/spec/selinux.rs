//! A container's SELinux labels (selinux(8)): one for its processes, one for its files.
//!
//! Where the kernel has no SELinux, options for it are without effect, as at the peers. Where it
//! has, containers are labelled as the policy's `lxc_contexts` says, and each pod has a pair of
//! categories of its own, so that one pod's processes cannot reach another one's files.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use slipway_cri_api::v1::SeLinuxOption;
use slipway_engine::{Error, Result};

/// Where a kernel with SELinux shows it.
const FILE_SYSTEM: &str = "/sys/fs/selinux";

/// How many categories policies have (`c0` to `c1023`).
const CATEGORIES: u32 = 1024;

/// The labels of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Labels {
    pub(super) process: String,
    pub(super) mount: String,
}

/// Whether the kernel has SELinux.
pub(super) fn is_enabled() -> bool {
    Path::new(FILE_SYSTEM).join("enforce").exists()
}

/// The labels of a container, whose pod's id gives the categories, with the request's options
/// over the policy's; what the container leaves open is as its pod has it. Reads the policy's
/// files, so it blocks.
pub(super) fn of(
    pod: Option<&SeLinuxOption>,
    container: Option<&SeLinuxOption>,
    pod_id: &str,
) -> Result<Option<Labels>> {
    if !is_enabled() {
        return Ok(None);
    }
    let asked = merged(pod, container);
    let contexts = match contexts() {
        Ok(contexts) => contexts,
        Err(reason) if asked != SeLinuxOption::default() => {
            return Err(Error::precondition(format!(
                "security_context.selinux_options: the node's SELinux policy has no contexts for \
                 containers: {reason}; install the policy's package for them (container-selinux)"
            )));
        }
        Err(_) => return Ok(None),
    };
    let labels = contexts.labels(&asked, pod_id);
    for label in [&labels.process, &labels.mount] {
        fs::write(Path::new(FILE_SYSTEM).join("context"), label).map_err(|error| {
            let message = format!(
                "security_context.selinux_options make the label {label:?}, which the node's \
                 policy does not take: {error}"
            );
            match error.kind() {
                ErrorKind::InvalidInput => Error::invalid(message),
                _ => Error::precondition(message),
            }
        })?;
    }
    Ok(Some(labels))
}

/// Gives a label to a file, or to a directory and everything in it. What file systems without
/// labels hold stays as it is. A container that has the directory already may change it meanwhile:
/// links are not followed.
pub(super) fn relabel(path: &Path, label: &str) -> std::result::Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(directory) => relabel_directory(&directory, label),
        Err(Errno::NOTDIR | Errno::LOOP) => set_label(path, label),
        Err(error) => Err(error),
    }
}

fn relabel_directory(directory: &OwnedFd, label: &str) -> std::result::Result<(), Errno> {
    let own = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    set_label(&own.join("."), label)?;
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if [c".", c".."].contains(&name) {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(directory, name, flags, Mode::empty()) {
            Ok(inner) => relabel_directory(&inner, label)?,
            Err(Errno::NOTDIR | Errno::LOOP) => {
                set_label(&own.join(OsStr::from_bytes(name.to_bytes())), label)?;
            }
            // Gone meanwhile.
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn set_label(path: &Path, label: &str) -> std::result::Result<(), Errno> {
    let value = [label.as_bytes(), &[0]].concat();
    match rustix::fs::lsetxattr(path, "security.selinux", &value, XattrFlags::empty()) {
        Err(Errno::NOTSUP | Errno::ROFS | Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn merged(pod: Option<&SeLinuxOption>, container: Option<&SeLinuxOption>) -> SeLinuxOption {
    let (pod, container) = (
        pod.cloned().unwrap_or_default(),
        container.cloned().unwrap_or_default(),
    );
    let or = |own: String, pods: String| if own.is_empty() { pods } else { own };
    SeLinuxOption {
        user: or(container.user, pod.user),
        role: or(container.role, pod.role),
        r#type: or(container.r#type, pod.r#type),
        level: or(container.level, pod.level),
    }
}

/// `user:role:type:level`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Context {
    user: String,
    role: String,
    domain: String,
    level: String,
}

/// What a policy gives to containers.
#[derive(Debug, PartialEq, Eq)]
struct Contexts {
    process: Context,
    file: Context,
}

fn contexts() -> std::result::Result<Contexts, String> {
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let configuration = read(Path::new("/etc/selinux/config"))?;
    let policy = value(&configuration, "SELINUXTYPE")
        .ok_or("/etc/selinux/config names no policy (SELINUXTYPE)")?;
    let path: PathBuf = ["/etc/selinux", policy, "contexts/lxc_contexts"]
        .iter()
        .collect();
    let text = read(&path)?;
    Contexts::parse(&text).ok_or_else(|| format!("{} has no process and file", path.display()))
}

/// The value of a `name = "value"` line.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once('=')?;
        (found.trim() == name).then(|| value.trim().trim_matches('"'))
    })
}

impl Contexts {
    fn parse(text: &str) -> Option<Self> {
        Some(Self {
            process: Context::parse(value(text, "process")?)?,
            file: Context::parse(value(text, "file")?)?,
        })
    }

    fn labels(self, asked: &SeLinuxOption, pod_id: &str) -> Labels {
        let Self {
            mut process,
            mut file,
        } = self;
        let level = if asked.level.is_empty() {
            format!("{}:{}", process.level, categories(pod_id))
        } else {
            asked.level.clone()
        };
        process.level.clone_from(&level);
        file.level = level;
        for (part, asked) in [
            (&mut process.user, &asked.user),
            (&mut process.role, &asked.role),
            (&mut process.domain, &asked.r#type),
            // A file has no role of its own, and the type that containers' files have.
            (&mut file.user, &asked.user),
        ] {
            if !asked.is_empty() {
                part.clone_from(asked);
            }
        }
        Labels {
            process: process.label(),
            mount: file.label(),
        }
    }
}

impl Context {
    fn parse(label: &str) -> Option<Self> {
        let mut parts = label.splitn(4, ':').map(str::to_owned);
        Some(Self {
            user: parts.next()?,
            role: parts.next()?,
            domain: parts.next()?,
            level: parts.next()?,
        })
    }

    fn label(&self) -> String {
        let Self {
            user,
            role,
            domain,
            level,
        } = self;
        format!("{user}:{role}:{domain}:{level}")
    }
}

/// The categories of a pod: two different ones, the lower first, by its id, which is random. So
/// they need not be remembered, and of some 500 000 pairs two pods on a node hardly share one.
fn categories(pod_id: &str) -> String {
    let number = pod_id
        .get(..8)
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .unwrap_or_default();
    let first = number % CATEGORIES;
    let second = number / CATEGORIES % (CATEGORIES - 1);
    let second = if second >= first { second + 1 } else { second };
    format!("c{},c{}", first.min(second), first.max(second))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "process = \"system_u:system_r:container_t:s0\"\n\
                          content = \"system_u:object_r:virt_var_lib_t:s0\"\n\
                          file = \"system_u:object_r:container_file_t:s0\"\n";

    fn labels(asked: &SeLinuxOption) -> Labels {
        Contexts::parse(POLICY)
            .unwrap()
            .labels(asked, "00000402ffff")
    }

    #[test]
    fn a_pod_gets_categories_of_its_own() {
        let labels = labels(&SeLinuxOption::default());
        assert_eq!(labels.process, "system_u:system_r:container_t:s0:c1,c2");
        assert_eq!(labels.mount, "system_u:object_r:container_file_t:s0:c1,c2");
        assert_eq!(categories("00000000"), "c0,c1");
        assert_eq!(categories("000003ff"), "c0,c1023");
        assert_ne!(categories("12345678"), categories("12345679"));
    }

    #[test]
    fn options_replace_their_parts() {
        let asked = SeLinuxOption {
            r#type: "spc_t".to_owned(),
            level: "s0:c5".to_owned(),
            ..SeLinuxOption::default()
        };
        let labels = labels(&asked);
        assert_eq!(labels.process, "system_u:system_r:spc_t:s0:c5");
        assert_eq!(labels.mount, "system_u:object_r:container_file_t:s0:c5");
    }

    #[test]
    fn a_container_has_what_its_pod_has_unless_it_says_more() {
        let option = |level: &str, domain: &str| SeLinuxOption {
            level: level.to_owned(),
            r#type: domain.to_owned(),
            ..SeLinuxOption::default()
        };
        let merged = merged(Some(&option("s0:c1", "a_t")), Some(&option("", "b_t")));
        assert_eq!(merged, option("s0:c1", "b_t"));
    }

    #[test]
    fn everything_in_a_directory_is_relabelled_and_nothing_beyond() {
        let directory = tempfile::tempdir().unwrap();
        let (tree, beyond) = (
            directory.path().join("tree"),
            directory.path().join("beyond"),
        );
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/b/file"), "").unwrap();
        fs::write(&beyond, "").unwrap();
        std::os::unix::fs::symlink(&beyond, tree.join("link")).unwrap();
        relabel(&tree, "u:r:t:s0").unwrap();
        let label = |path: &Path| {
            let mut value = vec![0; 64];
            let length = rustix::fs::lgetxattr(path, "security.selinux", &mut value).ok()?;
            value.truncate(length);
            String::from_utf8(value).ok()
        };
        for path in ["", "a", "a/b", "a/b/file", "link"] {
            assert_eq!(
                label(&tree.join(path)).as_deref(),
                Some("u:r:t:s0\0"),
                "{path}"
            );
        }
        assert_eq!(label(&beyond), None);
        relabel(&tree.join("a/b/file"), "v:r:t:s0").unwrap();
        assert_eq!(label(&tree.join("a/b/file")).as_deref(), Some("v:r:t:s0\0"));
        assert_eq!(relabel(&tree.join("none"), "u:r:t:s0"), Err(Errno::NOENT));
    }

    #[test]
    fn without_selinux_options_have_no_effect() {
        if is_enabled() {
            return;
        }
        let asked = SeLinuxOption {
            level: "nonsense".to_owned(),
            ..SeLinuxOption::default()
        };
        assert_eq!(of(None, Some(&asked), "0123").unwrap(), None);
    }
}
