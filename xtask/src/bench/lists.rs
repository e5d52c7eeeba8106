//! `cargo xtask bench lists`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;
use slipway_cri_api::v1::{NamespaceMode, PodSandboxConfig};
use slipway_testbed::{Cri, Image, Scratch, pod};
use tokio::task::JoinSet;
use tonic::client::Grpc;
use tonic::codegen::Bytes;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::statistics::Statistics;
use super::subject::{Ground, Subject};
use super::{Lists, progress};
use crate::table::Table;

/// How many pods are made at a time.
const AT_ONCE: usize = 10;

/// The largest message that CRI's peers send, in bytes.
const LARGEST_MESSAGE: usize = 16 << 20;

/// The calls that list.
#[expect(
    clippy::enum_variant_names,
    reason = "they are the names that CRI gives them"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Call {
    ListPodSandbox,
    ListContainers,
    ListContainerStats,
    ListPodSandboxStats,
    ListPodSandboxMetrics,
}

impl Call {
    const ALL: [Self; 5] = [
        Self::ListPodSandbox,
        Self::ListContainers,
        Self::ListContainerStats,
        Self::ListPodSandboxStats,
        Self::ListPodSandboxMetrics,
    ];

    /// Makes the call, unfiltered, and answers how many things were listed.
    async fn make(self, cri: &Cri) -> Result<usize, Status> {
        let path = PathAndQuery::from_static(match self {
            Self::ListPodSandbox => "/runtime.v1.RuntimeService/ListPodSandbox",
            Self::ListContainers => "/runtime.v1.RuntimeService/ListContainers",
            Self::ListContainerStats => "/runtime.v1.RuntimeService/ListContainerStats",
            Self::ListPodSandboxStats => "/runtime.v1.RuntimeService/ListPodSandboxStats",
            Self::ListPodSandboxMetrics => "/runtime.v1.RuntimeService/ListPodSandboxMetrics",
        });
        let mut client = Grpc::new(cri.channel()).max_decoding_message_size(LARGEST_MESSAGE);
        let connected = client.ready().await;
        connected.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec = ProstCodec::<(), Listed>::default();
        let answer = client.unary(Request::new(()), path, codec).await?;
        Ok(answer.into_inner().entries.len())
    }
}

/// The answer to each of these calls, whose first field is what it lists. The entries stay as they
/// have come: what a client takes to make something of them is not the runtime's time.
#[derive(prost::Message)]
struct Listed {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    entries: Vec<Bytes>,
}

/// The times of the calls that list.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Pods with one container each.
    pub(crate) pods: usize,
    pub(crate) runtimes: Vec<Figures>,
}

/// The figures of one runtime.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    name: String,
    version: String,
    calls: Vec<Timed>,
}

/// One call's times.
#[derive(Debug, Serialize)]
struct Timed {
    call: Call,
    #[serde(flatten)]
    statistics: Statistics,
}

/// Makes the pods of one runtime after the other and times the calls.
///
/// # Errors
/// With the first call that fails, and the end of the log of the daemon that it was made to.
pub(crate) async fn measure(options: &Lists, slipway: Option<PathBuf>) -> Result<Report> {
    let ground = Ground::new().await?;
    let image = ground
        .registry
        .push("busybox:1", &Image::busybox())
        .await?
        .reference;
    let pods = usize::from(options.number);
    let mut runtimes = Vec::new();
    for subject in ground.start(&options.contest, slipway).await? {
        let measured = of_subject(&subject, &image, pods, usize::from(options.calls)).await;
        runtimes.push(measured.map_err(|error| subject.explain(error))?);
    }
    Ok(Report { pods, runtimes })
}

async fn of_subject(subject: &Subject, image: &str, pods: usize, calls: usize) -> Result<Figures> {
    let cri = subject.runtime.cri();
    cri.pull(image).await?;
    for made in (0..pods).step_by(AT_ONCE) {
        progress(made + 1, pods);
        let mut makers = JoinSet::new();
        for number in made..pods.min(made + AT_ONCE) {
            makers.spawn(launch(
                cri.clone(),
                config(&subject.scratch, number),
                image.to_owned(),
            ));
        }
        while let Some(maker) = makers.join_next().await {
            maker??;
        }
    }
    let mut timed = Vec::new();
    for call in Call::ALL {
        let mut times: Vec<Duration> = Vec::new();
        for _ in 0..calls {
            let begin = Instant::now();
            let listed = match call.make(cri).await {
                // Not every peer has every call.
                Err(refusal) if refusal.code() == Code::Unimplemented => break,
                listed => listed?,
            };
            times.push(begin.elapsed());
            ensure!(
                listed == pods,
                "{call:?} has {listed} entries for {pods} pods"
            );
        }
        timed.extend(Statistics::of(&times).map(|statistics| Timed { call, statistics }));
    }
    let version = cri.version().await?.runtime_version;
    cri.remove_all().await?;
    Ok(Figures {
        name: subject.name.to_owned(),
        version,
        calls: timed,
    })
}

/// On the node's network, and so without a host name of its own: what plugins cost is measured by
/// `bench pods`.
fn config(scratch: &Arc<Scratch>, number: usize) -> PodSandboxConfig {
    let mut config = pod::config(scratch, &format!("bench{number}"));
    let security = config
        .linux
        .as_mut()
        .and_then(|linux| linux.security_context.as_mut());
    if let Some(options) = security.and_then(|security| security.namespace_options.as_mut()) {
        options.network = NamespaceMode::Node.into();
    }
    config.hostname.clear();
    config
}

async fn launch(cri: Cri, config: PodSandboxConfig, image: String) -> Result<()> {
    let pod_id = cri.run_pod(&config).await?;
    let container = pod::sleeper("main", &image);
    cri.launch(&pod_id, &config, &container).await?;
    Ok(())
}

impl Report {
    pub(crate) fn table(&self) -> String {
        let mut heading = vec![format!("{} pods", self.pods)];
        for runtime in &self.runtimes {
            heading.extend([format!("{} median", runtime.name), "p95".to_owned()]);
        }
        let mut table = Table::new(heading);
        for call in Call::ALL {
            let mut cells = vec![format!("{call:?}")];
            for runtime in &self.runtimes {
                let timed = runtime.calls.iter().find(|timed| timed.call == call);
                cells.extend(timed.map_or(["none".to_owned(), String::new()], |timed| {
                    let Statistics {
                        median_ms, p95_ms, ..
                    } = timed.statistics;
                    [median_ms, p95_ms].map(|time| format!("{time:.2} ms"))
                }));
            }
            table.row(cells);
        }
        table.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Contest, Output};

    #[tokio::test(flavor = "multi_thread")]
    async fn every_list_is_timed() {
        let options = Lists {
            contest: Contest {
                against: None,
                engine: crate::bench::Engine::Native,
                alone: false,
                output: Output::Json,
            },
            number: 3,
            calls: 2,
        };
        let slipway = slipway_testbed::slipway_binary().unwrap();
        let report = measure(&options, Some(slipway)).await.unwrap();
        assert_eq!(report.pods, 3);
        let calls = &report.runtimes[0].calls;
        assert_eq!(calls.len(), Call::ALL.len());
        assert!(calls.iter().all(|timed| timed.statistics.median_ms > 0.0));
        assert!(report.table().contains("ListContainerStats"));
    }
}
