//! Attaches pods with real and with misbehaving plugins. Needs root, and Debian's packages
//! containernetworking-plugins, iproute2, iptables and nftables.

mod fake_plugins;
mod node;
mod real_plugins;
