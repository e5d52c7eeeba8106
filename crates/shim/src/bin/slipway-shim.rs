//! The process behind a pod. The daemon starts it and talks to it; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    slipway_shim::serve()
}
