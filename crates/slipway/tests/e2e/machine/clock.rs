//! A clock that is set while pods run.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec, clock_settime};
use slipway_cri_api::v1::{
    ContainerState, ContainerStatsRequest, ExecRequest, ExecSyncRequest, LinuxContainerResources,
};
use slipway_testbed::{Cri, Image, eventually, pod, read_log};
use tonic::Code;

use super::own;
use crate::stats::Rates;
use crate::{node, refused};

const HOUR: i64 = 3600;

/// Longer than anything takes in an emulated machine.
const LONG: Duration = Duration::from_mins(1);

/// The machine's clock, which is right again when this is dropped.
struct Clock {
    right: SystemTime,
    since: Instant,
}

impl Clock {
    fn new() -> Self {
        own();
        Self {
            right: SystemTime::now(),
            since: Instant::now(),
        }
    }

    /// Sets the clock so many seconds off.
    fn set(&self, offset: i64) {
        let right = self.right + self.since.elapsed();
        let since_epoch = right.duration_since(UNIX_EPOCH).unwrap();
        let time = Timespec {
            tv_sec: since_epoch.as_secs().cast_signed() + offset,
            tv_nsec: since_epoch.subsec_nanos().into(),
        };
        clock_settime(ClockId::Realtime, time).unwrap();
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// The machine's time, in nanoseconds since the epoch as CRI has it.
fn now() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since_epoch.as_nanos()).unwrap()
}

fn exec(container: &str, script: &str, timeout: i64) -> ExecSyncRequest {
    ExecSyncRequest {
        container_id: container.to_owned(),
        cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
        timeout,
    }
}

#[tokio::test]
#[ignore = "sets the machine's clock"]
async fn times_of_containers_are_in_order_and_their_logs_whole_whatever_the_clock_does() {
    let clock = Clock::new();
    let (mut node, image) = node().await;
    let cri = node.cri().clone();
    let config = node.pod("timed");
    let sandbox = cri.run_pod(&config).await.unwrap();
    let script = "n=0; while :; do n=$((n + 1)); echo $n; sleep 0.1; done";
    let counting = pod::shell("counts", &image, script);
    let counts = cri.launch(&sandbox, &config, &counting).await.unwrap();
    let log = pod::log_path(&config, &counting);
    let mut lines = 0;
    for (name, offset) in [("later", HOUR), ("earlier", -2 * HOUR)] {
        let ending = pod::shell(name, &image, "trap 'exit 7' TERM; sleep 1000 & wait");
        let ends = cri.launch(&sandbox, &config, &ending).await.unwrap();
        let started_at = cri.container_status(&ends).await.unwrap().started_at;
        clock.set(offset);
        let set_at = now();
        cri.stop(&ends, 60).await.unwrap();
        let ended = cri.container_status(&ends).await.unwrap();
        assert_eq!(
            (ended.exit_code, ended.started_at),
            (7, started_at),
            "{name}"
        );
        // The time when it ended, unless that would be before it began.
        assert!(
            ended.finished_at >= started_at.max(set_at),
            "{name}: {ended:?}"
        );
        assert!(
            ended.finished_at <= started_at.max(now()),
            "{name}: {ended:?}"
        );
        // Looked up by a daemon that has only what is on disk.
        node.daemon.kill9();
        node.daemon.restart().await.unwrap();
        let again = cri.container_status(&ends).await.unwrap();
        assert_eq!(again.finished_at, ended.finished_at, "{name}");
        cri.remove(&ends).await.unwrap();

        eventually("the log to go on", LONG, async || {
            let before = lines;
            lines = read_log(&log).len();
            Ok(before > 0 && lines > before)
        })
        .await
        .unwrap();
        let last: jiff::Timestamp = read_log(&log).pop().unwrap().time.parse().unwrap();
        let set = jiff::Timestamp::from_nanosecond(set_at.into()).unwrap();
        assert!(last >= set, "{last} is before {set}");

        // A pod of this time, with a network.
        let other = node.pod(name);
        let other = cri.run_pod(&other).await.unwrap();
        cri.remove_pod(&other).await.unwrap();
    }
    let counted: Vec<u64> = read_log(&log)
        .into_iter()
        .map(|line| line.text.parse().unwrap())
        .collect();
    assert!(
        counted.iter().copied().eq(1..=counted.len() as u64),
        "{counted:?}"
    );
    let status = cri.container_status(&counts).await.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    node.finish().await.unwrap();
}

#[tokio::test]
#[ignore = "sets the machine's clock"]
async fn timeouts_and_urls_are_not_of_the_clocks_time() {
    let clock = Clock::new();
    let (node, image) = node().await;
    let cri = node.cri();
    let config = node.pod("timeouts");
    let sandbox = cri.run_pod(&config).await.unwrap();
    let main = pod::sleeper("main", &image);
    let id = cri.launch(&sandbox, &config, &main).await.unwrap();
    for offset in [HOUR, -HOUR] {
        let asked = ExecRequest {
            container_id: id.clone(),
            cmd: vec!["true".to_owned()],
            stdout: true,
            ..ExecRequest::default()
        };
        let url = cri.runtime().exec(asked).await.unwrap().into_inner().url;
        // Neither ended by a clock that runs ahead, nor kept by one that was set back.
        let (mut one, mut other) = (cri.runtime(), cri.runtime());
        let patient = Box::pin(one.exec_sync(exec(&id, "sleep 4; echo done", 600)));
        let hasty = Box::pin(other.exec_sync(exec(&id, "sleep 1000", 5)));
        let began = Instant::now();
        let setting = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            clock.set(offset);
        };
        let (patient, hasty, ()) = tokio::join!(patient, hasty, setting);
        assert_eq!(patient.unwrap().into_inner().stdout, b"done\n", "{offset}");
        refused(hasty, Code::DeadlineExceeded, &["5 s"]);
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(5) && took < LONG, "{took:?}");
        assert_eq!(upgraded(&url), "HTTP/1.1 101", "{offset}");
    }
    node.finish().await.unwrap();
}

/// What the streaming server answers to a client of WebSocket.
fn upgraded(url: &str) -> String {
    let (host, path) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once('/')
        .unwrap();
    let mut server = TcpStream::connect(host).unwrap();
    server.set_read_timeout(Some(LONG)).unwrap();
    let request = format!(
        "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
    );
    server.write_all(request.as_bytes()).unwrap();
    let mut status = [0; 12];
    server.read_exact(&mut status).unwrap();
    String::from_utf8(status.to_vec()).unwrap()
}

#[tokio::test]
#[ignore = "sets the machine's clock"]
async fn rates_are_not_of_the_clocks_time() {
    let clock = Clock::new();
    let (node, image) = node().await;
    let cri = node.cri();
    let config = node.pod("busy");
    let sandbox = cri.run_pod(&config).await.unwrap();
    // Half of a processor, and less where others are busy, too.
    let mut busy = pod::shell("main", &image, "while :; do :; done");
    busy.linux.as_mut().unwrap().resources = Some(LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        ..LinuxContainerResources::default()
    });
    let id = cri.launch(&sandbox, &config, &busy).await.unwrap();
    let mut rates = Rates::of(cri, &id);
    rates.next().await.is_right();
    // Back by nearly as much as goes by between two readings, by more, and far ahead.
    let mut offset = 0;
    for jump in [-1, -2, -HOUR, 3 * HOUR] {
        offset += jump;
        clock.set(offset);
        let rate = rates.next().await;
        rate.is_right();
        let read = rate.cpu.timestamp;
        assert!(read > 0 && read <= now(), "{rate:?}");
    }
    node.finish().await.unwrap();
}

#[tokio::test]
#[ignore = "sets the machine's clock"]
async fn images_are_pulled_and_layers_counted_at_any_time() {
    let clock = Clock::new();
    let (node, image) = node().await;
    let cri = node.cri();
    let config = node.pod("writes");
    let sandbox = cri.run_pod(&config).await.unwrap();
    // Its layer is read at a time that is later than its end.
    clock.set(HOUR);
    let script = "until [ -e /go ]; do sleep 0.1; done; dd if=/dev/zero of=/large bs=1M count=4";
    let writes = pod::shell("main", &image, script);
    let id = cri.launch(&sandbox, &config, &writes).await.unwrap();
    eventually("the layer", LONG, async || {
        Ok(layer(cri, &id).await.is_some())
    })
    .await
    .unwrap();
    clock.set(-HOUR);
    cri.exec(&id, &["touch", "/go"]).await.unwrap();
    assert_eq!(cri.wait_for_exit(&id).await.unwrap().exit_code, 0);
    eventually("the layer as it was in the end", LONG, async || {
        Ok(layer(cri, &id).await.is_some_and(|bytes| bytes >= 4 << 20))
    })
    .await
    .unwrap();
    node.provide("busybox:2", &Image::busybox().label("n", "2"))
        .await
        .unwrap();
    node.finish().await.unwrap();
}

async fn layer(cri: &Cri, container: &str) -> Option<u64> {
    let request = ContainerStatsRequest {
        container_id: container.to_owned(),
    };
    let answer = cri.runtime().container_stats(request).await.unwrap();
    let layer = answer.into_inner().stats.unwrap().writable_layer?;
    layer.used_bytes.map(|bytes| bytes.value)
}
