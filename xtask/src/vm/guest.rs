//! What the machine's image is made of. Whatever changes here makes another image.

/// The packages beside Debian's minimal set.
pub(super) const PACKAGES: &[&str] = &[
    "apparmor",
    "busybox-static",
    "conntrack",
    "containernetworking-plugins",
    "criu",
    "dbus",
    "docker-registry",
    "docker.io",
    "initramfs-tools",
    "iproute2",
    "iptables",
    "kmod",
    "linux-image-cloud-amd64",
    "nftables",
    "procps",
    "runc",
    "systemd",
    "systemd-sysv",
    "udev",
    "zstd",
];

/// Files that are put over those of the packages: path, mode and text.
pub(super) const FILES: &[(&str, u32, &str)] = &[
    ("etc/fstab", 0o644, "/dev/vda / ext4 defaults 0 1\n"),
    ("etc/hostname", 0o644, "node\n"),
    // Only what this machine's devices need: the smaller, the sooner it is unpacked.
    (
        "etc/initramfs-tools/conf.d/machine",
        0o644,
        "MODULES=list\nCOMPRESS=zstd\n",
    ),
    (
        "etc/initramfs-tools/modules",
        0o644,
        "virtio_pci\nvirtio_blk\next4\n",
    ),
    // Tests start their own; a unit of nothing is one that is masked (systemd.unit(5)).
    ("etc/systemd/system/docker.service", 0o644, ""),
    ("etc/systemd/system/docker.socket", 0o644, ""),
    ("etc/systemd/system/containerd.service", 0o644, ""),
    ("usr/local/sbin/agent", 0o755, AGENT),
    ("etc/systemd/system/agent.service", 0o644, SERVICE),
    (
        "etc/systemd/system/multi-user.target.d/agent.conf",
        0o644,
        "[Unit]\nWants=agent.service\n",
    ),
    (
        "etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf",
        0o644,
        "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --noclear %I linux\n",
    ),
];

/// Runs what was shared, as a service of the machine like any other, and says on the port `status`
/// that it is up and how it ended.
///
/// The network's device has a driver of its own, which the machine may load after those of the
/// ports that the service waits for.
const AGENT: &str = r#"#!/bin/sh
network() {
    udevadm wait --timeout=120 /sys/class/net/eth0 &&
        ip address add "$1" dev eth0 && ip link set eth0 up && return
    echo "has no network" >/dev/virtio-ports/status
    exit 1
}
for word in $(cat /proc/cmdline); do
    case $word in
    address=*) network "${word#address=}" ;;
    esac
done
mkdir -p /share
mount -o ro LABEL=share /share || exit 1
[ -x /share/run ] || exit 0
echo up >/dev/virtio-ports/status
PATH=/share/bin:$PATH HOME=/root /share/run </dev/null >/dev/virtio-ports/output 2>&1
echo "exit $?" >/dev/virtio-ports/status
systemctl poweroff --force
"#;

const SERVICE: &str = "[Unit]
Description=What the machine is for
After=basic.target dev-virtio\\x2dports-output.device dev-virtio\\x2dports-status.device
Requires=dev-virtio\\x2dports-output.device dev-virtio\\x2dports-status.device
Wants=modprobe@overlay.service

[Service]
ExecStart=/usr/local/sbin/agent
WorkingDirectory=/root
LimitNOFILE=65536
# Tests make cgroups of their own and start daemons that outlive them.
Delegate=yes
KillMode=process
";
