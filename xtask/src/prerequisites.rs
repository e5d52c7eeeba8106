//! What must be there before anything can run: root, Debian packages, features of the kernel.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{cargo, program};

/// A Debian package and a file by which it is recognised, so that other systems can have the same
/// programs from elsewhere.
struct Package {
    name: &'static str,
    files: &'static [&'static str],
}

const NODE: &[Package] = &[
    Package {
        name: "busybox-static",
        files: &["/bin/busybox"],
    },
    Package {
        name: "conntrack",
        files: &["/usr/sbin/conntrack"],
    },
    Package {
        name: "containernetworking-plugins",
        files: &["/usr/lib/cni/bridge"],
    },
    Package {
        name: "criu",
        files: &["/usr/sbin/criu", "/usr/local/sbin/criu", "/usr/bin/criu"],
    },
    Package {
        name: "docker-registry",
        files: &["/usr/bin/docker-registry"],
    },
    Package {
        name: "g++",
        files: &["/usr/bin/c++", "/usr/bin/g++"],
    },
    Package {
        name: "iproute2",
        files: &["/usr/sbin/ip", "/sbin/ip", "/bin/ip", "/usr/bin/ip"],
    },
    Package {
        name: "iptables",
        files: &["/usr/sbin/iptables", "/sbin/iptables"],
    },
    Package {
        name: "nftables",
        files: &["/usr/sbin/nft", "/sbin/nft"],
    },
    Package {
        name: "runc",
        files: &["/usr/sbin/runc", "/usr/bin/runc", "/usr/local/bin/runc"],
    },
];

const CONTAINERD: &[Package] = &[
    Package {
        name: "containerd",
        files: &["/usr/bin/containerd"],
    },
    Package {
        name: "docker.io",
        files: &["/usr/sbin/dockerd", "/usr/bin/dockerd"],
    },
];

const DPKG: Package = Package {
    name: "dpkg",
    files: &["/usr/bin/dpkg-deb"],
};

const DEBOOTSTRAP: Package = Package {
    name: "debootstrap",
    files: &["/usr/sbin/debootstrap"],
};

const BROWSER: &[Package] = &[DEBOOTSTRAP];

const VIRTUAL_MACHINE: &[Package] = &[
    DPKG,
    DEBOOTSTRAP,
    Package {
        name: "binutils",
        files: &["/usr/bin/strip"],
    },
    Package {
        name: "e2fsprogs",
        files: &["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"],
    },
    Package {
        name: "qemu-system-x86",
        files: &["/usr/bin/qemu-system-x86_64"],
    },
];

const PACKAGES: &[Package] = &[
    DPKG,
    Package {
        name: "musl-tools",
        files: &["/usr/bin/musl-gcc", "/usr/local/bin/musl-gcc"],
    },
];

/// Which packages a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Those of a test node: registry, plugins, packet filter, busybox, runc, CRIU.
    Node,
    /// Also containerd, which the testbed is proved on and benchmarks compare with.
    NodeAndContainerd,
    /// Those that make and run a virtual machine.
    VirtualMachine,
    /// Those that make a browser.
    Browser,
    /// Those that make packages.
    Packages,
}

/// Sees to it that everything is there.
///
/// # Errors
/// Without root, with packages missing that are not to be installed or cannot be, and when the
/// kernel lacks a feature; the message says what to do.
pub(crate) fn provide(needs: Needs, install: bool) -> Result<()> {
    ensure!(
        is_root(),
        "this makes namespaces, mounts and cgroups: run it as root"
    );
    let missing = missing(needs);
    if !missing.is_empty() {
        ensure!(
            install,
            "missing Debian packages; install them with\n  apt-get install {}\nor run `cargo xtask \
             test --install`",
            missing.join(" ")
        );
        install_packages(&missing)?;
    }
    let lacking = lacking_features();
    ensure!(
        lacking.is_empty(),
        "this kernel lacks:\n  {}",
        lacking.join("\n  ")
    );
    Ok(())
}

/// Sees to it that there is what packages are made with, which takes neither root nor a particular
/// kernel.
///
/// # Errors
/// When something is missing; the message says how to get it.
pub(crate) fn packaging(platform: &str) -> Result<()> {
    let missing = missing(Needs::Packages);
    ensure!(
        missing.is_empty(),
        "missing Debian packages; install them with\n  apt-get install {}",
        missing.join(" ")
    );
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let libraries = program::run(
        Command::new(rustc)
            .args(["--print", "target-libdir", "--target", platform])
            .current_dir(cargo::workspace()),
    )?;
    let libraries = String::from_utf8(libraries)?;
    ensure!(
        Path::new(libraries.trim_end()).is_dir(),
        "the toolchain has no standard library for {platform}: run `rustup target add {platform}`"
    );
    Ok(())
}

/// Sees to it that the toolchain has these subcommands of cargo, by name.
///
/// # Errors
/// When one is missing; the message says how to get it.
pub(crate) fn components(names: &[&str]) -> Result<()> {
    for name in names {
        let answer = cargo::command(&[name, "--version"]).output();
        ensure!(
            answer.is_ok_and(|output| output.status.success()),
            "`cargo {name}` is not installed: run `rustup component add rustfmt clippy`"
        );
    }
    Ok(())
}

/// The packages that are not installed, by name.
pub(crate) fn missing(needs: Needs) -> Vec<&'static str> {
    packages(needs)
        .filter(|package| !is_installed(package))
        .map(|package| package.name)
        .collect()
}

fn packages(needs: Needs) -> impl Iterator<Item = &'static Package> {
    let (first, second): (&[Package], &[Package]) = match needs {
        Needs::Node => (NODE, &[]),
        Needs::NodeAndContainerd => (NODE, CONTAINERD),
        Needs::VirtualMachine => (VIRTUAL_MACHINE, &[]),
        Needs::Browser => (BROWSER, &[]),
        Needs::Packages => (PACKAGES, &[]),
    };
    first.iter().chain(second)
}

fn is_installed(package: &Package) -> bool {
    match package.name {
        // Debian has the same path in a package that is linked dynamically.
        "busybox-static" => slipway_testbed::Layer::busybox().is_ok(),
        _ => package.files.iter().any(|file| Path::new(file).exists()),
    }
}

/// Whether the effective user is root.
fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    ids.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

fn install_packages(names: &[&str]) -> Result<()> {
    println!("installing {}", names.join(" "));
    for arguments in [
        &["update", "-q"][..],
        &["install", "-q", "-y", "--no-install-recommends"],
    ] {
        let names = if arguments[0] == "install" {
            names
        } else {
            &[]
        };
        let status = Command::new("apt-get")
            .args(arguments)
            .args(names)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .status()
            .context("there is no apt-get here: install these programs by other means")?;
        ensure!(
            status.success(),
            "`apt-get {}` ended with {status}",
            arguments.join(" ")
        );
    }
    Ok(())
}

fn lacking_features() -> Vec<String> {
    let mut lacking = Vec::new();
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems
        .lines()
        .any(|line| line.trim_end().ends_with("\toverlay"))
    {
        // Loading the module is what a mount would do; where there are no modules it is built in.
        let loaded = Command::new("modprobe").arg("overlay").status();
        if !loaded.is_ok_and(|status| status.success()) {
            lacking.push("the overlay filesystem (CONFIG_OVERLAY_FS)".to_owned());
        }
    }
    for (namespace, option) in [
        ("mnt", "CONFIG_NAMESPACES"),
        ("net", "CONFIG_NET_NS"),
        ("pid", "CONFIG_PID_NS"),
        ("ipc", "CONFIG_IPC_NS"),
        ("uts", "CONFIG_UTS_NS"),
        ("user", "CONFIG_USER_NS"),
        ("cgroup", "CONFIG_CGROUPS"),
    ] {
        if !Path::new("/proc/self/ns").join(namespace).exists() {
            lacking.push(format!("{namespace} namespaces ({option})"));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    if !mounts.lines().any(|line| {
        line.split(' ')
            .nth(2)
            .is_some_and(|kind| kind.starts_with("cgroup"))
    }) {
        lacking.push("a mounted cgroup hierarchy: mount -t cgroup2 none /sys/fs/cgroup".to_owned());
    }
    lacking
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_there_when_one_of_its_files_is() {
        assert!(is_installed(&Package {
            name: "x",
            files: &["/nonexistent", "/proc/self"]
        }));
        assert!(!is_installed(&Package {
            name: "x",
            files: &["/nonexistent"]
        }));
    }

    #[test]
    fn containerd_is_needed_only_to_compare() {
        let names = |needs| -> Vec<_> { packages(needs).map(|package| package.name).collect() };
        assert!(!names(Needs::Node).contains(&"containerd"));
        assert!(names(Needs::NodeAndContainerd).contains(&"containerd"));
    }
}
