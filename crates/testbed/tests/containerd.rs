//! The testbed's parts together, proved on a runtime that is known to work.
#![forbid(unsafe_code)]

use anyhow::Result;
use slipway_testbed::{
    Cni, Containerd, Image, Registry, Scratch, eventually, leaks, pod, read_log,
};
use std::time::Duration;

#[tokio::test]
async fn a_pod_runs_on_containerd_and_leaves_nothing() -> Result<()> {
    let scratch = Scratch::new()?;
    let registry = Registry::start(&scratch).await?;
    let cni = Cni::new(&scratch)?;
    let containerd = Containerd::start(&scratch, &cni, &registry).await?;
    let cri = containerd.cri();
    let image = registry.push("busybox:1", &Image::busybox()).await?;
    cri.pull(&image.reference).await?;
    let before = leaks::snapshot(&scratch);

    let mut config = pod::config(&scratch, "web");
    config
        .port_mappings
        .push(pod::port(80, scratch.host_port()));
    let pod_id = cri.run_pod(&config).await?;
    let container = pod::sleeper("main", &image.reference);
    let id = cri.launch(&pod_id, &config, &container).await?;
    let log = pod::log_path(&config, &container);
    eventually("its first line", Duration::from_secs(10), async || {
        Ok(!read_log(&log).is_empty())
    })
    .await?;
    assert_eq!(read_log(&log)[0].text, "ready");
    assert_eq!(cri.exec(&id, &["id", "-u", "app"]).await?.stdout, b"1000\n");
    let processes = containerd.pod_processes();
    let inside = |id: &str| {
        processes
            .iter()
            .filter(|(_, group)| group.as_ref().is_some_and(|g| g.ends_with(id)))
            .count()
    };
    assert_eq!(
        (inside(&id), inside(&pod_id), processes.len()),
        (2, 1, 4),
        "{processes:?}"
    );
    assert!(leaks::snapshot(&scratch).len() > before.len() + 8);

    cri.stop(&id, 10).await?;
    assert_eq!(cri.wait_for_exit(&id).await?.exit_code, 0);
    cri.stop_pod(&pod_id).await?;
    cri.remove_pod(&pod_id).await?;
    leaks::assert_no_more(&scratch, &before);
    Ok(())
}

#[tokio::test]
async fn what_a_failing_test_leaves_running_is_taken_away() -> Result<()> {
    let scratch = Scratch::new()?;
    let registry = Registry::start(&scratch).await?;
    let cni = Cni::new(&scratch)?;
    let mut containerd = Containerd::start(&scratch, &cni, &registry).await?;
    let config = pod::config(&scratch, "left");
    containerd.cri().run_pod(&config).await?;
    assert_eq!(containerd.pod_processes().len(), 2);
    containerd.kill9();
    drop(containerd);
    drop(cni);
    let left = leaks::snapshot(&scratch);
    assert!(
        left.iter()
            .all(|leak| matches!(leak, leaks::Leak::Address(_))),
        "{left:?}"
    );
    Ok(())
}
