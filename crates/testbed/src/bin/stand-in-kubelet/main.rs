//! A kubelet as far as a node's move out of Docker shows it, for tests where no real one can be had:
//! it takes the flags and files of the version that it pretends to be, refuses what that one
//! refuses, says that its Node is ready, and runs the pods that are bound to it: through CRI, or with
//! Docker alone as dockershim did.
//!
//! It lacks all else: volumes, probes, admission, eviction. It asks again and again where a real one
//! watches.

mod api;
mod command_line;
mod cri;
mod dockershim;
mod node;
mod pods;
mod runtime;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use api::Api;
use command_line::{Kubelet, Outcome};
use pods::Pods;
use runtime::Runtime;

/// How often everything is looked at.
const PERIOD: Duration = Duration::from_millis(500);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let kubelet = match command_line::read(std::env::args().skip(1)) {
        Ok(Outcome::Run(kubelet)) => kubelet,
        Ok(Outcome::Version(version)) => {
            println!("Kubernetes v{version}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("Error: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    match run(&kubelet).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("E server.go] \"Failed to run kubelet\" err=\"{error:#}\"");
            ExitCode::FAILURE
        }
    }
}

/// Works until it is killed: what a pod is does not depend on the kubelet's memory.
async fn run(kubelet: &Kubelet) -> Result<()> {
    let runtime = Runtime::connect(kubelet).await?;
    let api = Api::new(kubelet)?;
    let mut pods = Pods::new(kubelet);
    loop {
        if let Err(error) = sync(kubelet, &runtime, &api, &mut pods).await {
            eprintln!("E kubelet.go] {error:#}");
        }
        tokio::time::sleep(PERIOD).await;
    }
}

async fn sync(kubelet: &Kubelet, runtime: &Runtime, api: &Api, pods: &mut Pods) -> Result<()> {
    node::report(kubelet, runtime, api).await?;
    pods.sync(runtime, api).await
}
