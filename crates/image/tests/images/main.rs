//! The image store against a real registry, against one that misbehaves, and on a full disk.
//! Run as root, with Debian's `docker-registry` and `openssl` installed.

mod disk;
mod image;
mod importing;
mod interruptions;
mod lifecycle;
mod misbehaving;
mod mounted;
mod node;
mod pulling;
mod real_registry;
mod refusals;
