//! Container logs.

use std::path::Path;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use slipway_cri_api::v1::ReopenContainerLogRequest;
use slipway_testbed::{eventually, pod, read_log};
use tonic::Code;

use crate::{node, refused};

async fn lines(log: &Path, count: usize) {
    eventually("the log to grow", Duration::from_secs(20), async || {
        Ok(read_log(log).len() >= count)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn lines_are_in_cri_format_long_ones_are_split_and_the_last_one_is_kept() {
    let (node, image) = node().await;
    let cri = node.cri();
    let config = node.pod("logs");
    let pod = cri.run_pod(&config).await.unwrap();
    let script =
        "echo out; echo err >&2; echo; head -c 40000 /dev/zero | tr '\\0' x; echo; printf end";
    let container = pod::shell("main", &image, script);
    let id = cri.launch(&pod, &config, &container).await.unwrap();
    cri.wait_for_exit(&id).await.unwrap();
    let log = pod::log_path(&config, &container);
    let lines = read_log(&log);
    assert!(
        lines
            .iter()
            .all(|line| line.time.len() == "2026-01-02T03:04:05.000000006Z".len())
    );
    let of = |stream: &str| {
        lines
            .iter()
            .filter(move |line| line.stream == stream)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        of("stderr")
            .iter()
            .map(|line| line.text.as_str())
            .collect::<Vec<_>>(),
        ["err"]
    );
    let stdout = of("stdout");
    assert_eq!((stdout[0].text.as_str(), stdout[0].full), ("out", true));
    assert_eq!((stdout[1].text.as_str(), stdout[1].full), ("", true));
    let (long, last) = stdout[2..].split_at(stdout.len() - 3);
    let (whole, parts) = long.split_last().unwrap();
    assert!(whole.full && parts.iter().all(|part| !part.full) && !parts.is_empty());
    let text: String = long.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(text, "x".repeat(40_000));
    // A line without an end is one that goes on: nobody is to add a newline to it.
    assert_eq!((last[0].text.as_str(), last[0].full), ("end", false));
    assert_eq!(
        cri.container_status(&id).await.unwrap().log_path,
        log.display().to_string()
    );
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_log_that_is_rotated_loses_no_byte() {
    let (node, image) = node().await;
    let cri = node.cri();
    let config = node.pod("rotated");
    let pod = cri.run_pod(&config).await.unwrap();
    let script = "i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done; echo done; sleep 1000";
    let container = pod::shell("main", &image, script);
    let id = cri.launch(&pod, &config, &container).await.unwrap();
    let log = pod::log_path(&config, &container);
    lines(&log, 10).await;
    let mut rotated = Vec::new();
    for number in 0..5 {
        let aside = log.with_extension(number.to_string());
        std::fs::rename(&log, &aside).unwrap();
        rotated.push(aside);
        let request = ReopenContainerLogRequest {
            container_id: id.clone(),
        };
        Box::pin(cri.runtime().reopen_container_log(request))
            .await
            .unwrap();
        assert!(log.exists(), "the new file is there when the call returns");
    }
    let all = || {
        let files = rotated.iter().chain([&log]);
        files
            .flat_map(|file| read_log(file))
            .map(|line| line.text)
            .collect::<Vec<_>>()
    };
    eventually("the last line", Duration::from_secs(20), async || {
        Ok(all().last().is_some_and(|line| line == "done"))
    })
    .await
    .unwrap();
    let mut expected: Vec<_> = (0..3000).map(|number| number.to_string()).collect();
    expected.push("done".to_owned());
    assert_eq!(all(), expected);

    cri.stop(&id, 0).await.unwrap();
    let request = ReopenContainerLogRequest { container_id: id };
    let answer = Box::pin(cri.runtime().reopen_container_log(request)).await;
    refused(answer, Code::FailedPrecondition, &["not running"]);
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_log_that_cannot_be_written_does_not_hold_the_container_up() {
    let (node, image) = node().await;
    let cri = node.cri();
    let mut config = node.pod("lost");
    // A file system with no room at all, and a directory that is not there.
    let full = node.scratch.join("full");
    std::fs::create_dir(&full).unwrap();
    let size = Some(c"size=4k");
    mount("none", &full, "tmpfs", MountFlags::empty(), size).unwrap();
    std::fs::write(full.join("filler"), [0; 4096]).unwrap();
    for directory in [full.clone(), node.scratch.join("absent")] {
        config.log_directory = directory.display().to_string();
        config.metadata.as_mut().unwrap().attempt += 1;
        let pod = cri.run_pod(&config).await.unwrap();
        let container = pod::shell(
            "main",
            &image,
            "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done",
        );
        let id = cri.launch(&pod, &config, &container).await.unwrap();
        assert_eq!(cri.wait_for_exit(&id).await.unwrap().exit_code, 0);
        cri.remove_pod(&pod).await.unwrap();
    }
    unmount(&full, UnmountFlags::empty()).unwrap();
    node.finish().await.unwrap();
}
