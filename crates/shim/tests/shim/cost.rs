//! What a pod and its containers cost. The limits hold for a build without optimisation on a busy
//! machine; to measure, point `SLIPWAY_SHIM` at an optimised executable and run with
//! `--nocapture`.

use std::fs;
use std::time::{Duration, Instant};

use crate::scene::Scene;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// The memory of a process in KiB, shared pages by share.
fn memory(pid: i32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup
        .lines()
        .find(|line| line.starts_with("Pss:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn creation_is_quick_and_the_shim_small() {
    let mut scene = Scene::new().await;
    println!("PSS of a new shim: {} KiB", memory(scene.shim.pid()));
    let config = scene.config(&["sleep", "1000"]);
    let (mut create, mut start, mut stop, mut delete) = (vec![], vec![], vec![], vec![]);
    for round in 0..40 {
        let name = format!("c{round}");
        let request = scene.bundle_of(&name, &config);
        let began = Instant::now();
        scene.shim.create(request).await.unwrap();
        create.push(began.elapsed());
        let began = Instant::now();
        scene.shim.start(&name).await.unwrap();
        start.push(began.elapsed());
        let began = Instant::now();
        scene.shim.kill(&name, libc::SIGKILL, false).await.unwrap();
        scene.exit(&name).await;
        stop.push(began.elapsed());
        let began = Instant::now();
        scene.shim.delete(&name).await.unwrap();
        delete.push(began.elapsed());
    }
    let (create, start) = (median(create), median(start));
    println!(
        "create {create:?}, start {start:?}, stop {:?}, delete {:?}",
        median(stop),
        median(delete)
    );
    scene.start("last", &["sleep", "1000"]).await;
    let memory = memory(scene.shim.pid());
    println!("PSS of a shim after 40 containers, with one running: {memory} KiB");
    assert!(create + start < Duration::from_millis(100));
    assert!(memory < 10 * 1024);
}
