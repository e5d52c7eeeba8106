//! The shim on the real kernel, as root.

mod cost;
mod hooks;
mod isolation;
mod lifecycle;
mod logs;
mod runtime;
mod scene;
mod sessions;
