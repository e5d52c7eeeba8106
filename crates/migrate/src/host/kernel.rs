//! Kernel modules and parameters, now and not at the next boot.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::io::Errno;

use super::{Error, KernelState, process};
use crate::Root;

/// A module that takes longer waits for hardware that is broken.
const PATIENCE: Duration = Duration::from_mins(1);

/// The node's kernel, as its files below a root show it.
#[derive(Debug)]
pub(super) struct Kernel {
    root: Root,
    modprobe: String,
}

impl Kernel {
    /// Of the node below `root`.
    pub(super) fn new(root: Root) -> Self {
        Self {
            root,
            modprobe: "modprobe".to_string(),
        }
    }

    /// See [`super::Host::kernel`].
    pub(super) fn state(
        &self,
        modules: &[String],
        parameters: &[String],
    ) -> Result<KernelState, Error> {
        let missing = modules.iter().filter(|module| !self.has(module));
        let missing = missing.cloned().collect();
        let mut values = Vec::new();
        for parameter in parameters {
            values.push((parameter.clone(), self.parameter(parameter)?));
        }
        Ok(KernelState {
            missing,
            parameters: values,
        })
    }

    /// See [`super::Host::set_kernel`].
    pub(super) async fn set(&self, modules: &[String], parameters: &[String]) -> Result<(), Error> {
        for module in modules {
            if !self.has(module) {
                self.load(module).await?;
            }
        }
        for parameter in parameters {
            if self.parameter(parameter)?.as_deref() != Some("1") {
                self.write(parameter, "1")?;
            }
        }
        Ok(())
    }

    /// See [`super::Host::restore_kernel`].
    pub(super) fn restore(&self, before: &KernelState) -> Result<(), Error> {
        for (parameter, value) in &before.parameters {
            let Some(value) = value else {
                continue;
            };
            if self.parameter(parameter)?.as_ref() != Some(value) {
                self.write(parameter, value)?;
            }
        }
        // What was loaded last may use what was loaded before.
        for module in before.missing.iter().rev() {
            self.unload(module)?;
        }
        Ok(())
    }

    /// Whether a module is loaded or a part of the kernel.
    fn has(&self, module: &str) -> bool {
        let name = module.replace('-', "_");
        if self.users(&name).is_some() || self.root.has(format!("/sys/module/{name}")) {
            return true;
        }
        let Ok(Some(release)) = self.root.read("/proc/sys/kernel/osrelease") else {
            return false;
        };
        let path = format!("/lib/modules/{}/modules.builtin", release.text().trim());
        let Ok(Some(list)) = self.root.read(path) else {
            return false;
        };
        let file = format!("{name}.ko");
        list.lines().any(|(_, line)| {
            let last = line.trim().rsplit('/').next();
            last.is_some_and(|last| last.replace('-', "_") == file)
        })
    }

    /// By how many a loaded module is used (`/proc/modules`).
    fn users(&self, name: &str) -> Option<u64> {
        let loaded = self.root.read("/proc/modules").ok()??;
        loaded.lines().find_map(|(_, line)| {
            let mut fields = line.split_whitespace();
            (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
        })
    }

    async fn load(&self, module: &str) -> Result<(), Error> {
        let what = format!("load the kernel module {module}");
        let mut command = process::command(&self.modprobe);
        let loaded = process::run(command.args(["--", module]), b"", PATIENCE).await;
        loaded.map(drop).map_err(|failure| {
            let todo = if failure.is_absence() {
                "install the package kmod"
            } else {
                "where the kernel was updated since the last boot, reboot first; else install the package that has this kernel's modules"
            };
            Error::new(what, format!("{failure}; {todo}"))
        })
    }

    /// Unloads a module that nobody uses.
    fn unload(&self, module: &str) -> Result<(), Error> {
        let name = module.replace('-', "_");
        if self.users(&name) != Some(0) || !self.root.is_live() {
            return Ok(());
        }
        let what = format!("unload the kernel module {module}");
        let name = std::ffi::CString::new(name).map_err(|error| Error::new(&what, error))?;
        let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
        match rustix::system::delete_module(&name, flags) {
            // Somebody has begun to use it, or has unloaded it.
            Ok(()) | Err(Errno::BUSY | Errno::WOULDBLOCK | Errno::NOENT) => Ok(()),
            Err(error) => Err(Error::new(what, error)),
        }
    }

    /// A parameter's value; nothing where the kernel does not have it.
    fn parameter(&self, parameter: &str) -> Result<Option<String>, Error> {
        match self.root.read(path_of(parameter)) {
            Ok(value) => Ok(value.map(|value| value.text().trim_end().to_string())),
            Err(error) => Err(Error::new(
                format!("read the kernel parameter {parameter}"),
                error,
            )),
        }
    }

    fn write(&self, parameter: &str, value: &str) -> Result<(), Error> {
        let path = path_of(parameter);
        let written = self.root.resolve(&path).and_then(|real| {
            let mut file = fs::OpenOptions::new().write(true).open(real)?;
            io::Write::write_all(&mut file, value.as_bytes())
        });
        written.map_err(|error| {
            let why = match error.kind() {
                io::ErrorKind::NotFound => format!(
                    "the kernel has no {path}; those of net.bridge come with the module br_netfilter"
                ),
                io::ErrorKind::ReadOnlyFilesystem => format!(
                    "{path} is read-only; run it on the node itself and not in a container"
                ),
                _ => format!("{path}: {error}"),
            };
            Error::new(format!("set the kernel parameter {parameter} to {value}"), why)
        })
    }
}

/// The file of a parameter that is written as sysctl(8) does.
fn path_of(parameter: &str) -> String {
    if parameter.contains('/') {
        return format!("/proc/sys/{parameter}");
    }
    format!("/proc/sys/{}", parameter.replace('.', "/"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;

    const FORWARD: &str = "net.ipv4.ip_forward";
    const BRIDGE: &str = "net.bridge.bridge-nf-call-iptables";

    /// A node with `overlay` built in, `loop-back` loaded, and `br_netfilter` for modprobe.
    fn node() -> (tempfile::TempDir, Kernel) {
        let tree = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = tree.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/sys/kernel/osrelease", "6.1.0\n");
        write("proc/sys/net/ipv4/ip_forward", "0\n");
        write("proc/modules", "loop_back 16384 3 - Live 0x0\n");
        write(
            "lib/modules/6.1.0/modules.builtin",
            "kernel/fs/overlayfs/overlay.ko\n",
        );
        let script = tree.path().join("modprobe");
        let text = format!(
            "#!/bin/sh\n[ \"$2\" = br_netfilter ] || {{ echo \"FATAL: Module $2 not found\" >&2; exit 1; }}\n\
             cd {} && mkdir -p sys/module/br_netfilter proc/sys/net/bridge\n\
             echo 0 > proc/sys/net/bridge/bridge-nf-call-iptables\n",
            tree.path().display()
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let kernel = Kernel {
            root: Root::new(tree.path()),
            modprobe: script.to_str().unwrap().to_string(),
        };
        (tree, kernel)
    }

    fn strings(all: &[&str]) -> Vec<String> {
        all.iter().map(ToString::to_string).collect()
    }

    fn value(tree: &Path, path: &str) -> String {
        fs::read_to_string(tree.join("proc/sys").join(path)).unwrap()
    }

    #[tokio::test]
    async fn modules_and_parameters_are_set_and_made_what_they_were() {
        let (tree, kernel) = node();
        let modules = strings(&["overlay", "loop-back", "br_netfilter"]);
        let parameters = strings(&[FORWARD, BRIDGE]);
        let before = kernel.state(&modules, &parameters).unwrap();
        assert_eq!(before.missing, ["br_netfilter"]);
        assert_eq!(
            before.parameters,
            [
                (FORWARD.to_string(), Some("0".to_string())),
                (BRIDGE.to_string(), None)
            ]
        );
        for _ in 0..2 {
            kernel.set(&modules, &parameters).await.unwrap();
            assert_eq!(value(tree.path(), "net/ipv4/ip_forward").trim(), "1");
            let bridge = value(tree.path(), "net/bridge/bridge-nf-call-iptables");
            assert_eq!(bridge.trim(), "1");
        }
        let now = kernel.state(&modules, &parameters).unwrap();
        assert!(now.missing.is_empty());
        kernel.restore(&before).unwrap();
        assert_eq!(value(tree.path(), "net/ipv4/ip_forward").trim(), "0");
    }

    #[tokio::test]
    async fn what_the_kernel_does_not_have_is_named() {
        let (_tree, kernel) = node();
        let refused = kernel.set(&strings(&["zfs"]), &[]).await.unwrap_err();
        let text = refused.to_string();
        assert!(text.contains("FATAL: Module zfs not found"), "{text}");
        let refused = kernel.set(&[], &strings(&[BRIDGE])).await.unwrap_err();
        let text = refused.to_string();
        assert!(
            text.contains("comes with") || text.contains("come with"),
            "{text}"
        );
        assert!(text.contains("br_netfilter"), "{text}");
        let absent = Kernel {
            modprobe: "/nonexistent/modprobe".to_string(),
            ..kernel
        };
        let refused = absent.set(&strings(&["zfs"]), &[]).await.unwrap_err();
        assert!(refused.to_string().contains("package kmod"), "{refused}");
    }
}
