//! A test process that is killed leaves everything behind; the next one takes it away.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result};
use slipway_testbed::{Cni, Containerd, Registry, Scratch, pod, process};

/// Set for the process that is to be killed.
const VICTIM: &str = "SLIPWAY_TESTBED_VICTIM";

#[tokio::test]
async fn a_killed_test_process_is_cleaned_up_after() -> Result<()> {
    if std::env::var_os(VICTIM).is_some() {
        return run_until_killed().await;
    }
    let mut victim = Command::new(std::env::current_exe()?)
        .args([
            "--nocapture",
            "--exact",
            "a_killed_test_process_is_cleaned_up_after",
        ])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()?;
    let output = BufReader::new(victim.stdout.take().context("its output is piped")?);
    let said = output
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.split_once("left ").map(|(_, rest)| rest.to_owned()));
    victim.kill()?;
    victim.wait()?;
    let said = said.context("it did not get that far")?;
    let (path, bridge) = said.split_once(' ').context("path and bridge")?;
    let (path, bridge) = (Path::new(path), Path::new("/sys/class/net").join(bridge));
    assert!(bridge.exists());
    assert!(!process::of(path).is_empty());

    let scratch = Scratch::new()?;

    let left = if scratch.path() == path {
        Vec::new()
    } else {
        process::of(path)
    };
    assert_eq!(left, []);
    assert!(!bridge.exists(), "{} is still there", bridge.display());
    assert!(
        scratch.path() == path || !path.exists(),
        "{} is still there",
        path.display()
    );
    Ok(())
}

async fn run_until_killed() -> Result<()> {
    let scratch: Arc<Scratch> = Scratch::new()?;
    let registry = Registry::start(&scratch).await?;
    let cni = Cni::new(&scratch)?;
    let containerd = Containerd::start(&scratch, &cni, &registry).await?;
    containerd
        .cri()
        .run_pod(&pod::config(&scratch, "left"))
        .await?;
    println!("left {} {}", scratch.path().display(), cni.bridge());
    std::future::pending().await
}
